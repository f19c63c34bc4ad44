"""Converts an annotated track into runs: spans of frames of the video file in which the object has a box."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....cache.sampling import FloatArray, IntArray
from ....cache.schema import Span, Video
from ....errors import VideoError
from ...video.clock import Clock
from .model import Clip, Track

DECIMALS = 3
"""Of a pixel, that boxes are kept to."""
ROUNDING = 1.5
"""Frames by which a number of frames, counted from rate and duration, may be off."""


@dataclass(frozen=True, eq=False)
class Run:
    """An uninterrupted presence of an object: it has a box in every frame from the first listed one to the last."""

    frames: IntArray
    """(n,) ascending frames of the video file; between them boxes lie on straight lines."""
    boxes: FloatArray
    """(n, 4) xyxy in pixels."""

    @property
    def span(self) -> Span:
        """[first, one past the last) in frames."""
        return int(self.frames[0]), int(self.frames[-1]) + 1

    @property
    def is_sparse(self) -> bool:
        return self.span[1] - self.span[0] > len(self.frames)

    def __str__(self) -> str:
        return f"[{self.span[0]}, {self.span[1]})"


@dataclass(frozen=True, eq=False)
class Presence:
    """One object of one video, in frames and pixels of the video file."""

    track: Track
    runs: list[Run]
    outside: int
    """How many boxes have no area inside the picture; the object counts as absent there."""
    beyond: int
    """How many boxes reach beyond the picture; they are kept unchanged."""


def presence_of(track: Track, clip: Clip, video: Video, clock: Clock, step: int = 1, bridge: int = 0) -> Presence:
    """``clock``: when the frames of the video are shown. ``step``: every how many frames of it one was annotated.
    ``bridge``: of a track that lists every frame in which its object is there, gaps of at most so many annotated frames
    are taken for straight lines.

    Raises VideoError for a frame that the video does not have.
    """
    boxes = track.boxes if track.in_pixels is None else track.in_pixels(track.boxes, video.width, video.height)
    frames = in_file(clip, clock, track.frames) if clip.by_time else track.frames * step
    if frames[-1] >= video.frame_count:
        raise VideoError(
            f"{video.path} has fewer frames than its annotation names",
            expected=f"more than {frames[-1]} frames, for track {track.name}",
            found=f"{video.frame_count} frames",
            effect="its tracks and sentences are left out",
            hint="use the file that was annotated",
        )
    joined = np.append(np.diff(track.frames) <= 1 + bridge, False) if track.joined is None else track.joined
    inside = np.clip(boxes, 0, [video.width, video.height] * 2)
    there = np.asarray((inside[:, 2:] > inside[:, :2]).all(axis=1))
    beyond = (inside != boxes).any(axis=1) & there
    runs = list(_runs(frames, boxes.round(DECIMALS), joined, there))
    return Presence(track, runs, int((~there).sum()), int(beyond.sum()))


def in_file(clip: Clip, clock: Clock, frames: IntArray) -> IntArray:
    """Frames of a clip that is annotated by time → those of its file that are shown when they begin, (n,) ascending; for
    the last one the last of the file.

    A rate that differs from the file's by less than counting whole frames explains is taken for the same.
    """
    count = clip.frames or len(clock.starts)
    rate = count / (clip.seconds or clock.end)
    if abs(rate / clock.rate - 1) * count <= ROUNDING:
        rate = clock.rate
    times = frames / rate + 0.5 * min(1 / rate, clock.step)  # not on the edge between two frames
    shown = np.searchsorted(clock.starts, times, side="right") - 1
    return np.where(frames >= count - 1, len(clock.starts) - 1, shown.clip(0)).astype(np.int64)


def is_renumbered(clip: Clip, clock: Clock) -> bool:
    """Whether frames of the annotation are other ones in the video file, and are converted by their time."""
    frames = np.arange(min(clip.frames or 0, len(clock.starts)) - 1)
    return clip.by_time and not np.array_equal(in_file(clip, clock, frames), frames)


def _runs(frames: IntArray, boxes: FloatArray, joined: NDArray[np.bool_], there: NDArray[np.bool_]) -> Iterator[Run]:
    start = 0
    ends = ~joined | ~there | ~np.append(there[1:], False)
    for end in (np.flatnonzero(ends) + 1).tolist():
        if there[start]:
            kept = np.append(
                True, np.diff(frames[start:end]) > 0
            )  # two frames of the annotation may be one of the file's
            yield Run(frames[start:end][kept], boxes[start:end][kept])
        start = end

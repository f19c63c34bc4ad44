"""When an object is there: its track, as the annotation has it, becomes runs of boxes in the frames of the video file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....cache.sampling import FloatArray, IntArray
from ....cache.schema import Span, Video
from ....errors import VideoError
from .model import Clip, Track

DECIMALS = 3
"""Of a pixel, that boxes are kept to."""


@dataclass(frozen=True, eq=False)
class Run:
    """One uninterrupted presence of an object: a box in every frame from the first one listed to the last."""

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
    """Boxes without area inside the picture, which are none here."""
    beyond: int
    """Boxes that reach beyond the picture, which are kept as they are."""


def presence_of(track: Track, clip: Clip, video: Video, step: int, bridge: int) -> Presence:
    """``step``: every how many frames of the video one was annotated. ``bridge``: of a track that lists every frame in
    which its object is there, gaps of at most so many annotated frames are taken for straight lines.

    Raises VideoError for a frame that the video does not have.
    """
    boxes = track.boxes if track.in_pixels is None else track.in_pixels(track.boxes, video.width, video.height)
    frames, listed = track.frames * step, track.frames
    if clip.by_time and clip.frames:
        frames = np.minimum(_by_time(track.frames, clip.frames, video.frame_count), video.frame_count - 1)
    if frames[-1] >= video.frame_count:
        raise VideoError(
            f"{video.path} has fewer frames than its annotation names",
            expected=f"more than {frames[-1]} frames, for track {track.name}",
            found=f"{video.frame_count} frames",
            effect="its tracks and sentences are left out",
            hint="use the file that was annotated",
        )
    joined = np.append(np.diff(listed) <= 1 + bridge, False) if track.joined is None else track.joined
    inside = np.clip(boxes, 0, [video.width, video.height] * 2)
    there = np.asarray((inside[:, 2:] > inside[:, :2]).all(axis=1))
    beyond = (inside != boxes).any(axis=1) & there
    return Presence(
        track, list(_runs(frames, boxes.round(DECIMALS), joined, there)), int((~there).sum()), int(beyond.sum())
    )


def _by_time(frames: IntArray, numbered: int, frame_count: int) -> IntArray:
    """Frames at a rate of the tool's own → the nearest frames of the video; the same where the rates agree."""
    if abs(numbered - frame_count) <= max(2, frame_count // 100):
        return frames
    return np.rint(frames * (frame_count / numbered)).astype(np.int64)


def is_renumbered(clip: Clip, video: Video) -> bool:
    """Whether frames of the annotation are other ones in the video file, and are converted by their time."""
    last = np.array([clip.frames or 0])
    return clip.by_time and bool((_by_time(last, clip.frames or 1, video.frame_count) != last).any())


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

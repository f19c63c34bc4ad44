"""Frame sampling: conversion between source frames and slots. Pure functions that read no video.

A *source frame* is a 0-based frame number in the video file; spans of source frames are half-open. A *slot* is a
position 0…T-1 in a sampled clip. Only this module converts between them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """The sampling rule of a run.

    ``fps``: sampled frames per second of video. ``max_frames``: longer clips are thinned to this number of slots.
    ``ends``: thinning keeps the first and the last frame, see `spread`; otherwise only the first, see `thin`.
    """

    fps: float = 5.0
    max_frames: int = 100
    ends: bool = False

    def thinned(self, frames: IntArray) -> IntArray:
        """At most ``max_frames`` of a clip's grid frames."""
        return spread(frames, self.max_frames) if self.ends else thin(frames, self.max_frames)

    @property
    def unthinned(self) -> Sampling:
        """The same rule without thinning."""
        return replace(self, max_frames=2**31)

    def __post_init__(self) -> None:
        if not self.fps > 0:
            raise ValueError(f"fps must be positive, got {self.fps}")
        if self.max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, got {self.max_frames}")


def grid_frames(start: int, end: int, ratio: float) -> IntArray:
    """Frames of segment ``[start, end)`` at the sampling rate, before any thinning: (n,) ascending source frames.

    ``ratio`` = sampled fps / video fps, in (0, 1]. The first frame is ``start``. Every later frame is the first source
    frame f with floor(f * ratio) larger than that of the frame before it. So all frames but the first lie on a grid of
    the video that does not depend on the segment. Products are in double precision and truncated, as in the baselines'
    public code. As there, an empty segment (end == start, which every reader rejects) has one frame, ``start``.

    Raises ValueError for a reversed or negative segment or a ratio outside (0, 1].
    """
    if end < start or start < 0:
        raise ValueError(f"segment [{start}, {end}) is reversed or negative")
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio {ratio} is outside (0, 1]: a video has no frames between its frames")
    first_bucket = int(start * ratio)
    last_bucket = max(first_bucket, int((end - 1) * ratio))
    frames = np.empty(last_bucket - first_bucket + 1, dtype=np.int64)
    frames[0] = start
    if frames.size > 1:
        frames[1:] = bucket_starts(np.arange(first_bucket + 1, last_bucket + 1, dtype=np.int64), ratio)
    return frames


def bucket_starts(buckets: IntArray, ratio: float | FloatArray) -> IntArray:
    """For each bucket k, the smallest source frame f with floor(f * ratio) >= k, computed in double precision."""
    guess = np.ceil(buckets / ratio).astype(np.int64)
    # Rounding of k / ratio can be off by one frame in both directions. The truncated product corrects it.
    guess -= np.floor((guess - 1) * ratio).astype(np.int64) >= buckets
    guess += np.floor(guess * ratio).astype(np.int64) < buckets
    return guess


def thin(frames: IntArray, max_frames: int) -> IntArray:
    """Keep ``max_frames`` evenly spaced entries of a longer array: positions floor(j * n / max_frames)."""
    n = len(frames)
    if n <= max_frames:
        return frames
    return frames[np.arange(max_frames, dtype=np.int64) * n // max_frames]


def spread(frames: IntArray, count: int) -> IntArray:
    """Keep ``count`` evenly spaced entries of a longer array, including the first and the last.

    Positions are floor(linspace(0, n - 1, count)) in double precision, as in STCAT's public code.
    """
    n = len(frames)
    return frames if n <= count else frames[np.linspace(0, n - 1, count).astype(np.int64)]


def windows(frames: IntArray, size: int) -> list[IntArray]:
    """A clip's frames as consecutive windows of ``size`` slots. Only the last window may be shorter."""
    return [frames[start : start + size] for start in range(0, len(frames), size)]


def sample_frames(segment: tuple[int, int], video_fps: float, sampling: Sampling) -> IntArray:
    """Source frame of every slot of a clip, ascending: (T,) with T <= ``sampling.max_frames``.

    Raises ValueError if ``sampling.fps`` exceeds ``video_fps``.
    """
    return sampling.thinned(grid_frames(segment[0], segment[1], sampling.fps / video_fps))


def sample_many(
    starts: IntArray, ends: IntArray, video_fps: FloatArray, sampling: Sampling
) -> tuple[IntArray, NDArray[np.bool_]]:
    """`sample_frames` for N valid segments: frames (N, T), and a mask of the slots that exist (N, T).

    Sentences often share a segment, so each distinct segment is computed once.
    """
    different, same = np.unique(np.stack([starts, ends, video_fps], axis=1), axis=0, return_inverse=True)
    frames, exists = _sample_many(
        different[:, 0].astype(np.int64), different[:, 1].astype(np.int64), different[:, 2], sampling
    )
    return frames[same], exists[same]


def _sample_many(
    starts: IntArray, ends: IntArray, video_fps: FloatArray, sampling: Sampling
) -> tuple[IntArray, NDArray[np.bool_]]:
    ratio = sampling.fps / video_fps
    first = np.floor(starts * ratio).astype(np.int64)
    last = np.maximum(first, np.floor((ends - 1) * ratio).astype(np.int64))
    count = (last - first + 1)[:, None]
    length = np.minimum(count, sampling.max_frames)
    slots = np.arange(length.max(initial=0))
    if sampling.ends:
        spaced = np.floor(slots * ((count - 1) / np.maximum(length - 1, 1))).astype(np.int64)
        spaced = np.where((slots == length - 1) & (length > 1), count - 1, spaced)
    else:
        spaced = slots * count // length
    position = np.where(count > length, spaced, slots)
    frames = np.where(position == 0, starts[:, None], bucket_starts(first[:, None] + position, ratio[:, None]))
    return frames, slots < length


def video_grid(segments: Iterable[tuple[int, int]], video_fps: float, fps: float) -> IntArray:
    """The frames that a cache stores for a video: the union of all segments' unthinned frames, ascending.

    It contains every clip of these segments at this ``fps``, for any ``max_frames``.
    """
    ratio = fps / video_fps
    return np.unique(np.concatenate([grid_frames(start, end, ratio) for start, end in sorted(set(segments))]))


def slots_in(frames: IntArray, span: tuple[float, float]) -> NDArray[np.bool_]:
    """Mask of the slots inside a half-open span of source frames: (T,) bool."""
    return (frames >= span[0]) & (frames < span[1])


def moment_slots(frames: IntArray, moment: tuple[int, int]) -> tuple[int, int] | None:
    """First and last slot inside a moment (both inclusive), or None if no slot is inside."""
    inside = np.flatnonzero(slots_in(frames, moment))
    return (int(inside[0]), int(inside[-1])) if inside.size else None


def span_of_slots(frames: IntArray, first: int, last: int) -> tuple[int, int]:
    """The half-open span of source frames from slot ``first`` to slot ``last``, both inclusive."""
    return int(frames[first]), int(frames[last]) + 1


def interpolate_boxes(frames: IntArray, boxes: FloatArray, wanted: IntArray) -> FloatArray:
    """Boxes (n, 4) at ascending ``frames`` (n,), interpolated at any ``wanted`` frames (m,): (m, 4).

    Every coordinate is linear between given frames, and constant before the first and after the last.
    """
    return np.stack([np.interp(wanted, frames, boxes[:, i]) for i in range(4)], axis=-1)


def neighbours(frames: IntArray, frame_count: int, ratio: float, window: int) -> IntArray:
    """The source frames that an encoder with a window reads for each frame: (n, window), ascending.

    The frame itself is at position ``window // 2``. The others are bucket starts of the video's whole grid before and
    after it, independent of the annotation. At the ends of the video, the outermost one is repeated. ``ratio`` as in
    `grid_frames`.
    """
    offsets = np.arange(window) - window // 2
    own = np.floor(frames * ratio).astype(np.int64)
    inside = frames > bucket_starts(own, ratio)  # then the start of its own bucket precedes it
    buckets = own[:, None] + offsets + (inside[:, None] & (offsets < 0))
    starts = bucket_starts(np.clip(buckets, 0, int((frame_count - 1) * ratio)), ratio)
    before, after = np.minimum(starts, frames[:, None]), np.maximum(starts, frames[:, None])
    return np.where(offsets < 0, before, np.where(offsets > 0, after, frames[:, None]))

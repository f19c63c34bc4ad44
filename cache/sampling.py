"""Source frames ↔ slots: which frames of a segment the model sees, and back. Pure functions, no video.

Two clocks. A *source frame* is a 0-based number in the video file; spans of source frames are half-open. A *slot* is a
position 0…T-1 in a sampled clip. They are converted here and nowhere else.
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

    ``fps``: frames looked at per second of video. ``max_frames``: a longer clip is thinned to this many slots. ``ends``:
    its first and its last frame are among them, see `spread`; otherwise the first alone, see `thin`.
    """

    fps: float = 5.0
    max_frames: int = 100
    ends: bool = False

    def thinned(self, frames: IntArray) -> IntArray:
        """At most ``max_frames`` of the frames that a clip has on its grid."""
        return spread(frames, self.max_frames) if self.ends else thin(frames, self.max_frames)

    @property
    def unthinned(self) -> Sampling:
        """The same grid, all of it."""
        return replace(self, max_frames=2**31)

    def __post_init__(self) -> None:
        if not self.fps > 0:
            raise ValueError(f"fps must be positive, got {self.fps}")
        if self.max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, got {self.max_frames}")


def grid_frames(start: int, end: int, ratio: float) -> IntArray:
    """Frames of segment ``[start, end)`` at the sampling rate, before any thinning: (n,) ascending source frames.

    ``ratio`` = sampled fps / video fps, in (0, 1]. The first frame is ``start``; every later one is the first source
    frame f with floor(f * ratio) above its predecessor's. All but the first therefore lie on a grid fixed to the video,
    whatever the segment. Products are double precision and truncated, exactly as the field's public code does it; as
    there, an empty segment (end == start, which no reader lets through) still has its first frame.

    Raises ValueError for a reversed or negative segment or a ratio outside (0, 1].
    """
    if end < start or start < 0:
        raise ValueError(f"segment [{start}, {end}) is reversed or negative")
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio {ratio} is outside (0, 1]: frames can be left out, never invented")
    first_bucket = int(start * ratio)
    last_bucket = max(first_bucket, int((end - 1) * ratio))
    frames = np.empty(last_bucket - first_bucket + 1, dtype=np.int64)
    frames[0] = start
    if frames.size > 1:
        frames[1:] = bucket_starts(np.arange(first_bucket + 1, last_bucket + 1, dtype=np.int64), ratio)
    return frames


def bucket_starts(buckets: IntArray, ratio: float | FloatArray) -> IntArray:
    """For each bucket k, the smallest source frame f with floor(f * ratio) >= k, judged in double precision."""
    guess = np.ceil(buckets / ratio).astype(np.int64)
    # Rounding of k / ratio can miss by one frame either way; the truncated product decides.
    guess -= np.floor((guess - 1) * ratio).astype(np.int64) >= buckets
    guess += np.floor(guess * ratio).astype(np.int64) < buckets
    return guess


def thin(frames: IntArray, max_frames: int) -> IntArray:
    """Keep ``max_frames`` evenly spaced entries of a longer list: positions floor(j * n / max_frames)."""
    n = len(frames)
    if n <= max_frames:
        return frames
    return frames[np.arange(max_frames, dtype=np.int64) * n // max_frames]


def spread(frames: IntArray, count: int) -> IntArray:
    """Keep ``count`` evenly spaced entries of a longer list, the first and the last among them.

    Positions are floor(linspace(0, n - 1, count)) in double precision, as STCAT's public code has it.
    """
    n = len(frames)
    return frames if n <= count else frames[np.linspace(0, n - 1, count).astype(np.int64)]


def windows(frames: IntArray, size: int) -> list[IntArray]:
    """A clip's frames as consecutive pieces of at most ``size`` slots; only the last may be shorter."""
    return [frames[start : start + size] for start in range(0, len(frames), size)]


def sample_frames(segment: tuple[int, int], video_fps: float, sampling: Sampling) -> IntArray:
    """Source frame of every slot of a clip, ascending: (T,) with T <= ``sampling.max_frames``.

    Raises ValueError when the video has fewer frames per second than are asked for.
    """
    return sampling.thinned(grid_frames(segment[0], segment[1], sampling.fps / video_fps))


def sample_many(
    starts: IntArray, ends: IntArray, video_fps: FloatArray, sampling: Sampling
) -> tuple[IntArray, NDArray[np.bool_]]:
    """`sample_frames` of N valid segments at once: frames (N, T) and which of these slots exist (N, T).

    Sentences share segments: each different one is computed once.
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
    """The frames a cache stores for one video: all segments' unthinned frames, merged, ascending, without repeats.

    Any clip of any of the segments, at this rate and any ``max_frames``, is a subset of them.
    """
    ratio = fps / video_fps
    return np.unique(np.concatenate([grid_frames(start, end, ratio) for start, end in sorted(set(segments))]))


def slots_in(frames: IntArray, span: tuple[float, float]) -> NDArray[np.bool_]:
    """Which slots lie inside a half-open span of source frames: (T,) bool."""
    return (frames >= span[0]) & (frames < span[1])


def moment_slots(frames: IntArray, moment: tuple[int, int]) -> tuple[int, int] | None:
    """First and last slot inside a moment (both inclusive), or None when no slot is."""
    inside = np.flatnonzero(slots_in(frames, moment))
    return (int(inside[0]), int(inside[-1])) if inside.size else None


def span_of_slots(frames: IntArray, first: int, last: int) -> tuple[int, int]:
    """Back to source frames: the half-open span from slot ``first`` to slot ``last``, both inclusive."""
    return int(frames[first]), int(frames[last]) + 1


def interpolate_boxes(frames: IntArray, boxes: FloatArray, wanted: IntArray) -> FloatArray:
    """Boxes (n, 4) known at ascending ``frames`` (n,), read at any ``wanted`` (m,) frames: (m, 4).

    Linear in every coordinate between known frames, constant before the first and after the last.
    """
    return np.stack([np.interp(wanted, frames, boxes[:, i]) for i in range(4)], axis=-1)


def neighbours(frames: IntArray, frame_count: int, ratio: float, window: int) -> IntArray:
    """The source frames an encoder with a window looks at around each frame: (n, window), ascending.

    The frame itself stands at position ``window // 2``. Around it are bucket starts of the video's whole grid, before and
    after it, whatever is annotated; at the ends of the video the last one is repeated. ``ratio`` as in `grid_frames`.
    """
    offsets = np.arange(window) - window // 2
    own = np.floor(frames * ratio).astype(np.int64)
    inside = frames > bucket_starts(own, ratio)  # then its own bucket's start is the first before it
    buckets = own[:, None] + offsets + (inside[:, None] & (offsets < 0))
    starts = bucket_starts(np.clip(buckets, 0, int((frame_count - 1) * ratio)), ratio)
    before, after = np.minimum(starts, frames[:, None]), np.maximum(starts, frames[:, None])
    return np.where(offsets < 0, before, np.where(offsets > 0, after, frames[:, None]))

"""Messages between the extractor and a decoding process (jobs, outcomes), and the shared memory for pixels."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cache.sampling import IntArray
from ...cache.schema import Video
from ...cache.view import View
from ...errors import VideoError

BLOCK_FRAMES = 8
"""Frames a block; fewer if they do not fit a slot."""


@dataclass(frozen=True)
class DecodeJob:
    """The frames to decode of one video, and how to render them."""

    video_id: str
    file: Path
    frames: IntArray
    """(n,) ascending source frames."""
    width: int
    height: int
    views: list[View]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    annotated: Video | None = None
    """The annotation that the file's frames and rate must match; None: no comparison."""
    rate_is_assumed: bool = False
    """The annotated rate is an assumption of the dataset."""
    raw: bool = False
    """Send frames as decoded, uint8; the GPU that encodes them also renders them."""

    @property
    def frame_bytes(self) -> int:
        """Bytes sent for one frame: all its renditions (float32), or its own pixels (uint8)."""
        if self.raw:
            return self.height * self.width * 3
        return sum(view.height * view.width * 3 * 4 for view in self.views)


@dataclass(frozen=True)
class CheckJob:
    """A file to compare with its annotation: every frame is decoded, no pixels are sent."""

    annotated: Video
    file: Path
    rate_is_assumed: bool = False

    @property
    def video_id(self) -> str:
        return self.annotated.video_id


@dataclass(frozen=True)
class Outcome:
    """The result of a job."""

    error: VideoError | None
    """Why the job failed; None: it is complete."""
    warnings: list[str] = field(default_factory=list)
    """Differences from the annotation that do not prevent use."""


def renditions(job: DecodeJob, slot: memoryview, count: int) -> list[NDArray[Any]]:
    """Arrays over a slot's memory: (count, height, width, 3) float32 for each view, one after the other.

    For a raw job, one array (count, job.height, job.width, 3) uint8.
    """
    if job.raw:
        shape = (count, job.height, job.width, 3)
        return [np.frombuffer(slot, np.uint8, count=int(np.prod(shape))).reshape(shape)]
    arrays: list[NDArray[Any]] = []
    at = 0
    for view in job.views:
        shape = (count, view.height, view.width, 3)
        arrays.append(np.frombuffer(slot, np.float32, count=int(np.prod(shape)), offset=at).reshape(shape))
        at += arrays[-1].nbytes
    return arrays


@dataclass(frozen=True)
class Slots:
    """A ring buffer of equal slots in shared memory, filled by the decoder and emptied by the extractor."""

    memory: memoryview
    count: int

    @classmethod
    def of(cls, descriptor: int, count: int) -> Slots:
        return cls(memoryview(mmap.mmap(descriptor, 0)), count)

    @property
    def bytes_each(self) -> int:
        return len(self.memory) // self.count

    def __getitem__(self, number: int) -> memoryview:
        start = number % self.count * self.bytes_each
        return self.memory[start : start + self.bytes_each]

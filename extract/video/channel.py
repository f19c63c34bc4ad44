"""What goes between the extractor and a decoding process: jobs, outcomes, and pixels through shared memory."""

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
"""Frames handed over at once, unless they are larger than a slot."""


@dataclass(frozen=True)
class DecodeJob:
    """The frames wanted of one video, and what they are turned into."""

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
    """What the file must be, frames and rate; None: it is not compared."""
    rate_is_assumed: bool = False
    """The annotated rate is no more than a guess."""
    raw: bool = False
    """Frames are handed over as decoded; the device that encodes them renders them, too."""

    @property
    def frame_bytes(self) -> int:
        """Of one frame as it is handed over: all its renditions together, or its own pixels."""
        if self.raw:
            return self.height * self.width * 3
        return sum(view.height * view.width * 3 * 4 for view in self.views)


@dataclass(frozen=True)
class CheckJob:
    """A file to be compared with its annotation, every frame of it decoded and none handed over."""

    annotated: Video
    file: Path
    rate_is_assumed: bool = False

    @property
    def video_id(self) -> str:
        return self.annotated.video_id


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    error: VideoError | None
    """Why nothing more comes; None: the job is done."""
    warnings: list[str] = field(default_factory=list)
    """In what the file differs from its annotation though it can be used."""


def renditions(job: DecodeJob, slot: memoryview, count: int) -> list[NDArray[Any]]:
    """A slot's content: per view (count, height, width, 3) float32, one after the other.

    Of a raw job one array, (count, job.height, job.width, 3) uint8.
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
    """A ring of equal pieces of shared memory; the decoder fills them in turn, the extractor empties them in turn."""

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

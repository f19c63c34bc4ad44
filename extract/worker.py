"""The decoding process: reads the videos it is told of and lays what the encoder wants into shared memory.

It is started by `decoders` and knows no tensors: FFmpeg and NumPy only, so it is small and starts quickly. Whatever a
file does to it, be it a crash, a hang or all memory it may take, the extractor stays unharmed.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..cache.errors import VideoError
from ..cache.sampling import IntArray
from ..cache.schema import View
from .decode import Pixels, read_frames
from .render import render

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

    @property
    def frame_bytes(self) -> int:
        """Of one frame, all its renditions together."""
        return sum(view.height * view.width * 3 * 4 for view in self.views)


def renditions(job: DecodeJob, slot: memoryview, count: int) -> list[NDArray[np.float32]]:
    """A slot's content: per view (count, height, width, 3) float32, one after the other."""
    arrays, at = [], 0
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


class Worker:
    """Takes jobs from a channel. What goes over it, from the extractor: a `DecodeJob`, or None for a slot emptied.

    To the extractor: ``True`` once, when ready; then per block (frames, seconds it took); per job at its end the
    VideoError that ended it, or None.

    ``patience``: seconds a block may take. The extractor kills a decoder that hangs; should it be gone itself, the
    system's alarm does.
    """

    def __init__(self, channel: Connection, slots: Slots, threads: int, patience: int) -> None:
        self.channel, self.slots, self.threads, self.patience = channel, slots, threads, patience
        self.filled = self.emptied = 0

    def run(self) -> None:
        """Until the extractor hangs up, or is gone."""
        self.channel.send(True)
        while True:
            message = self.channel.recv()
            if message is None:
                self.emptied += 1
            else:
                self.channel.send(self.attempt(message))

    def attempt(self, job: DecodeJob) -> VideoError | None:
        signal.alarm(self.patience)
        try:
            self.decode(job)
        except VideoError as error:
            return out_of_memory(job) if os.strerror(errno.ENOMEM) in str(error) else error
        except (MemoryError, BlockingIOError):  # the second: no room for another thread
            return out_of_memory(job)
        finally:
            signal.alarm(0)
        return None

    def decode(self, job: DecodeJob) -> None:
        start = time.perf_counter()
        for frames in self.blocks(job):
            waited = time.perf_counter()
            signal.alarm(0)
            while self.filled - self.emptied == self.slots.count:
                self.channel.recv()
                self.emptied += 1
            start += time.perf_counter() - waited
            signal.alarm(self.patience)
            for pixels, view in zip(renditions(job, self.slots[self.filled], len(frames)), job.views, strict=True):
                for frame, out in zip(frames, pixels, strict=True):
                    render(frame, view, job.mean, job.std, out)
            self.filled += 1
            self.channel.send((len(frames), time.perf_counter() - start))
            start = time.perf_counter()

    def blocks(self, job: DecodeJob) -> Iterator[Pixels]:
        block = max(1, min(BLOCK_FRAMES, self.slots.bytes_each // job.frame_bytes))
        return read_frames(job.file, job.frames, width=job.width, height=job.height, block=block, threads=self.threads)


def out_of_memory(job: DecodeJob) -> VideoError:
    """Called in the worker: names its own limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return VideoError(
        f"{job.file} takes too much memory to decode",
        expected=f"at most {limit / 2**30:.1f} GiB" if limit != resource.RLIM_INFINITY else None,
        effect="the video was left out",
        hint="stvg extract --retry-skipped with a larger --decoder-memory",
    )


def main() -> None:
    """``channel``, ``memory`` (descriptors), slots, threads, the most bytes of address space to take, and patience."""
    channel, memory, slots, threads, limit, patience = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        Worker(Connection(channel), Slots.of(memory, slots), threads, patience).run()
    except (EOFError, ConnectionError, KeyboardInterrupt):  # the extractor has finished, or is gone
        return


if __name__ == "__main__":
    main()

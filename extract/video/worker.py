"""The decoding process: decodes the videos of its jobs and writes frames, rendered or raw, into shared memory.

`decoders` starts it. It uses FFmpeg and NumPy but not torch, so it is small and starts quickly. A file that crashes it,
hangs it or exhausts its memory does not affect the extractor.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from numpy.typing import NDArray

from ...errors import VideoError
from ..render import render
from .agreement import examine
from .channel import BLOCK_FRAMES, CheckJob, DecodeJob, Outcome, Slots, renditions
from .decode import Pixels, read_frames

BEAT = 0.1
"""Seconds between two progress messages within a block."""


class Worker:
    """Runs the jobs of a channel.

    Messages from the extractor: a job, or None for an emptied slot. Messages to the extractor: ``True`` once, when
    ready; during a job, the number of packets or pictures so far; after each block, (frames, seconds); at the end of a
    job, its `Outcome`.

    ``patience``: seconds without progress after which SIGALRM ends this process. The extractor kills a hanging decoder
    earlier, unless it has ended itself.
    """

    def __init__(self, channel: Connection, slots: Slots, threads: int, patience: int) -> None:
        self.channel, self.slots, self.threads, self.patience = channel, slots, threads, patience
        self.filled = self.emptied = 0
        self.told, self.count = 0.0, 0

    def run(self) -> None:
        """Handle messages until the extractor closes the channel or ends."""
        self.channel.send(True)
        while True:
            message = self.channel.recv()
            if message is None:
                self.emptied += 1
            else:
                self.channel.send(self.attempt(message))

    def attempt(self, job: DecodeJob | CheckJob) -> Outcome:
        self.told, self.count = time.monotonic(), 0
        signal.alarm(self.patience)
        try:
            warnings = self.compare(job)
            if isinstance(job, DecodeJob):
                self.decode(job)
        except VideoError as error:
            return Outcome(out_of_memory(job) if os.strerror(errno.ENOMEM) in str(error) else error)
        except (MemoryError, BlockingIOError):  # BlockingIOError: no memory for another thread
            return Outcome(out_of_memory(job))
        finally:
            signal.alarm(0)
        return Outcome(None, warnings)

    def compare(self, job: DecodeJob | CheckJob) -> list[str]:
        if job.annotated is None:
            return []
        whole = isinstance(job, CheckJob)
        return examine(job.file, job.annotated, job.rate_is_assumed, whole, self.threads, self.passed)

    def passed(self) -> None:
        """Count a packet or picture; every BEAT seconds, report the count and restart the alarm."""
        self.count += 1
        now = time.monotonic()
        if now - self.told > BEAT:
            signal.alarm(0)  # a busy extractor may block this send
            self.channel.send(self.count)
            signal.alarm(self.patience)
            self.told = now

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
            self.fill(renditions(job, self.slots[self.filled], len(frames)), frames, job)
            self.filled += 1
            self.channel.send((len(frames), time.perf_counter() - start))
            start = time.perf_counter()

    def fill(self, slot: list[NDArray[Any]], frames: Pixels, job: DecodeJob) -> None:
        if job.raw:
            slot[0][:] = frames
            return
        for pixels, view in zip(slot, job.views, strict=True):
            for frame, out in zip(frames, pixels, strict=True):
                render(frame, view, job.mean, job.std, out)

    def blocks(self, job: DecodeJob) -> Iterator[Pixels]:
        block = max(1, min(BLOCK_FRAMES, self.slots.bytes_each // job.frame_bytes))
        return read_frames(
            job.file,
            job.frames,
            width=job.width,
            height=job.height,
            block=block,
            threads=self.threads,
            passed=self.passed,
        )


def out_of_memory(job: DecodeJob | CheckJob) -> VideoError:
    """The error for a video that exceeds this process's memory limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return VideoError(
        f"{job.file} takes too much memory to decode",
        expected=f"at most {limit / 2**30:.1f} GiB" if limit != resource.RLIM_INFINITY else None,
        effect="the video was left out",
        hint="stvg extract --retry-skipped with a larger --decoder-memory",
    )


def main() -> None:
    """Arguments: descriptors of channel and memory, slots, threads, limit of address space in bytes, patience."""
    channel, memory, slots, threads, limit, patience = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        Worker(Connection(channel), Slots.of(memory, slots), threads, patience).run()
    except (EOFError, ConnectionError, KeyboardInterrupt):  # the extractor has finished or ended
        return


if __name__ == "__main__":
    main()

"""Run decoding processes: assign jobs, receive pixels, detect crashes and hangs, and name the video that caused them.

    for block in Decoders(settings).decode(jobs): ...

Pixels come through anonymous shared memory. The system frees it when the processes end, even after a crash.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from numpy.typing import NDArray

from ...cache.schema import Recipe
from ...errors import StvgError, VideoError
from .channel import BLOCK_FRAMES, CheckJob, DecodeJob, Outcome, Slots, renditions
from .pinned import pin

PROGRAM = (sys.executable, "-m", "stvg.extract.video.worker")
RAW_SLOT_BYTES = 32 * 2**20
"""Size of a slot for decoded frames; a single larger frame gets a larger slot."""
GRACE = 2
"""Seconds after the timeout until a decoder ends itself. The extractor kills it earlier, unless it has ended."""


@dataclass(frozen=True)
class Settings:
    """How videos are decoded. No setting changes a pixel."""

    processes: int = 1
    threads: int = 1
    """FFmpeg's threads in each process; 0 for one per core."""
    timeout: float = 120.0
    """Seconds without another frame after which the decoder is killed and its video skipped."""
    memory: int = 4 * 2**30
    """Limit of a decoder's address space, bytes."""
    slots: int = 8
    """Blocks a decoder may be ahead of the encoder."""
    slot_bytes: int = 8 * 2**20
    program: tuple[str, ...] = PROGRAM
    pinned: bool = False
    """Page-lock the slots, so that a GPU copies directly from them."""

    def fitting(self, recipe: Recipe) -> Settings:
        """The same settings, with slots that hold a block of the recipe's largest frames."""
        frame = recipe.resolution * recipe.max_side * 3 * 4 * recipe.views
        return replace(self, slot_bytes=BLOCK_FRAMES * frame)

    def for_raw_frames(self, largest: int) -> Settings:
        """The same settings, with page-locked slots for decoded frames of at most ``largest`` bytes each."""
        return replace(self, slot_bytes=max(largest, min(BLOCK_FRAMES * largest, RAW_SLOT_BYTES)), pinned=True)


@dataclass(frozen=True)
class Block:
    """The next frames of a video."""

    job: DecodeJob
    start: int
    """Index of the block's first frame in the job's frames."""
    pixels: list[NDArray[Any]]
    """See `renditions`. Shared memory, overwritten once the next block is requested."""
    seconds: float
    """Decoding time."""


@dataclass(frozen=True)
class End:
    """The end of a video: it is complete, or ``error`` says why not."""

    job: DecodeJob | CheckJob
    error: VideoError | None
    warnings: list[str] = field(default_factory=list)
    """Differences of a complete video from its annotation."""


class Decoder:
    """The extractor's side of one decoding process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        ours, theirs = socket.socketpair()
        memory = _anonymous_memory(settings.slots * settings.slot_bytes)
        self.slots = Slots.of(memory, settings.slots)
        self.unpin = pin(self.slots.memory) if settings.pinned else None
        patience = math.ceil(settings.timeout) + GRACE
        words = (theirs.fileno(), memory, settings.slots, settings.threads, settings.memory, patience)
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # more threads would reserve address space
        with deaf():
            self.process = subprocess.Popen(
                [*settings.program, *map(str, words)], pass_fds=(theirs.fileno(), memory), env=environment
            )
        theirs.close()
        os.close(memory)
        self.channel = Connection(ours.detach())
        self.ready, self.given_up = False, False
        self.job: DecodeJob | CheckJob | None = None
        self.at = self.received = self.passed = 0
        self.since = time.monotonic()

    def start(self, job: DecodeJob | CheckJob) -> None:
        self.job, self.at, self.passed, self.since = job, 0, 0, time.monotonic()
        with suppress(ConnectionError):  # `listen` notices that the process has died
            self.channel.send(job)

    def listen(self) -> Iterator[Block | End]:
        """Handle one message. If the process has died, its video ends. Raises StvgError if it never started."""
        try:
            message = self.channel.recv()
        except (EOFError, ConnectionError):
            yield from self.died()
            return
        self.since = time.monotonic()
        if message is True:
            self.ready = True
        elif isinstance(message, int):
            self.passed = message
        elif isinstance(message, tuple):
            assert isinstance(self.job, DecodeJob)
            count, seconds = message
            pixels = renditions(self.job, self.slots[self.received], count)
            yield Block(self.job, self.at, pixels, seconds)
            self.at += count
            self.received += 1
            self.since = time.monotonic()
            with suppress(ConnectionError):
                self.channel.send(None)
        else:
            yield from self.finish(message)

    def died(self) -> Iterator[End]:
        code = self.process.wait()
        if not self.ready:
            raise StvgError(
                "the decoding process does not start",
                found=_how(code),
                effect="nothing can be decoded",
                hint="try a larger --decoder-memory; the process may have printed the cause above",
            )
        if self.job is not None:
            yield from self.finish(
                Outcome(
                    VideoError(
                        f"{self.job.file} crashes its decoder",
                        found=f"{self.at} frames decode, then: {_how(code)}",
                        effect="the video was left out; other videos are not affected",
                        hint="fetch the file again, or convert it",
                    )
                )
            )

    def late(self) -> Iterator[End]:
        """Kill the process and end its video if it sent nothing for ``timeout`` seconds."""
        if self.job is None or time.monotonic() - self.since < self.settings.timeout:
            return
        self.given_up = True
        self.process.kill()
        yield from self.finish(
            Outcome(
                VideoError(
                    f"{self.job.file} takes too long to decode",
                    expected=f"the next frame within {self.settings.timeout:g} s",
                    found=f"{max(self.at, self.passed)} frames, then nothing",
                    effect="the video was left out",
                    hint="stvg extract --retry-skipped with a larger --decode-timeout",
                )
            )
        )

    def finish(self, outcome: Outcome) -> Iterator[End]:
        job, self.job = self.job, None
        if job is not None:
            yield End(job, outcome.error, outcome.warnings)

    def alive(self) -> bool:
        return not self.given_up and self.process.poll() is None

    def close(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()
        if self.unpin:
            self.unpin()


class Decoders:
    """A pool of decoding processes. A process that died is replaced."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.team = [Decoder(settings) for _ in range(settings.processes)]

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        for decoder in self.team:
            decoder.close()

    def decode(self, jobs: Iterator[DecodeJob | CheckJob]) -> Iterator[Block | End]:
        """Blocks and ends, in order of arrival. A free process takes the next job."""
        self._assign(jobs)
        while any(decoder.job for decoder in self.team):
            ready = wait([d.channel for d in self.team if d.job], self._patience())
            for decoder in [d for d in self.team if d.channel in ready]:
                yield from decoder.listen()
            for decoder in self.team:
                if decoder.channel not in ready:
                    yield from decoder.late()
            self._assign(jobs)

    def _patience(self) -> float:
        """Seconds until the next process reaches its timeout."""
        oldest = min(d.since for d in self.team if d.job)
        return max(0.0, oldest + self.settings.timeout - time.monotonic())

    def _assign(self, jobs: Iterator[DecodeJob | CheckJob]) -> None:
        for i, decoder in enumerate(self.team):
            if decoder.job is not None:
                continue
            job = next(jobs, None)
            if job is None:
                return
            if not decoder.alive():
                decoder.close()
                decoder = self.team[i] = Decoder(self.settings)
            decoder.start(job)


@contextmanager
def deaf() -> Iterator[None]:
    """Block SIGTERM and SIGUSR1 for processes started inside: the extractor handles them and lets videos finish."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _anonymous_memory(size: int) -> int:
    """Descriptor of anonymous memory; without ``memfd_create`` (not Linux), of a deleted temporary file."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("stvg frames")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor


def _how(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", as the system does when memory is short" if name == "SIGKILL" else "")
    return f"exit status {code}"

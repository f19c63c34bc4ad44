"""What is seen of a run while it trains: metrics.jsonl, its speed and what it waits for."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.profiler import record_function

from ...atomic import write_atomic
from .profiling import Profile

Item = TypeVar("Item")
Line = dict[str, Any]
"""One report of a run: ``step``, and losses, rates and speed, or ``validation`` scores of an ``epoch`` on a ``split``."""
Write = Callable[[Line], None]
SPEED = ("seconds", "samples_per_second", "wait", "memory_bytes")
"""Entries of a line that are not the same when a run is repeated."""
SELECTED = "selected_on_this_split"
"""Says of scores that the checkpoint was chosen by its scores on the very split."""


class Meter:
    """Time, samples and waiting of the steps since the last reading."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        self.start, self.waited, self.samples, self.steps = time.perf_counter(), 0.0, 0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around waiting for the next batches."""
        start = time.perf_counter()
        with record_function("data wait"):
            yield
        self.waited += time.perf_counter() - start

    def count(self, samples: int) -> None:
        """A step over so many samples is done."""
        self.samples += samples
        self.steps += 1

    def read(self) -> Line:
        """``seconds`` a step, ``samples_per_second``, ``wait`` (share of the time), ``memory_bytes`` at most so far."""
        seconds = time.perf_counter() - self.start
        found = (seconds / self.steps, self.samples / seconds, self.waited / seconds, peak_memory(self.device))
        self.restart()
        return dict(zip(SPEED, found, strict=True))


def peak_memory(device: torch.device) -> int:
    """Most bytes ever in use: allocated on a GPU, resident in this process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@dataclass
class Watch:
    """Everything that looks at a run while it goes."""

    meter: Meter
    writers: list[Write]
    profile: Profile | None = None

    def wait_for(self, batches: Iterator[Item], count: int) -> list[Item]:
        """The next batches, at most ``count`` of them; the time it takes is waiting."""
        with self.meter.waiting():
            return list(islice(batches, count))

    def stepped(self, samples: int) -> None:
        """A step over so many samples is done."""
        self.meter.count(samples)
        if self.profile:
            self.profile.step()

    def write(self, line: Line, speed: bool = False) -> None:
        """Pass a line on, with the speed since the last one if wanted."""
        line = line | (self.meter.read() if speed else {})
        for write in self.writers:
            write(line)


class MetricsFile:
    """metrics.jsonl: one line per report. A resumed run first drops lines past the step it resumes from."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        if path.exists():
            kept = [line for line in self._lines() if line["step"] <= step]
            write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))

    def _lines(self) -> Iterator[Line]:
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # a line cut short by a kill; its step is repeated
                return

    def __call__(self, line: Line) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

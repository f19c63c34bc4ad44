"""Monitoring of a run: metrics.jsonl, speed and waiting time."""

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
"""One line of metrics: ``step``, with losses, rates and speed, or with ``validation`` scores of an ``epoch`` on a
``split``."""
Write = Callable[[Line], None]
SPEED = ("seconds", "samples_per_second", "wait", "memory_bytes")
"""Entries of a line that differ when a run is repeated."""
SELECTED = "selected_on_this_split"
"""The entry that marks scores on the very split that selected the checkpoint."""


class Meter:
    """Measures time, samples and waiting time of the steps since the last reading."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        self.start, self.waited, self.samples, self.steps = time.perf_counter(), 0.0, 0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context of waiting for the next batches."""
        start = time.perf_counter()
        with record_function("data wait"):
            yield
        self.waited += time.perf_counter() - start

    def count(self, samples: int) -> None:
        """Count a step over ``samples`` samples."""
        self.samples += samples
        self.steps += 1

    def read(self) -> Line:
        """``seconds`` per step, ``samples_per_second``, ``wait`` (share of the time), ``memory_bytes`` (peak so
        far)."""
        seconds = time.perf_counter() - self.start
        found = (seconds / self.steps, self.samples / seconds, self.waited / seconds, peak_memory(self.device))
        self.restart()
        return dict(zip(SPEED, found, strict=True))


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated on a GPU, otherwise resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@dataclass
class Watch:
    """The observers of a run: meter, writers and profiler."""

    meter: Meter
    writers: list[Write]
    profile: Profile | None = None

    def wait_for(self, batches: Iterator[Item], count: int) -> list[Item]:
        """The next batches, at most ``count``; the time it takes counts as waiting."""
        with self.meter.waiting():
            return list(islice(batches, count))

    def stepped(self, samples: int) -> None:
        """Count a step over ``samples`` samples."""
        self.meter.count(samples)
        if self.profile:
            self.profile.step()

    def write(self, line: Line, speed: bool = False) -> None:
        """Pass a line to all writers. ``speed``: add the speed since the last such line."""
        line = line | (self.meter.read() if speed else {})
        for write in self.writers:
            write(line)


class MetricsFile:
    """metrics.jsonl: one JSON object per line. A resumed run first removes lines beyond the step from which it
    resumes."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        if path.exists():
            kept = [line for line in self._lines() if line["step"] <= step]
            write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))

    def _lines(self) -> Iterator[Line]:
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # incomplete line of a killed run; its step is repeated
                return

    def __call__(self, line: Line) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

"""record.json: all that a run was made of, written when it starts, so that ``train-head --from-record`` can repeat it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..cache.atomic import write_atomic
from ..cache.config import build
from ..cache.errors import UsageError
from .experiment import Experiment
from .run import Run, differences

FORMAT = "stvg run record 1"


@dataclass(frozen=True)
class Request:
    """What was asked for: places are absolute, and may be others when a run is repeated; all else may not."""

    cache: str
    experiment: Experiment
    split: str
    val_split: str
    protocol: str
    device: str
    init: str | None = None
    sources: dict[str, Any] = field(default_factory=dict)
    """Fields of `finetune.Sources`."""


@dataclass(frozen=True)
class Record:
    """A request, and under which circumstances a run answered it."""

    request: Request
    command: list[str]
    fingerprint: str
    """Of the cache."""
    started_from: str | None
    """SHA-256 of the weights the head started from, if any."""
    circumstances: dict[str, Any]
    """Versions, state of the working directory, hardware, threads, ranks: what may move the last bits."""

    @classmethod
    def of(cls, request: Request, run: Run) -> Record:
        """The record of a run that answers a request in this process."""
        started_from = None if run.start is None else run.start.sha256
        return cls(request, sys.argv, run.recipe.fingerprint, started_from, circumstances(run))

    @classmethod
    def read(cls, path: Path) -> Record:
        """Raises UsageError for anything but a record."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.pop("format") != FORMAT:
                raise ValueError("it is of another format")
            request = found.pop("request")
            experiment = build(Experiment, request.pop("experiment"), str(path))
            return cls(Request(experiment=experiment, **request), **found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{path} cannot be read as the record of a run",
                expected="record.json of a run's folder",
                found=error,
            ) from None

    def write(self, path: Path) -> None:
        write_atomic(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=1, default=str) + "\n")

    def require_repeatable(self, again: Record) -> str:
        """What is not the same around another run of the same request. Raises UsageError for another cache or start."""
        for name in ("fingerprint", "started_from"):
            if (recorded := getattr(self, name)) != (found := getattr(again, name)):
                raise UsageError(
                    f"this is not what the recorded run trained on: another {name.replace('_', ' ')}",
                    expected=recorded,
                    found=found,
                    effect="nothing was trained",
                    hint="--cache or --init with the place of the very same",
                )
        return differences(self.circumstances, again.circumstances, says=("recorded", "now"))


def circumstances(run: Run) -> dict[str, Any]:
    """Of a run in this process."""
    gpu = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else None
    return {
        "versions": {
            "stvg": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "git": git_state(Path.cwd()),
        "hardware": {"processor": processor(), "cores": os.cpu_count(), "gpu": gpu, "system": platform.platform()},
        "threads": torch.get_num_threads(),
        "ranks": run.ranks.count,
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of a working directory, and whether it has changes; None where there is no git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

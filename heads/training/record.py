"""record.json: the inputs of a run, written when it starts, so that ``train-head --from-record`` can repeat it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ... import __version__
from ...atomic import write_atomic
from ...cache.contents import Contents
from ...errors import CacheError, UsageError
from .request import RunRequest
from .resumption import different, told
from .state import Run

FORMAT = "stvg run record 1"
NO_SELECTION = "none: best.safetensors is the last epoch"
SELECTION = "best.safetensors is the epoch with the best m_vIoU on {split}; its scores there are selected on this split"


@dataclass(frozen=True)
class Record:
    """A request, and the environment of the run that executed it."""

    request: RunRequest
    command: list[str]
    fingerprint: str
    """Fingerprint of the cache."""
    started_from: str | None
    """SHA-256 of the head's initial weights; None for random ones."""
    circumstances: dict[str, Any]
    """Versions, git state of the working directory, hardware, threads, ranks: these may change the last bits of
    results."""
    selection: str = NO_SELECTION
    """How best.safetensors was chosen."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    """What changed when the run was resumed, and at which step."""
    annotations: dict[str, str] = field(default_factory=dict)
    """Name and SHA-256 of the annotation set."""
    data: dict[str, Any] = field(default_factory=dict)
    """The data that the run read, under ``training`` and ``validation``: counts, and `Contents` as JSON."""

    @classmethod
    def of(cls, request: RunRequest, run: Run) -> Record:
        """The record of a run in this process."""
        started_from = None if run.start is None else run.start.sha256
        of_part = {"training": run.data, "validation": run.held_out}
        return cls(
            replace(request, experiment=run.experiment),
            sys.argv,
            run.recipe.fingerprint,
            started_from,
            circumstances(run),
            NO_SELECTION if run.held_out is None else SELECTION.format(split=run.held_out.split),
            annotations=run.cache.annotations.to_json(),
            data={part: counted(found) for part, found in of_part.items() if found is not None},
        )

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record. Raises UsageError for an invalid file."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.pop("format") != FORMAT:
                raise ValueError("it is of another format")
            record = cls(RunRequest.from_json(found.pop("request"), str(path)), **found)
            for part in record.data.values():
                Contents.from_json(part["contents"])
            return record
        except (OSError, ValueError, KeyError, TypeError, AttributeError, CacheError) as error:
            raise UsageError(
                f"{path} cannot be read as the record of a run",
                expected="record.json of a run's folder",
                found=error,
            ) from None

    def write(self, path: Path) -> None:
        write_atomic(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=1, default=str) + "\n")

    def require_repeatable(self, again: Record) -> str:
        """The differences in environment to another run of the same request. Raises UsageError where the cache, its
        videos or samples, or the initial weights differ."""
        for name in ("fingerprint", "started_from"):
            if (recorded := getattr(self, name)) != (found := getattr(again, name)):
                raise UsageError(
                    f"this is not what the recorded run trained on: another {name.replace('_', ' ')}",
                    expected=recorded,
                    found=found,
                    effect="nothing was trained",
                    hint="--cache or --init with the place of the very same",
                )
        for part, then in self.data.items():
            if changes := self.changes_of(part, again):
                raise UsageError(
                    f"this is not what the recorded run had for {part}: the cache holds other videos or samples",
                    expected=f"{then['videos']:,} videos, {then['samples']:,} samples",
                    found=changes,
                    effect="nothing was trained",
                    hint="--cache with the videos of then; or train anew, without the record, on those of now",
                )
        return self.unlike(again)

    def unlike(self, again: Record) -> str:
        """The differences in environment."""
        return told(different(self.circumstances, again.circumstances), says=("recorded", "now"))

    def changes_of(self, part: str, now: Record) -> str:
        """The videos and samples added to or removed from the cache, for ``training`` or ``validation``; empty where
        either record has no such entry."""
        if part not in self.data or part not in now.data:
            return ""
        then, found = (Contents.from_json(record.data[part]["contents"]) for record in (self, now))
        return "; ".join(then.changes(found))

    def gone_on(self, now: Record, step: int) -> tuple[Record, str]:
        """The record of this run when it resumes at a step as ``now``, and the differences as text."""
        asked = (json.loads(json.dumps(asdict(record.request))) for record in (self, now))
        found = [told(different(*asked), says=("was", "is"))]
        if self.request.val_split == now.request.val_split and (changes := self.changes_of("validation", now)):
            found.append(f"the samples of {now.request.val_split}, so that the best scores anew: {changes}")
        if not (text := "; ".join(filter(None, found))):
            return self, ""
        changes_so_far = [*self.changes, {"step": step, "what": text, "command": now.command}]
        again = replace(self, request=now.request, selection=now.selection, data=now.data, changes=changes_so_far)
        return again, text


def go_on(run: Run, record: Record, repeated: Record | None, tell: Callable[[str], None]) -> None:
    """Resume the run where it has a checkpoint, report all differences, and write the record.

    ``repeated``: the record given by ``--from-record``. Raises UsageError where the run cannot repeat it.
    """
    path = run.folder / "record.json"
    unlike = repeated.require_repeatable(record) if repeated else ""
    if going_on := run.resume():
        tell(f"going on at step {run.step:,} of {run.total_steps:,}")
    if going_on and path.exists():
        before = Record.read(path)
        unlike = before.unlike(record)
        record, changed = before.gone_on(record, run.step)
        if changed and run.step <= run.total_steps:
            tell(f"not as it started: {changed}")
    if unlike:
        tell(f"not as recorded, so the last bits may differ: {unlike}")
    if run.ranks.first and run.step <= run.total_steps:
        record.write(path)


def counted(found: Contents) -> dict[str, Any]:
    """Contents as JSON, with their counts first for readers."""
    counts = {"videos": len(found.videos), "samples": found.samples, "digest": found.digest}
    return {**counts, "contents": found.to_json()}


def circumstances(run: Run) -> dict[str, Any]:
    """The environment of a run in this process."""
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
    """Commit of a working directory, and whether it has changes; None outside a git repository or without git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def processor() -> str:
    """The processor's name, where the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

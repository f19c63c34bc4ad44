"""The interface of a tracker, and functions that all trackers share."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from ....atomic import write_atomic
from ....config import flat
from ....errors import UsageError
from ....wording import install
from ..watch import SELECTED, SPEED, Line

if TYPE_CHECKING:
    from pathlib import Path

    from ..state import Run

IDS = "trackers.json"
"""A file in the run's folder with the run's id in each tracker. A resumed run continues under the same id."""


class Tracker(Protocol):
    """Receives every line of metrics.jsonl. Constructed with the run; raises UsageError where its package is not
    installed."""

    def __call__(self, line: Line) -> None: ...

    def close(self, finished: bool) -> None:
        """End of the run. ``finished``: it is complete; otherwise it was stopped or failed."""


def scalars(line: Line) -> dict[str, float]:
    """The scalars of a line under ``loss/``, ``rate/``, ``speed/`` and ``validation/``."""
    found = {f"validation/{metric}": score for metric, score in line.get("validation", {}).items()}
    for name, value in line.items():
        if name not in ("step", "epoch", "split", "validation", SELECTED):
            group = "speed" if name in SPEED else "rate" if name.startswith("lr") else "loss"
            found[f"{group}/{name}"] = value
    return found


def settings_of(run: Run) -> dict[str, Any]:
    """A run's configuration under dotted names: settings, cache, split, number of samples and of parameters."""
    facts = {
        "cache": str(run.cache.path),
        "split": run.dataset.split,
        "samples": len(run.dataset),
        "parameters": sum(p.numel() for p in run.model.parameters() if p.requires_grad),
    }
    return {**flat(asdict(run.experiment)), **facts}


def known_id(folder: Path, tracker: str) -> str | None:
    """The run's id in a tracker; None where the tracker has no such run yet."""
    path = folder / IDS
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found.get(tracker)


def keep_id(folder: Path, tracker: str, name: str) -> None:
    """Store the run's id in a tracker."""
    path = folder / IDS
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_atomic(path, json.dumps({**found, tracker: name}, indent=1) + "\n")


def missing(tracker: str, package: str) -> UsageError:
    """The error for a tracker whose package is not installed."""
    return UsageError(f"--track {tracker} needs {package}", effect="nothing was trained", hint=install(tracker))

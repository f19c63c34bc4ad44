"""What a tracker is, and what all of them share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from ....atomic import write_atomic
from ....errors import UsageError
from ....wording import install
from ..watch import SELECTED, SPEED, Line

if TYPE_CHECKING:
    from pathlib import Path

    from ..state import Run

IDS = "trackers.json"
"""In a run's folder: the names its trackers know it by, so that a run that goes on is the same run there."""


class Tracker(Protocol):
    """Gets every line of metrics.jsonl. Made with (run); raises UsageError where its package is not installed."""

    def __call__(self, line: Line) -> None: ...

    def close(self, finished: bool) -> None:
        """The run ends here: it is finished, or something stopped it."""


def scalars(line: Line) -> dict[str, float]:
    """The numbers of a line under ``loss/``, ``rate/``, ``speed/`` and ``validation/``."""
    found = {f"validation/{metric}": score for metric, score in line.get("validation", {}).items()}
    for name, value in line.items():
        if name not in ("step", "epoch", "split", "validation", SELECTED):
            group = "speed" if name in SPEED else "rate" if name.startswith("lr") else "loss"
            found[f"{group}/{name}"] = value
    return found


def settings_of(run: Run) -> dict[str, Any]:
    """What distinguishes a run, under dotted names: settings, the cache, the split, samples, parameters."""
    facts = {
        "cache": str(run.cache.path),
        "split": run.dataset.split,
        "samples": len(run.dataset),
        "parameters": sum(p.numel() for p in run.model.parameters() if p.requires_grad),
    }
    return {**flat(asdict(run.experiment)), **facts}


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings as one mapping of dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found


def known_id(folder: Path, tracker: str) -> str | None:
    """The name by which a tracker knows the run of a folder; None for a run that is new to it."""
    path = folder / IDS
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found.get(tracker)


def keep_id(folder: Path, tracker: str, name: str) -> None:
    """Keep that name in the folder."""
    path = folder / IDS
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_atomic(path, json.dumps({**found, tracker: name}, indent=1) + "\n")


def missing(tracker: str, package: str) -> UsageError:
    """The error of a tracker whose package is not installed."""
    return UsageError(f"--track {tracker} needs {package}", effect="nothing was trained", hint=install(tracker))

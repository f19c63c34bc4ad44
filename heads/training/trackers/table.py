"""The table of trackers. A tracker's package is imported only where the tracker is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..state import Run
    from .contract import Tracker

TRACKERS = {
    "tensorboard": "stvg.heads.training.trackers.tensorboard:EventFile",
    "wandb": "stvg.heads.training.trackers.wandb:WandbRun",
    "mlflow": "stvg.heads.training.trackers.mlflow:MlflowRun",
}
"""The class of each tracker, constructed with the run; see `contract.Tracker`."""


@contextmanager
def tracked(run: Run, names: Sequence[str]) -> Iterator[list[Tracker]]:
    """Context with the named trackers, closed at its end. Raises UsageError where a package is not installed."""
    opened: list[Tracker] = []
    finished = False
    try:
        opened.extend(resolve_name(TRACKERS[name])(run) for name in dict.fromkeys(names))
        yield opened
        finished = True
    finally:
        for tracker in opened:
            tracker.close(finished)

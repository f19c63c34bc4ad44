"""Scores of the rows of real.py as tables: means over seeds, intervals over clips, controls and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tables import line

from stvg.evaluate.bootstrap import intervals
from stvg.evaluate.metrics import Scores

COLUMNS = (
    *("", "m_tIoU", "m_vIoU", "of each seed", "gt_vIoU", "shuffled m_vIoU", "above shuffled", "no time", "below *"),
    *("parameters", "extract s", "train s", "MB"),
)


def values(scores: Scores) -> dict[str, Any]:
    """Scores of every sample, and the clip it is about, in the order of their ids."""
    rows = sorted(scores.samples, key=lambda s: str(s.sample_id))
    return {
        "clip": [str(s.sample_id).split("/")[1] for s in rows],
        "tIoU": [s.tIoU for s in rows],
        "vIoU": [s.vIoU for s in rows],
        "gt_vIoU": [s.gt_vIoU for s in rows],
    }


@dataclass(frozen=True)
class Scored:
    """The results of all seeds of one row on one split."""

    results: list[dict[str, Any]]
    split: str

    def each(self, name: str) -> Any:
        """Percent of every sample, mean over seeds."""
        return 100 * np.mean([r[self.split][name] for r in self.results], axis=0)

    def mean(self, name: str) -> str:
        return f"{self.each(name).mean():.1f}"

    def between(self, of_samples: Any) -> str:
        """Mean and interval over clips."""
        ((low, high),) = intervals(of_samples[:, None], self.results[0][self.split]["clip"])
        return f"{of_samples.mean():.1f} ({low:.1f} to {high:.1f})"

    def seeds(self, name: str) -> str:
        return ", ".join(f"{100 * np.mean(r[self.split][name]):.1f}" for r in self.results)


def row_of(name: str, split: str, results: list[Any], best: list[Any], cost: dict[str, float]) -> str:
    """A line of the table of a split. ``best``: the results of the row with a star. ``cost``: of its features."""
    mine, star = Scored(results, split), Scored(best, split)
    scores = [mine.between(mine.each(k)) for k in ("tIoU", "vIoU")]
    above = mine.between(mine.each("vIoU") - mine.each("shuffled"))
    below = mine.between(star.each("vIoU") - mine.each("vIoU")) if best and best != results else ""
    seconds = np.mean([r["seconds"] for r in results])
    costs = f"{results[0]['parameters']:,}", f"{cost['seconds']:.0f}", f"{seconds:.0f}", f"{cost['bytes'] / 1e6:.0f}"
    rest = [mine.seeds("vIoU"), mine.mean("gt_vIoU"), mine.mean("shuffled"), above, mine.mean("no time"), below]
    return line([name, *scores, *rest, *costs])

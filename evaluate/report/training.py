"""Training curves from metrics.jsonl."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError
from ...heads.training.watch import SPEED

POINTS = 300
"""A longer curve is reduced to this many means of neighbouring steps."""
NOT_LOSSES = ("step", "epoch", "validation", *SPEED)


@dataclass(frozen=True)
class Curve:
    """One quantity over the steps of a run."""

    name: str
    steps: list[float]
    values: list[float]

    def polyline(self, low: float, high: float, last: float) -> str:
        """Points of a drawing of 100 x 100: step 0 is at x = 0 and ``last`` at x = 100, ``low`` at the bottom."""
        height = high - low or 1.0
        pairs = zip(self.steps, self.values, strict=True)
        return " ".join(f"{100 * s / last:.2f},{100 - 100 * (v - low) / height:.2f}" for s, v in pairs)


@dataclass(frozen=True)
class Chart:
    """Curves that share their axes."""

    title: str
    curves: list[Curve]

    @property
    def low(self) -> float:
        return min(0.0, *(min(c.values) for c in self.curves))

    @property
    def high(self) -> float:
        return max(max(c.values) for c in self.curves)

    @property
    def last(self) -> float:
        return max(c.steps[-1] for c in self.curves) or 1.0


def read_training(path: Path) -> list[dict[str, Any]]:
    """Lines of a metrics.jsonl of stvg train-head. An incomplete last line is ignored.

    Raises UsageError for any other content.
    """
    try:
        complete = path.read_text(encoding="utf-8").split("\n")[:-1]
        lines = [json.loads(text) for text in complete]
        if not all(isinstance(line, dict) and type(line["step"]) is int for line in lines):
            raise ValueError("a line without a step")
    except OSError as error:
        raise UsageError(f"{path} cannot be read", found=error.strerror) from None
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"{path} holds no training metrics", expected="the metrics.jsonl of stvg train-head", found=error
        ) from None
    return lines


def charts_of(lines: list[dict[str, Any]]) -> list[Chart]:
    """Charts of the validation, then of the loss, its terms, and the learning rates."""
    validation = [{"step": line["step"], **line["validation"]} for line in lines if "validation" in line]
    steps = [line for line in lines if "validation" not in line]
    charts = []
    if validation:
        where = next((f" on {line['split']}, by which the epoch was selected" for line in lines if "split" in line), "")
        charts.append(
            Chart(f"validation{where}", [_curve(validation, name) for name in validation[0] if name != "step"])
        )
    names = dict.fromkeys(name for line in steps for name in line if name not in NOT_LOSSES)
    return charts + [Chart(name, [_curve(steps, name)]) for name in names]


def _curve(lines: list[dict[str, Any]], name: str) -> Curve:
    pairs = np.array([(line["step"], line[name]) for line in lines if name in line], dtype=np.float64)
    parts = np.array_split(pairs, min(POINTS, len(pairs)))
    steps, values = np.array([part.mean(axis=0) for part in parts]).T
    steps[-1] = pairs[-1, 0]
    return Curve(name, steps.tolist(), values.tolist())

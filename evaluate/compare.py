"""Comparison of two runs: paired differences per sample with their intervals, and the samples that changed most."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from ..errors import PredictionError
from .bootstrap import Interval, intervals
from .metrics import METRICS, SELECTED, Id, SampleScore, Scores, counted


@dataclass(frozen=True)
class ScoresFile:
    """Content of a file written by `stvg evaluate --json`."""

    path: Path
    how: dict[str, object]
    """Protocol and sampling. Two files are comparable only if these are equal."""
    samples: dict[Id, SampleScore]
    selected: bool = False
    """Whether the checkpoint was selected by its scores on this split."""

    @classmethod
    def of(cls, path: Path, scores: Scores) -> Self:
        """The content a file of these scores would have. ``path`` is only a name."""
        how = {"protocol": scores.protocol, "fps": scores.sampling.fps, "max_frames": scores.sampling.max_frames}
        return cls(path, how, {s.sample_id: s for s in scores.samples}, scores.selected_on_this_split)


@dataclass(frozen=True)
class Difference:
    """One metric of one group in both runs, as fractions. ``interval``: 95 % interval of the mean paired difference."""

    group: str
    metric: str
    a: float
    b: float
    interval: Interval

    @property
    def sure(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval[0] > 0 or self.interval[1] < 0


@dataclass(frozen=True)
class Comparison:
    """Differences over the samples that both runs contain, and the number of samples that only one contains."""

    differences: list[Difference]
    changed: list[tuple[SampleScore, SampleScore]]
    """Samples in both runs, by descending absolute change of vIoU."""
    only_a: int
    only_b: int
    selected: tuple[bool, bool] = (False, False)
    """For each run, whether its checkpoint was selected by its scores on this split."""


def read_scores(path: Path) -> ScoresFile:
    """Read a file of `stvg evaluate --json`. Raises PredictionError for any other content."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        samples = [SampleScore(**row) for row in stored["samples"]]
        how = {key: stored[key] for key in ("protocol", "fps", "max_frames")}
    except OSError as error:
        raise PredictionError(f"{path} cannot be read", found=error.strerror) from None
    except (ValueError, KeyError, TypeError) as error:
        raise PredictionError(
            f"{path} holds no scores", expected="a file that stvg evaluate --json wrote", found=f"{error}"
        ) from None
    return ScoresFile(path, how, {s.sample_id: s for s in samples}, stored.get(SELECTED) is True)


def compare(a: ScoresFile, b: ScoresFile) -> Comparison:
    """Differences b - a over the samples that both runs contain.

    Raises PredictionError if protocol or sampling differ, if an id means different samples, or if no sample is common.
    """
    differing = {k: f"{a.path} {a.how[k]!r}, {b.path} {b.how[k]!r}" for k in a.how if a.how[k] != b.how[k]}
    if differing:
        raise PredictionError("the two runs were not scored alike", **differing, effect="nothing was compared")
    common = [i for i in a.samples if i in b.samples]
    for i in common:
        if (a.samples[i].video_id, a.samples[i].sentence) != (b.samples[i].video_id, b.samples[i].sentence):
            raise PredictionError(
                f"sample {i!r} is another one in each file",
                found=f"{a.samples[i].sentence!r} and {b.samples[i].sentence!r}",
                hint="compare runs on the same dataset and split",
            )
    if not common:
        raise PredictionError("the two runs have no sample in common", effect="nothing was compared")
    differences = []
    for group in sorted({a.samples[i].qtype for i in common}):
        ids = [i for i in common if a.samples[i].qtype == group]
        ours, theirs = (counted([f.samples[i] for i in ids]) for f in (a, b))
        spread = intervals(theirs - ours, [a.samples[i].video_id for i in ids])
        for column, metric in enumerate(METRICS):
            means = float(ours[:, column].mean()), float(theirs[:, column].mean())
            differences.append(Difference(group, metric, *means, spread[column]))
    change = np.array([abs(b.samples[i].vIoU - a.samples[i].vIoU) for i in common])
    changed = [(a.samples[common[k]], b.samples[common[k]]) for k in np.argsort(-change, kind="stable")]
    return Comparison(
        differences, changed, len(a.samples) - len(common), len(b.samples) - len(common), (a.selected, b.selected)
    )

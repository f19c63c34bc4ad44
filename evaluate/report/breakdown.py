"""Breakdown of a run's scores: outcomes, distributions, and means by properties that make a sample difficult."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...cache.schema import Sample, has_boxes
from ..bootstrap import Interval, intervals
from ..metrics import METRICS, SampleScore, Scores, counted
from ..paper_figures import Beside

if TYPE_CHECKING:
    from .findings import Against

OUTCOMES = (
    ("Found", "vIoU above 0.5"),
    ("Nearly", "vIoU above 0.3, at most 0.5"),
    ("Right time, wrong place", "tIoU above 0.5, vIoU at most 0.3"),
    ("Wrong time", "tIoU at most 0.5, vIoU at most 0.3"),
)
BINS = 10
PLACES = 4
"""Decimals of overlaps on the page. Distributions are counted from the rounded overlaps."""
SHOWN = ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5")


@dataclass(frozen=True)
class Mark:
    """A mean on a scale from 0 to 1."""

    label: str
    value: float
    interval: Interval | None = None
    """95 % interval; None if there is none."""
    published: bool = False
    run: int = 0
    """Number of the other run, counted from 1; 0 for this run and for published results."""


@dataclass(frozen=True)
class Slice:
    """Samples with a common property. ``tiou``, ``viou``: their means."""

    label: str
    count: int
    tiou: Mark
    viou: Mark


def outcome(score: SampleScore) -> int:
    """Index into OUTCOMES. Every sample has exactly one outcome."""
    if score.vIoU > 0.3:
        return 0 if score.vIoU > 0.5 else 1
    return 2 if score.tIoU > 0.5 else 3


def headline(scores: Scores) -> dict[str, Mark]:
    """The field's four metrics, averaged over all sentences regardless of group."""
    return dict(zip(SHOWN, _means("all sentences", scores.samples)[: len(SHOWN)], strict=True))


def by_group(scores: Scores, beside: Beside, against: Sequence[Against] = ()) -> dict[str, dict[str, list[Mark]]]:
    """Per metric and group: this run, the other runs and the published figures."""
    found: dict[str, dict[str, list[Mark]]] = {metric: {} for metric in SHOWN}
    for group in scores.groups:
        ours = _means("this run", [s for s in scores.samples if s.qtype == group])
        for column, metric in enumerate(SHOWN):
            runs = [
                Mark(other.name, d.a, run=number)
                for number, other in enumerate(against, start=1)
                for d in other.comparison.differences
                if (d.group, d.metric) == (group, metric)
            ]
            theirs = [Mark(name, row[column] / 100, published=True) for name, row in beside.rows.get(group, {}).items()]
            found[metric][group] = [ours[column], *runs, *theirs]
    return found


def histogram(values: Sequence[float]) -> list[int]:
    """Number of values in each of BINS equal bins of [0, 1]. The last bin includes 1. Every value is counted."""
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, round(value * 10**PLACES) * BINS // 10**PLACES)] += 1
    return counts


def percentages(counts: Sequence[int]) -> list[int]:
    """Whole percentages that add up to 100: rounded down, then increased by 1 where the remainder is largest."""
    total = sum(counts) or 1
    shares = [100 * count // total for count in counts]
    lost = sorted(range(len(counts)), key=lambda i: -(100 * counts[i] % total))
    for i in lost[: 100 - sum(shares) if sum(counts) else 0]:
        shares[i] += 1
    return shares


def breakdowns(scores: Scores, samples: Sequence[Sample]) -> dict[str, list[Slice]]:
    """Means by length of the moment, size of the target, and length and kind of the sentence."""
    by_id = {s.sample_id: s for s in samples}
    rows = [(score, by_id[score.sample_id]) for score in scores.samples]
    found = {
        "Length of the moment": _fifths(rows, seconds, lambda v: f"{v:.1f}", "s"),
        "Size of the target": _fifths(rows, box_share, lambda v: f"{100 * v:.1f}", "% of the frame"),
        "Words in the sentence": _fifths(rows, words, lambda v: f"{v:.0f}", "words"),
    }
    kinds = sorted({score.qtype for score in scores.samples})
    if len(kinds) > 1:
        found["Kind of sentence"] = [_slice(k, [s for s in scores.samples if s.qtype == k]) for k in kinds]
    return found


def seconds(sample: Sample) -> float:
    """Length of the annotated moment, in seconds."""
    return (sample.moment[1] - sample.moment[0]) / sample.video.fps


def box_share(sample: Sample) -> float:
    """Mean share of the frame's area that the target's box covers."""
    boxes = sample.boxes[has_boxes(sample.boxes)]
    sides = boxes[:, 2:] - boxes[:, :2]
    return float(sides.prod(axis=1).mean()) / (sample.video.width * sample.video.height) if len(boxes) else 0.0


def words(sample: Sample) -> float:
    return float(len(sample.sentence.split()))


Rows = Sequence[tuple[SampleScore, Sample]]


def _fifths(rows: Rows, measure: Callable[[Sample], float], shown: Callable[[float], str], unit: str) -> list[Slice]:
    """Five slices of about equal size, in ascending order; fewer if many samples have the same value."""
    values = np.array([measure(sample) for _, sample in rows])
    cuts = np.unique(np.quantile(values, [0.2, 0.4, 0.6, 0.8]))
    place = np.searchsorted(cuts, values)
    slices = []
    for part in np.unique(place):
        inside = np.flatnonzero(place == part)
        low, high = shown(values[inside].min()), shown(values[inside].max())
        label = f"{low} {unit}" if low == high else f"{low} – {high} {unit}"
        slices.append(_slice(label, [rows[i][0] for i in inside.tolist()]))
    return slices


def _slice(label: str, scores: Sequence[SampleScore]) -> Slice:
    means = dict(zip(METRICS, _means(label, scores), strict=True))
    return Slice(label, len(scores), means["m_tIoU"], means["m_vIoU"])


def _means(label: str, scores: Sequence[SampleScore]) -> list[Mark]:
    """Means in the order of METRICS."""
    table = counted(scores)
    spread = intervals(table, [s.video_id for s in scores])
    marks = zip(table.mean(axis=0).tolist(), spread, strict=True)
    return [Mark(label, mean, None if low != low else (low, high)) for mean, (low, high) in marks]

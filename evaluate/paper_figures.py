"""Published results. They are shown only beside a run that scored every sample of the same split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..cache.index import Cache
from ..extract.datasets.table import published_sentences
from .metrics import Scores

Figures = tuple[float, float, float, float]
"""Percent: m_tIoU, m_vIoU, vIoU@0.3, vIoU@0.5. None of the papers reports gt_vIoU."""

PUBLISHED: dict[tuple[str, str], dict[str, dict[str, Figures]]] = {
    ("vidstg", "test"): {
        "declarative": {
            "FSM, paper, 224": (49.09, 28.23, 39.52, 26.95),
            "TubeDETR": (46.90, 27.60, 37.70, 25.70),
            "STCAT@224": (48.76, 28.04, 39.44, 26.00),
        },
        "interrogative": {
            "FSM, paper, 224": (47.56, 23.43, 32.54, 21.53),
            "TubeDETR": (46.10, 23.30, 31.30, 20.80),
            "STCAT@224": (47.50, 23.32, 32.26, 21.27),
        },
    },
    ("hcstvg-v1", "test"): {
        "all": {
            "FSM, paper, 224": (47.15, 34.00, 54.14, 29.74),
            "TubeDETR@352": (43.70, 32.40, 49.80, 23.50),
            "STCAT@224": (47.18, 31.79, 51.35, 26.97),
        },
    },
}
ABLATED = ("hcstvg-v1", "test")
"""Dataset and split of the paper's tables III to X."""

FOOTNOTE = (
    "Published figures are of models trained end to end, each scored by its own evaluator (STCAT: every frame). "
    "A run from a cache keeps its encoders frozen: it ranks variants and reproduces none of these figures."
)
NOT_ALL_SCORED = (
    "The paper's figures are left out: they are of all {sentences:,} sentences of the split, "
    "and a cell scored {scored:,} of them. "
)
NOT_ABLATED = "The paper's figures are left out: they are of HC-STVG v1's test split, and this cache holds another. "


class Beside(NamedTuple):
    """Published results for a run. ``rows``: figures by group and source. ``note``: a remark, or why there are none."""

    rows: dict[str, dict[str, Figures]]
    note: str


def published_beside(scores: Scores, dataset: str | None, split: str | None) -> Beside:
    """The published rows of ``dataset`` and ``split``, if every sample of that split was scored; else only the reason.

    A sample without a prediction was not scored, whether the protocol leaves it out or counts it as 0.
    """
    rows = PUBLISHED.get((dataset or "", split or ""), {})
    if not rows or dataset is None or split is None:
        return Beside({}, "")
    expected, annotated = published_sentences(dataset, split), scores.scored + len(scores.missing)
    if not scores.missing and scores.scored == expected:
        return Beside(rows, FOOTNOTE)
    why = f"these {annotated:,} are not that split"
    if annotated == expected:
        why = f"only {scores.scored:,} of them were scored"
    return Beside(
        {}, f"No published figures stand here: they are of the {expected:,} sentences of {dataset} {split}, and {why}."
    )


def not_ablated(cache: Cache, split: str, results: Iterable[Mapping[str, Any]]) -> str:
    """Why the figures of the paper's ablations must not be shown beside ``results``; empty if they may be.

    ``results``: the content of result.json of each finished cell. The figures may be shown if ``split`` of ``cache`` is
    the paper's split, and if every cell scored all of its samples.
    """
    dataset = cache.annotations.dataset
    sentences = cache.samples.splits.count(split)
    if (dataset, split) != ABLATED or published_sentences(dataset, split) != sentences:
        return NOT_ABLATED
    short = min((r["scored"] for r in results if r["missing"] or r["scored"] != sentences), default=None)
    return "" if short is None else NOT_ALL_SCORED.format(scored=short, sentences=sentences)

"""What a report is made from: one scored run, the evidence for its tubes, and what it is set beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ...cache.sampling import FloatArray
from ...cache.schema import Sample, Tube
from ...heads.seen import nearest_preset
from ..compare import Comparison
from ..metrics import Id, Scores

if TYPE_CHECKING:
    from pathlib import Path

    from ...cache.index import Cache
    from ...heads.decision import Reading
    from ..evaluation import Head


MATRIX_SLOTS = 400


@dataclass(frozen=True, eq=False)
class Shades:
    """Numbers >= 0 in steps of a 255th of their largest: small enough to keep for every sample, fine enough to draw."""

    peak: float
    """The largest."""
    levels: NDArray[np.uint8]
    """In any shape; 255 is the peak."""

    @classmethod
    def of(cls, values: FloatArray) -> Self:
        peak = float(values.max(initial=0.0))
        return cls(peak, np.rint(values / (peak or 1.0) * 255).astype(np.uint8))


@dataclass(frozen=True)
class Evidence:
    """Why a head chose its tube, per slot of the clip."""

    start: Shades
    """(T,) probability of the moment's first slot."""
    end: Shades
    """(T,) of its last."""
    attention: Shades | None
    """(T, T) temporal attention of the chosen candidate, rows = the slots that look. None for a clip of more than
    ``MATRIX_SLOTS``: it grows with the square of T."""
    looked_at: Shades
    """(T,) attention that each slot gets, mean over all slots that look."""

    @classmethod
    def of(cls, reading: Reading) -> Self:
        slots = len(reading.start)
        looked_at = np.concatenate([window.sum(axis=0) for window in reading.attention]) / slots
        matrix = Shades.of(along_diagonal(reading.attention)) if slots <= MATRIX_SLOTS else None
        return cls(Shades.of(reading.start), Shades.of(reading.end), matrix, Shades.of(looked_at))


def along_diagonal(blocks: Sequence[FloatArray]) -> FloatArray:
    """Square blocks as one square matrix, zero outside of them."""
    size = sum(map(len, blocks))
    whole, at = np.zeros((size, size)), 0
    for block in blocks:
        whole[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return whole


@dataclass(frozen=True)
class Against:
    """Another run beside this one."""

    name: str
    comparison: Comparison
    """The other run (first) and this one (second)."""


@dataclass(frozen=True)
class ReportContent:
    """Everything a report shows, before any of it is drawn."""

    name: str
    """Of the run."""
    dataset: str
    split: str
    scores: Scores
    samples: list[Sample]
    """Of the split, in its order."""
    tubes: Mapping[Id, Tube]
    evidence: Mapping[Id, Evidence] = field(default_factory=dict)
    """Empty for predictions of a file."""
    training: list[dict[str, Any]] = field(default_factory=list)
    """Lines of the run's metrics.jsonl."""
    against: Sequence[Against] = ()
    """Other runs."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """How it was made, for the foot of the page."""


def head_facts(checkpoint: Path, head: Head, cache: Cache | None = None) -> dict[str, str]:
    """What a reader of a page should know of a head, and of the features it read where there is a ``cache``. No folder of
    this machine."""
    r = cache.recipe if cache else head.recipe
    parameters = sum(p.numel() for p in head.model.head.parameters())
    facts = {
        "head": f"{checkpoint.absolute().parent.name}/{checkpoint.name}",
        "settings": nearest_preset(head.experiment) if head.experiment else "",
        "parameters": f"{parameters:,} of the head, trained {head.mode}",
        "trained on": str(head.seen or ""),
        "features": f"{r.visual.name} and {r.text.name}, short side {r.resolution}, {r.fps:g} fps, {r.dtype}",
        "cache": cache.recipe.fingerprint if cache else "",
    }
    return {name: value for name, value in facts.items() if value}

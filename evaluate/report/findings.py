"""Content of a report: one scored run, the evidence for its tubes, and the runs it is compared with."""

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
    """Numbers >= 0, quantised to 1/255 of their maximum: small enough to store, precise enough to draw."""

    peak: float
    """The maximum."""
    levels: NDArray[np.uint8]
    """Any shape; 255 is the peak."""

    @classmethod
    def of(cls, values: FloatArray) -> Self:
        peak = float(values.max(initial=0.0))
        return cls(peak, np.rint(values / (peak or 1.0) * 255).astype(np.uint8))


@dataclass(frozen=True)
class Evidence:
    """Evidence for a head's tube, per slot of the clip."""

    start: Shades
    """(T,) probability that the moment starts at the slot."""
    end: Shades
    """(T,) probability that the slot is the last of the moment."""
    attention: Shades | None
    """(T, T) temporal attention of the chosen candidate; rows are the attending slots.

    None for a clip of more than ``MATRIX_SLOTS``: the size grows with the square of T.
    """
    looked_at: Shades
    """(T,) attention that each slot receives, averaged over all attending slots."""
    inside: Shades | None
    """(T,) probability that the slot is inside the moment. None where starts and ends decide alone."""

    @classmethod
    def of(cls, reading: Reading) -> Self:
        slots = len(reading.start)
        looked_at = np.concatenate([window.sum(axis=0) for window in reading.attention]) / slots
        matrix = Shades.of(along_diagonal(reading.attention)) if slots <= MATRIX_SLOTS else None
        inside = None if reading.inside is None else Shades.of(np.exp(-np.logaddexp(0, -reading.inside)))
        return cls(Shades.of(reading.start), Shades.of(reading.end), matrix, Shades.of(looked_at), inside)


def along_diagonal(blocks: Sequence[FloatArray]) -> FloatArray:
    """Square blocks as one block-diagonal matrix."""
    size = sum(map(len, blocks))
    whole, at = np.zeros((size, size)), 0
    for block in blocks:
        whole[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return whole


@dataclass(frozen=True)
class Against:
    """Another run, compared with this one."""

    name: str
    comparison: Comparison
    """The other run is the first, this one the second."""


@dataclass(frozen=True)
class ReportContent:
    """All content of a report, before it is drawn."""

    name: str
    """Name of the run."""
    dataset: str
    split: str
    scores: Scores
    samples: list[Sample]
    """Samples of the split, in its order."""
    tubes: Mapping[Id, Tube]
    evidence: Mapping[Id, Evidence] = field(default_factory=dict)
    """Empty for predictions from a file."""
    training: list[dict[str, Any]] = field(default_factory=list)
    """Lines of the run's metrics.jsonl."""
    against: Sequence[Against] = ()
    """Other runs, for comparison."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """How the run was made; shown at the foot of the page."""

    @property
    def frames_decide(self) -> bool:
        """Whether the evidence includes every slot's probability to be inside the moment."""
        return any(evidence.inside for evidence in self.evidence.values())


def head_facts(checkpoint: Path, head: Head, cache: Cache | None = None) -> dict[str, str]:
    """Facts about a head, and with ``cache`` about the features it read, for the readers of a page.

    They contain no folder of this machine.
    """
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

"""What a head sees: samples padded together. Masks say what True means: padding.

Several sentences of one video share its features by index, never by copy. `Inputs` hold nothing of the annotation, so a
head that is given only `Inputs` cannot look at the answer.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from .schema import Sample, View

Group = TypeVar("Group", "Inputs", "Targets")


def _to(group: Group, device: torch.device) -> Group:
    tensors = {name: value for name, value in vars(group).items() if isinstance(value, Tensor)}
    return _with(group, {name: value.to(device, non_blocking=True) for name, value in tensors.items()})


def _with(group: Group, tensors: dict[str, Tensor]) -> Group:
    """As `replace`, which would derive again what was derived."""
    changed = copy.copy(group)
    vars(changed).update(tensors)
    return changed


@dataclass(frozen=True)
class Inputs:
    """B samples of at most T slots and M tokens; U distinct frames of at most h x w cells."""

    c5: Tensor
    """(U, h, w, C5) features of the distinct frames; zero where padding."""
    cell_padding: Tensor
    """(U, h, w) bool."""
    frame_index: Tensor
    """(B, T) int64: row of ``c5`` behind every slot. Padding slots repeat the sample's first frame, and are masked."""
    frame_padding: Tensor
    """(B, T) bool."""
    tokens: Tensor
    """(B, M, text width) features of the sentence's tokens; zero where padding."""
    token_padding: Tensor
    """(B, M) bool."""

    def to(self, device: torch.device) -> Inputs:
        return _to(self, device)


@dataclass(frozen=True)
class Targets:
    """The annotation of B samples, in slots and fractions. G = slots inside the moments, sample by sample.

    Raises ValueError for a sample without a slot inside its moment.
    """

    boxes: Tensor
    """(B, T, 4) cxcywh fractions; read only where ``in_moment``."""
    in_moment: Tensor
    """(B, T) bool: real slots inside the annotated moment. Its non-zeros order everything that is G long."""
    span: Tensor
    """(B, 2) int64: first and last slot inside the moment."""
    size: Tensor
    """(B, 2) int64: (width, height) of the rendition the features were computed from, in pixels."""
    roi: Tensor | None = None
    """(G, S², C3 + C4): stored RoI features of the target box (level ``roi``)."""
    c3: Tensor | None = None
    """(G, h3, w3, C3): stored maps (level ``full``), zero where padding."""
    c4: Tensor | None = None
    """(G, h4, w4, C4)."""
    slots: Tensor = field(init=False, compare=False)
    """(2, G) int64: sample and slot of everything that is G long. Found before a batch is moved: a GPU that is asked for
    them in the middle of a step has to be waited for."""
    longest: int = field(init=False, compare=False)
    """Slots of the longest moment."""

    def __post_init__(self) -> None:
        inside = self.in_moment.sum(1).tolist()
        if 0 in inside:
            empty = [row for row, count in enumerate(inside) if not count]
            raise ValueError(f"batch rows {empty} have no frame inside the moment")
        object.__setattr__(self, "slots", self.in_moment.nonzero().t().contiguous())
        object.__setattr__(self, "longest", max(inside, default=0))

    def to(self, device: torch.device) -> Targets:
        return _to(self, device)

    def with_levels(self, **levels: Tensor) -> Targets:
        """The same slots with other ``roi``, or ``c3`` and ``c4``."""
        return _with(self, levels)


@dataclass(frozen=True)
class LiveFrames:
    """Frames of one size whose C5 is computed in the training step instead of being read."""

    rows: Tensor
    """(n,) int64: which of the batch's U distinct frames these are."""
    values: Tensor
    """(n, h, w, C4) cached C4 maps, or (n, 3, H, W) normalised pixels."""

    def to(self, device: torch.device) -> LiveFrames:
        return LiveFrames(self.rows.to(device), self.values.to(device, non_blocking=True))


@dataclass(frozen=True)
class Batch:
    """Samples with their inputs, the source frame of every slot, and, for training, their targets."""

    samples: list[Sample]
    sentences: list[str]
    """What is asked of each sample: its own sentence, unless an evaluation shuffled them."""
    views: list[View]
    frames: list[torch.Tensor]
    """Per sample (T_i,) int64 source frames of its slots."""
    inputs: Inputs
    targets: Targets | None = None
    live: tuple[LiveFrames, ...] = ()
    """What live encoders turn into C5; `Inputs.c5` then has no channels until they did."""

    def to(self, device: torch.device) -> Batch:
        targets = None if self.targets is None else self.targets.to(device)
        live = tuple(group.to(device) for group in self.live)
        return replace(self, inputs=self.inputs.to(device), targets=targets, live=live)

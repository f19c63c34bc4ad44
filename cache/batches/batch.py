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

from ..schema import Sample
from ..view import View

Group = TypeVar("Group", "Inputs", "Targets")


def _to(group: Group, device: torch.device) -> Group:
    moved = copy.copy(group)  # `replace` would derive again what was derived
    for name, value in vars(group).items():
        if isinstance(value, Tensor):
            vars(moved)[name] = value.to(device, non_blocking=True)
        elif isinstance(value, dict):
            vars(moved)[name] = {k: tensor.to(device, non_blocking=True) for k, tensor in value.items()}
    return moved


@dataclass(frozen=True)
class Inputs:
    """B samples of at most T slots and M tokens; U distinct frames of at most h x w cells."""

    maps: Tensor
    """(U, h, w, C) features of the distinct frames at the level that is remembered; zero where padding."""
    cell_padding: Tensor
    """(U, h, w) bool."""
    frame_index: Tensor
    """(B, T) int64: row of ``maps`` behind every slot. Padding slots repeat the sample's first frame, and are masked."""
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
    regions: dict[str, Tensor] = field(default_factory=dict)
    """By level (G, S², C): RoI features of the target box, of levels that are kept as regions."""
    maps: dict[str, Tensor] = field(default_factory=dict)
    """By level (G, h, w, C): whole maps, of levels that are kept as maps; zero where padding."""
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

    def with_levels(self, regions: dict[str, Tensor], maps: dict[str, Tensor]) -> Targets:
        """The same slots with other features of the target."""
        changed = copy.copy(self)
        vars(changed).update(regions=regions, maps=maps)
        return changed


@dataclass(frozen=True)
class LiveFrames:
    """Frames of one size whose remembered maps are computed in the training step instead of being read."""

    rows: Tensor
    """(n,) int64: which of the batch's U distinct frames these are."""
    values: Tensor
    """(n, h, w, C) cached maps of the level before the last, or (n, 3, H, W) normalised pixels."""

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
    """What live encoders turn into `Inputs.maps`, which have no channels until they did."""

    def to(self, device: torch.device) -> Batch:
        targets = None if self.targets is None else self.targets.to(device)
        live = tuple(group.to(device) for group in self.live)
        return replace(self, inputs=self.inputs.to(device), targets=targets, live=live)

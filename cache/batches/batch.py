"""Batches of padded samples, the input of a head. In every mask, True means padding.

Sentences of one video share its features by index, without copies. `Inputs` contain nothing of the annotation, so a
head that receives only `Inputs` cannot use the ground truth.
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
    moved = copy.copy(group)  # `replace` would recompute the derived fields
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
    """(U, h, w, C) features of the distinct frames at the dataset's level; zero where padding."""
    cell_padding: Tensor
    """(U, h, w) bool."""
    frame_index: Tensor
    """(B, T) int64: row of ``maps`` for every slot. Padding slots repeat the sample's first frame, and are masked."""
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
    """The annotation of B samples, in slots and fractions. G = all slots inside the moments, in sample order.

    Raises ValueError for a sample without a slot inside its moment.
    """

    boxes: Tensor
    """(B, T, 4) cxcywh fractions; read only where ``in_moment``."""
    in_moment: Tensor
    """(B, T) bool: True at slots inside the annotated moment, never at padding. Its True entries give the order of
    G."""
    span: Tensor
    """(B, 2) int64: first and last slot inside the moment."""
    size: Tensor
    """(B, 2) int64: (width, height) of the rendition the features were computed from, in pixels."""
    regions: dict[str, Tensor] = field(default_factory=dict)
    """By level: (G, S², C) RoI features of the target box, for levels that the cache keeps as regions."""
    maps: dict[str, Tensor] = field(default_factory=dict)
    """By level: (G, h, w, C) whole maps, for levels that the cache keeps as maps; zero where padding."""
    slots: Tensor = field(init=False, compare=False)
    """(2, G) int64: sample and slot of every entry of G. Computed on the CPU: `nonzero` on a GPU synchronises."""
    longest: int = field(init=False, compare=False)
    """Number of slots of the longest moment."""

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
        """The same targets with other features."""
        changed = copy.copy(self)
        vars(changed).update(regions=regions, maps=maps)
        return changed


@dataclass(frozen=True)
class LiveFrames:
    """Frames of one size for which the training step computes the maps, in place of cached ones."""

    rows: Tensor
    """(n,) int64: their rows among the batch's U distinct frames."""
    values: Tensor
    """(n, h, w, C) cached maps of the level before the last, or (n, 3, H, W) normalised pixels."""

    def to(self, device: torch.device) -> LiveFrames:
        return LiveFrames(self.rows.to(device), self.values.to(device, non_blocking=True))


@dataclass(frozen=True)
class Batch:
    """Samples with their inputs, the source frame of every slot, and, for training, their targets."""

    samples: list[Sample]
    sentences: list[str]
    """The sentence of each sample; another sample's if the evaluation shuffles sentences."""
    views: list[View]
    frames: list[torch.Tensor]
    """Per sample (T_i,) int64 source frames of its slots."""
    inputs: Inputs
    targets: Targets | None = None
    live: tuple[LiveFrames, ...] = ()
    """Input of live encoders, which compute `Inputs.maps` from it. Until then those maps have zero channels."""

    def to(self, device: torch.device) -> Batch:
        targets = None if self.targets is None else self.targets.to(device)
        live = tuple(group.to(device) for group in self.live)
        return replace(self, inputs=self.inputs.to(device), targets=targets, live=live)

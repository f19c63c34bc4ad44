"""The terms that every head is trained with as plain functions, and the criterion that weighs and adds terms (eq 11).

B samples, N candidate tubes, T slots, G slots inside moments. What a head says may have further axes in front (…): that of
its decoder layers, all of which go through a term at once. All terms are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..cache.batches.batch import Targets
from ..config import AT_LEAST_0, POSITIVE, Settings, setting
from .boxes import generalised_iou

if TYPE_CHECKING:
    from .model import Anchor, LayerOutput, Output
    from .model_config import HeadConfig

EPSILON = 1e-6
LEAST = 1e-7
"""Of what the logarithm of guided attention is taken: below EPSILON, so that a weight of exactly 1 has its gradient."""


@dataclass(frozen=True)
class TubeLoss(Settings):
    """Weights of the terms that every head has (0: not computed). Defaults are the baseline's."""

    l1: float = setting(5.0, AT_LEAST_0, "TubeDETR")
    """Of the boxes' L1 distance, slots inside the moment."""
    giou: float = setting(2.0, AT_LEAST_0, "TubeDETR")
    """Of the boxes' generalised IoU, slots inside the moment."""
    span: float = setting(10.0, AT_LEAST_0, "TubeDETR")
    """Of the start and the end (Kullback-Leibler)."""
    attention: float = setting(1.0, AT_LEAST_0, "TubeDETR")
    """Of guided attention: the moment's slots look at each other."""
    aux: bool = setting(True, source="TubeDETR")
    """Box, span and attention terms, and what a head adds to them of every layer, at every earlier decoder layer, too."""
    span_sigma: float = setting(1.0, POSITIVE, "TubeDETR")
    """Width of the start and end targets, in slots."""

    @property
    def terms(self) -> dict[str, Term]:
        """All terms of the objective. What stands here is weighed, logged, and added up over ranks."""
        return TUBE_TERMS

    @property
    def scores(self) -> bool:
        """Whether a term teaches the head to say which candidate is meant."""
        return False

    def trains(self, model: HeadConfig) -> bool:
        """Whether any term of a positive weight teaches this head anything."""
        return any(term.weight(self) > 0 for term in self.terms.values())

    def match(self, layers: LayerOutput, targets: Targets) -> Tensor | None:
        """Which tube (L, B) of every layer answers for the annotated one. None: there is one only."""
        return None


def box_losses(pred: Tensor, target: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """L1 and 1 - GIoU of one tube per sample, pred (…, B, T, 4) and target (B, T, 4), summed over ``slots`` of `Targets`,
    per slot: (…) each."""
    sample, slot = slots
    pred, target = pred[..., sample, slot, :].float(), target[sample, slot]
    boxes = max(len(target), 1)
    return (pred - target).abs().sum((-1, -2)) / boxes, (1 - generalised_iou(pred, target)).sum(-1) / boxes


def span_loss(logits: Tensor, span: Tensor, frame_padding: Tensor, sigma: float) -> Tensor:
    """KL(prediction ‖ target) of start and end: logits (…, B, T, 2), span (B, 2) first and last slot inside → (…).

    Targets are Gaussians of width ``sigma`` slots around the two. Mean over each sample's real slots, then over samples.
    """
    padding = frame_padding[..., None]
    real = ~padding
    slots = torch.arange(logits.shape[-2], device=logits.device)
    distance = (slots[None, :, None] - span[:, None]).float()  # (B, T, 2)
    target = torch.exp(-distance.square() / (2 * sigma**2)) + EPSILON
    target = target / (target * real).sum(
        1, keepdim=True
    )  # never 0, not on padding either: its gradient would be no number
    p = logits.float().masked_fill(padding, -torch.inf).softmax(-2)
    loss = p * ((p + EPSILON) / target).log()
    return (loss.masked_fill(padding, 0).sum((-1, -2)) / real.sum((1, 2))).mean(-1)


def guided_attention_loss(attention: Tensor, in_moment: Tensor, frame_padding: Tensor) -> Tensor:
    """Temporal attention (…, B, T, T) of slots outside the moment is kept from concentrating on any one slot.

    -log(1 - weight) summed over keys, mean over the rows of real slots outside the moment, mean over samples: (…).
    """
    outside = (~in_moment & ~frame_padding).float()
    left = 1 - attention.float() + EPSILON
    rows = -left.clamp(min=LEAST).log().sum(-1)
    of_padding = frame_padding.sum(-1, keepdim=True) * (left.new_ones(()) + EPSILON).log()  # nothing looks there
    return (((rows + of_padding) * outside).sum(-1) / (outside.sum(-1) + EPSILON)).mean(-1)


class MeanOver(IntEnum):
    """What a term is a mean over, in a batch; `counts` has an entry for each."""

    SLOTS = 0
    """Slots inside the moments: longer moments weigh more."""
    SAMPLES = 1


def counts(targets: Targets | None) -> tuple[int, int]:
    """How much of every `MeanOver` a batch has; None: it is empty."""
    return (0, 0) if targets is None else (targets.slots.shape[1], len(targets.in_moment))


def chosen(of_all: Tensor, index: Tensor) -> Tensor:
    """The part (…, rest) that an index (…,) says of each of (…, N, rest)."""
    at = index.view(*index.shape, *[1] * (of_all.dim() - index.dim()))
    return of_all.take_along_dim(at, index.dim()).squeeze(index.dim())


@dataclass(frozen=True)
class Matched:
    """What terms are computed from: the output of L decoder layers, and which of each one's tubes answers for the annotated
    one."""

    config: Any
    """The head's own: a `TubeLoss`."""
    layers: Any
    """The head's own: a `LayerOutput` of every layer, (L, B, …), the last one last."""
    index: Tensor | None
    """(L, B) int64: the matched tube. None: there is one only."""
    targets: Targets
    frame_padding: Tensor
    """(B, T) bool."""
    anchor: Anchor | None
    """What the second stream decoded."""

    def tube(self, of_all: Tensor) -> Tensor:
        """The matched tube's part (L, B, …) of what the layers say of all (L, B, N, …)."""
        return of_all[:, :, 0] if self.index is None else chosen(of_all, self.index)

    @cached_property
    def indices(self) -> Tensor:
        """(L, B) int64: the matched tube, also where there is one only."""
        boxes = self.layers.boxes
        return boxes.new_zeros(boxes.shape[:2], dtype=torch.int64) if self.index is None else self.index

    @cached_property
    def boxes(self) -> tuple[Tensor, Tensor]:
        """L1 and 1 - GIoU of the matched tube."""
        return box_losses(self.tube(self.layers.boxes), self.targets.boxes, self.targets.slots)

    def span(self) -> Tensor:
        return span_loss(self.tube(self.layers.span), self.targets.span, self.frame_padding, self.config.span_sigma)

    def attention(self) -> Tensor:
        return guided_attention_loss(self.tube(self.layers.attention), self.targets.in_moment, self.frame_padding)


@dataclass(frozen=True)
class Term:
    """One row of the objective."""

    value: Callable[[Matched], Tensor | None]
    """The term without its weight: (L,) of every layer, or () of the last alone; None where there is nothing to compute it
    from."""
    weight: Callable[[Any], float]
    """Of the head's configuration of losses. 0: the term is not computed."""
    mean_over: MeanOver


TUBE_TERMS = {
    "l1": Term(lambda m: m.boxes[0], lambda c: c.l1, MeanOver.SLOTS),
    "giou": Term(lambda m: m.boxes[1], lambda c: c.giou, MeanOver.SLOTS),
    "span": Term(Matched.span, lambda c: c.span, MeanOver.SAMPLES),
    "attention": Term(Matched.attention, lambda c: c.attention, MeanOver.SAMPLES),
}
"""What every head is trained with."""


class Criterion:
    """Adds the weighted terms of an output; the matched tube is chosen anew for every layer."""

    def __init__(self, config: TubeLoss) -> None:
        self.config = config

    def __call__(self, output: Output, targets: Targets, frame_padding: Tensor) -> dict[str, Tensor]:
        """Weighted terms by name; the objective is their sum. ``aux`` gathers the earlier layers' terms."""
        c = self.config
        layers = output.every if c.aux else output.every.only_last()
        matched = Matched(c, layers, c.match(layers, targets), targets, frame_padding, output.anchor)
        found = {name: (term, term.value(matched)) for name, term in c.terms.items() if term.weight(c)}
        weighed = {name: self.weigh(term, value) for name, (term, value) in found.items() if value is not None}
        losses = {name: value[-1] if value.dim() else value for name, value in weighed.items()}
        earlier = [value[:-1] for value in weighed.values() if value.dim() and len(value) > 1]
        if earlier:
            losses["aux"] = torch.stack(earlier).sum()
        return losses

    def weigh(self, term: Term, value: Tensor) -> Tensor:
        """A term as it is part of the objective."""
        return term.weight(self.config) * value

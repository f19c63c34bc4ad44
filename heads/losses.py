"""The loss terms of every head as plain functions, and the criterion that adds their weighted values (eq 11).

B samples, N candidate tubes, T slots, G slots inside moments. Outputs may have further leading axes (…), such as the
decoder layers; a term is computed for all of them at once. All terms are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cache.batches.batch import Targets
from ..config import AT_LEAST_0, POSITIVE, Settings, setting
from .boxes import generalised_iou

if TYPE_CHECKING:
    from .model import LayerOutput, Output
    from .model_config import HeadConfig

EPSILON = 1e-6
LEAST = 1e-7
"""Lower clamp before the logarithm in guided attention. It is below EPSILON, so a weight of exactly 1 still has a
gradient."""


@dataclass(frozen=True)
class TubeLoss(Settings):
    """Weights of the terms that every head has. A term of weight 0 is not computed. Defaults are TubeDETR's."""

    l1: float = setting(5.0, AT_LEAST_0, "TubeDETR")
    """Weight of the boxes' L1 distance, over slots inside the moment."""
    giou: float = setting(2.0, AT_LEAST_0, "TubeDETR")
    """Weight of 1 - generalised IoU of the boxes, over slots inside the moment."""
    span: float = setting(10.0, AT_LEAST_0, "TubeDETR")
    """Weight of the Kullback-Leibler divergence of start and end."""
    attention: float = setting(1.0, AT_LEAST_0, "TubeDETR")
    """Weight of the guided attention loss, which penalises concentrated temporal attention of slots outside the
    moment."""
    aux: bool = setting(True, source="TubeDETR")
    """Also apply the terms for boxes, span and attention, and the head's own per-layer terms, to every earlier decoder
    layer."""
    span_sigma: float = setting(1.0, POSITIVE, "TubeDETR")
    """Standard deviation of the Gaussian start and end targets, in slots."""

    @property
    def terms(self) -> dict[str, Term]:
        """All terms of the objective. Each is weighted, logged, and summed over ranks."""
        return TUBE_TERMS

    @property
    def scores(self) -> bool:
        """Whether a term trains the candidates' scores."""
        return False

    def trains(self, model: HeadConfig) -> bool:
        """Whether any term with a positive weight trains this head."""
        return any(term.weight(self) > 0 for term in self.terms.values())

    def match(self, layers: LayerOutput, targets: Targets) -> Tensor | None:
        """The candidate (L, B) of every layer that is matched to the annotated tube. None where there is only one."""
        return None


def box_losses(pred: Tensor, target: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """L1 and 1 - GIoU of one tube per sample, pred (…, B, T, 4) and target (B, T, 4): means over ``slots`` (2, G) of
    `Targets`, (…) each."""
    sample, slot = slots
    pred, target = pred[..., sample, slot, :].float(), target[sample, slot]
    boxes = max(len(target), 1)
    return (pred - target).abs().sum((-1, -2)) / boxes, (1 - generalised_iou(pred, target)).sum(-1) / boxes


def span_loss(logits: Tensor, span: Tensor, frame_padding: Tensor, sigma: float) -> Tensor:
    """KL(prediction ‖ target) of start and end: logits (…, B, T, 2), span (B, 2) first and last slot inside → (…).

    Targets are Gaussians of standard deviation ``sigma`` slots around the two. Mean over each sample's valid slots,
    then over samples.
    """
    padding = frame_padding[..., None]
    real = ~padding
    slots = torch.arange(logits.shape[-2], device=logits.device)
    distance = (slots[None, :, None] - span[:, None]).float()  # (B, T, 2)
    target = torch.exp(-distance.square() / (2 * sigma**2)) + EPSILON
    target = target / (target * real).sum(1, keepdim=True)  # > 0 on padding too: else the gradient is NaN
    p = logits.float().masked_fill(padding, -torch.inf).softmax(-2)
    loss = p * ((p + EPSILON) / target).log()
    return (loss.masked_fill(padding, 0).sum((-1, -2)) / real.sum((1, 2))).mean(-1)


def guided_attention_loss(attention: Tensor, in_moment: Tensor, frame_padding: Tensor) -> Tensor:
    """Penalises temporal attention (…, B, T, T) that concentrates on single slots, for queries outside the moment.

    -log(1 - weight) summed over keys, mean over the rows of valid slots outside the moment, mean over samples: (…).
    """
    outside = (~in_moment & ~frame_padding).float()
    left = 1 - attention.float() + EPSILON
    rows = -left.clamp(min=LEAST).log().sum(-1)
    of_padding = frame_padding.sum(-1, keepdim=True) * (left.new_ones(()) + EPSILON).log()  # padded keys have weight 0
    return (((rows + of_padding) * outside).sum(-1) / (outside.sum(-1) + EPSILON)).mean(-1)


def action_loss(logits: Tensor, in_moment: Tensor, frame_padding: Tensor, outside: float = 1.0) -> Tensor:
    """Binary cross-entropy of (…, B, T) logits against ``in_moment`` (B, T); slots outside have weight ``outside``.

    Mean over each sample's valid slots, then over samples: (…).
    """
    inside = in_moment.float().expand(logits.shape)
    loss = F.binary_cross_entropy_with_logits(logits.float(), inside, reduction="none")
    weighed = (loss * (inside + outside * (1 - inside))).masked_fill(frame_padding, 0)
    return (weighed.sum(-1) / (~frame_padding).sum(-1)).mean(-1)


class MeanOver(IntEnum):
    """What a term is averaged over in a batch; `counts` has an entry for each."""

    SLOTS = 0
    """Slots inside the moments, so longer moments have more weight."""
    SAMPLES = 1


def counts(targets: Targets | None) -> tuple[int, int]:
    """The number of slots and samples in a batch, one for each `MeanOver`. ``targets`` None: an empty batch."""
    return (0, 0) if targets is None else (targets.slots.shape[1], len(targets.in_moment))


def chosen(of_all: Tensor, index: Tensor) -> Tensor:
    """The entries (…, rest) of ``of_all`` (…, N, rest) that ``index`` (…,) selects."""
    at = index.view(*index.shape, *[1] * (of_all.dim() - index.dim()))
    return of_all.take_along_dim(at, index.dim()).squeeze(index.dim())


@dataclass(frozen=True)
class Matched:
    """The input of the terms: the output of L decoder layers, and the candidate of each layer that is matched to the
    annotated tube."""

    config: Any
    """The head's loss settings: a `TubeLoss`."""
    layers: Any
    """The head's `LayerOutput` of all layers, (L, B, …), in order."""
    index: Tensor | None
    """(L, B) int64: the matched candidate. None where there is only one."""
    targets: Targets
    frame_padding: Tensor
    """(B, T) bool."""
    output: Output
    """The whole output."""

    def tube(self, of_all: Tensor) -> Tensor:
        """The matched candidate's part (L, B, …) of an output of all candidates (L, B, N, …)."""
        return of_all[:, :, 0] if self.index is None else chosen(of_all, self.index)

    @cached_property
    def indices(self) -> Tensor:
        """(L, B) int64: the matched candidate; zeros where there is only one."""
        boxes = self.layers.boxes
        return boxes.new_zeros(boxes.shape[:2], dtype=torch.int64) if self.index is None else self.index

    @cached_property
    def boxes(self) -> tuple[Tensor, Tensor]:
        """L1 and 1 - GIoU of the matched candidate: (L,) each."""
        return box_losses(self.tube(self.layers.boxes), self.targets.boxes, self.targets.slots)

    def span(self) -> Tensor:
        return span_loss(self.tube(self.layers.span), self.targets.span, self.frame_padding, self.config.span_sigma)

    def attention(self) -> Tensor:
        return guided_attention_loss(self.tube(self.layers.attention), self.targets.in_moment, self.frame_padding)


@dataclass(frozen=True)
class Term:
    """One term of the objective."""

    value: Callable[[Matched], Tensor | None]
    """The unweighted term: (L,) for all layers, or () for the last layer only. None where its input is missing."""
    weight: Callable[[Any], float]
    """Its weight in the head's loss settings. A term of weight 0 is not computed."""
    mean_over: MeanOver


TUBE_TERMS = {
    "l1": Term(lambda m: m.boxes[0], lambda c: c.l1, MeanOver.SLOTS),
    "giou": Term(lambda m: m.boxes[1], lambda c: c.giou, MeanOver.SLOTS),
    "span": Term(Matched.span, lambda c: c.span, MeanOver.SAMPLES),
    "attention": Term(Matched.attention, lambda c: c.attention, MeanOver.SAMPLES),
}
"""The terms of every head."""


class Criterion:
    """Computes the weighted terms of an output. Candidates are matched separately for every layer."""

    def __init__(self, config: TubeLoss) -> None:
        self.config = config

    def __call__(self, output: Output, targets: Targets, frame_padding: Tensor) -> dict[str, Tensor]:
        """Weighted terms by name; the objective is their sum. ``aux``: the sum of the earlier layers' terms."""
        c = self.config
        layers = output.every if c.aux else output.every.only_last()
        matched = Matched(c, layers, c.match(layers, targets), targets, frame_padding, output)
        found = {name: (term, term.value(matched)) for name, term in c.terms.items() if term.weight(c)}
        weighed = {name: self.weigh(term, value) for name, (term, value) in found.items() if value is not None}
        losses = {name: value[-1] if value.dim() else value for name, value in weighed.items()}
        earlier = [value[:-1] for value in weighed.values() if value.dim() and len(value) > 1]
        if earlier:
            losses["aux"] = torch.stack(earlier).sum()
        return losses

    def weigh(self, term: Term, value: Tensor) -> Tensor:
        """A term's value times its weight."""
        return term.weight(self.config) * value

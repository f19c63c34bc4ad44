"""Every term of the objective as a plain function, and the criterion that weighs and adds them (eq 11).

B samples, N candidate tubes, T slots, G slots inside moments. All terms are computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cache.batch import Targets
from .boxes import generalised_iou
from .matching import FOCAL_ALPHA, FOCAL_GAMMA, match_tubes

if TYPE_CHECKING:
    from .model import LayerOutput, Output

EPSILON = 1e-6
MRCL_TEMPERATURE = 0.1


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms (0: not computed), and the two disputed forms."""

    l1: float = 5.0
    giou: float = 2.0
    label: float = 0.2
    span: float = 10.0
    attention: float = 1.0
    mrcl: float = 2.0
    """2 for VidSTG, 1 for HC-STVG."""
    anchor: float = 1.0
    """Boxes decoded from the annotated regions: this times the L1 and GIoU weights."""
    aux: bool = True
    """Box, label, span and attention terms at every earlier decoder layer, too."""
    mrcl_form: str = "paper"
    """``paper``: eq 10. ``framewise``: the published code's softmax over candidates, frame by frame."""
    label_form: str = "focal"
    """``focal``: sigmoid focal loss over all candidates. ``softmax``: the published code's joint cross-entropy."""
    span_sigma: float = 1.0
    """Width of the start and end targets, in slots."""

    def __post_init__(self) -> None:
        for name, allowed in (("mrcl_form", ("paper", "framewise")), ("label_form", ("focal", "softmax"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}")


def box_losses(pred: Tensor, target: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """L1 and 1 - GIoU of one tube per sample, pred and target (B, T, 4), summed over ``slots`` of `Targets`, per slot."""
    sample, slot = slots
    pred, target = pred[sample, slot].float(), target[sample, slot]
    boxes = max(len(target), 1)
    return (pred - target).abs().sum() / boxes, (1 - generalised_iou(pred, target)).sum() / boxes


def focal_label_loss(score: Tensor, matched: Tensor, in_moment: Tensor) -> Tensor:
    """Sigmoid focal loss of (B, N, T) logits on the moments' slots: 1 for the matched tube, 0 for the others."""
    target = F.one_hot(matched, score.shape[1]).float()[:, :, None].expand(score.shape)
    cross_entropy = F.binary_cross_entropy_with_logits(score.float(), target, reduction="none")
    p = score.float().sigmoid()
    correct = target * p + (1 - target) * (1 - p)
    weight = target * FOCAL_ALPHA + (1 - target) * (1 - FOCAL_ALPHA)
    loss = weight * (1 - correct) ** FOCAL_GAMMA * cross_entropy
    return loss.masked_fill(~in_moment[:, None], 0).sum() / in_moment.sum().clamp(min=1)


def softmax_label_loss(score: Tensor, matched: Tensor, in_moment: Tensor) -> Tensor:
    """The published code's form: log-softmax over all (candidate, slot) pairs of a moment, at the matched tube."""
    logits = score.float().masked_fill(~in_moment[:, None], -torch.inf).flatten(1)
    rows = torch.arange(len(score), device=score.device)
    log_p = logits.log_softmax(-1).view(score.shape)[rows, matched]  # (B, T)
    return -log_p.masked_fill(~in_moment, 0).sum() / in_moment.sum().clamp(min=1)


def span_loss(logits: Tensor, span: Tensor, frame_padding: Tensor, sigma: float) -> Tensor:
    """KL(prediction ‖ target) of start and end: logits (B, T, 2), span (B, 2) first and last slot inside.

    Targets are Gaussians of width ``sigma`` slots around the two. Mean over B · T, padding counting as zero.
    """
    slots = torch.arange(logits.shape[1], device=logits.device)
    distance = (slots[None, :, None] - span[:, None]).float()  # (B, T, 2)
    target = torch.exp(-distance.square() / (2 * sigma**2)) + EPSILON
    target = target / target.sum(1, keepdim=True)
    p = logits.float().masked_fill(frame_padding[..., None], -torch.inf).softmax(1)
    loss = p * ((p + EPSILON) / target).log()
    return loss.masked_fill(frame_padding[..., None], 0).sum(-1).mean()


def guided_attention_loss(attention: Tensor, in_moment: Tensor, frame_padding: Tensor) -> Tensor:
    """Temporal attention (B, T, T) of slots outside the moment is kept from concentrating on any one slot.

    -log(1 - weight) summed over keys, mean over the rows of real slots outside the moment, mean over samples.
    """
    outside = (~in_moment & ~frame_padding).float()
    rows = -torch.log((1 - attention.float() + EPSILON).clamp(min=EPSILON)).sum(-1)
    return ((rows * outside).sum(-1) / (outside.sum(-1) + EPSILON)).mean()


def mrcl_loss(states: Tensor, anchor: Tensor, matched: Tensor, in_moment: Tensor, form: str) -> Tensor:
    """The mismatching rectify contrastive loss (eq 10), mean over samples. Its floor is log Δ, not zero.

    states (B, N, T, d): decoder states of the candidates. anchor (B, T, d): states decoded from the annotated regions;
    read only where ``in_moment``. Cosine similarity over 0.1. With one candidate there is nothing to contrast: zero.
    """
    if states.shape[1] == 1:
        return states.new_zeros((), dtype=torch.float32)
    states, anchor = F.normalize(states.float(), dim=-1), F.normalize(anchor.float(), dim=-1)
    similarity = torch.einsum("bntd,btd->bnt", states, anchor) / MRCL_TEMPERATURE
    similarity = similarity.masked_fill(~in_moment[:, None], 0)
    rows = torch.arange(len(states), device=states.device)
    slots = in_moment.sum(-1).clamp(min=1)
    if form == "framewise":
        per_slot = -similarity.log_softmax(1)[rows, matched]
        return (per_slot.masked_fill(~in_moment, 0).sum(-1) / slots).mean()
    everything = similarity.masked_fill(~in_moment[:, None], -torch.inf).flatten(1).logsumexp(-1)
    positive = similarity[rows, matched].sum(-1) / slots
    return (everything - positive).mean()


def mrcl_floor(in_moment: Tensor) -> Tensor:
    """What eq 10 gives at perfect alignment: log Δ, mean over samples (B, T)."""
    return in_moment.sum(-1).clamp(min=1).float().log().mean()


class Criterion:
    """Adds the weighted terms of an output; the matched tube is chosen anew for every layer."""

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    def __call__(self, output: Output, targets: Targets, frame_padding: Tensor) -> dict[str, Tensor]:
        """Weighted terms by name; the objective is their sum. ``aux`` gathers the earlier layers' terms."""
        c = self.config
        losses, matched = self.layer_terms(output.layers[-1], targets, frame_padding)
        if c.aux and len(output.layers) > 1:
            earlier = [self.layer_terms(layer, targets, frame_padding)[0] for layer in output.layers[:-1]]
            losses["aux"] = torch.stack([term for terms in earlier for term in terms.values()]).sum()
        if output.anchor is not None:
            if c.anchor:
                l1, giou = box_losses(output.anchor.boxes, targets.boxes, targets.slots)
                losses["anchor"] = c.anchor * (c.l1 * l1 + c.giou * giou)
            if c.mrcl:
                states = output.layers[-1].states
                mrcl = mrcl_loss(states, output.anchor.states, matched, targets.in_moment, c.mrcl_form)
                losses["mrcl"] = c.mrcl * mrcl
        return losses

    def layer_terms(
        self, layer: LayerOutput, targets: Targets, frame_padding: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The weighted terms of one decoder layer, and the index of its matched tube (B,)."""
        c, inside = self.config, targets.in_moment
        matched = match_tubes(layer.boxes, layer.score, targets.boxes, inside)
        rows = torch.arange(len(matched), device=matched.device)
        terms: dict[str, Tensor] = {}
        l1, giou = box_losses(layer.boxes[rows, matched], targets.boxes, targets.slots)
        if c.l1:
            terms["l1"] = c.l1 * l1
        if c.giou:
            terms["giou"] = c.giou * giou
        if c.label and layer.score is not None:
            label = focal_label_loss if c.label_form == "focal" else softmax_label_loss
            terms["label"] = c.label * label(layer.score, matched, inside)
        if c.span:
            span = span_loss(layer.span[rows, matched], targets.span, frame_padding, c.span_sigma)
            terms["span"] = c.span * span
        if c.attention:
            guided = guided_attention_loss(layer.attention[rows, matched], inside, frame_padding)
            terms["attention"] = c.attention * guided
        return terms, matched

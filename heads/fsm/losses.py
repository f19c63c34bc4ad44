"""FSM's objective: the terms of every head, and those of its candidates and its second stream.

B samples, N candidate tubes, T slots. All terms are computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ...cache.batches.batch import Targets
from ...config import AT_LEAST_0, setting
from ..losses import TUBE_TERMS, Matched, MeanOver, Term, TubeLoss, action_loss, box_losses, chosen
from .cells import cell_box_losses, cell_loss
from .matching import FOCAL_ALPHA, FOCAL_GAMMA, match_tubes

if TYPE_CHECKING:
    from ..model import LayerOutput
    from ..model_config import HeadConfig

MRCL_TEMPERATURE = 0.1


@dataclass(frozen=True)
class LossConfig(TubeLoss):
    """Weights of FSM's terms, and the form of two terms in which paper and published code differ."""

    label: float = setting(0.2, AT_LEAST_0, "FSM's paper")
    """Weight of the loss of the candidates' scores (eq 12)."""
    mrcl: float = setting(2.0, AT_LEAST_0, "FSM's paper: 2 for VidSTG, 1 for HC-STVG")
    """Weight of the mismatching rectify contrastive loss (eq 10)."""
    anchor: float = setting(1.0, AT_LEAST_0, "FSM's code")
    """Weight of the box losses of the second stream. It multiplies their L1 and GIoU weights."""
    frames: float = setting(0.0, AT_LEAST_0, "this project, measured")
    """Weight of the frame loss: the binary cross-entropy of the frames' similarity to the sentence (eq 4) against the
    moment. The paper trains this similarity only through what follows it."""
    cells: float = setting(2.0, AT_LEAST_0, "this project, measured")
    """Weight of the cell loss: the cross-entropy of the cell map against the annotated boxes. Only with
    ``model.cell_map``, whose scores stay random at 0."""
    cell_boxes: float = setting(2.0, AT_LEAST_0, "this project, measured")
    """Weight of the box losses of the cells' boxes. It multiplies their L1 and GIoU weights. Only with
    ``model.cell_map``, all of whose boxes stay three cells wide at 0."""
    mrcl_form: str = setting("paper", ("paper", "framewise"), "FSM's paper")
    """``paper``: eq 10. ``framewise``: the published code's softmax over candidates, frame by frame."""
    label_form: str = setting("focal", ("focal", "focal-all", "softmax"), "FSM's paper")
    """``focal``: sigmoid focal loss over all candidates, on the moment's slots. ``focal-all``: on all slots, with
    target 0 outside the moment; it trains the scores everywhere, because eq 12 averages them over the whole clip.
    ``softmax``: the published code's joint cross-entropy."""

    @property
    def terms(self) -> dict[str, Term]:
        """See `TubeLoss`."""
        return TERMS

    @property
    def scores(self) -> bool:
        """See `TubeLoss`."""
        return self.label > 0

    def trains(self, model: HeadConfig) -> bool:
        """See `TubeLoss`. The candidates' losses train a head with a second stream; MRCL also needs more than one
        candidate. The frame loss needs matching at video level, the cell loss a cell map."""
        of_candidates = (self.label, self.mrcl if getattr(model, "num_queries", 1) > 1 else 0)
        of_any_head = (self.l1, self.giou, self.span, self.attention)
        fusion = getattr(model, "fusion", None)
        of_parts = (self.frames and fusion and fusion.video_level, self.cells and getattr(model, "cell_map", False))
        return any(of_any_head) or any(of_parts) or (getattr(model, "qmm", False) and any(of_candidates))

    def match(self, layers: LayerOutput, targets: Targets) -> Tensor | None:
        """See `TubeLoss`. Of several candidates the one with the lowest cost; see `match_tubes`."""
        if layers.boxes.shape[-3] == 1:
            return None
        boxes, inside = targets.boxes, targets.in_moment
        return match_tubes(layers.boxes, layers.score, boxes, inside, self.l1, self.giou, self.label)


def focal_label_loss(score: Tensor, matched: Tensor, in_moment: Tensor, everywhere: Tensor | None = None) -> Tensor:
    """Sigmoid focal loss of (…, B, N, T) logits on the moments' slots: target 1 for the matched tube (…, B), 0 for
    others.

    ``everywhere`` (B, T): the valid slots. If given, the sum is over these; outside the moment every target is 0. In
    both cases the sum is divided by the number of slots inside moments.
    """
    candidates = torch.arange(score.shape[-2], device=score.device)
    right = (matched[..., None] == candidates)[..., None]  # (…, B, N, 1)
    if everywhere is not None:
        right = right & in_moment[:, None]
    logit = torch.where(right, -score.float(), score.float())
    wrong = logit.sigmoid()  # distance of the probability to its target
    weight = torch.where(right, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    loss = weight * wrong**FOCAL_GAMMA * F.softplus(logit)
    slots = in_moment if everywhere is None else everywhere
    return loss.masked_fill(~slots[:, None], 0).sum((-1, -2, -3)) / in_moment.sum().clamp(min=1)


def softmax_label_loss(score: Tensor, matched: Tensor, in_moment: Tensor) -> Tensor:
    """The published code's form: log-softmax over all (candidate, slot) pairs of a moment, at the matched tube."""
    logits = score.float().masked_fill(~in_moment[:, None], -torch.inf).flatten(-2)
    log_p = chosen(logits.log_softmax(-1).view(score.shape), matched)  # (…, B, T)
    return -log_p.masked_fill(~in_moment, 0).sum((-1, -2)) / in_moment.sum().clamp(min=1)


def mrcl_loss(states: Tensor, anchor: Tensor, matched: Tensor, in_moment: Tensor, form: str) -> Tensor:
    """The mismatching rectify contrastive loss (eq 10), mean over samples. For ``form`` paper its minimum is log Δ, not
    zero.

    states (B, N, T, d): decoder states of the candidates. anchor (B, T, d): decoder states of the second stream, read
    only where ``in_moment``. Cosine similarity over temperature 0.1. With one candidate the loss is zero.
    """
    if states.shape[1] == 1:
        return states.new_zeros((), dtype=torch.float32)
    states, anchor = F.normalize(states.float(), dim=-1), F.normalize(anchor.float(), dim=-1)
    similarity = torch.einsum("bntd,btd->bnt", states, anchor) / MRCL_TEMPERATURE
    similarity = similarity.masked_fill(~in_moment[:, None], 0)
    slots = in_moment.sum(-1).clamp(min=1)
    if form == "framewise":
        per_slot = -chosen(similarity.log_softmax(1), matched)
        return (per_slot.masked_fill(~in_moment, 0).sum(-1) / slots).mean()
    everything = similarity.masked_fill(~in_moment[:, None], -torch.inf).flatten(1).logsumexp(-1)
    positive = chosen(similarity, matched).sum(-1) / slots
    return (everything - positive).mean()


def mrcl_floor(in_moment: Tensor) -> Tensor:
    """The value of eq 10 at perfect alignment: log Δ, mean over samples. in_moment (B, T)."""
    return in_moment.sum(-1).clamp(min=1).float().log().mean()


def of_label(m: Matched) -> Tensor | None:
    if m.layers.score is None:
        return None
    score, inside = m.layers.score, m.targets.in_moment
    if m.config.label_form == "softmax":
        return softmax_label_loss(score, m.indices, inside)
    return focal_label_loss(score, m.indices, inside, ~m.frame_padding if m.config.label_form == "focal-all" else None)


def of_anchor(m: Matched) -> Tensor | None:
    if m.output.anchor is None:
        return None
    l1, giou = box_losses(m.output.anchor.boxes, m.targets.boxes, m.targets.slots)
    return m.config.l1 * l1 + m.config.giou * giou


def of_mrcl(m: Matched) -> Tensor | None:
    if m.output.anchor is None:
        return None
    states, inside = m.layers.states[-1], m.targets.in_moment
    return mrcl_loss(states, m.output.anchor.states, m.indices[-1], inside, m.config.mrcl_form)


def of_frames(m: Matched) -> Tensor | None:
    if m.output.similarity is None:
        return None
    return action_loss(m.output.similarity, m.targets.in_moment, m.frame_padding)


def of_cells(m: Matched) -> Tensor | None:
    return None if m.output.cells is None else cell_loss(m.output.cells, m.targets.boxes, m.targets.slots)


def of_cell_boxes(m: Matched) -> Tensor | None:
    if m.output.cells is None:
        return None
    l1, giou = cell_box_losses(m.output.cells, m.targets.boxes, m.targets.slots)
    return m.config.l1 * l1 + m.config.giou * giou


TERMS = TUBE_TERMS | {
    "label": Term(of_label, lambda c: c.label, MeanOver.SLOTS),
    "anchor": Term(of_anchor, lambda c: c.anchor if c.l1 or c.giou else 0.0, MeanOver.SLOTS),
    "mrcl": Term(of_mrcl, lambda c: c.mrcl, MeanOver.SAMPLES),
    "frames": Term(of_frames, lambda c: c.frames, MeanOver.SAMPLES),
    "cells": Term(of_cells, lambda c: c.cells, MeanOver.SLOTS),
    "cell_boxes": Term(of_cell_boxes, lambda c: c.cell_boxes if c.l1 or c.giou else 0.0, MeanOver.SLOTS),
}
"""FSM's terms."""

"""STCAT's objective: the terms that every head has, and whether the moment contains each slot."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ...config import AT_LEAST_0, POSITIVE, setting
from ..losses import TUBE_TERMS, Matched, MeanOver, Term, TubeLoss


@dataclass(frozen=True)
class STCATLoss(TubeLoss):
    """Weights of the terms. Defaults are the published ones for VidSTG; HC-STVG has ``giou`` 4."""

    giou: float = setting(3.0, AT_LEAST_0, "STCAT, VidSTG; 4 for HC-STVG")
    """Of the boxes' generalised IoU, slots inside the moment."""
    action: float = setting(2.0, AT_LEAST_0, "STCAT")
    """Of actionness: does the moment contain a slot."""
    outside: float = setting(0.3, AT_LEAST_0, "STCAT")
    """Of actionness, how much a slot outside the moment weighs against one inside."""
    span_sigma: float = setting(2.0, POSITIVE, "STCAT")
    """Width of the start and end targets, in slots."""

    @property
    def terms(self) -> dict[str, Term]:
        """See `TubeLoss`."""
        return TERMS


def action_loss(logits: Tensor, in_moment: Tensor, frame_padding: Tensor, outside: float) -> Tensor:
    """Binary cross-entropy of (…, B, T) logits against ``in_moment`` (B, T), slots outside weighed by ``outside``.

    Mean over each sample's real slots, then over samples: (…).
    """
    inside = in_moment.float().expand(logits.shape)
    loss = F.binary_cross_entropy_with_logits(logits.float(), inside, reduction="none")
    weighed = (loss * (inside + outside * (1 - inside))).masked_fill(frame_padding, 0)
    return (weighed.sum(-1) / (~frame_padding).sum(-1)).mean(-1)


def of_actionness(m: Matched) -> Tensor:
    return action_loss(m.layers.action, m.targets.in_moment, m.frame_padding, m.config.outside)


TERMS = TUBE_TERMS | {"action": Term(of_actionness, lambda c: c.action, MeanOver.SAMPLES)}
"""What STCAT is trained with."""

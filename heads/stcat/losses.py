"""STCAT's objective: the terms that every head has, and whether the moment contains each slot."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..losses import TUBE_TERMS, Matched, MeanOver, Term, TubeLoss


@dataclass(frozen=True)
class STCATLoss(TubeLoss):
    """Weights of the terms. Defaults are the published ones for VidSTG; HC-STVG has ``giou`` 4."""

    giou: float = 3.0
    action: float = 2.0
    """Actionness: does the moment contain a slot."""
    outside: float = 0.3
    """Of actionness, how much a slot outside the moment weighs against one inside."""
    span_sigma: float = 2.0

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

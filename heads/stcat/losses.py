"""STCAT's objective: the terms of every head, and actionness, which is whether a slot is inside the moment."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...config import AT_LEAST_0, POSITIVE, setting
from ..losses import TUBE_TERMS, Matched, MeanOver, Term, TubeLoss, action_loss


@dataclass(frozen=True)
class STCATLoss(TubeLoss):
    """Weights of STCAT's terms. Defaults are the published ones for VidSTG; for HC-STVG ``giou`` is 4."""

    giou: float = setting(3.0, AT_LEAST_0, "STCAT, VidSTG; 4 for HC-STVG")
    """Weight of 1 - generalised IoU of the boxes, over slots inside the moment."""
    action: float = setting(2.0, AT_LEAST_0, "STCAT")
    """Weight of the actionness loss: whether a slot is inside the moment."""
    outside: float = setting(0.3, AT_LEAST_0, "STCAT")
    """Weight of a slot outside the moment in the actionness loss, relative to one inside."""
    span_sigma: float = setting(2.0, POSITIVE, "STCAT")
    """Standard deviation of the Gaussian start and end targets, in slots."""

    @property
    def terms(self) -> dict[str, Term]:
        """See `TubeLoss`."""
        return TERMS


def of_actionness(m: Matched) -> Tensor:
    return action_loss(m.layers.action, m.targets.in_moment, m.frame_padding, m.config.outside)


TERMS = TUBE_TERMS | {"action": Term(of_actionness, lambda c: c.action, MeanOver.SAMPLES)}
"""STCAT's terms."""

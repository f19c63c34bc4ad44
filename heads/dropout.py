"""Dropout. On a GPU torch's own, which is one operation; on a CPU one that it can afford."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from . import cpu


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """``x`` with a share ``p`` of its elements zeroed and the others scaled up, while training."""
    if not training or not p:
        return x
    return cpu.dropout(x, p) if x.device.type == "cpu" else F.dropout(x, p)


class Dropout(nn.Module):
    """See `dropout`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)

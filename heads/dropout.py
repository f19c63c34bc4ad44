"""Dropout: torch's on a GPU, `cpu.dropout` on a CPU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from . import cpu


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """In training, ``x`` with elements zeroed with probability ``p`` and the others scaled to keep the mean; else
    ``x``."""
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

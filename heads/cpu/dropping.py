"""Dropout that a processor can afford.

torch draws a float for every element, which costs more than the matrix
products around it; here four elements share one 64-bit draw, and a byte for each is all that is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 1 << 16
"""Probabilities are multiples of one over this much: 0.1 becomes 0.100006, and the scale follows it."""


def kept(shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """1 for elements that stay, 0 for those dropped, each with probability ``p``; from torch's random state, on the CPU."""
    draws = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    # Into a number: torch compares many times as fast as into a bool.
    return torch.ge(
        draws[: shape.numel()].view(shape), round(p * STEPS) - STEPS // 2, out=torch.empty(shape, dtype=dtype)
    )


def keep_scale(p: float) -> float:
    """What elements that stay are multiplied with, so that the mean stays, too."""
    return STEPS / (STEPS - round(p * STEPS))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, p):  # type: ignore[no-untyped-def]
        ctx.scale = keep_scale(p)
        stay = kept(x.shape, p, torch.int8)
        ctx.save_for_backward(stay)
        return stay.to(x.dtype).mul_(ctx.scale).mul_(x)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        (stay,) = ctx.saved_tensors
        return stay.to(gradient.dtype).mul_(ctx.scale).mul_(gradient), None


def dropout(x: Tensor, p: float) -> Tensor:
    """See `heads.dropout`; ``p`` is above 0."""
    out: Tensor = _Dropout.apply(x, p)
    return out

"""CPU dropout: one 64-bit draw serves four elements.

torch draws a float for every element, which costs more than the matrix products around it. For the backward pass one
byte per element is stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 1 << 16
"""Probabilities are rounded to multiples of 1 / STEPS: 0.1 becomes 0.100006. The scale accounts for it."""


def kept(shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """1 for elements that are kept, 0 for dropped ones, dropped with probability ``p``. Drawn from torch's random
    state, on the CPU."""
    draws = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    # Comparing into a numeric type is many times as fast in torch as into bool.
    return torch.ge(
        draws[: shape.numel()].view(shape), round(p * STEPS) - STEPS // 2, out=torch.empty(shape, dtype=dtype)
    )


def keep_scale(p: float) -> float:
    """The factor of kept elements, which preserves the mean."""
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

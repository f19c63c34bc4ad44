"""The feed-forward part of a transformer layer, which has most of a training step's arithmetic.

For the backward pass it stores the hidden activations after ReLU and dropout only: the gradient passes where they are
positive.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import cpu
from .precision import product_type


def feed_forward(x: Tensor, inner: nn.Linear, outer: nn.Linear, p: float, training: bool) -> Tensor:
    """outer(dropout(relu(inner(x)))): (…, d) → (…, d), computed in autocast's type where autocast is enabled."""
    dtype = product_type(inner.weight)
    with torch.autocast(x.device.type, enabled=False):
        operands = [t.to(dtype) for t in (x.flatten(0, -2), inner.weight, inner.bias, outer.weight, outer.bias)]
        layer: Callable[..., Tensor] = cpu.feed_forward if x.device.type == "cpu" else _FeedForward.apply
        return layer(*operands, p if training else 0.0).view(x.shape)


class _FeedForward(torch.autograd.Function):
    """x (n, d), inner (f, d) and (f,), outer (d, f) and (d,), probability → (n, d)."""

    @staticmethod
    def forward(ctx, x, inner, inner_bias, outer, outer_bias, p):  # type: ignore[no-untyped-def]
        hidden = torch._addmm_activation(inner_bias, x, inner.t())
        hidden = F.dropout(hidden, p) if p else hidden
        ctx.scale = 1 / (1 - p)
        ctx.save_for_backward(x, inner, outer, hidden)
        return torch.addmm(outer_bias, hidden, outer.t())

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        x, inner, outer, hidden = ctx.saved_tensors
        passed = torch.ops.aten.threshold_backward(gradient @ (outer * ctx.scale), hidden, 0)
        to_x, to_inner, to_outer = passed @ inner, passed.t() @ x, gradient.t() @ hidden
        return to_x, to_inner, passed.sum(0), to_outer, gradient.sum(0), None

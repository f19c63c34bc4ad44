"""The feed-forward half of a transformer layer, where most of a training step's arithmetic is.

On a CPU its hidden values, eight times as many as those that come in, are worked on while the processor's cache holds them:
rows in tiles; product, ReLU and dropout of a tile before the next one. Kept for the backward pass is only what comes out of
the dropout: it is positive exactly where the gradient passes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dropout import dropout, keep_scale, kept
from .precision import at_least_float32, product_type

TILE = 512
"""Rows of a tile: with 2,048 hidden units 4 MiB in float32."""


def feed_forward(x: Tensor, inner: nn.Linear, outer: nn.Linear, p: float, training: bool) -> Tensor:
    """outer(dropout(relu(inner(x)))): (…, d) → (…, d), in autocast's type where there is one."""
    if x.device.type != "cpu":
        return outer(dropout(F.relu(inner(x)), p, training))
    dtype, weights = product_type(inner.weight), (inner.weight, inner.bias, outer.weight, outer.bias)
    operands = [t.to(dtype) for t in (x.flatten(0, -2), *weights)]
    with torch.autocast("cpu", enabled=False):
        return _Tiled.apply(*operands, p if training else 0.0, torch.is_grad_enabled()).view(x.shape)


class _Tiled(torch.autograd.Function):
    """x (n, d), inner (f, d) and (f,), outer (d, f) and (d,), probability → (n, d). ``keep``: for a backward pass."""

    @staticmethod
    def forward(ctx, x, inner, inner_bias, outer, outer_bias, p, keep):  # type: ignore[no-untyped-def]
        ctx.scale = keep_scale(p)
        weight = outer * ctx.scale
        hidden, out = x.new_empty(len(x) if keep else min(TILE, len(x)), len(inner)), torch.empty_like(x)
        for start in range(0, len(x), TILE):
            a, b = x[start : start + TILE], out[start : start + TILE]
            h = hidden[start if keep else 0 :][: len(a)]
            torch.addmm(inner_bias, a, inner.t(), out=h).relu_()
            if p:
                h.mul_(kept(h.shape, p, h.dtype))
            torch.addmm(outer_bias, h, weight.t(), out=b)
        ctx.save_for_backward(x, inner, outer, hidden)
        return out

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        x, inner, outer, hidden = ctx.saved_tensors
        weight = outer * ctx.scale
        gradient, to_x = gradient.contiguous(), torch.empty_like(x)
        to_inner, to_bias = (torch.zeros_like(at_least_float32(t)) for t in (inner, inner[:, 0]))
        for g, h, a, b in zip(*(t.split(TILE) for t in (gradient, hidden, x, to_x)), strict=True):
            passed = torch.ops.aten.threshold_backward(g @ weight, h, 0)
            torch.mm(passed, inner, out=b)
            to_inner += passed.t() @ a
            to_bias += passed.sum(0)
        to_outer = (gradient.t() @ hidden).mul_(ctx.scale)
        return to_x, to_inner.to(x.dtype), to_bias.to(x.dtype), to_outer, gradient.sum(0), None, None

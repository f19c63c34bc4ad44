"""The feed-forward part of a transformer layer, in tiles of rows.

The hidden activations have about eight times the size of the input. They are computed tile by tile, so that product,
ReLU and dropout of a tile stay in the processor's cache. For the backward pass it stores the hidden activations after
dropout only: the gradient passes where they are positive.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import at_least_float32
from .dropping import keep_scale, kept

TILE = 512
"""Rows per tile: 4 MiB in float32 with 2,048 hidden channels."""


def feed_forward(x: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor, p: float) -> Tensor:
    """x (n, d), inner (f, d) and (f,), outer (d, f) and (d,), all of one type, ``p``: the dropout probability → (n,
    d)."""
    out: Tensor = _Tiled.apply(x, inner, inner_bias, outer, outer_bias, p, torch.is_grad_enabled())
    return out


class _Tiled(torch.autograd.Function):
    """``keep``: store what a backward pass needs."""

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

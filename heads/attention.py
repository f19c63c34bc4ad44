"""Multi-head attention. It uses torch's fused kernels, except where the attention weights are needed.

Parameter names of `Attention` follow torch's MultiheadAttention, so that published weights load by name. Masks are
additive: 0 for a visible key, minus infinity for a hidden one (`hidden`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import cpu
from .dropout import dropout
from .precision import at_least_float32, product_type

ALIGNED = 16
"""The rows of a mask start at multiples of this many elements. Fused attention would copy other masks."""


def hidden(padding: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive mask of padded keys: padding (R, Lk) bool, True = padding → (R, 1, 1, Lk). Every row must have at
    least one key that is not padding."""
    R, L = padding.shape
    added = torch.zeros(R, -(-L // ALIGNED) * ALIGNED, dtype=dtype, device=padding.device)[:, :L]
    return added.masked_fill_(padding, -torch.inf)[:, None, None]


class Attention(nn.Module):
    """Multi-head attention over the second-to-last axis."""

    def __init__(self, d: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d, d))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d))
        self.out_proj = nn.Linear(d, d)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, hides: Tensor | None) -> Tensor:
        """query (R, Lq, d), key and value (R, Lk, d), ``hides``: a mask as of `hidden`, or None → attended values (R,
        Lq, d)."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        parts = zip((query, key, value), weights, biases, strict=True)
        q, k, v = (split_heads(F.linear(x, w, b), self.heads) for x, w, b in parts)
        return self.attended(q, k, v, hides)

    def within(self, x: Tensor, position: Tensor, hides: Tensor | None) -> Tensor:
        """Self-attention of x (R, L, d) → (R, L, d). ``position`` broadcasts against x, and is added to queries and
        keys, but not to values."""
        q, k, v = (part.transpose(1, 2) for part in self.of_itself(x, position).unbind(2))
        return self.attended(q, k, v, hides)

    def within_and_weights(self, x: Tensor, position: Tensor, hides: Tensor) -> tuple[Tensor, Tensor]:
        """As `within`, and the weights (R, L, L), averaged over heads *before* dropout.

        Dropout scales weights up, so they can exceed 1. The guided attention loss takes log(1 - weight), which would be
        NaN.
        """
        parts = self.of_itself(x, position)  # (R, L, 3, heads, dh)
        R, L, _, heads, width = parts.shape
        q, k, v = parts.permute(2, 0, 3, 1, 4).reshape(3, R * heads, L, width).unbind()
        scores = torch.baddbmm(hides.expand(R, heads, 1, L).reshape(-1, 1, L), q / math.sqrt(width), k.transpose(1, 2))
        weights = at_least_float32(scores).softmax(-1)
        mixed = dropout(weights, self.dropout, self.training).to(v.dtype) @ v
        return self.out_proj(merge_heads(mixed.unflatten(0, (R, heads)))), weights.unflatten(0, (R, heads)).mean(1)

    def of_itself(self, x: Tensor, position: Tensor) -> Tensor:
        """Queries, keys and values (R, L, 3, heads, dh) of x."""
        d = x.shape[-1]
        parts = placed_product(x, position, self.in_proj_weight, self.in_proj_bias, 3 * d, 2 * d)
        return parts.unflatten(-1, (3, self.heads, -1)).view(-1, x.shape[-2], 3, self.heads, d // self.heads)

    def attended(self, q: Tensor, k: Tensor, v: Tensor, hides: Tensor | None) -> Tensor:
        """(R, heads, L, dh) each → (R, Lq, d)."""
        return self.out_proj(merge_heads(attend(q, k, v, hides, self.dropout if self.training else 0.0)))


def placed_product(x: Tensor, position: Tensor, weight: Tensor, bias: Tensor, group: int, placed: int) -> Tensor:
    """x · weightᵀ + bias, where the first ``placed`` of every ``group`` columns use x + position instead of x.

    x (…, d), position (…, d), which broadcasts against it, weight (columns, d) → (…, columns). The product with the
    position is computed separately. It is cheap where many rows share a position, and x + position is neither computed
    nor stored.
    """
    dtype = product_type(weight)
    with torch.autocast(x.device.type, enabled=False):
        operands = (t.to(dtype) for t in (x, position, weight, bias))
        return _PlacedProduct.apply(*operands, group, placed)


class _PlacedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, position: Tensor, weight: Tensor, bias: Tensor, group: int, placed: int) -> Tensor:
        ctx.save_for_backward(x, position, weight)
        ctx.columns = group, placed
        out = F.linear(x, weight, bias)
        out.unflatten(-1, (-1, group))[..., :placed] += F.linear(position, weight).unflatten(-1, (-1, group))[
            ..., :placed
        ]
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, position, weight = ctx.saved_tensors
        group, placed = ctx.columns
        rows = gradient.flatten(0, -2)
        to_x, to_weight = gradient @ weight, rows.t() @ x.flatten(0, -2)
        of_place = gradient.sum_to_size(*position.shape[:-1], len(weight))
        of_place = of_place.clone() if of_place.data_ptr() == gradient.data_ptr() else of_place
        of_place.unflatten(-1, (-1, group))[..., placed:].zero_()
        to_weight.addmm_(of_place.flatten(0, -2).t(), position.flatten(0, -2))
        to_position = of_place @ weight if ctx.needs_input_grad[1] else None
        return to_x, to_position, to_weight, rows.sum(0), None, None


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(R, L, d) → (R, heads, L, d / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(R, heads, L, d / heads) → (R, L, d)."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, hides: Tensor | None, p: float) -> Tensor:
    """Scaled dot-product attention of (R, heads, L, dh) tensors; values may have another dh. ``hides``: a mask as of
    `hidden`, or None. ``p``: the dropout probability of the weights."""
    if p and q.device.type == "cpu":
        return cpu.attend(q, k, v, hides, p)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=hides, dropout_p=p)

"""Attention: fused wherever its weights are not read.

Parameter names of `Attention` follow torch's MultiheadAttention, so that published weights load by name.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from .dropout import dropout, keep_scale, kept
from .precision import at_least_float32, product_type

TILE_BYTES = 4 * 1024 * 1024
"""Attention weights worked on together on a CPU: what its cache holds."""


class Attention(nn.Module):
    """Multi-head attention over the second-to-last axis; any number of leading batch axes is flattened to R.

    Shapes: query (R, Lq, d), key and value (R, Lk, d), key_padding (R, Lk) bool, True = ignored. Every row must have at
    least one key that is not padding.
    """

    def __init__(self, d: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d, d))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d))
        self.out_proj = nn.Linear(d, d)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_padding: Tensor | None) -> Tensor:
        """Attended values (R, Lq, d)."""
        return self._attended(*self._project(query, key, value), key_padding)

    def within(self, x: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        """Attention of x (R, L, d) to itself; position (R, L, d) is added to what becomes queries and keys. (R, L, d)"""
        return self._attended(*self._of_itself(x, position), padding)

    def within_and_weights(self, x: Tensor, position: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """As `within`, and the weights (R, L, L), averaged over heads *before* dropout.

        Weights after dropout can exceed 1, and log(1 - weight) of the guided attention loss would not be a number.
        """
        q, k, v = self._of_itself(x, position)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        weights = at_least_float32(scores).masked_fill(padding[:, None, None], -torch.inf).softmax(-1)
        mixed = dropout(weights, self.dropout, self.training).to(v.dtype) @ v
        return self.out_proj(merge_heads(mixed)), weights.mean(1)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d = query.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        return self._heads(
            F.linear(query, weight[:d], bias[:d]), F.linear(key, weight[d : 2 * d], bias[d : 2 * d]), value
        )

    def _of_itself(self, x: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d = x.shape[-1]  # one product for queries and keys
        q, k = placed_product(x, position, self.in_proj_weight[: 2 * d], self.in_proj_bias[: 2 * d]).chunk(2, dim=-1)
        return self._heads(q, k, x)

    def _heads(self, q: Tensor, k: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d = value.shape[-1]
        v = F.linear(value, self.in_proj_weight[2 * d :], self.in_proj_bias[2 * d :])
        return split_heads(q, self.heads), split_heads(k, self.heads), split_heads(v, self.heads)

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None) -> Tensor:
        return self.out_proj(merge_heads(attend(q, k, v, padding, self.dropout if self.training else 0.0)))


def placed_product(x: Tensor, position: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(x + position) · weightᵀ + bias. Of a sum in float32 nothing is kept for the backward pass, which adds again: x is
    kept for the values anyway, and position is the same in every layer."""

    def added() -> Tensor:
        return (x + position).flatten(0, -2)

    placed = added()
    this = id(placed)  # not the tensor: what is told below lives as long as what is kept
    forgetting = saved_tensors_hooks(
        lambda kept: None if id(kept) == this else kept, lambda kept: added() if kept is None else kept
    )
    in_autocast = product_type(weight) != placed.dtype  # which keeps a copy of half the size, and needs no x
    with nullcontext() if in_autocast else forgetting:
        return F.linear(placed, weight, bias).view(*x.shape[:-1], -1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(R, L, d) → (R, heads, L, d / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(R, heads, L, d / heads) → (R, L, d)."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, key_padding: Tensor | None, p: float) -> Tensor:
    """Scaled dot-product attention of (R, heads, L, dh) tensors; padded keys (R, Lk) are ignored, weights dropped with
    probability ``p``. Values may be of another width."""
    if p and q.device.type == "cpu":
        return _TiledAttention.apply(q, k, v, key_padding, p)
    keep = None if key_padding is None else ~key_padding[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keep, dropout_p=p)


class _TiledAttention(torch.autograd.Function):
    """Attention with dropout, rows in tiles. torch's fused kernel for CPUs knows no dropout, and the other one keeps four
    tensors of weights; this keeps which are dropped, and computes the weights again."""

    @staticmethod
    def forward(ctx, q, k, v, key_padding, p):  # type: ignore[no-untyped-def]
        out = _like(q, v.shape[-1])
        stay = kept(torch.Size((*q.shape[:-1], k.shape[2])), p, torch.int8)
        ctx.scale = keep_scale(p)
        for rows in _tiles(stay, q.dtype):
            weights = _weights(q[rows], k[rows], key_padding, rows).mul_(stay[rows].to(q.dtype))
            out[rows] = (weights @ v[rows]).mul_(ctx.scale)
        ctx.save_for_backward(q, k, v, stay)
        ctx.key_padding = key_padding
        return out

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        q, k, v, stay = ctx.saved_tensors
        to_q, to_k, to_v = _like(q), _like(k), _like(v)
        for rows in _tiles(stay, q.dtype):
            g, stays = gradient[rows] * ctx.scale, stay[rows].to(q.dtype)
            weights = _weights(q[rows], k[rows], ctx.key_padding, rows)
            to_v[rows] = (weights * stays).transpose(-1, -2) @ g
            to_weights = (g @ v[rows].transpose(-1, -2)).mul_(stays)
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            to_scores *= q.shape[-1] ** -0.5
            to_q[rows], to_k[rows] = to_scores @ k[rows], to_scores.transpose(-1, -2) @ q[rows]
        return to_q, to_k, to_v, None, None


def _like(x: Tensor, width: int | None = None) -> Tensor:
    """Memory for (R, heads, L, dh) in which heads lie side by side, so that merging them copies nothing. ``width``: dh,
    where it is not that of x."""
    R, heads, L, dh = x.shape
    return x.new_empty(R, L, heads, width or dh).transpose(1, 2)


def _weights(q: Tensor, k: Tensor, key_padding: Tensor | None, rows: slice) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if key_padding is not None:
        scores.masked_fill_(key_padding[rows, None, None], -torch.inf)
    return scores.softmax(-1)


def _tiles(stay: Tensor, dtype: torch.dtype) -> list[slice]:
    """Rows of weights (R, heads, Lq, Lk) that are worked on together."""
    step = max(1, TILE_BYTES // (stay[0].numel() * dtype.itemsize))
    return [slice(at, at + step) for at in range(0, len(stay), step)]

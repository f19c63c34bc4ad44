"""Attention: fused wherever its weights are not read.

Parameter names of `Attention` follow torch's MultiheadAttention, so that published weights load by name.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dropout import dropout, keep_scale, kept
from .precision import at_least_float32

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

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d = query.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if query is key:  # of itself: one product instead of two
            q, k = F.linear(query, weight[: 2 * d], bias[: 2 * d]).chunk(2, dim=-1)
        else:
            q, k = F.linear(query, weight[:d], bias[:d]), F.linear(key, weight[d : 2 * d], bias[d : 2 * d])
        v = F.linear(value, weight[2 * d :], bias[2 * d :])
        return split_heads(q, self.heads), split_heads(k, self.heads), split_heads(v, self.heads)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_padding: Tensor | None) -> Tensor:
        """Attended values (R, Lq, d)."""
        q, k, v = self._project(query, key, value)
        return self.out_proj(merge_heads(attend(q, k, v, key_padding, self.dropout if self.training else 0.0)))

    def with_weights(self, query: Tensor, key: Tensor, value: Tensor, key_padding: Tensor) -> tuple[Tensor, Tensor]:
        """Attended values (R, Lq, d) and the weights (R, Lq, Lk), averaged over heads *before* dropout.

        Weights after dropout can exceed 1, and log(1 - weight) of the guided attention loss would not be a number.
        """
        q, k, v = self._project(query, key, value)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        weights = at_least_float32(scores).masked_fill(key_padding[:, None, None], -torch.inf).softmax(-1)
        mixed = dropout(weights, self.dropout, self.training).to(v.dtype) @ v
        return self.out_proj(merge_heads(mixed)), weights.mean(1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(R, L, d) → (R, heads, L, d / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(R, heads, L, d / heads) → (R, L, d)."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, key_padding: Tensor | None, p: float) -> Tensor:
    """Scaled dot-product attention of (R, heads, L, dh) tensors; padded keys (R, Lk) are ignored, weights dropped with
    probability ``p``."""
    if p and q.device.type == "cpu":
        return _TiledAttention.apply(q, k, v, key_padding, p)
    keep = None if key_padding is None else ~key_padding[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keep, dropout_p=p)


class _TiledAttention(torch.autograd.Function):
    """Attention with dropout, rows in tiles. torch's fused kernel for CPUs knows no dropout, and the other one keeps four
    tensors of weights; this keeps which are dropped, and computes the weights again."""

    @staticmethod
    def forward(ctx, q, k, v, key_padding, p):  # type: ignore[no-untyped-def]
        out = _like(q)
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


def _like(x: Tensor) -> Tensor:
    """Memory for (R, heads, L, dh) in which heads lie side by side, so that merging them copies nothing."""
    R, heads, L, width = x.shape
    return x.new_empty(R, L, heads, width).transpose(1, 2)


def _weights(q: Tensor, k: Tensor, key_padding: Tensor | None, rows: slice) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if key_padding is not None:
        scores.masked_fill_(key_padding[rows, None, None], -torch.inf)
    return scores.softmax(-1)


def _tiles(stay: Tensor, dtype: torch.dtype) -> list[slice]:
    """Rows of weights (R, heads, Lq, Lk) that are worked on together."""
    step = max(1, TILE_BYTES // (stay[0].numel() * dtype.itemsize))
    return [slice(at, at + step) for at in range(0, len(stay), step)]

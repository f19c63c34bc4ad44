"""Attention with dropout, in tiles of rows.

torch's fused attention for CPUs does not support dropout, and its other implementation stores four tensors of weights.
This one stores the dropout mask, and recomputes the weights in the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .dropping import keep_scale, kept

TILE_BYTES = 4 * 1024 * 1024
"""Bytes of attention weights per tile, chosen to fit a processor's cache."""


def attend(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, p: float) -> Tensor:
    """See `heads.attention.attend`; ``p`` is above 0."""
    out: Tensor = _Tiled.apply(q, k, v, hidden, p)
    return out


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, hidden, p):  # type: ignore[no-untyped-def]
        out = _like(q, v.shape[-1])
        stay = kept(torch.Size((*q.shape[:-1], k.shape[2])), p, torch.int8)
        ctx.scale = keep_scale(p)
        for rows in _tiles(stay, q.dtype):
            weights = _weights(q[rows], k[rows], hidden, rows).mul_(stay[rows].to(q.dtype))
            out[rows] = (weights @ v[rows]).mul_(ctx.scale)
        ctx.save_for_backward(q, k, v, stay)
        ctx.hidden = hidden
        return out

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        q, k, v, stay = ctx.saved_tensors
        to_q, to_k, to_v = _like(q), _like(k), _like(v)
        for rows in _tiles(stay, q.dtype):
            g, stays = gradient[rows] * ctx.scale, stay[rows].to(q.dtype)
            weights = _weights(q[rows], k[rows], ctx.hidden, rows)
            to_v[rows] = (weights * stays).transpose(-1, -2) @ g
            to_weights = (g @ v[rows].transpose(-1, -2)).mul_(stays)
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            to_scores *= q.shape[-1] ** -0.5
            to_q[rows], to_k[rows] = to_scores @ k[rows], to_scores.transpose(-1, -2) @ q[rows]
        return to_q, to_k, to_v, None, None


def _like(x: Tensor, width: int | None = None) -> Tensor:
    """An empty (R, heads, L, dh) tensor in which heads are adjacent in memory, so that merging them needs no copy.
    ``width``: dh, where it differs from that of x."""
    R, heads, L, dh = x.shape
    return x.new_empty(R, L, heads, width or dh).transpose(1, 2)


def _weights(q: Tensor, k: Tensor, hidden: Tensor | None, rows: slice) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if hidden is not None:
        scores += hidden[rows]
    return scores.softmax(-1)


def _tiles(stay: Tensor, dtype: torch.dtype) -> list[slice]:
    """Slices of the first axis of weights (R, heads, Lq, Lk), one per tile."""
    step = max(1, TILE_BYTES // (stay[0].numel() * dtype.itemsize))
    return [slice(at, at + step) for at in range(0, len(stay), step)]

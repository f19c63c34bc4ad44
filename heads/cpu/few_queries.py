"""Attention of few queries to much memory, whose keys and values are never computed.

A query's score of a key is query · (weight · memory) = (weightᵀ · query) · memory: with fewer queries, times heads, than
the memory is wide, weighing the queries instead costs a fraction of weighing all memory. The same holds for values, which
are a product with what the queries have found.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from .dropping import dropout

Asked = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Scaled queries (R, n, d), what keys are made of (R / m, S, d), and the weight (d, d) and bias (d,) of the keys."""


def look(
    asked: Sequence[Asked], memory: Tensor, weight: Tensor, bias: Tensor, hides: Tensor | None, heads: int, p: float
) -> Tensor:
    """What queries find in memory (R, S, d): (R, n, d). Scores of all that is ``asked`` are added up.

    ``weight``, ``bias``: of the values. ``hides`` (R, 1, 1, S). ``p``: probability of dropout. All in the memory's type.
    """
    rates = reduce(torch.add, (scores(*part, heads) for part in asked))
    return found(rates if hides is None else rates + hides[:, 0], memory, weight, bias, heads, p)


def scores(query: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """query (R, n, d) of keys that are x · weightᵀ + bias, x (R / m, S, d), the same for m neighbours → (R, n·heads, S)."""
    R, n, d = query.shape
    query, weight = query.to(x.dtype), weight.to(x.dtype)
    parts = query.reshape(R * n, heads, -1).transpose(0, 1)
    weighed = (parts @ weight.view(heads, -1, d)).transpose(0, 1).reshape(len(x), -1, d)
    # In this order the gradient of x comes out as x lies.
    rates = (x @ weighed.transpose(1, 2)).transpose(1, 2).reshape(R, n * heads, -1)
    if bias is None:
        return rates
    return rates + (query * bias.to(x.dtype)).unflatten(-1, (heads, -1)).sum(-1).view(R, -1, 1)


def found(scores: Tensor, memory: Tensor, weight: Tensor, bias: Tensor, heads: int, p: float) -> Tensor:
    """scores (R, n·heads, S), memory (R, S, d), the values' weight (d, d) and bias (d,) → (R, n, d)."""
    weights, weight, bias = scores.softmax(-1), weight.to(memory.dtype), bias.to(memory.dtype)
    weights = dropout(weights, p) if p else weights
    rows = (weights @ memory).reshape(-1, heads, memory.shape[-1]).transpose(0, 1)  # (heads, R·n, d)
    values = (rows @ weight.view(heads, -1, weight.shape[-1]).transpose(1, 2)).transpose(0, 1)
    values = values + weights.sum(-1).reshape(-1, heads, 1) * bias.view(heads, -1)
    return values.reshape(len(memory), -1, memory.shape[-1])

"""Attention of few queries to a large memory, without computing keys and values.

The score of a query and a key is query · (weight · memory) = (weightᵀ · query) · memory. Where the number of queries
times heads is below the width of the memory, transforming the queries costs a fraction of transforming the memory. The
same holds for values: they are computed from the attention-weighted memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from .dropping import dropout

Asked = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Scaled queries (R, n, d), the input of the keys (R / m, S, d), and the weight (d, d) and bias (d,) of the keys."""


def look(
    asked: Sequence[Asked], memory: Tensor, weight: Tensor, bias: Tensor, hides: Tensor | None, heads: int, p: float
) -> Tensor:
    """Attended values of queries in memory (R, S, d): (R, n, d). The scores of all parts of ``asked`` are summed.

    ``weight``, ``bias``: of the values. ``hides`` (R, 1, 1, S): the mask. ``p``: the dropout probability. All in the
    memory's type.
    """
    rates = reduce(torch.add, (scores(*part, heads) for part in asked))
    return found(rates if hides is None else rates + hides[:, 0], memory, weight, bias, heads, p)


def scores(query: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """Scores (R, n·heads, S) of query (R, n, d) and keys x · weightᵀ + bias; x (R / m, S, d) is shared by m consecutive
    rows."""
    R, n, d = query.shape
    query, weight = query.to(x.dtype), weight.to(x.dtype)
    parts = query.reshape(R * n, heads, -1).transpose(0, 1)
    weighed = (parts @ weight.view(heads, -1, d)).transpose(0, 1).reshape(len(x), -1, d)
    # In this order the gradient of x has the memory layout of x.
    rates = (x @ weighed.transpose(1, 2)).transpose(1, 2).reshape(R, n * heads, -1)
    if bias is None:
        return rates
    return rates + (query * bias.to(x.dtype)).unflatten(-1, (heads, -1)).sum(-1).view(R, -1, 1)


def found(scores: Tensor, memory: Tensor, weight: Tensor, bias: Tensor, heads: int, p: float) -> Tensor:
    """Attended values (R, n, d) of scores (R, n·heads, S), memory (R, S, d), the values' weight (d, d) and bias
    (d,)."""
    weights, weight, bias = scores.softmax(-1), weight.to(memory.dtype), bias.to(memory.dtype)
    weights = dropout(weights, p) if p else weights
    rows = (weights @ memory).reshape(-1, heads, memory.shape[-1]).transpose(0, 1)  # (heads, R·n, d)
    values = (rows @ weight.view(heads, -1, weight.shape[-1]).transpose(1, 2)).transpose(0, 1)
    values = values + weights.sum(-1).reshape(-1, heads, 1) * bias.view(heads, -1)
    return values.reshape(len(memory), -1, memory.shape[-1])

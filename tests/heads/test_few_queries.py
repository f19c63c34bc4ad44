"""Attention that computes neither keys nor values is attention that does, gradients included."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.heads import cpu
from stvg.heads.attention import attend, hidden, merge_heads, split_heads

HEADS, D = 2, 8


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_what_few_queries_find_needs_no_keys_and_values(clips, slots, queries, cells, padded, seed):
    torch.manual_seed(seed)
    rows = clips * slots
    query, memory = torch.randn(rows, queries, D), torch.randn(rows, cells, D)
    code = torch.randn(clips, cells, D)
    weights, biases = torch.randn(2, D, D), torch.randn(2, D)
    padding = torch.rand(rows, cells) < 0.3
    padding[:, 0] = False
    hides = hidden(padding, torch.float32) if padded else None
    inputs = [t.double().requires_grad_() for t in (query, memory, code, weights, biases)]
    hides = None if hides is None else hides.double()

    def computed(q, x, at, w, b):
        placed = (x.unflatten(0, (clips, slots)) + at[:, None]).flatten(0, 1)
        keys, values = placed @ w[0].t() + b[0], x @ w[1].t() + b[1]
        return merge_heads(attend(*(split_heads(t, HEADS) for t in (q, keys, values)), hides, 0.0))

    def found(q, x, at, w, b):
        q = q * (D // HEADS) ** -0.5
        return cpu.look([(q, x, w[0], b[0]), (q, at, w[0], None)], x, w[1], b[1], hides, HEADS, 0.0)

    ours, theirs = found(*inputs), computed(*inputs)
    torch.testing.assert_close(ours, theirs)
    of_ours, of_theirs = (torch.autograd.grad(out.square().sum(), inputs) for out in (ours, theirs))
    for a, b in zip(of_ours, of_theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_values_of_dropped_weights_take_their_bias_along():
    """Where weights are dropped their sum is not 1, and a value's bias counts as often as its weight."""
    torch.manual_seed(0)
    scores, memory = torch.randn(3, 4, 5), torch.randn(3, 5, D)
    weight, bias = torch.randn(D, D), torch.randn(D)
    torch.manual_seed(1)
    ours = cpu.found(scores, memory, weight, bias, HEADS, 0.5)
    torch.manual_seed(1)
    weights = cpu.dropout(scores.softmax(-1), 0.5).unflatten(1, (-1, HEADS)).transpose(1, 2)
    theirs = merge_heads(weights @ split_heads(memory @ weight.t() + bias, HEADS))
    torch.testing.assert_close(ours, theirs)

"""The terms of the objective in a batch: what each is a mean over, and that padding and weights of 1 spoil none."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.cache.batches.batch import Targets
from stvg.errors import UsageError
from stvg.heads.fsm.cells import Cells
from stvg.heads.fsm.losses import TERMS, LossConfig
from stvg.heads.losses import Criterion, MeanOver, Term, counts, guided_attention_loss, span_loss
from stvg.heads.model import Anchor, LayerOutput, Output
from stvg.heads.settings import load_experiment
from stvg.heads.training.ranks import Share

NEW = {
    "width": Term(lambda m: m.tube(m.layers.boxes)[:, *m.targets.slots, 2].mean(-1), lambda c: 3.0, MeanOver.SLOTS),
    "doubt": Term(lambda m: m.layers.span[..., 0, :].square().mean((1, 2, 3)), lambda c: 1.0, MeanOver.SAMPLES),
}
"""Terms that somebody adds to the table."""


@st.composite
def clips(draw, most=3):
    """Lengths and moments [first, last] of some clips."""
    found = []
    for _ in range(draw(st.integers(2, most))):
        length = draw(st.integers(1, 9))
        first = draw(st.integers(0, length - 1))
        found.append((length, first, draw(st.integers(first, length - 1))))
    return found


def outputs(of, seed, layers=2, N=3, d=5):
    """A made-up output for clips padded together, whatever on padding, its leaves, and the annotation."""
    g = torch.Generator().manual_seed(seed)
    B, T = len(of), max(length for length, _, _ in of)
    slots = torch.arange(T)
    lengths, first, last = torch.tensor(of).t()[..., None]
    padding, inside = slots >= lengths, (slots >= first) & (slots <= last)

    def leaf(*shape):
        return torch.randn(B, *shape, generator=g).requires_grad_()

    leaves = [(leaf(N, T, 4), leaf(N, T, 2), leaf(N, T), leaf(N, T, T), leaf(N, T, d)) for _ in range(layers)]
    found = [
        LayerOutput(
            boxes.sigmoid(), span * 9, score, looks.masked_fill(padding[:, None, None], -torch.inf).softmax(-1), x
        )
        for boxes, span, score, looks, x in leaves
    ]
    of_anchor, similarity, cells, of_each = (leaf(T, 4), leaf(T, d)), leaf(T), leaf(T, 2, 3), leaf(T, 2, 3, 4)
    target = torch.rand(B, T, 4, generator=g) * 0.4 + 0.3
    targets = Targets(target, inside, torch.cat([first, last], 1), torch.ones(B, 2))
    every = [x for of_layer in leaves for x in of_layer] + [*of_anchor, similarity, cells, of_each]
    output = Output.of(found, Anchor(of_anchor[0].sigmoid(), of_anchor[1]))
    log_p = cells.flatten(2).log_softmax(-1).view(cells.shape)
    predicted = Cells(log_p, of_each.sigmoid(), torch.zeros(B, 2, 3, dtype=torch.bool))
    return (
        replace(output, similarity=similarity, cells=predicted),
        targets,
        padding,
        every,
    )


def alone(output, targets, padding, b):
    """One clip of a batch, without its padding."""
    T = int((~padding[b]).sum())
    layers = [
        LayerOutput(
            x.boxes[b : b + 1, :, :T],
            x.span[b : b + 1, :, :T],
            x.score[b : b + 1, :, :T],
            x.attention[b : b + 1, :, :T, :T],
            x.states[b : b + 1, :, :T],
        )
        for x in output.layers
    ]
    anchor = Anchor(output.anchor.boxes[b : b + 1, :T], output.anchor.states[b : b + 1, :T])
    of = Targets(
        targets.boxes[b : b + 1, :T], targets.in_moment[b : b + 1, :T], targets.span[b : b + 1], targets.size[:1]
    )
    similarity = output.similarity[b : b + 1, :T]
    of_batch = output.cells
    cells = Cells(of_batch.log_p[b : b + 1, :T], of_batch.boxes[b : b + 1, :T], of_batch.padding[b : b + 1])
    return replace(Output.of(layers, anchor), similarity=similarity, cells=cells), of, padding[b : b + 1, :T]


@pytest.mark.parametrize("forms", [("paper", "focal"), ("framewise", "softmax")])
@settings(max_examples=20, deadline=None)
@given(of=clips(), seed=st.integers(0, 10_000))
def test_a_batch_is_its_clips_alone_weighed_by_what_each_term_is_a_mean_over(forms, of, seed):
    """With their gradients, earlier layers and terms that were added included. Ranks add up in the same way."""
    config = LossConfig(mrcl_form=forms[0], label_form=forms[1], frames=1.0)
    with patch.dict(TERMS, NEW):
        output, targets, padding, leaves = outputs(of, seed)
        whole = Criterion(config)(output, targets, padding)
        singles = [alone(output, targets, padding, b) for b in range(len(of))]
        sizes = torch.tensor([counts(t) for _, t, _ in singles])
        parts = [
            Share(share).criterion(Criterion(config))(*single)
            for share, single in zip(sizes / sizes.sum(0), singles, strict=True)
        ]
    assert whole.keys() == {*TERMS, *NEW, "aux"}
    for name, value in whole.items():
        torch.testing.assert_close(sum(p[name] for p in parts), value, rtol=1e-5, atol=1e-6, msg=name)
    gradients = [
        torch.autograd.grad(sum(found), leaves, retain_graph=True, allow_unused=True)
        for found in (whole.values(), [v for p in parts for v in p.values()])
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(of=clips(), seed=st.integers(0, 10_000))
def test_span_and_attention_of_two_clips_are_the_means_of_each_ones(of, seed):
    output, targets, padding, _ = outputs(of, seed)
    only = LossConfig(l1=0, giou=0, label=0, mrcl=0, anchor=0, cells=0, aux=False)
    whole = Criterion(only)(output, targets, padding)
    singles = [Criterion(only)(*alone(output, targets, padding, b)) for b in range(len(of))]
    assert whole.keys() == {"span", "attention"}
    for name, value in whole.items():
        mean = torch.stack([s[name] for s in singles]).mean()
        torch.testing.assert_close(value, mean, rtol=1e-5, atol=1e-6, msg=name)


def test_more_padding_changes_neither_a_span_loss_nor_its_gradient():
    logits, span = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(1)), torch.tensor([[1, 4]])
    found = []
    for extra in (0, 1, 40):
        padded = torch.cat([logits, torch.full((1, extra, 2), 77.0)], 1).requires_grad_()
        value = span_loss(padded, span, torch.arange(5 + extra)[None] >= 5, 1.0)
        (gradient,) = torch.autograd.grad(value, padded)
        found.append(torch.cat([value.detach()[None], gradient[:, :5].flatten()]))
        assert (gradient[:, 5:] == 0).all()
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


NEAR = (0.0, 1e-30, 1e-7, 1e-6, 0.5, 1 - 1e-6, 1 - 6e-8, 1.0, 1 + 1.2e-7)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(NEAR) | st.floats(0, 1, width=32), min_size=1, max_size=8))
def test_every_weight_that_attention_can_have_has_the_gradient_of_the_formula(weights):
    """Two rows outside the moment: each counts one half."""
    attention = torch.tensor([[weights]]).expand(1, 2, -1).clone().requires_grad_()
    outside = torch.zeros(1, 2, dtype=torch.bool)
    loss = guided_attention_loss(attention, outside, outside)
    loss.backward()
    assert loss.isfinite()
    expected = 0.5 / (1 - attention.detach() + 1e-6)
    assert (expected > 0.4).all()
    torch.testing.assert_close(attention.grad, expected, rtol=1e-5, atol=0)


def test_attention_on_one_slot_alone_is_pushed_away_as_hard_as_in_the_baseline():
    attention = torch.eye(12)[None].requires_grad_()
    inside = torch.zeros(1, 12, dtype=torch.bool)
    guided_attention_loss(attention, inside, inside).backward()
    torch.testing.assert_close(attention.grad[0].diagonal(), torch.full((12,), 83_333.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", [n for n in TERMS if n not in ("l1", "giou")])
def test_a_term_of_weight_0_is_not_computed(name):
    output, targets, padding, _ = outputs([(5, 1, 3), (2, 0, 1)], 0)
    assert name in Criterion(LossConfig(**{name: 1}))(output, targets, padding)
    assert name not in Criterion(LossConfig(**{name: 0}))(output, targets, padding)


def test_one_term_alone_may_be_left():
    output, targets, padding, _ = outputs([(5, 1, 3), (2, 0, 1)], 0)
    weights = dict.fromkeys(("l1", "giou", "label", "span", "attention", "anchor", "cells", "cell_boxes"), 0)
    assert Criterion(LossConfig(**weights))(output, targets, padding).keys() == {"mrcl"}


NOTHING = [f"loss.{name}=0" for name in ("l1", "giou", "span", "attention")]


@pytest.mark.parametrize(
    ("assignments", "reason"),
    [
        (["loss.label=-1"], "expected at least 0"),
        (["loss.l1=.nan"], "expected at least 0"),
        (["loss.giou=.inf"], "expected at least 0"),
        (["loss.span_sigma=0"], "expected more than 0"),
        ([*NOTHING, "loss.label=0", "loss.mrcl=0"], "nothing would train"),
        ([*NOTHING, "loss.label=0", "model.num_queries=1"], "nothing would train"),
        ([*NOTHING, "model.qmm=false"], "nothing would train"),
    ],
)
def test_weights_that_train_nothing_or_the_wrong_way_are_refused(assignments, reason):
    with pytest.raises(UsageError, match=reason):
        load_experiment("paper", assignments)
    load_experiment("paper", [*NOTHING, "loss.label=0"])  # contrast is left

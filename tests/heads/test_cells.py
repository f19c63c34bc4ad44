"""The cell map: its box, its loss, and what a head does with both."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.heads.fsm.cells import CellMap, cell_loss, reference, spanned_box
from stvg.heads.fsm.losses import LossConfig
from stvg.heads.losses import Criterion

from .clips import CLIPS, small
from .test_model import forward


@st.composite
def maps(draw):
    """The size of a padded map, the size of the frame inside it, and a block of the frame's cells: rows and columns."""
    h, w = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rows, columns = draw(st.integers(1, h)), draw(st.integers(1, w))
    top, left = draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1))
    return h, w, rows, columns, (top, draw(st.integers(top + 1, rows))), (left, draw(st.integers(left + 1, columns)))


def block(size):
    """A padding mask (1, h, w), the uniform map (1, 1, h, w) of a block of cells, and the block as a box (1, 1, 4)."""
    h, w, rows, columns, (top, bottom), (left, right) = size
    padding = torch.ones(1, h, w, dtype=torch.bool)
    padding[:, :rows, :columns] = False
    p = torch.zeros(1, 1, h, w)
    p[..., top:bottom, left:right] = 1 / ((bottom - top) * (right - left))
    box = [(left + right) / 2 / columns, (top + bottom) / 2 / rows, (right - left) / columns, (bottom - top) / rows]
    return padding, p.log(), torch.tensor(box).view(1, 1, 4)


@settings(deadline=None)
@given(maps())
def test_a_map_that_is_uniform_on_a_block_of_cells_spans_exactly_their_box(size):
    padding, log_p, box = block(size)
    torch.testing.assert_close(spanned_box(log_p, padding), box, rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(maps(), st.integers(0, 1000))
def test_the_loss_is_least_at_the_uniform_map_of_the_box(size, seed):
    """There it is the logarithm of the number of the box's cells."""
    padding, log_p, box = block(size)
    slots = torch.zeros(2, 1, dtype=torch.int64)
    least = cell_loss(log_p, padding, box, slots)
    cells = (log_p > -torch.inf).sum()
    torch.testing.assert_close(least, cells.float().log(), rtol=1e-4, atol=1e-4)
    other = torch.randn(1, 1, *padding.shape[1:], generator=torch.Generator().manual_seed(seed))
    other = other.masked_fill(padding[:, None], -torch.inf).flatten(2).log_softmax(-1).view(other.shape)
    assert cell_loss(other, padding, box, slots) >= least - 1e-4


def test_a_box_between_cells_counts_in_each_by_its_share():
    """A quarter of the box lies in the first column, three quarters in the second."""
    padding = torch.zeros(1, 1, 2, dtype=torch.bool)
    box = torch.tensor([0.375 + 0.25, 0.5, 0.5, 1.0]).view(1, 1, 4)  # from 0.375 to 0.875
    log_p = torch.tensor([0.25, 0.75]).log().view(1, 1, 1, 2)
    expected = -(0.25 * torch.tensor(0.25).log() + 0.75 * torch.tensor(0.75).log())
    torch.testing.assert_close(cell_loss(log_p, padding, box, torch.zeros(2, 1, dtype=torch.int64)), expected)


def test_padding_of_frames_and_cells_changes_neither_map_nor_gradient():
    torch.manual_seed(0)
    found, part = [], CellMap(8)
    cells = torch.randn(1, 2, 2, 3, 8)
    for extra in (0, 3):
        padded = torch.full((1, 2, 2 + extra, 3 + extra, 8), 1e3)
        padded[:, :, :2, :3] = cells
        padding = torch.ones(1, 2 + extra, 3 + extra, dtype=torch.bool)
        padding[:, :2, :3] = False
        padded.requires_grad_()
        log_p = part(padded.flatten(2, 3), padding)
        loss = cell_loss(log_p, padding, torch.full((1, 2, 4), 0.5), torch.tensor([[0], [1]]))
        (gradient,) = torch.autograd.grad(loss, padded)
        assert gradient.isfinite().all()
        found.append((loss, log_p[..., :2, :3], gradient[:, :, :2, :3], spanned_box(log_p, padding)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_new_head_predicts_the_boxes_of_its_map():
    _, inputs, _, output = forward(CLIPS, small(cell_map=True))
    padding = inputs.cell_padding[inputs.frame_index[:, 0]]
    expected = reference(output.cell_map, padding).sigmoid()[:, None].expand_as(output.layers[0].boxes)
    for layer in output.layers:
        torch.testing.assert_close(layer.boxes, expected)


@given(maps())
@settings(max_examples=30, deadline=None)
def test_a_certain_map_is_refined_from_its_own_box_and_doubt_widens_it_less(size):
    padding, log_p, box = block(size)
    torch.testing.assert_close(reference(log_p, padding), box.clamp(1e-3, 1 - 1e-3).logit(), atol=1e-3, rtol=1e-3)
    possible = torch.where(padding, 0.0, 1.0) / (~padding).sum()
    doubtful = (0.8 * log_p.exp() + 0.2 * possible).log()
    wide, narrow = spanned_box(doubtful, padding), reference(doubtful, padding).sigmoid()
    certain = spanned_box(log_p, padding)
    assert ((narrow - certain).abs() <= (wide - certain).abs() + 1e-3).all()


def test_the_losses_of_boxes_do_not_train_the_map_and_its_own_does():
    model, inputs, targets, _ = forward(CLIPS, small(cell_map=True))
    losses = Criterion(LossConfig())(model(inputs, targets), targets, inputs.frame_padding)
    score = model.cell_map.score.weight
    for name, value in losses.items():
        (gradient,) = torch.autograd.grad(value, score, retain_graph=True, allow_unused=True)
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) == (name == "cells")


def test_positions_in_the_content_move_a_cell_that_looks_the_same():
    config = small(content_positions=True)
    model, inputs, _, _ = forward(CLIPS[:1], config)
    alike = torch.ones_like(inputs.maps)
    inputs = type(inputs)(**{**vars(inputs), "maps": alike})
    placed = model.project(inputs)
    model.config = small()
    plain = model.project(inputs)
    assert (plain - plain[:, :1]).abs().max() == 0
    assert (placed - placed[:, :1]).abs().amax(-1)[:, 1:].min() > 1e-3


def test_dropped_words_are_zero_as_a_whole_and_only_in_training():
    model, inputs, _, _ = forward(CLIPS, small(word_dropout=0.5, dropout=0.0))
    tokens = torch.randn(8, 20, inputs.tokens.shape[-1], dtype=torch.float64)
    kept = model.resizer.eval()(tokens)
    torch.manual_seed(0)
    dropped = model.resizer.train()(tokens)
    gone = (dropped == 0).all(-1)
    assert 0.3 < gone.double().mean() < 0.7
    torch.testing.assert_close(dropped[~gone], kept[~gone], rtol=0, atol=0)

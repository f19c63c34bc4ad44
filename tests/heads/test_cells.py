"""The cell map: its scores and boxes, their losses, and what a head does with them."""

from __future__ import annotations

from itertools import product

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.heads.fsm.cells import CellMap, Cells, cell_box_losses, cell_loss
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


def everywhere(log_p, box, padding):
    """Cells of which each predicts the same box."""
    return Cells(log_p, box[:, :, None, None].expand(*log_p.shape, 4), padding)


ONE = torch.zeros(2, 1, dtype=torch.int64)
"""The first slot of the first sample."""


@settings(deadline=None)
@given(maps(), st.integers(0, 1000))
def test_the_loss_is_least_at_the_uniform_map_of_the_box(size, seed):
    """There it is the logarithm of the number of the box's cells."""
    padding, log_p, box = block(size)
    least = cell_loss(everywhere(log_p, box, padding), box, ONE)
    cells = (log_p > -torch.inf).sum()
    torch.testing.assert_close(least, cells.float().log(), rtol=1e-4, atol=1e-4)
    other = torch.randn(1, 1, *padding.shape[1:], generator=torch.Generator().manual_seed(seed))
    other = other.masked_fill(padding[:, None], -torch.inf).flatten(2).log_softmax(-1).view(other.shape)
    assert cell_loss(everywhere(other, box, padding), box, ONE) >= least - 1e-4


def test_a_box_between_cells_counts_in_each_by_its_share():
    """A quarter of the box lies in the first column, three quarters in the second."""
    padding = torch.zeros(1, 1, 2, dtype=torch.bool)
    box = torch.tensor([0.375 + 0.25, 0.5, 0.5, 1.0]).view(1, 1, 4)  # from 0.375 to 0.875
    log_p = torch.tensor([0.25, 0.75]).log().view(1, 1, 1, 2)
    expected = -(0.25 * torch.tensor(0.25).log() + 0.75 * torch.tensor(0.75).log())
    torch.testing.assert_close(cell_loss(everywhere(log_p, box, padding), box, ONE), expected)
    made = torch.stack([box, box + torch.tensor([0.1, 0, 0, 0])], dim=2)[:, :, None]  # only the second column is wrong
    l1, giou = cell_box_losses(Cells(log_p, made, padding), box, ONE)
    torch.testing.assert_close(l1, torch.tensor(0.75 * 0.1))
    torch.testing.assert_close(giou, torch.tensor(0.75 * (1 - 0.4 / 0.6)))  # they fill their hull


@settings(deadline=None)
@given(maps())
def test_a_new_map_predicts_boxes_of_three_cells_around_each(size):
    padding, _, _ = block(size)
    rows, columns = (int(n) for n in ((~padding).any(2).sum(), (~padding).any(1).sum()))
    part = CellMap(8)
    found = part(torch.randn(1, 1, padding[0].numel(), 8), padding).boxes[0, 0, :rows, :columns]
    for y, x in product(range(rows), range(columns)):
        expected = torch.tensor([(x + 0.5) / columns, (y + 0.5) / rows, 3 / columns, 3 / rows])
        torch.testing.assert_close(found[y, x], expected)


def test_padding_of_frames_and_cells_changes_neither_map_nor_boxes_nor_gradients():
    torch.manual_seed(0)
    found, part = [], CellMap(8)
    torch.nn.init.normal_(part.box.layers[-1].weight)
    cells, known = torch.randn(1, 2, 2, 3, 8), torch.full((1, 2, 4), 0.5)
    for extra in (0, 3):
        padded = torch.full((1, 2, 2 + extra, 3 + extra, 8), 1e3)
        padded[:, :, :2, :3] = cells
        padding = torch.ones(1, 2 + extra, 3 + extra, dtype=torch.bool)
        padding[:, :2, :3] = False
        padded.requires_grad_()
        made = part(padded.flatten(2, 3), padding)
        slots = torch.tensor([[0, 0], [0, 1]])
        loss = sum([cell_loss(made, known, slots), *cell_box_losses(made, known, slots)])
        (gradient,) = torch.autograd.grad(loss, padded)
        assert gradient.isfinite().all()
        assert (gradient[:, :, 2:] == 0).all()
        assert (gradient[:, :, :, 3:] == 0).all()
        inside = (slice(None), slice(None), slice(2), slice(3))
        found.append((loss, made.log_p[inside], made.boxes[inside], gradient[inside], made.reference()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_cell_sees_its_neighbours_and_no_cell_three_away():
    torch.manual_seed(0)
    part, padding = CellMap(8), torch.zeros(1, 1, 8, dtype=torch.bool)
    cells = torch.randn(1, 1, 8, 8)
    changed = cells.clone()
    changed[:, :, 0] += 1
    seen = part.with_neighbours(cells, padding) != part.with_neighbours(changed, padding)
    assert seen.any(-1).flatten().tolist() == [True] * 3 + [False] * 5


def test_a_new_head_predicts_the_boxes_of_its_cells():
    _, _, _, output = forward(CLIPS, small(cell_map=True))
    expected = output.cells.reference().sigmoid()[:, None].expand_as(output.layers[0].boxes)
    for layer in output.layers:
        torch.testing.assert_close(layer.boxes, expected)


@given(maps())
@settings(max_examples=30, deadline=None)
def test_the_likely_cells_choose_the_box_and_merely_possible_ones_count_less_than_their_probability(size):
    """All other cells predict a box elsewhere."""
    padding, log_p, box = block(size)
    likely, elsewhere = (log_p.exp() > 0)[..., None], box * 0.5
    boxes = torch.where(likely, box[:, :, None, None], elsewhere[:, :, None, None])
    certain = Cells(log_p, boxes, padding).reference().sigmoid()
    torch.testing.assert_close(certain, box.clamp(1e-3, 1 - 1e-3))
    possible = torch.where(padding, 0.0, 1.0) / (~padding).sum()
    p = 0.8 * log_p.exp() + 0.2 * possible
    plain = (p[..., None] * boxes).sum((2, 3))
    doubtful = Cells(p.log(), boxes, padding).reference().sigmoid()
    assert ((doubtful - certain).abs() <= (plain - certain).abs() + 2e-3).all()


def test_the_losses_of_boxes_do_not_train_the_cells_and_their_own_do():
    model, inputs, targets, _ = forward(CLIPS, small(cell_map=True))
    losses = Criterion(LossConfig())(model(inputs, targets), targets, inputs.frame_padding)
    of_map = model.cell_map
    trained = {"score": (of_map.score.weight, "cells"), "box": (of_map.box.layers[-1].weight, "cell_boxes")}
    for weight, own in trained.values():
        for name, value in losses.items():
            (gradient,) = torch.autograd.grad(value, weight, retain_graph=True, allow_unused=True)
            assert (gradient is not None and bool(gradient.abs().sum() > 0)) == (name == own)


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

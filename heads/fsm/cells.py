"""The cell map: which cells of a frame show the described object, and the box that each of them predicts for it.

A head without pretrained weights learns slowly from whole boxes where things are. Here every cell of memory gets a score
and a box, which losses train directly, as in a detector; the head's boxes are predicted relative to those of the likely
cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..boxes import generalised_iou, to_corners
from ..layers import MLP

CONVOLUTIONS = 2
"""A cell's score and box depend on the cells at most this many away: one cell does not show where an object ends."""
SIDE = 3.0
"""The sides of a cell's box at the start, in cells."""
LARGEST = 4.0
"""The logarithm of a side, in cells, is clamped to [-LARGEST, LARGEST]."""
SHARPENED = 2.0
"""The power of the map with which the cells' boxes are averaged: a cell that is merely possible counts less."""
LEAST = 1e-3
"""The coordinates of the averaged box are clamped to [LEAST, 1 - LEAST] before the logit."""


@dataclass(frozen=True)
class Cells:
    """What is predicted of every cell of B clips of T slots, on a grid of h rows and w columns."""

    log_p: Tensor
    """(B, T, h, w) log-probabilities that the cell shows the object; a distribution in every frame, -inf on padding."""
    boxes: Tensor
    """(B, T, h, w, 4) the object's box, cxcywh, as fractions of the frame. Undefined on padding."""
    padding: Tensor
    """(B, h, w) bool."""

    def reference(self) -> Tensor:
        """The logits (B, T, 4) of the mean of the cells' boxes, weighted by the sharpened map. Without gradient: the
        losses of the head's boxes do not train the cells."""
        weight = (SHARPENED * self.log_p.detach()).flatten(2).softmax(-1)
        box = (weight[..., None] * self.boxes.detach().flatten(2, 3)).sum(2)
        return box.clamp(LEAST, 1 - LEAST).logit()


class CellMap(nn.Module):
    """Predicts the map and the boxes from memory. Convolutions in autocast's type, scores and coordinates in float32 or
    wider."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.around = nn.ModuleList(nn.Conv2d(d, d, 3, padding=1) for _ in range(CONVOLUTIONS))
        self.score, self.box = nn.Linear(d, 1), MLP([d, d, 4])
        last = self.box.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        nn.init.constant_(last.bias[2:], math.log(SIDE))

    def forward(self, cells: Tensor, padding: Tensor) -> Cells:
        """Cells of memory (B, T, h·w, d), padding (B, h, w) bool → `Cells`."""
        x = self.with_neighbours(cells, padding)
        with torch.autocast(cells.device.type, enabled=False):
            x = x.to(self.score.weight.dtype)
            scores = self.score(x).squeeze(-1).masked_fill(padding.flatten(1)[:, None], -torch.inf)
            log_p = scores.log_softmax(-1).unflatten(-1, padding.shape[1:])
            return Cells(log_p, self.placed(self.box(x).unflatten(2, padding.shape[1:]), padding), padding)

    def with_neighbours(self, cells: Tensor, padding: Tensor) -> Tensor:
        """Residual 3 x 3 convolutions over every frame. Beyond its edge all is zero, with or without padding."""
        x = cells.unflatten(2, padding.shape[1:]).flatten(0, 1).permute(0, 3, 1, 2)
        shown = ~padding.repeat_interleave(cells.shape[1], dim=0)[:, None]
        for convolution in self.around:
            x = x + convolution(x.relu() * shown)
        return x.permute(0, 2, 3, 1).reshape(cells.shape)

    def placed(self, made: Tensor, padding: Tensor) -> Tensor:
        """Boxes as fractions of the frame, from their centres' distances to those of the cells, in cells, and the
        logarithms of their sides in cells: (B, T, h, w, 4)."""
        y, x = edges(padding)
        middles = torch.stack(
            torch.broadcast_tensors((x[:, None, 1:] + x[:, None, :-1]) / 2, (y[:, 1:, None] + y[:, :-1, None]) / 2), -1
        )
        cell = torch.stack([x[:, 1], y[:, 1]], -1)[:, None, None, None]
        away, sides = made.split(2, -1)
        return torch.cat([middles[:, None] + away * cell, sides.clamp(-LARGEST, LARGEST).exp() * cell], dim=-1)


def edges(padding: Tensor) -> tuple[Tensor, Tensor]:
    """Edges of the rows (B, h + 1) and columns (B, w + 1) of maps with padding (B, h, w), as fractions of the frame.
    Padding is beyond 1."""
    h, w = padding.shape[1:]
    rows, columns = (~padding).any(2).sum(1), (~padding).any(1).sum(1)
    steps = (torch.arange(count + 1, device=padding.device) for count in (h, w))
    y, x = (step / count[:, None] for step, count in zip(steps, (rows, columns), strict=True))
    return y, x


def shares(padding: Tensor, boxes: Tensor, slots: Tensor) -> Tensor:
    """The share of the annotated box inside the frame that lies in each cell: (G, h, w), for ``slots`` (2, G) of
    `Targets`. boxes (B, T, 4) cxcywh, fractions. All zero for a box without area inside the frame."""
    sample, slot = slots
    corners = to_corners(boxes[sample, slot]).clamp(0, 1)
    y, x = (edge[sample] for edge in edges(padding))
    inside = overlap(y, corners[:, 1], corners[:, 3])[:, :, None] * overlap(x, corners[:, 0], corners[:, 2])[:, None]
    return inside / inside.sum((1, 2), keepdim=True).clamp(min=1e-9)


def overlap(edge: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The length of [low, high] (G,) inside every interval between ``edge`` (G, n + 1): (G, n)."""
    return (torch.minimum(edge[:, 1:], high[:, None]) - torch.maximum(edge[:, :-1], low[:, None])).clamp(min=0)


def cell_loss(cells: Cells, boxes: Tensor, slots: Tensor) -> Tensor:
    """Cross-entropy of the map against the `shares` of the annotated boxes (B, T, 4), mean over ``slots`` (2, G); a
    slot whose box has no area inside the frame adds zero."""
    target, log_p = shares(cells.padding, boxes, slots), cells.log_p[tuple(slots)]
    return -(target * log_p.masked_fill(log_p.isinf(), 0)).sum() / max(len(target), 1)


def cell_box_losses(cells: Cells, boxes: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """L1 and 1 - GIoU of the cells' boxes against the annotated ones (B, T, 4): in every frame the mean over its cells,
    weighted by their `shares`, then the mean over ``slots`` (2, G)."""
    target, made = shares(cells.padding, boxes, slots), cells.boxes[tuple(slots)]
    known = boxes[tuple(slots)][:, None, None].expand_as(made)
    l1, giou = (made - known).abs().sum(-1), 1 - generalised_iou(made, known)
    frames = max(len(target), 1)
    return (target * l1).sum() / frames, (target * giou).sum() / frames

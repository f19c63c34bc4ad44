"""The cell map: which cells of a frame show the described object, and the box that these cells span.

A head without pretrained weights learns slowly where things are from boxes alone. Here every cell of memory gets a
score, which a loss trains directly, and boxes are predicted relative to the box of the map.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..boxes import to_corners

SPREAD = math.sqrt(12)
"""The length of an interval, divided by the standard deviation of a uniform distribution over it."""
SHARPENED = 2.0
"""The power of the map that boxes are predicted relative to: a cell that is merely possible widens the box less."""
LEAST = 1e-3
"""The coordinates of the map's box are clamped to [LEAST, 1 - LEAST] before the logit."""


class CellMap(nn.Module):
    """A distribution over the cells of every frame, computed from memory, in float32."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.score = nn.Linear(d, 1)

    def forward(self, cells: Tensor, padding: Tensor) -> Tensor:
        """Cells of memory (B, T, h·w, d), padding (B, h, w) bool → log-probabilities (B, T, h, w), -inf on padding."""
        with torch.autocast(cells.device.type, enabled=False):
            scores = self.score(cells.to(self.score.weight.dtype)).squeeze(-1)
            scores = scores.masked_fill(padding.flatten(1)[:, None], -torch.inf)
            return scores.log_softmax(-1).unflatten(-1, padding.shape[1:])


def edges(padding: Tensor) -> tuple[Tensor, Tensor]:
    """Edges of the rows (B, h + 1) and columns (B, w + 1) of maps with padding (B, h, w), as fractions of the frame.
    Padding is beyond 1."""
    h, w = padding.shape[1:]
    rows, columns = (~padding).any(2).sum(1), (~padding).any(1).sum(1)
    steps = (torch.arange(count + 1, device=padding.device) for count in (h, w))
    y, x = (step / count[:, None] for step, count in zip(steps, (rows, columns), strict=True))
    return y, x


def spanned_box(log_p: Tensor, padding: Tensor) -> Tensor:
    """The box (B, T, 4) cxcywh of a cell map (B, T, h, w), as fractions of the frame.

    Its centre is the mean position, its sides those of a uniform distribution with the same variance. A map that is
    uniform on some rows and columns has exactly their box.
    """
    p = log_p.exp()
    centres, sides = [], []
    for share, edge in zip((p.sum(-2), p.sum(-1)), reversed(edges(padding)), strict=True):  # along x, along y
        middle, length = (edge[:, 1:] + edge[:, :-1]) / 2, edge[:, 1]
        centre = (share * middle[:, None]).sum(-1)
        variance = (share * (middle[:, None] - centre[..., None]).square()).sum(-1)
        centres.append(centre)
        sides.append(SPREAD * (variance + (length.square() / 12)[:, None]).sqrt())
    return torch.stack([*centres, *sides], dim=-1)


def reference(log_p: Tensor, padding: Tensor) -> Tensor:
    """The logits (B, T, 4) of the box of a sharpened cell map. Without gradient: the boxes' losses do not train the
    map."""
    sharp = (SHARPENED * log_p.detach()).flatten(2).log_softmax(-1).view(log_p.shape)
    return spanned_box(sharp, padding).clamp(LEAST, 1 - LEAST).logit()


def cell_loss(log_p: Tensor, padding: Tensor, boxes: Tensor, slots: Tensor) -> Tensor:
    """Cross-entropy of a cell map (B, T, h, w) against the distribution that is uniform on the annotated box, mean over
    ``slots`` (2, G) of `Targets`.

    boxes (B, T, 4) cxcywh, fractions. The target of a cell is the share of the box inside the frame that lies in it.
    """
    sample, slot = slots
    corners = to_corners(boxes[sample, slot]).clamp(0, 1)
    y, x = (edge[sample] for edge in edges(padding))
    inside = overlap(y, corners[:, 1], corners[:, 3])[:, :, None] * overlap(x, corners[:, 0], corners[:, 2])[:, None]
    target = inside / inside.sum((1, 2), keepdim=True).clamp(min=1e-9)
    chosen = log_p[sample, slot]
    entropy = -(target * chosen.masked_fill(chosen.isinf(), 0)).sum((1, 2))
    return entropy.sum() / max(len(entropy), 1)


def overlap(edge: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The length of [low, high] (G,) inside every interval between ``edge`` (G, n + 1): (G, n)."""
    return (torch.minimum(edge[:, 1:], high[:, None]) - torch.maximum(edge[:, :-1], low[:, None])).clamp(min=0)

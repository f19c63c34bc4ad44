"""Boxes as the model sees them: cxcywh fractions of the frame, xyxy corners, IoU and generalised IoU."""

from __future__ import annotations

import torch
from torch import Tensor


def to_corners(boxes: Tensor) -> Tensor:
    """cxcywh (…, 4) → xyxy (…, 4), same unit."""
    centre, size = boxes.split(2, dim=-1)
    half = size / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def area(first: Tensor, last: Tensor) -> Tensor:
    """Of boxes between two corners (…, 2), zero where they are the wrong way round: (…,). Not torch's prod, whose gradient
    waits for the GPU to count zeros."""
    width, height = (last - first).clamp(min=0).unbind(-1)
    return width * height


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of paired cxcywh boxes (…, 4): (…,), in [-1, 1].

    Areas are kept above 1e-7, so a degenerate prediction early in training gives a small number, not a division by zero.
    """
    (a1, a2), (b1, b2) = to_corners(a).split(2, -1), to_corners(b).split(2, -1)
    overlap = area(torch.maximum(a1, b1), torch.minimum(a2, b2))
    hull = area(torch.minimum(a1, b1), torch.maximum(a2, b2)).clamp(min=1e-7)
    union = (area(a1, a2) + area(b1, b2) - overlap).clamp(min=1e-7)
    return overlap / union - (hull - union) / hull

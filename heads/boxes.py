"""Boxes: centre format (cxcywh) as fractions of the frame, corner format (xyxy), IoU and generalised IoU."""

from __future__ import annotations

import torch
from torch import Tensor


def to_corners(boxes: Tensor) -> Tensor:
    """cxcywh (…, 4) → xyxy (…, 4), in the same unit."""
    centre, size = boxes.split(2, dim=-1)
    half = size / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def area(first: Tensor, last: Tensor) -> Tensor:
    """The area of boxes with opposite corners ``first`` and ``last`` (…, 2): (…,). Zero where last < first on an axis.
    Multiplied by hand: the backward of `Tensor.prod` synchronises with the GPU."""
    width, height = (last - first).clamp(min=0).unbind(-1)
    return width * height


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of paired cxcywh boxes (…, 4): (…,), in [-1, 1].

    The areas of union and hull are clamped to at least 1e-7, so that degenerate boxes cause no division by zero.
    """
    (a1, a2), (b1, b2) = to_corners(a).split(2, -1), to_corners(b).split(2, -1)
    overlap = area(torch.maximum(a1, b1), torch.minimum(a2, b2))
    hull = area(torch.minimum(a1, b1), torch.maximum(a2, b2)).clamp(min=1e-7)
    union = (area(a1, a2) + area(b1, b2) - overlap).clamp(min=1e-7)
    return overlap / union - (hull - union) / hull

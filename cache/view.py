"""The geometry of views: conversion of boxes between source pixels and fractions of the encoder's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .sampling import FloatArray


def resized(width: int, height: int, short: int, max_side: int | None = None) -> tuple[int, int]:
    """Resize to short side ``short``, or smaller if the long side would exceed ``max_side``: (width, height) in pixels.

    Example: 640x360 at 224/373 becomes 373x210. Rounding follows the baselines' public code, but no side is shorter
    than one pixel (4000x16 at 64/107).
    """
    low, high = sorted((width, height))
    if max_side is not None and high / low * short > max_side:
        short = round(max_side * low / high)
    long = int(short * high / low) if short else max_side or 1
    return (max(short, 1), long) if width < height else (long, max(short, 1))


@dataclass(frozen=True)
class Crop:
    """A crop of a resized picture, in whole pixels of the resized picture."""

    width: int
    """Width of the picture after the first resize."""
    height: int
    """Height of the picture after the first resize."""
    left: int
    top: int
    cut_width: int
    cut_height: int


@dataclass(frozen=True)
class View:
    """The geometry of a view: one resize (view 0, the standard evaluation), or resize, crop and resize.

    Converts boxes from source pixels to fractions of the view and back. Sizes are whole pixels.
    """

    source_width: int
    source_height: int
    width: int
    height: int
    crop: Crop | None = None

    @classmethod
    def evaluation(cls, source_width: int, source_height: int, resolution: int, max_side: int) -> View:
        """The standard evaluation view: short side ``resolution``, long side at most ``max_side``."""
        size = resized(source_width, source_height, resolution, max_side)
        return cls(source_width, source_height, *size)

    @classmethod
    def from_json(cls, stored: Sequence[int]) -> View:
        source_width, source_height, width, height, *crop = stored
        return cls(source_width, source_height, width, height, Crop(*crop) if crop else None)

    def to_json(self) -> list[int]:
        size = [self.source_width, self.source_height, self.width, self.height]
        return size + (list(vars(self.crop).values()) if self.crop else [])

    def _window(self) -> tuple[FloatArray, FloatArray]:
        """Top left corner and size of the visible part, in source pixels: two arrays (x, y)."""
        source = np.array([self.source_width, self.source_height], dtype=np.float64)
        if self.crop is None:
            return np.zeros(2), source
        scale = source / (self.crop.width, self.crop.height)
        return scale * (self.crop.left, self.crop.top), scale * (self.crop.cut_width, self.crop.cut_height)

    def to_fractions(self, boxes: FloatArray) -> FloatArray:
        """Source pixels xyxy (…, 4) → cxcywh fractions in [0, 1], clamped to the visible part."""
        start, size = (np.tile(v, 2) for v in self._window())
        x1, y1, x2, y2 = np.moveaxis(np.clip((boxes - start) / size, 0, 1), -1, 0)
        return np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=-1)

    def shows(self, boxes: FloatArray) -> bool:
        """Whether the view shows all boxes (n, 4) xyxy, at least in part.

        Boxes outside the source picture are ignored.
        """
        corners = np.clip(boxes, 0, [self.source_width, self.source_height] * 2)
        inside = boxes[(corners[:, 2:] > corners[:, :2]).all(1)]
        return bool((self.to_fractions(inside)[:, 2:] > 0).all())

    def to_pixels(self, boxes: FloatArray, beyond: bool = False) -> FloatArray:
        """cxcywh fractions (…, 4) → source pixels xyxy, clamped to the picture.

        ``beyond``: clamp at left and top only.
        """
        start, size = (np.tile(v, 2) for v in self._window())
        cx, cy, w, h = np.moveaxis(np.asarray(boxes, dtype=np.float64), -1, 0)
        corners = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=-1)
        return np.clip(corners * size + start, 0, None if beyond else [self.source_width, self.source_height] * 2)


# Maximum long side by evaluation resolution, from the baseline's table; the paper uses 224, 320 and 352.
MAX_SIDE = {64: 107, 96: 160, 128: 213, 160: 267, 192: 320, 224: 373, 256: 427, 288: 480, 320: 533, 352: 587, 384: 640, 416: 693, 448: 746, 480: 800, 800: 1333}  # fmt: skip  # noqa: E501

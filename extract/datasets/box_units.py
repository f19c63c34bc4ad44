"""Checks the units and the layout of boxes: pixels or fractions, two corners or one corner and the size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...cache.sampling import FloatArray
from ...cache.schema import Sample, has_boxes

SCALES = ((1, "fractions of the picture's width and height"), (100, "percentages"), (1000, "thousandths"))
SLACK = 1.02
"""A box fits the picture if it ends at most at this multiple of the picture's size."""
STEADIER = 4
"""The other reading fits better if it reduces the change of box sizes along tracks by at least this factor."""


@dataclass
class BoxUnits:
    """Statistics over all boxes of a file, updated while it is read."""

    sized: bool = False
    """Whether the file lists [x, y, width, height]."""
    boxes: int = 0
    extent: FloatArray = field(default_factory=lambda: np.array([np.inf, np.inf, 0.0, 0.0]))
    """x1, y1, x2, y2 of the hull of all boxes."""
    smallest_picture: float = np.inf
    """Shorter side of the smallest picture, in pixels."""
    videos: set[str] = field(default_factory=set)
    beyond: int = 0
    """Number of boxes that end beyond `SLACK` times their picture's size."""
    empty: int = 0
    """Number of boxes without area, as they are read."""
    misfits: int = 0
    """Number of boxes that the other reading would put outside the picture or leave without area."""
    sides: float = 0.0
    """Sum of all widths and heights, in pixels."""
    changes: FloatArray = field(default_factory=lambda: np.zeros(2))
    """Sum of absolute changes of width and height from box to box: as they are read, and in the other reading."""

    def add(self, sample: Sample) -> None:
        boxes = sample.boxes[has_boxes(sample.boxes)]
        if not len(boxes):
            return
        size = np.array([sample.video.width, sample.video.height], dtype=np.float64)
        self.boxes += len(boxes)
        self.videos.add(sample.video.video_id)
        self.smallest_picture = min(self.smallest_picture, size.min())
        self.extent[:2] = np.minimum(self.extent[:2], boxes[:, :2].min(0))
        self.extent[2:] = np.maximum(self.extent[2:], boxes.max(0).reshape(2, 2).max(0))
        self.beyond += int((boxes[:, 2:] > SLACK * size).any(1).sum())
        self.empty += int((boxes[:, 2:] <= boxes[:, :2]).any(1).sum())
        self.misfits += int((~fits(other_reading(boxes, self.sized), size)).sum())
        for i, reading in enumerate((boxes, other_reading(boxes, self.sized))):
            sides = reading[:, 2:] - reading[:, :2]
            # An object at the edge of the picture changes its visible size in either reading.
            cut = boxes[:, 2:] >= size - 2
            self.changes[i] += np.abs(np.diff(sides, axis=0))[~(cut[1:] & cut[:-1])].sum()
            self.sides += sides.sum() if i == 0 else 0.0

    def doubts(self) -> Iterator[str]:
        """Messages about units or a layout that fit the boxes better than the ones they are read with."""
        if not self.boxes:
            return
        if (scale := self._scale()) is not None:
            yield (
                f"all boxes ({self.boxes:,}) lie within 0 and {scale[0]}, in pictures of {self.smallest_picture:g} pixels "
                f"or more: they look like {scale[1]}; boxes are read as pixels"
            )
        elif self._fits_otherwise():
            listed, better = "[x1, y1, x2, y2]", "[x, y, width, height]"
            if self.sized:
                listed, better = better, listed
            yield f"boxes ({self.boxes:,}) fit better as {better}; they are read as {listed}"

    def _scale(self) -> tuple[int, str] | None:
        if self.extent[:2].min() < 0:
            return None
        furthest = self.extent[2:].max()
        (one, fractions), (hundred, percentages), (thousand, thousandths) = SCALES
        if furthest <= 1.02 and self.smallest_picture > 8:
            return one, fractions
        if furthest <= hundred and self.smallest_picture >= 2 * hundred:
            # Small objects in one corner have a small spread, and rarely occur in the same corner in every video.
            spread = (self.extent[2:] - self.extent[:2]).min() >= 50
            if self.extent[2:].min() >= 50 and (spread or len(self.videos) >= 3):
                return hundred, percentages
        if hundred < furthest <= thousand and self.beyond >= 0.1 * self.boxes and self.extent[2:].min() > 500:
            return thousand, thousandths
        return None

    def _fits_otherwise(self) -> bool:
        if self.misfits > 0.01 * self.boxes:
            return False
        now, otherwise = self.changes
        steadier = now >= STEADIER * otherwise and now >= 0.2 * self.sides / self.boxes
        return self.empty >= 0.05 * self.boxes or (self.sized and self.beyond >= 0.2 * self.boxes) or bool(steadier)


def other_reading(boxes: FloatArray, sized: bool) -> FloatArray:
    """Corners (n, 4) in the other layout. ``sized``: the boxes are read as x, y, w, h."""
    if sized:
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] + boxes[:, :2]], axis=1)


def fits(boxes: FloatArray, size: FloatArray) -> NDArray[np.bool_]:
    """Which boxes (n, 4), xyxy, have an area and lie in a picture of ``size`` = (width, height)."""
    inside = (boxes[:, :2] >= -0.02 * size).all(1) & (boxes[:, 2:] <= SLACK * size).all(1)
    return np.logical_and(inside, (boxes[:, 2:] > boxes[:, :2]).all(1))

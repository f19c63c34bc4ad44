"""Whether the boxes of a file are what they are read as: pixels, and the two corners or one corner and the size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...cache.sampling import FloatArray
from ...cache.schema import Sample, has_boxes

SCALES = ((1, "fractions of the picture's width and height"), (100, "percentages"), (1000, "thousandths"))
SLACK = 1.02
"""How far beyond the picture a box may reach and still be one that fits."""
STEADIER = 4
"""A reading fits better if it makes sizes change this many times less while objects move."""


@dataclass
class BoxUnits:
    """Counts over all boxes of a file, kept while it is read."""

    sized: bool = False
    """The file lists [x, y, width, height]."""
    boxes: int = 0
    extent: FloatArray = field(default_factory=lambda: np.array([np.inf, np.inf, 0.0, 0.0]))
    """x1, y1, x2, y2 of all boxes together."""
    smallest_picture: float = np.inf
    """The shorter side of the smallest picture."""
    videos: set[str] = field(default_factory=set)
    beyond: int = 0
    """Boxes that reach well beyond their picture."""
    empty: int = 0
    """Boxes without area, as they are read."""
    misfits: int = 0
    """Boxes that the other reading puts outside the picture, or leaves without area."""
    sides: float = 0.0
    """Sum of all widths and heights."""
    changes: FloatArray = field(default_factory=lambda: np.zeros(2))
    """How much widths and heights change from box to box, as they are read and in the other reading."""

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
            # An object that leaves the picture changes its size, whoever reads it.
            cut = boxes[:, 2:] >= size - 2
            self.changes[i] += np.abs(np.diff(sides, axis=0))[~(cut[1:] & cut[:-1])].sum()
            self.sides += sides.sum() if i == 0 else 0.0

    def doubts(self) -> Iterator[str]:
        """What the boxes look like, if not like what they are read as."""
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
            # Small objects in a corner are not spread over the picture, nor do they fill a corner in every video.
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
    """Corners (n, 4) as they would be if the file listed boxes the other way. ``sized``: it is read as x, y, w, h."""
    if sized:
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] + boxes[:, :2]], axis=1)


def fits(boxes: FloatArray, size: FloatArray) -> NDArray[np.bool_]:
    """Which corners (n, 4) have an area, and lie in a picture of ``size`` = (width, height)."""
    inside = (boxes[:, :2] >= -0.02 * size).all(1) & (boxes[:, 2:] <= SLACK * size).all(1)
    return np.logical_and(inside, (boxes[:, 2:] > boxes[:, :2]).all(1))

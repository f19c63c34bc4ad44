"""Clips: the frames of a sample and the view they are read in, and the paper's temporal crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..sampling import FloatArray, IntArray
from ..schema import Sample, Video
from ..view import View


@dataclass(frozen=True)
class Rendition:
    """One video in one view. Clips with equal renditions share their frames."""

    video: Video
    view: View
    index: int = 0
    """Number of the view among the stored ones; 0 is the evaluation view."""


@dataclass(frozen=True)
class FrameSet:
    """Frames of one rendition: (n,) ascending source frames."""

    rendition: Rendition
    frames: IntArray


@dataclass(frozen=True)
class Clip:
    """A sample and the source frames of its slots, (T,) ascending; without features."""

    sample: Sample
    sentence: str
    """The sample's sentence; another sample's if the evaluation shuffles sentences."""
    frames: IntArray
    rendition: Rendition | None = None
    """None means the evaluation view."""


def draw_crops(slots: IntArray, draws: FloatArray) -> IntArray:
    """The half-open range of slots that the temporal crop keeps of each of n clips: (n, 2).

    ``slots`` (n, 3): number of slots, first and last slot in the moment. ``draws`` (n, 3), uniform in [0, 1): whether
    to crop (below 0.5), the share of slots to drop before the moment, and the share to keep after it.
    """
    count, first, last = slots.T
    cropped = draws[:, 0] < 0.5
    start = np.floor(draws[:, 1] * first).astype(np.int64)
    after = count - last - 1
    end = np.where(after > 0, last + 2 + np.floor(draws[:, 2] * after).astype(np.int64), count)
    return np.stack([np.where(cropped, start, 0), np.where(cropped, end, count)], axis=1)

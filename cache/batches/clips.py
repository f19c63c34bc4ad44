"""A sample's slots: which frames of its video a batch reads, seen through which view, and the paper's temporal crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..sampling import FloatArray, IntArray
from ..schema import Sample, Video
from ..view import View


@dataclass(frozen=True)
class Rendition:
    """One video seen through one view. Clips with equal renditions share their frames."""

    video: Video
    view: View
    index: int = 0
    """Which of the stored views it is."""


@dataclass(frozen=True)
class FrameSet:
    """Some frames of one rendition, (n,) ascending source frames."""

    rendition: Rendition
    frames: IntArray


@dataclass(frozen=True)
class Clip:
    """A sample and the source frames of its slots, (T,) ascending; no features yet."""

    sample: Sample
    sentence: str
    """What is asked of it: its own sentence, unless an evaluation shuffled them."""
    frames: IntArray
    rendition: Rendition | None = None
    """None: the evaluation's."""


def draw_crops(slots: IntArray, draws: FloatArray) -> IntArray:
    """Which slots the temporal crop leaves of n clips: first slot and the one after the last (n, 2).

    ``slots`` (n, 3): how many there are, first and last slot in the moment. ``draws`` (n, 3): uniform in [0, 1); whether to
    crop, and how much of what lies before and after the moment.
    """
    count, first, last = slots.T
    cropped = draws[:, 0] < 0.5
    start = np.floor(draws[:, 1] * first).astype(np.int64)
    after = count - last - 1
    end = np.where(after > 0, last + 2 + np.floor(draws[:, 2] * after).astype(np.int64), count)
    return np.stack([np.where(cropped, start, 0), np.where(cropped, end, count)], axis=1)

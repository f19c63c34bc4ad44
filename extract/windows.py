"""Assemble decoded frames of a rendition into windows, for encoders that take several frames at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..cache.sampling import IntArray


class Windows:
    """Takes the frames of one rendition in order, and returns complete windows in order.

    ``frames`` (n, window): source frames of every window, see `sampling.neighbours`. ``decoded``: the source frames
    that are decoded, ascending.
    """

    def __init__(self, frames: IntArray, decoded: IntArray) -> None:
        self.places = np.searchsorted(decoded, frames)
        self.given = 0
        self._kept: dict[int, Tensor] = {}

    def add(self, start: int, frames: Tensor) -> tuple[int, Tensor]:
        """Add frames (m, height, width, 3) from decoded position ``start`` on.

        Returns the index of the first newly complete window, and these windows (k, window, height, width, 3).
        """
        self._kept |= {start + i: frame for i, frame in enumerate(frames.clone())}  # the decoder overwrites its memory
        first, end = self.given, int((self.places.max(1) < start + len(frames)).sum())
        windows = [torch.stack([self._kept[int(place)] for place in row]) for row in self.places[first:end]]
        self.given = end
        needed = self.places[end:].min(initial=start + len(frames))
        self._kept = {place: frame for place, frame in self._kept.items() if place >= needed}
        return first, torch.stack(windows) if windows else frames.new_zeros(0, self.places.shape[1], *frames.shape[1:])

"""Collect frames of many videos in batches of one shape and a fixed size, in bounded memory.

Every batch has the same number of frames; incomplete ones are filled up with zeros. So the last bits of a feature
depend on the batch size at most, and never on the other frames of the batch or their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .encoders.backbone import Backbone

WAITING_BATCHES = 4
"""Frames that may wait for others of their shape, in batches."""


@dataclass(frozen=True)
class Piece:
    """Consecutive frames of one rendition of a video, within a batch."""

    owner: Any
    view: int
    start: int
    """Index of the first frame in the rendition."""
    at: int
    """Index of the first frame in the batch."""
    count: int


@dataclass
class FrameBatch:
    """Frames of one shape, and their owners. ``pixels``: (size, height, width, 3) float32 on the encoding device.

    For an encoder with a window: (size, window, height, width, 3).
    """

    pixels: Tensor
    pieces: list[Piece] = field(default_factory=list)
    filled: int = 0

    @classmethod
    def empty(cls, size: int, shape: torch.Size, device: torch.device) -> FrameBatch:
        return cls(torch.zeros(size, *shape, device=device))

    @property
    def room(self) -> int:
        return len(self.pixels) - self.filled

    def add(self, owner: Any, view: int, start: int, frames: Tensor) -> None:
        self.pieces.append(Piece(owner, view, start, self.filled, len(frames)))
        self.pixels[self.filled : self.filled + len(frames)] = frames
        self.filled += len(frames)

    def tensor(self) -> Tensor:
        """Input of the encoders: (size, 3, height, width) or (size, window, 3, height, width), channels-last."""
        return self.pixels.movedim(-1, -3)


class Mixer:
    """Collects batches of ``size`` frames of one shape. The frames of a rendition keep their order."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.size, self.device = size, device
        self._open: dict[torch.Size, FrameBatch] = {}  # oldest first

    @classmethod
    def of(cls, backbone: Backbone, frames: int, device: torch.device) -> Mixer:
        """For batches of ``frames`` frames in all; a window counts all its frames."""
        return cls(max(1, frames // backbone.window), device)

    def add(self, owner: Any, view: int, start: int, frames: Tensor) -> Iterator[FrameBatch]:
        """Copy in frames (n, height, width, 3) on the mixer's device; yields the batches to encode now."""
        shape = frames.shape[1:]
        at = 0
        while at < len(frames):
            if shape not in self._open:
                self._open[shape] = FrameBatch.empty(self.size, shape, self.device)
            batch = self._open[shape]
            taken = frames[at : at + batch.room]
            batch.add(owner, view, start + at, taken)
            at += len(taken)
            if not batch.room:
                yield self._open.pop(shape)
        while sum(batch.filled for batch in self._open.values()) > WAITING_BATCHES * self.size:
            yield self._open.pop(next(iter(self._open)))

    def rest(self) -> Iterator[FrameBatch]:
        """The remaining, incomplete batches."""
        while self._open:
            yield self._open.pop(next(iter(self._open)))

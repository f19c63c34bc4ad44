"""Frames of many videos mixed to batches of one shape and one size, in bounded memory.

Every batch has the same number of frames, the last ones filled up with black where there are too few: the last bits of a
feature may depend on how many frames are encoded at once, and never on which ones, or in what order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .encoders.backbone import Backbone

WAITING_BATCHES = 4
"""About as many batches' worth of frames may wait for others of their shape."""


@dataclass(frozen=True)
class Piece:
    """Consecutive frames of one rendition of a video, within a batch."""

    owner: Any
    view: int
    start: int
    """Position of the first among the rendition's frames."""
    at: int
    """Position of the first in the batch."""
    count: int


@dataclass
class FrameBatch:
    """Frames of one shape, and whose they are. ``pixels`` (size, height, width, 3) float32, where they are encoded.

    For an encoder with a window (size, window, height, width, 3).
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
        """As the encoders want it: (size, 3, height, width), channels last in memory; with a window before the 3."""
        return self.pixels.movedim(-1, -3)


class Mixer:
    """Collects frames, ``size`` of one shape to a batch. The frames of a rendition leave in the order they came."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.size, self.device = size, device
        self._open: dict[torch.Size, FrameBatch] = {}  # the one that waits longest first

    @classmethod
    def of(cls, backbone: Backbone, frames: int, device: torch.device) -> Mixer:
        """For batches of ``frames`` frames, the windows of an encoder counted with all of theirs."""
        return cls(max(1, frames // backbone.window), device)

    def add(self, owner: Any, view: int, start: int, frames: Tensor) -> Iterator[FrameBatch]:
        """Copy frames (n, height, width, 3) on the mixer's device in; yields the batches that are to be encoded now."""
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
        """The batches that nothing more comes for."""
        while self._open:
            yield self._open.pop(next(iter(self._open)))

"""Encode batches of frames; a batch that does not fit the GPU's memory is split."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..errors import StvgError
from .encoders.backbone import Backbone
from .features import encode

log = logging.getLogger(__name__)

Levels = dict[str, Tensor]


class Encoding:
    """A backbone on a device. If a batch does not fit, it and later batches of its shape are encoded in halves."""

    def __init__(self, backbone: Backbone, device: torch.device, amp: str) -> None:
        self.backbone, self.device, self.amp = backbone, device, amp
        self._most: dict[torch.Size, int] = {}
        """Frame shape → number of frames encoded at once, for shapes of which a batch did not fit."""

    def __call__(self, frames: Tensor) -> Levels:
        """The levels of normalised frames (n, 3, H, W). Raises StvgError if a single frame does not fit."""
        most = self._most.get(frames.shape[1:], len(frames))
        try:
            parts = [self._encode(frames[at : at + most]) for at in range(0, len(frames), most)]
        except torch.OutOfMemoryError:
            self._halve(frames.shape[1:], most)
        else:
            return parts[0] if len(parts) == 1 else {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
        return self(frames)

    def _encode(self, frames: Tensor) -> Levels:
        return encode(self.backbone, frames, self.device, self.amp)

    def _halve(self, shape: torch.Size, most: int) -> None:
        height, width = shape[-2:]
        if most == 1:
            raise StvgError(
                f"a frame of {width} x {height} does not fit the memory of {self.device}",
                effect="extraction stops; finished videos are kept",
                hint="use a smaller --resolution, a smaller backbone, or a GPU without other work",
            )
        torch.cuda.empty_cache()
        self._most[shape] = most // 2
        log.warning(
            "%d frames of %d x %d do not fit the memory of %s: continuing with %d at once",
            *(most, width, height, self.device, most // 2),
        )

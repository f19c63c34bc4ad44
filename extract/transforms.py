"""Prepare pixels for the encoders: apply a View's geometry to frames, and normalise them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..cache.view import View
from .render import render


def apply_view(frames: NDArray[np.uint8], view: View, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Frames (n, H, W, 3) uint8 RGB of the source size → (n, 3, view.height, view.width) float32, normalised.

    See `render`. Raises ValueError if the size of the frames is not the view's source size.
    """
    pixels = np.empty((len(frames), view.height, view.width, 3), dtype=np.float32)
    for frame, out in zip(frames, pixels, strict=True):
        render(frame, view, mean, std, out)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels-last layout: encoders are faster

"""Pixels as the encoders want them: a View's geometry applied to frames, then normalised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..cache.schema import View


def apply_view(frames: NDArray[np.uint8], view: View, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Frames (n, H, W, 3) uint8 RGB of the source size → (n, 3, view.height, view.width) float32, normalised.

    Bilinear between pixel centres without antialiasing, as the field's transforms do it; a crop is cut out of the resized
    picture, and resized again.
    Raises ValueError for frames of another size than the view's source.
    """
    if frames.shape[1:] != (view.source_height, view.source_width, 3):
        raise ValueError(
            f"frames are {frames.shape[1:]}, the view expects {(view.source_height, view.source_width, 3)}"
        )
    # channels_last all the way: the source already is, and the encoders are faster for it
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
    if crop := view.crop:
        pixels = resize(pixels, crop.height, crop.width)
        pixels = pixels[:, :, crop.top : crop.top + crop.cut_height, crop.left : crop.left + crop.cut_width]
    pixels = resize(pixels, view.height, view.width)
    scale, shift = per_channel(std) * 255, per_channel(mean) * 255
    return pixels.sub(shift).div_(scale)


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    if pixels.shape[2:] == (height, width):
        return pixels
    return F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)


def per_channel(values: Sequence[float]) -> Any:
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)

"""Apply a View's geometry to the pixels of one frame, in NumPy.

Every step rounds each number once, independent of the number of threads, the other frames and the vector instructions.
So a frame gives the same bits on every machine. (PyTorch's `interpolate` does not: its last bits depend on the thread
count.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cache.view import View

Picture = NDArray[np.float32]


def render(frame: NDArray[np.uint8], view: View, mean: Sequence[float], std: Sequence[float], out: Picture) -> None:
    """A frame (H, W, 3) uint8 RGB of the source size → ``out`` (view.height, view.width, 3) float32, normalised.

    Bilinear between pixel centres without antialiasing, as in the papers' code. A crop is cut out of the resized
    picture, and resized again. Raises ValueError if the frame's size is not the view's source size.
    """
    if frame.shape != (view.source_height, view.source_width, 3):
        raise ValueError(f"frames are {frame.shape}, the view expects {(view.source_height, view.source_width, 3)}")
    pixels: NDArray[Any] = frame
    if crop := view.crop:
        pixels = resize(pixels, crop.height, crop.width)
        pixels = pixels[crop.top : crop.top + crop.cut_height, crop.left : crop.left + crop.cut_width]
    pixels = resize(pixels, view.height, view.width)
    np.subtract(pixels, np.float32(255) * np.asarray(mean, np.float32), out=out)
    out /= np.float32(255) * np.asarray(std, np.float32)


def resize(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """(H, W, 3) → (height, width, 3) float32; the input itself if it has that size."""
    if pixels.shape[:2] == (height, width):
        return pixels
    above, below, down = neighbours(pixels.shape[0], height)
    left, right, across = neighbours(pixels.shape[1], width)
    flat = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    rows = _between(flat[above].astype(np.float32), flat[below].astype(np.float32), down[:, None])
    columns = _between(rows.take(_values(left), axis=1), rows.take(_values(right), axis=1), np.repeat(across, 3))
    return columns.reshape(height, width, 3)


def _between(low: Picture, high: Picture, share: Picture) -> Picture:
    high -= low
    high *= share
    high += low
    return high


def _values(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices, within a row, of the three values of each column."""
    return (columns[:, None] * 3 + np.arange(3)).ravel()


@lru_cache(64)
def neighbours(size: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Picture]:
    """For each output position, the two input positions around it, and its distance from the first, in [0, 1)."""
    scale, half = np.float32(size) / np.float32(wanted), np.float32(0.5)
    at = np.maximum(scale * (np.arange(wanted, dtype=np.float32) + half) - half, np.float32(0))
    low = np.minimum(at.astype(np.int64), size - 1)
    return low, np.minimum(low + 1, size - 1), at - low.astype(np.float32)

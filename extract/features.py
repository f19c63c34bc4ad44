"""Compute the stored features of a video: maps of its frames, and regions of its targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..cache.arrays import array_name, regions_of
from ..cache.sampling import FloatArray, IntArray
from ..cache.schema import Recipe
from ..cache.view import View
from ..precision import computing_in
from .encoders.backbone import Backbone


@torch.inference_mode()
def encode(backbone: Backbone, pixels: Tensor, device: torch.device, amp: str = "none") -> dict[str, Tensor]:
    """All levels of a batch: (n, C, h, w) float32 each. ``amp``: precision of the encoder; see `computing_in`."""
    layout = torch.channels_last if pixels.dim() == 4 else torch.preserve_format
    with computing_in(amp, device):
        levels = backbone(pixels.to(device, non_blocking=True, memory_format=layout))
    return {name: level.float() for name, level in levels.items()}  # roi_align needs maps and boxes of one type


@torch.inference_mode()
def select_levels(
    levels: dict[str, Tensor], recipe: Recipe, regions: Regions, mapped: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """The stored arrays of a block of frames, channels last: maps (m, h, w, C), regions (r, S², C).

    ``mapped`` (n,): the m frames whose maps are stored; of the others only regions are stored.
    """
    boxes = torch.from_numpy(np.concatenate([regions.slots[:, None], regions.corners], axis=1)).float()
    stored = {}
    for level in recipe.levels:
        maps = levels[level.name]
        if recipe.kept[level.name] == "maps":
            if mapped.any():
                stored[level.name] = to_host(rows_at(maps, mapped).permute(0, 2, 3, 1))
        else:
            from torchvision.ops import roi_align  # takes as long to load as torch itself

            crops = roi_align(maps, boxes.to(maps), recipe.roi_size, 1 / level.stride, 2, aligned=True)
            stored[regions_of(level.name)] = to_host(crops.flatten(2).transpose(1, 2))
    return stored


@torch.inference_mode()
def sums_of_frames(maps: Tensor) -> NDArray[np.float64]:
    """Sum and sum of squares over the cells of each frame's map: (n, C, h, w) → (n, 2, C).

    The bits of a frame's sums do not depend on the other frames.
    """
    cells = maps.permute(0, 2, 3, 1).flatten(1, 2)
    blocks = cells.split(1 if maps.device.type == "cpu" else len(cells))  # one frame fits a core's cache
    found = [torch.stack([b.sum(1), b.square().sum(1)], dim=1) for b in (block.double() for block in blocks)]
    return torch.cat(found).cpu().numpy()


def rows_at(maps: Tensor, mapped: NDArray[np.bool_]) -> Tensor:
    """The selected frames of a block; the block itself if all are selected."""
    return maps if mapped.all() else maps[torch.from_numpy(mapped).to(maps.device)]


def to_host(values: Tensor) -> NDArray[Any]:
    """Values as a contiguous float32 array in CPU memory."""
    return values.contiguous().float().cpu().numpy()


@dataclass(frozen=True)
class Regions:
    """Regions of one video in one view, in stored order."""

    slots: IntArray
    """(R,) index of each region's frame in the grid, or in the present block; ascending."""
    corners: FloatArray
    """(R, 4) xyxy in pixels of the rendition."""

    @classmethod
    def of(cls, regions: FloatArray, frames: IntArray, view: View) -> Regions:
        """From regions (R, 5; see `needs`), ascending by frame; their frames must be among ``frames``."""
        fractions = view.to_fractions(regions[:, 1:])
        half = fractions[:, 2:] / 2
        corners = np.concatenate([fractions[:, :2] - half, fractions[:, :2] + half], axis=1)
        corners *= [view.width, view.height] * 2
        return cls(np.searchsorted(frames, regions[:, 0].astype(np.int64)), corners)

    def within(self, start: int, count: int) -> Regions:
        """The regions of positions ``start`` … ``start + count - 1``, with slots counted from ``start``."""
        keep = (self.slots >= start) & (self.slots < start + count)
        return Regions(self.slots[keep] - start, self.corners[keep])


def layout(recipe: Recipe, views: list[View], frames: int, regions: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every feature array of a unit, rows first, in the order of declaration.

    A unit without frames has no maps.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for k, view in enumerate(views):
        for level in recipe.levels:
            if recipe.kept[level.name] == "maps":
                if frames:
                    shapes[array_name(level.name, k)] = (frames, *level.cells(view), level.channels)
            else:
                shapes[array_name(regions_of(level.name), k)] = (regions, recipe.roi_size**2, level.channels)
    return shapes

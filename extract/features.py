"""What is stored of a video, and how it is computed: maps of its frames, regions of its targets, in the stored dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from ..cache.arrays import array_name, regions_of
from ..cache.sampling import IntArray, Sampling, slots_in
from ..cache.schema import Recipe, Sample
from ..cache.view import View
from ..precision import computing_in
from .encoders.backbone import Backbone


@torch.inference_mode()
def encode(backbone: Backbone, pixels: Tensor, device: torch.device, amp: str = "none") -> dict[str, Tensor]:
    """All levels of a batch: (n, C, h, w) float32 each. ``amp``: what the encoder computes in; see `computing_in`."""
    layout = torch.channels_last if pixels.dim() == 4 else torch.preserve_format
    with computing_in(amp, device):
        levels = backbone(pixels.to(device, non_blocking=True, memory_format=layout))
    return {name: level.float() for name, level in levels.items()}  # regions are cut with boxes of the maps' own type


@torch.inference_mode()
def select_levels(levels: dict[str, Tensor], recipe: Recipe, regions: Regions) -> dict[str, NDArray[Any]]:
    """What the recipe stores of a block, channels last, by array: maps (n, h, w, C), regions (r, S², C)."""
    boxes = torch.from_numpy(np.concatenate([regions.slots[:, None], regions.corners], axis=1)).float()
    stored = {}
    for level in recipe.levels:
        maps = levels[level.name]
        if recipe.kept[level.name] == "maps":
            stored[level.name] = to_host(maps.permute(0, 2, 3, 1))
        else:
            crops = roi_align(maps, boxes.to(maps), recipe.roi_size, 1 / level.stride, 2, aligned=True)
            stored[regions_of(level.name)] = to_host(crops.flatten(2).transpose(1, 2))
    return stored


@torch.inference_mode()
def sums_of_frames(maps: Tensor) -> NDArray[np.float64]:
    """Sum and sum of squares over the cells of each frame's map: (n, C, h, w) → (n, 2, C).

    A frame's are the same bits, whichever frames are beside it.
    """
    cells = maps.permute(0, 2, 3, 1).flatten(1, 2)
    blocks = cells.split(1 if maps.device.type == "cpu" else len(cells))  # one frame at a time stays in a core's memory
    found = [torch.stack([b.sum(1), b.square().sum(1)], dim=1) for b in (block.double() for block in blocks)]
    return torch.cat(found).cpu().numpy()


def to_host(values: Tensor) -> NDArray[Any]:
    """As a contiguous float32 array."""
    return values.contiguous().float().cpu().numpy()


@dataclass(frozen=True)
class Regions:
    """The annotated boxes of one video whose features are stored, ordered by frame, then target. R regions."""

    targets: list[str]
    target_index: IntArray
    """(R,) into ``targets``."""
    frames: IntArray
    """(R,) source frames."""
    slots: IntArray
    """(R,) positions in the video's grid, or in the block at hand."""
    corners: NDArray[np.float64]
    """(R, 4) xyxy in pixels of the rendition."""

    @classmethod
    def of(cls, samples: list[Sample], grid: IntArray, recipe: Recipe, view: View) -> Regions:
        """Every distinct (target, grid frame inside one of its moments and segments) of a video."""
        targets = sorted({s.target_id for s in samples}) if "regions" in recipe.kept.values() else []
        found: dict[tuple[int, int], NDArray[np.float64]] = {}
        for sample in samples if targets else []:
            frames = sample.frames(Sampling(recipe.fps, max_frames=len(grid)))
            frames = frames[slots_in(frames, sample.moment)]
            index = targets.index(sample.target_id)
            boxes = sample.boxes_at(frames)
            found |= {(int(f), index): box for f, box in zip(frames, boxes, strict=True) if np.isfinite(box).all()}
        keys = sorted(found)
        frames = np.array([k[0] for k in keys], dtype=np.int64)
        fractions = view.to_fractions(np.array([found[k] for k in keys]).reshape(-1, 4))
        half = fractions[:, 2:] / 2
        corners = np.concatenate([fractions[:, :2] - half, fractions[:, :2] + half], axis=1)
        corners *= [view.width, view.height] * 2
        slots = np.searchsorted(grid, frames)
        return cls(targets, np.array([k[1] for k in keys], dtype=np.int64), frames, slots, corners)

    def within(self, start: int, count: int) -> Regions:
        """The regions of grid positions ``start`` … ``start + count - 1``, with slots counted from ``start``."""
        keep = (self.slots >= start) & (self.slots < start + count)
        return Regions(
            self.targets, self.target_index[keep], self.frames[keep], self.slots[keep] - start, self.corners[keep]
        )


def layout(recipe: Recipe, views: list[View], frames: int, regions: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of features of a unit, rows first, in the order they are declared."""
    shapes: dict[str, tuple[int, ...]] = {}
    for k, view in enumerate(views):
        for level in recipe.levels:
            if recipe.kept[level.name] == "maps":
                shapes[array_name(level.name, k)] = (frames, *level.cells(view), level.channels)
            else:
                shapes[array_name(regions_of(level.name), k)] = (regions, recipe.roi_size**2, level.channels)
    return shapes

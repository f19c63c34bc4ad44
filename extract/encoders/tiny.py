"""A small untrained visual encoder for synthetic videos (demo, tests): colour, texture and position."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UsageError
from ...weights import random_values
from .contract import Backbone, Origin
from .kinds import EncoderRequest


class Tiny(nn.Module):
    """Linearly readable features: six rectified colour opponents (zero on grey), brightness, darkness and edges.

    They are averaged over small cells. Seeded random convolutions add mixtures of them. C5 also has the 2 x 2 layout
    inside its cell, and the position of the cell.
    """

    levels = (("c3", 34, 4), ("c4", 50, 8), ("c5", 92, 16))
    mean, std = (0.45, 0.45, 0.45), (0.27, 0.27, 0.27)
    MIXTURES = (24, 40, 48)
    CUES = 10

    def __init__(self, seed: int) -> None:
        super().__init__()
        opponents = [[1, -0.5, -0.5], [-0.5, 1, -0.5], [-0.5, -0.5, 1], [0.5, 0.5, -1], [0.5, -1, 0.5], [-1, 0.5, 0.5]]
        self.register_buffer("opponents", torch.tensor(opponents)[:, :, None, None])
        width = self.CUES
        for level, mixtures in enumerate(self.MIXTURES):
            kernel = random_values((mixtures, width, 3, 3), seed, f"tiny {level}")
            self.register_parameter(f"mix{level}", nn.Parameter(kernel * math.sqrt(2 / (9 * width))))
            width = mixtures

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        levels = self.early(pixels)
        return {**levels, "c5": self.last_stage(levels["c4"])}

    def cues(self, pixels: Tensor) -> Tensor:
        """Colour, edge and brightness features of every pixel: (n, 10, H, W)."""
        colour = F.conv2d(pixels, self.get_buffer("opponents")).relu()
        light = pixels.mean(1, keepdim=True)
        edges = (light - F.avg_pool2d(light, 3, 1, 1)).abs() * 3
        return torch.cat([colour, edges, (light - 1).relu() * 2, (-light - 1).relu() * 2, light * 0.3], dim=1)

    def early(self, pixels: Tensor) -> dict[str, Tensor]:
        # Cells at the right and bottom may be incomplete; they average the pixels they have.
        fine = F.avg_pool2d(self.cues(pixels), 4, ceil_mode=True, count_include_pad=False)
        middle = F.avg_pool2d(fine, 2, ceil_mode=True, count_include_pad=False)
        mixed3 = F.conv2d(fine, self.get_parameter("mix0"), padding=1).relu()
        mixed4 = F.conv2d(mixed3, self.get_parameter("mix1"), stride=2, padding=1).relu()
        return {"c3": torch.cat([fine, mixed3], dim=1), "c4": torch.cat([middle, mixed4], dim=1)}

    def last_stage(self, c4: Tensor) -> Tensor:
        middle, mixed4 = c4[:, : self.CUES], c4[:, self.CUES :]
        mixed5 = F.conv2d(mixed4, self.get_parameter("mix2"), stride=2, padding=1).relu()
        even = F.pad(middle, (0, middle.shape[3] % 2, 0, middle.shape[2] % 2))
        layout = F.pixel_unshuffle(even, 2) * 2
        n, _, h, w = layout.shape
        rows, columns = (torch.arange(size, device=c4.device) for size in (h, w))
        y = 3 * ((rows + 0.5) * 2 / h - 1)[None, None, :, None].expand(n, 2, -1, w)
        x = 3 * ((columns + 0.5) * 2 / w - 1)[None, None, None, :].expand(n, 2, h, -1)
        return torch.cat([layout, mixed5, y, x], dim=1)

    def drop_early_stages(self) -> None:
        """Does nothing: the early stages have few weights."""


def build(asked: EncoderRequest) -> Backbone:
    if asked.weights not in (None, "random"):
        raise UsageError(
            "backbone tiny has no weights to load", found=asked.weights, hint="leave --backbone-weights out"
        )
    return Backbone(Tiny(asked.seed).to(asked.device), Origin("tiny", f"random, seed {asked.seed}", b"tiny"))

"""Any visual encoder with finer detail in its last level: ``fine:lite0``.

A head reads one level. The last has the meanings, the one before shows where small things are. Here every cell of the
last level also holds the cells of the level before that cover the same pixels: more channels, equally many cells.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import EncoderError
from ..contract import Backbone, Origin

PREFIX = "fine:"


class Fine(nn.Module):
    """The levels of an encoder; the last has the channels of the one before appended, ``ratio``² times."""

    def __init__(self, base: Backbone) -> None:
        super().__init__()
        if len(base.levels) < 2 or base.levels[-1].stride % base.levels[-2].stride:
            raise EncoderError(
                f"{base.name} has no level whose cells divide those of its last",
                expected="two levels or more, the last of a stride that is a multiple of the one before",
                found=", ".join(map(str, base.levels)),
                hint=f"use {base.name} itself",
            )
        self.base = base
        self.before, last = base.levels[-2:]
        self.last, self.ratio = last.name, last.stride // self.before.stride
        channels = last.channels + self.ratio**2 * self.before.channels
        self.levels = (*base.levels[:-1], replace(last, channels=channels))
        self.mean, self.std, self.window = base.mean, base.std, base.window  # the base pads and crops itself
        if base.has_last_stage:  # `Backbone.offers` looks for these three
            self.early, self.last_stage, self.drop_early_stages = base.early, self.late, base.drop_early_stages

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        maps = self.base(pixels)
        return {**maps, self.last: self.joined(maps[self.last], maps[self.before.name])}

    def joined(self, last: Tensor, before: Tensor) -> Tensor:
        """Maps (n, C, h, w) of the last level and (n, c, H, W) of the one before → (n, C + ratio² · c, h, w)."""
        h, w = last.shape[-2:]
        bottom, right = h * self.ratio - before.shape[-2], w * self.ratio - before.shape[-1]
        before = F.pad(before, (0, right, 0, bottom)) if bottom or right else before
        return torch.cat([last, F.pixel_unshuffle(before, self.ratio)], dim=1)

    def late(self, maps: Tensor) -> Tensor:
        """The last level from the maps of the level before."""
        return self.joined(self.base.last_stage(maps), maps)

    def trained(self) -> list[nn.Parameter]:
        return self.base.trained()

    def folded(self) -> Fine:
        base = self.base
        return Fine(
            Backbone(base.encoder.folded() if base.offers("folded") else base.encoder, base.origin, base.sha256)
        )


def refined(base: Backbone) -> Backbone:
    """An encoder with finer detail in its last level. Raises EncoderError where its levels do not allow it."""
    return Backbone(Fine(base), Origin(PREFIX + base.name, base.source, base.origin.extra + PREFIX.encode()))

"""Move blocks of frames from a decoder's memory to the encoding device, and render them there.

If the encoder runs on a CPU, the decoders render. A GPU gets frames as decoded, uint8, and resizes and normalises them
itself: a quarter of the bytes is transferred for every stored view, and the decoders only decode.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cache.schema import Recipe, Video
from ..cache.view import View
from .render import neighbours
from .video.decoders import Block, Settings

Places = tuple[Tensor, Tensor, Tensor]


class Renderer:
    """`render.render` on a device. Every step rounds each number once, as there, so the bits are the same."""

    def __init__(self, device: torch.device, mean: Sequence[float], std: Sequence[float]) -> None:
        self.device = device
        self.offset, self.scale = (
            torch.from_numpy(np.float32(255) * np.asarray(values, np.float32)).to(device) for values in (mean, std)
        )
        self._places: dict[tuple[int, int], Places] = {}

    def __call__(self, frames: Tensor, view: View) -> Tensor:
        """Frames (n, H, W, 3) uint8 of the view's source size → (n, view.height, view.width, 3) float32, normalised."""
        pixels = frames
        if crop := view.crop:
            pixels = self.resize(pixels, crop.height, crop.width)
            pixels = pixels[:, crop.top : crop.top + crop.cut_height, crop.left : crop.left + crop.cut_width]
        pixels = self.resize(pixels, view.height, view.width)
        return pixels.float().sub(self.offset).div_(self.scale)

    def resize(self, pixels: Tensor, height: int, width: int) -> Tensor:
        """(n, H, W, 3) → (n, height, width, 3) float32; the input itself if it has that size."""
        if pixels.shape[1:3] == (height, width):
            return pixels
        above, below, down = self.places(pixels.shape[1], height)
        left, right, across = self.places(pixels.shape[2], width)
        rows = _between(pixels[:, above].float(), pixels[:, below].float(), down[:, None, None])
        return _between(rows[:, :, left], rows[:, :, right], across[:, None])

    def places(self, size: int, wanted: int) -> Places:
        """See `render.neighbours`."""
        if (size, wanted) not in self._places:
            low, high, share = (torch.from_numpy(a).to(self.device) for a in neighbours(size, wanted))
            self._places[size, wanted] = low, high, share
        return self._places[size, wanted]


def _between(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    return high.sub_(low).mul_(share).add_(low)


class Intake:
    """Takes the decoders' blocks and returns rendered frames on the device."""

    def __init__(self, device: torch.device, mean: Sequence[float], std: Sequence[float]) -> None:
        self.device, self.raw = device, device.type != "cpu"
        """Whether decoders send frames as decoded (uint8), to be rendered on the device."""
        self.render = Renderer(device, mean, std) if self.raw else None
        self.stream = torch.cuda.Stream(device) if self.raw and torch.cuda.is_available() else None

    def settings(self, settings: Settings, recipe: Recipe, videos: Iterable[Video]) -> Settings:
        """The decoding settings, with slots that are large enough for these videos."""
        if not self.raw:
            return settings.fitting(recipe)
        return settings.for_raw_frames(max((v.width * v.height * 3 for v in videos), default=1))

    def __call__(self, block: Block) -> list[Tensor]:
        """Per view (n, height, width, 3) float32 on the device.

        On a CPU the tensors are views of the decoder's memory. On a GPU the call returns once the frames are copied, so
        that the decoder may overwrite them; a separate stream copies them during the encoding.
        """
        if self.render is None:
            return [torch.from_numpy(pixels) for pixels in block.pixels]
        frames = self.copied(block.pixels[0])
        return [self.render(frames, view) for view in block.job.views]

    def copied(self, frames: np.ndarray[Any, Any]) -> Tensor:
        source = torch.from_numpy(frames)
        with torch.cuda.stream(self.stream) if self.stream else nullcontext():
            found = source.to(self.device, non_blocking=True)
        if self.stream:
            self.stream.synchronize()
            found.record_stream(torch.cuda.current_stream(self.device))
        return found

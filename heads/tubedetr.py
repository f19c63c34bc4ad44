"""TubeDETR, the baseline: one candidate tube, every stride-th slot encoded, and a fast branch for the slots between."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..cache.batches.batch import Inputs, Targets
from .decoder import Stream
from .layers import time_code
from .model import Output, TubeHead
from .model_config import FeatureFacts, TubeDETRConfig
from .precision import call


class TubeDETR(TubeHead):
    """One tube per sentence, from cached features of one level."""

    def __init__(self, config: TubeDETRConfig, features: FeatureFacts) -> None:
        super().__init__(config, features, queries=1)
        d = config.d
        self.config = config
        if config.fast:
            self.fast_encoder, self.fast_residual = nn.Linear(d, d), nn.Linear(d, d)
            nn.init.zeros_(self.fast_residual.weight)  # memory starts equal to the encoder's output
            nn.init.zeros_(self.fast_residual.bias)

    def forward(self, inputs: Inputs, targets: Targets | None = None) -> Output:
        """The tube of every sample, from all decoder layers. ``targets`` are not used."""
        memory, position, padding = self.encode(inputs)
        T = inputs.frame_padding.shape[1]
        query = self.query_embed.weight[None, :, None] + time_code(T, self.config.d, memory.device)
        stream = Stream(query, inputs.frame_padding, memory.flatten(0, 1), position, padding)
        return Output(self.read(*call(self.decoder, [stream])))

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Memory of every stride-th slot, reused for the slots up to the next one; see `TubeHead.remember`."""
        T, stride = inputs.frame_padding.shape[1], self.config.stride
        slow = inputs if stride == 1 else every(inputs, stride, keep_frames=self.config.fast)
        visual = self.project(slow)  # (U, h·w, d)
        words = self.resizer(inputs.tokens)[:, None].expand(-1, slow.frame_index.shape[1], -1, -1)
        memory, position, padding = self.remember(visual[slow.frame_index], words, slow)
        if stride > 1:
            nearest = torch.arange(T, device=memory.device) // stride
            memory = memory[:, nearest]
        if self.config.fast:
            memory = self.correct(memory, visual, inputs.frame_index)
        return memory, position, padding

    def correct(self, memory: Tensor, visual: Tensor, frame_index: Tensor) -> Tensor:
        """The fast branch: correct the visual part of reused memory (B, T, S, d) with the features of each slot's own
        frame.

        ``visual`` (U, h·w, d): projected tokens of the distinct frames. Words are unchanged.
        """
        own = self.fast_encoder(visual)[frame_index]  # (B, T, h·w, d)
        seen, words = memory.split([own.shape[2], memory.shape[2] - own.shape[2]], dim=2)
        return torch.cat([seen + self.fast_residual(seen + own), words], dim=2)


def every(inputs: Inputs, stride: int, keep_frames: bool) -> Inputs:
    """Every stride-th slot. Unless ``keep_frames``, frames that no such slot uses are dropped, to save computation."""
    index, padding = inputs.frame_index[:, ::stride], inputs.frame_padding[:, ::stride]
    if keep_frames:
        return replace(inputs, frame_index=index, frame_padding=padding)
    rows, index = index.unique(return_inverse=True)
    maps, cells = inputs.maps[rows], inputs.cell_padding[rows]
    return replace(inputs, maps=maps, cell_padding=cells, frame_index=index, frame_padding=padding)

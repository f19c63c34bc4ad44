"""The encoder: spatial attention over cells, words and a frame token of each frame; temporal attention over the frame
tokens of a video and a video token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..attention import hidden
from ..encoder import EncoderLayer
from ..layers import Stack, time_code


class TokenEncoder(Stack):
    """Alternating spatial and temporal layers. A spatial layer reads the frame tokens of the temporal layer before."""

    def __init__(self, d: int, heads: int, ffn: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.spatial_layers = nn.ModuleList(EncoderLayer(d, heads, ffn, dropout) for _ in range(layers))
        self.temporal_layers = nn.ModuleList(EncoderLayer(d, heads, ffn, dropout) for _ in range(layers))
        self.frame_cls, self.video_cls = nn.Embedding(1, d), nn.Embedding(1, d)
        self.local_pos_embed = nn.Embedding(1, d)

    def forward(
        self, tokens: Tensor, position: Tensor, padding: Tensor, frame_padding: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """tokens (B, T, S, d), position (B, S, d) shared by all frames of a video, padding (B, S), frame_padding (B,
        T).

        Returns memory (B, T, S, d), frame tokens (B, T, d) and the video token (B, d). Rows of padded frames are
        meaningless.
        """
        B, T, S, d = tokens.shape
        frame = self.frame_cls.weight.to(tokens.dtype).expand(B, T, d)
        video = self.video_cls.weight.to(tokens.dtype).expand(B, 1, d)
        position = torch.cat([self.local_pos_embed.weight.expand(B, 1, d), position], dim=1).to(self.product_type)
        padding = torch.cat([padding.new_zeros(B, 1), padding], dim=1).repeat_interleave(T, 0, output_size=B * T)
        hides = hidden(padding, self.product_type)
        times = time_code(1 + T, d, tokens.device)[None].to(self.product_type)  # the video token comes first
        absent = hidden(torch.cat([frame_padding.new_zeros(B, 1), frame_padding], dim=1), self.product_type)
        x = tokens.flatten(0, 1)
        for spatial, temporal in zip(self.spatial_layers, self.temporal_layers, strict=True):
            x = torch.cat([frame.reshape(B * T, 1, d).to(x.dtype), x], dim=1)
            own, x = self.run(spatial, x, position, hides).split([1, S], dim=1)
            clip = torch.cat([video.to(own.dtype), own.view(B, T, d)], dim=1)
            video, frame = self.run(temporal, clip, times, absent).split([1, T], dim=1)
        return x.unflatten(0, (B, T)), frame, video[:, 0]

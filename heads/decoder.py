"""Queries → tubes. Stream 1 decodes N candidate tubes over all frames; stream 2, in training only, decodes the annotated
tube from its own regions. Both may use the same layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Attention
from .dropout import Dropout
from .feed_forward import feed_forward
from .layers import Stack


class DecoderLayer(nn.Module):
    """Temporal self-attention per query, then cross-attention to the same frame's memory, then a feed-forward layer.

    The published weights have norms 1, 3 and 4; the names are kept.
    """

    def __init__(self, d: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(d, heads, dropout)
        self.cross_attn_image = Attention(d, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(d, ffn), nn.Linear(ffn, d)
        self.norm1, self.norm3, self.norm4 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        keys: Tensor,
        values: Tensor,
        memory_padding: Tensor | None,
        frame_padding: Tensor,
        of_frame: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x, position (B, N, T, d); keys and values of every frame's memory (B·T, S, d); paddings (B·T, S), (B, T).

        ``of_frame``: the position with which a query looks at its frame's memory, where it is another one.
        Returns (B, N, T, d) and the temporal attention (B, N, T, T), rows = queries.
        """
        B, N, T, _ = x.shape
        padding = frame_padding[:, None].expand(-1, N, -1).flatten(0, 1)
        update, weights = self.self_attn.within_and_weights(x.flatten(0, 1), position.flatten(0, 1), padding)
        x = self.norm1(x + self.dropout(update.unflatten(0, (B, N))))

        per_frame = (x + (position if of_frame is None else of_frame)).transpose(1, 2).flatten(0, 1)  # (B·T, N, d)
        update = self.cross_attn_image(per_frame, keys, values, memory_padding)
        x = self.norm3(x + self.dropout(update.unflatten(0, (B, T)).transpose(1, 2)))
        x = self.norm4(x + self.dropout(feed_forward(x, self.linear1, self.linear2, self.dropout.p, self.training)))
        return x, weights.unflatten(0, (B, N))


class Decoder(Stack):
    """A stack of decoder layers and one final norm, applied to every layer's output."""

    def __init__(self, d: int, heads: int, ffn: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(d, heads, ffn, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(d)

    def forward(
        self,
        position: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        memory_padding: Tensor | None,
        frame_padding: Tensor,
        layers: nn.ModuleList | None = None,
        of_frame: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """position (B, N, T, d): query embedding plus time code; content starts at zero. Others as in DecoderLayer.

        ``layers`` replaces this decoder's own (the unshared second stream of table VIII); the final norm stays.
        Returns, per layer, normalised states (B, N, T, d) and temporal attention (B, N, T, T).
        """
        x = torch.zeros_like(position)
        values, keys = memory.flatten(0, 1), (memory + memory_position).flatten(0, 1)
        memory_padding = None if memory_padding is None else memory_padding.flatten(0, 1)
        states, attention = [], []
        for layer in self.layers if layers is None else layers:
            x, weights = self.run(layer, x, position, keys, values, memory_padding, frame_padding, of_frame)
            states.append(self.norm(x))
            attention.append(weights)
        return states, attention

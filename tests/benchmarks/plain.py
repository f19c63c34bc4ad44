"""The TubeDETR head as one writes it first: the yardstick of step.py.

Sequence-first, `nn.MultiheadAttention` that returns its weights in every layer, words repeated for every frame, one sample
at a time. Takes the weights of `stvg.heads.tubedetr.TubeDETR`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvg.cache.batches.batch import Targets
from stvg.heads.layers import MLP, sine_2d, time_code
from stvg.heads.model import LayerOutput, Output


class PlainEncoderLayer(nn.Module):
    def __init__(self, d: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(d, ffn), nn.Linear(ffn, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout, self.dropout1, self.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor) -> Tensor:
        """x, position (S, T, d), padding (T, S)."""
        placed = x + position
        x = self.norm1(x + self.dropout1(self.self_attn(placed, placed, x, key_padding_mask=padding)[0]))
        return self.norm2(x + self.dropout2(self.linear2(self.dropout(F.relu(self.linear1(x))))))


class PlainDecoderLayer(nn.Module):
    def __init__(self, d: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, heads, dropout)
        self.cross_attn_image = nn.MultiheadAttention(d, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(d, ffn), nn.Linear(ffn, d)
        self.norm1, self.norm3, self.norm4 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout, self.dropout1 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.dropout2, self.dropout3 = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        memory_padding: Tensor,
        of_frame: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x, position (T, 1, d); memory (S, T, d) → x and the temporal attention (1, T, T)."""
        placed = x + position
        update, weights = self.self_attn(placed, placed, x)
        x = self.norm1(x + self.dropout1(update))
        query = (x + (position if of_frame is None else of_frame)).transpose(0, 1)
        keys = memory + memory_position
        update, _ = self.cross_attn_image(query, keys, memory, key_padding_mask=memory_padding)
        x = self.norm3(x + self.dropout2(update.transpose(0, 1)))
        return self.norm4(x + self.dropout3(self.linear2(self.dropout(F.relu(self.linear1(x)))))), weights


class PlainResizer(nn.Module):
    def __init__(self, text_width: int, d: int, dropout: float) -> None:
        super().__init__()
        self.fc, self.layer_norm = nn.Linear(text_width, d), nn.LayerNorm(d, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor) -> Tensor:
        return self.dropout(self.layer_norm(self.fc(words)))


class PlainTubeDETR(nn.Module):
    """With stride and fast branch, as preset tubedetr."""

    def __init__(self, channels: int, text_width: int, stride: int, d: int, heads: int, ffn: int, layers: int) -> None:
        super().__init__()
        self.d, self.stride = d, stride
        self.input_proj = nn.Linear(channels, d)
        self.resizer = PlainResizer(text_width, d, 0.1)
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.layers = nn.ModuleList(PlainEncoderLayer(d, heads, ffn, 0.1) for _ in range(layers))
        self.decoder.layers = nn.ModuleList(PlainDecoderLayer(d, heads, ffn, 0.1) for _ in range(layers))
        self.decoder.norm = nn.LayerNorm(d)
        self.query_embed = nn.Embedding(1, d)
        self.bbox_embed, self.sted_embed = MLP([d, d, d, 4]), MLP([d, d, 2], dropout=0.5)
        self.fast_encoder, self.fast_residual = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, c5: Tensor, words: Tensor, targets: Targets) -> Output:
        """c5 (T, h, w, C) and token features (M, width) of one sample. ``targets`` are not looked at."""
        T = len(c5)
        visual = self.input_proj(c5).flatten(1, 2)  # (T, h·w, d)
        slow = visual[:: self.stride]
        padding = torch.zeros(len(slow), *c5.shape[1:3], dtype=torch.bool, device=c5.device)
        code = sine_2d(padding, self.d).flatten(1, 2).to(visual.dtype).transpose(0, 1)
        repeated = self.resizer(words)[:, None].repeat(1, len(slow), 1)
        x = torch.cat([slow.transpose(0, 1), repeated])  # (h·w + M, T / stride, d)
        position = torch.cat([code, torch.zeros_like(repeated)])
        padding = torch.zeros(len(slow), len(x), dtype=torch.bool, device=c5.device)
        for layer in self.encoder.layers:
            x = layer(x, position, padding)
        nearest = torch.arange(T, device=c5.device) // self.stride
        memory, position, padding = x[:, nearest], position[:, nearest], padding[nearest]
        own = self.fast_encoder(visual).transpose(0, 1)
        seen = memory[: len(own)]
        memory = torch.cat([seen + self.fast_residual(seen + own), memory[len(own) :]])
        return self.decode(memory, position, padding)

    def decode(self, memory: Tensor, position: Tensor, padding: Tensor) -> Output:
        times = time_code(memory.shape[1], self.d, memory.device)
        query_position = (self.query_embed.weight + times)[:, None]
        x, layers = torch.zeros_like(query_position), []
        for layer in self.decoder.layers:
            x, attention = layer(x, query_position, memory, position, padding)
            states = self.decoder.norm(x).transpose(0, 1)[:, None].float()  # (1, 1, T, d)
            with torch.autocast(states.device.type, enabled=False):
                boxes = self.bbox_embed(states).sigmoid()
                layers.append(LayerOutput(boxes, self.sted_embed(states), None, attention[:, None], states))
        return Output.of(layers)

"""The FSM head as one writes it first, as plain.py does TubeDETR's: the yardstick of step.py.

Words repeated for every frame before they meet, every projection a product of its own, attention that keeps its weights,
the second stream after the first, one sample at a time. Takes the weights of `stvg.heads.fsm.model.FSM`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from plain import PlainDecoderLayer, PlainEncoderLayer, PlainResizer
from torch import Tensor, nn

from stvg.cache.batches.batch import Targets
from stvg.cache.schema import Level
from stvg.heads.boxes import to_corners
from stvg.heads.fsm.model import LevelProjection
from stvg.heads.layers import MLP, roi_align, roi_sine, sine_2d, time_code
from stvg.heads.model import Anchor, LayerOutput, Output
from stvg.heads.model_config import ModelConfig

LINEARS = ("query", "self_key", "self_value", "cross_key", "cross_value", "self_out", "cross_out", "out")
FUSION_HEADS = 2


class PlainMatching(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        for name in LINEARS:
            setattr(self, name, nn.Linear(d, d))
        self.gates = nn.ModuleDict({k: nn.Linear(d, d) for k in ("self", "cross", "score", "value")})
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (T, Lx, d) and y (T, Ly, d), frame by frame → (T, Lx, d)."""
        d, g = x.shape[-1:], self.gates
        seen, other = F.layer_norm(x, d, eps=1e-6), F.layer_norm(y, d, eps=1e-6)
        own = self.self_out(self.attend(self.query(seen), self.self_key(seen), self.self_value(seen)))
        cross = self.cross_out(self.attend(self.query(seen), self.cross_key(other), self.cross_value(other)))
        mixed = g["self"](cross).sigmoid() * own + g["cross"](own).sigmoid() * cross
        return x + self.dropout(self.out(g["score"](mixed).sigmoid() * g["value"](mixed)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (FUSION_HEADS, -1)).transpose(1, 2) for t in (q, k, v))
        weights = self.dropout((q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1))
        return (weights @ v).transpose(1, 2).flatten(2)


class PlainFSM(nn.Module):
    """As preset paper."""

    def __init__(self, levels: Sequence[Level], text_width: int, config: ModelConfig) -> None:
        super().__init__()
        c, d = config, config.d
        *self.further, self.last = levels
        self.d = d
        self.input_proj, self.resizer = nn.Linear(self.last.channels, d), PlainResizer(text_width, d, c.dropout)
        self.fusion = nn.Module()
        self.fusion.video_branch, self.fusion.text_branch = PlainMatching(d), PlainMatching(d)
        self.fusion.frame_scale = nn.Parameter(torch.zeros(c.max_frames))
        self.encoder, self.decoder = nn.Module(), nn.Module()
        of_encoder = (PlainEncoderLayer(d, c.heads, c.ffn, c.dropout) for _ in range(c.encoder_layers))
        of_decoder = (PlainDecoderLayer(d, c.heads, c.ffn, c.dropout) for _ in range(c.decoder_layers))
        self.encoder.layers, self.decoder.layers = nn.ModuleList(of_encoder), nn.ModuleList(of_decoder)
        self.decoder.norm = nn.LayerNorm(d)
        self.query_embed, self.anchor_query = nn.Embedding(c.num_queries, d), nn.Embedding(1, d)
        self.bbox_embed, self.sted_embed = MLP([d, d, d, 4]), MLP([d, d, 2], dropout=c.span_dropout)
        self.class_embed = nn.Linear(d, 1)
        self.level_proj = nn.ModuleDict({k.name: LevelProjection(k.channels, d, c.proj_norm) for k in self.further})

    def forward(self, c5: Tensor, words: Tensor, targets: Targets) -> Output:
        """c5 (T, h, w, C) and token features (M, width) of one sample, and its annotation."""
        visual = self.input_proj(c5).flatten(1, 2)  # (T, h·w, d)
        T, cells, _ = visual.shape
        repeated = self.resizer(words)[None].repeat(T, 1, 1)
        x, y = self.fusion.video_branch(visual, repeated), self.fusion.text_branch(repeated, visual)
        weights = (x.mean(1) @ y.mean((0, 1)) / math.sqrt(self.d)).sigmoid() * (self.fusion.frame_scale.tanh() + 1)[:T]
        x = torch.cat([x * weights[:, None, None], y], dim=1).transpose(0, 1)  # (h·w + M, T, d)
        code = sine_2d(torch.zeros(c5.shape[:3], dtype=torch.bool, device=c5.device), self.d).flatten(1, 2)
        position = torch.cat([code.to(x.dtype).transpose(0, 1), torch.zeros_like(x[cells:])])
        padding = torch.zeros(T, len(x), dtype=torch.bool, device=c5.device)
        for layer in self.encoder.layers:
            x = layer(x, position, padding)
        times = time_code(T, self.d, c5.device)[:, None]
        layers = self.decode(self.query_embed.weight[None] + times, x, position)
        inside = targets.in_moment[0]
        grid = x[:cells].transpose(0, 1).unflatten(1, c5.shape[1:3])[inside]
        found = self.decode((self.anchor_query.weight[None] + times)[inside], *self.regions(grid, targets))[-1]
        boxes, states = (t.new_zeros(1, T, t.shape[-1]) for t in (found.boxes, found.states))
        boxes[0, inside], states[0, inside] = found.boxes[0, 0], found.states[0, 0]
        return Output.of(layers, Anchor(boxes, states))

    def decode(self, position: Tensor, memory: Tensor, code: Tensor) -> list[LayerOutput]:
        """position (T, N, d), memory and its code (S, T, d) → what every layer says of N tubes."""
        x, padding = (
            torch.zeros_like(position),
            torch.zeros(memory.shape[1::-1], dtype=torch.bool, device=memory.device),
        )
        layers = []
        for layer in self.decoder.layers:
            x, attention = layer(x, position, memory, code, padding)
            states = self.decoder.norm(x).transpose(0, 1)[None].float()  # (1, N, T, d)
            with torch.autocast(states.device.type, enabled=False):
                boxes, score = self.bbox_embed(states).sigmoid(), self.class_embed(states).squeeze(-1)
                layers.append(LayerOutput(boxes, self.sted_embed(states), score, attention[None], states))
        return layers

    def regions(self, grid: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """RoI features of all levels, the last from the memory's cells (T, h, w, d), and their codes: (S, T, d) both."""
        size = targets.size.expand(len(grid), 2)
        corners = to_corners(targets.boxes[targets.in_moment]) * size.repeat(1, 2)
        features, codes = [], []
        for level in (*self.further, self.last):
            cells = corners / level.stride
            extents = torch.div(size.flip(1) + level.stride - 1, level.stride, rounding_mode="floor")
            stored = level is not self.last
            features.append(
                self.level_proj[level.name](targets.regions[level.name].float())
                if stored
                else roi_align(grid, cells, extents, 4)
            )
            codes.append(roi_sine(cells, extents, self.d))
        return torch.cat(features, dim=1).transpose(0, 1), torch.cat(codes, dim=1).transpose(0, 1)

"""The STCAT head as one writes it first, as plain.py does TubeDETR's: the yardstick of step.py.

Sequence-first, `nn.MultiheadAttention` that returns its weights in every layer, words repeated for every frame, every
projection a product of its own, one sample at a time. Takes the weights of `stvg.heads.stcat.model.STCAT`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from plain import PlainDecoderLayer, PlainEncoderLayer, PlainResizer
from torch import Tensor, nn

from stvg.cache.batches.batch import Targets
from stvg.heads.layers import MLP, sine_2d, time_code
from stvg.heads.model import Output
from stvg.heads.stcat.anchors import Template, box_sine, inverse_sigmoid
from stvg.heads.stcat.model import STCATLayer

SELF = ("sa_qcontent", "sa_kcontent", "sa_qpos", "sa_kpos", "sa_qtime", "sa_ktime", "sa_v")
CROSS = ("ca_qcontent", "ca_kcontent", "ca_qpos_sine", "ca_kpos", "ca_v")


class PlainSpatialLayer(nn.Module):
    def __init__(self, d: int, heads: int, ffn: int, dropout: float, first: bool) -> None:
        super().__init__()
        for name in (*SELF, *CROSS, *(["ca_qpos"] if first else [])):
            setattr(self, f"{name}_proj", nn.Linear(d, d))
        self.first, self.heads = first, heads
        self.self_attn, self.cross_attn = nn.MultiheadAttention(d, heads, dropout), nn.Module()
        self.cross_attn.out_proj = nn.Linear(d, d)
        self.linear1, self.linear2 = nn.Linear(d, ffn), nn.Linear(ffn, d)
        self.norm1, self.norm3, self.norm4 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, place: Tensor, sine: Tensor, times: Tensor, memory: Tensor, code: Tensor) -> Tensor:
        """x, place, sine, times (T, 1, d), memory and its code (S, T, d)."""
        query = self.sa_qcontent_proj(x) + self.sa_qtime_proj(times) + self.sa_qpos_proj(place)
        key = self.sa_kcontent_proj(x) + self.sa_ktime_proj(times) + self.sa_kpos_proj(place)
        x = self.norm1(x + self.dropout(self.self_attn(query, key, self.sa_v_proj(x))[0]))
        query, key, where = self.ca_qcontent_proj(x), self.ca_kcontent_proj(memory), self.ca_kpos_proj(code)
        if self.first:
            query, key = query + self.ca_qpos_proj(place), key + where
        q = torch.cat([self.split(query.transpose(0, 1)), self.split(self.ca_qpos_sine_proj(sine).transpose(0, 1))], -1)
        k = torch.cat([self.split(key), self.split(where)], -1)
        weights = self.dropout((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1))  # (T, heads, 1, S)
        found = (weights @ self.split(self.ca_v_proj(memory))).transpose(1, 2).flatten(2)  # (T, 1, d)
        x = self.norm3(x + self.dropout(self.cross_attn.out_proj(found)))
        return self.norm4(x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x))))))

    def split(self, x: Tensor) -> Tensor:
        """(L, T, d) → (T, heads, L, d / heads)."""
        return x.unflatten(-1, (self.heads, -1)).permute(1, 2, 0, 3)


class PlainSTCAT(nn.Module):
    """As preset stcat."""

    def __init__(self, channels: int, text_width: int, d: int, heads: int, ffn: int, layers: int, span: float) -> None:
        super().__init__()
        self.d = d
        self.input_proj, self.resizer = nn.Linear(channels, d), PlainResizer(text_width, d, 0.1)
        self.encoder, self.spatial_decoder, self.temporal_decoder = nn.Module(), nn.Module(), nn.Module()
        for name in ("spatial_layers", "temporal_layers"):
            setattr(self.encoder, name, nn.ModuleList(PlainEncoderLayer(d, heads, ffn, 0.1) for _ in range(layers)))
        for name in ("frame_cls", "video_cls", "local_pos_embed"):
            setattr(self.encoder, name, nn.Embedding(1, d))
        self.template = Template(d)
        of_space = (PlainSpatialLayer(d, heads, ffn, 0.1, i == 0) for i in range(layers))
        self.spatial_decoder.layers = nn.ModuleList(of_space)
        self.spatial_decoder.query_scale, self.spatial_decoder.ref_point_head = MLP([d, d, d]), MLP([2 * d, d, d])
        self.spatial_decoder.norm = nn.LayerNorm(d)
        of_time = (PlainDecoderLayer(d, heads, ffn, 0.1) for _ in range(layers))
        self.temporal_decoder.layers, self.temporal_decoder.norm = nn.ModuleList(of_time), nn.LayerNorm(d)
        self.bbox_embed = MLP([d, d, d, 4])
        self.temp_embed, self.action_embed = MLP([d, d, 2], dropout=span), MLP([d, d, 1], dropout=span)

    def forward(self, c5: Tensor, words: Tensor, targets: Targets) -> Output:
        """c5 (T, h, w, C) and token features (M, width) of one sample. ``targets`` are not looked at."""
        visual = self.input_proj(c5).flatten(1, 2).transpose(0, 1)  # (h·w, T, d)
        T = visual.shape[1]
        cells = torch.zeros(c5.shape[:3], dtype=torch.bool, device=c5.device)
        code = sine_2d(cells, self.d).flatten(1, 2).to(visual.dtype).transpose(0, 1)
        repeated = self.resizer(words)[:, None].repeat(1, T, 1)
        code = torch.cat([code, torch.zeros_like(repeated)])
        memory, frames, video = self.encode(torch.cat([visual, repeated.to(visual.dtype)]), code)
        anchors, content = self.template(frames[None], video)
        times = time_code(T, self.d, c5.device)[:, None]
        states, references = self.decode(anchors.float().sigmoid(), times, memory, code)
        y, c, layers = torch.zeros_like(times), content[None].expand(T, 1, -1), []
        nothing = torch.zeros(T, len(memory), dtype=torch.bool, device=c5.device)
        for x, reference, layer in zip(states, references, self.temporal_decoder.layers, strict=True):
            y, attention = layer(y, c + times, memory, code, nothing, of_frame=c)
            when = self.temporal_decoder.norm(y).transpose(0, 1)[:, None].float()  # (1, 1, T, d)
            boxes = self.moved(self.spatial_decoder.norm(x), reference)[:, None]
            with torch.autocast(c5.device.type, enabled=False):
                span, action = self.temp_embed(when), self.action_embed(when[:, 0]).squeeze(-1)
            layers.append(STCATLayer(boxes, span, None, attention[:, None], when, action, reference))
        return Output.of(layers)

    def encode(self, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, code (S, T, d) → memory (S, T, d), frame tokens (T, d), the video's (1, d)."""
        S, T, d = x.shape
        code = torch.cat([self.encoder.local_pos_embed.weight.expand(1, T, d), code])
        times = time_code(1 + T, d, x.device)[:, None]
        frames, video = self.encoder.frame_cls.weight.expand(T, d), self.encoder.video_cls.weight
        shown = [torch.zeros(n, m, dtype=torch.bool, device=x.device) for n, m in ((T, 1 + S), (1, 1 + T))]
        for spatial, temporal in zip(self.encoder.spatial_layers, self.encoder.temporal_layers, strict=True):
            x = spatial(torch.cat([frames[None], x]), code, shown[0])
            frames, x = x[0], x[1:]
            clip = temporal(torch.cat([video, frames])[:, None], times, shown[1])[:, 0]
            video, frames = clip[:1], clip[1:]
        return x, frames, video

    def decode(self, anchors: Tensor, times: Tensor, memory: Tensor, code: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """anchors (1, T, 4) → states (1, T, d) of every layer, and the boxes each started from."""
        decoder, x, states, references = self.spatial_decoder, torch.zeros_like(times), [], [anchors]
        for i, layer in enumerate(decoder.layers):
            sine = box_sine(anchors, self.d).transpose(0, 1)  # (T, 1, 2d)
            scale = decoder.query_scale(x) if i else 1
            x = layer(x, decoder.ref_point_head(sine), sine[..., : self.d] * scale, times, memory, code)
            states.append(x.transpose(0, 1))
            if i + 1 < len(decoder.layers):
                references.append(self.moved(states[-1], anchors))
                anchors = references[-1].detach()
        return states, references

    def moved(self, states: Tensor, anchors: Tensor) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            return (self.bbox_embed(states.float()) + inverse_sigmoid(anchors)).sigmoid()

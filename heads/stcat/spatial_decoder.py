"""The spatial decoder: one query per frame, which starts from the frame's anchor box and refines it in every layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import cpu
from ..attention import Attention, attend, hidden, merge_heads, split_heads
from ..feed_forward import feed_forward
from ..layers import MLP, ResidualNorm, Stack, beside
from .anchors import box_sine, inverse_sigmoid


class PlacedCrossAttention(nn.Module):
    """Attention in which the queries and keys of every head concatenate content and position; values are content
    only."""

    def __init__(self, d: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.out_proj = nn.Linear(d, d)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: list[Tensor], key: list[Tensor], value: Tensor, hides: Tensor) -> Tensor:
        """query [content, position] (R, Lq, d) each, key [content, position] (R, Lk, d), value (R, Lk, d) → (R, Lq,
        d)."""
        q, k = (torch.cat([split_heads(part, self.heads) for part in parts], dim=-1) for parts in (query, key))
        v, p = split_heads(value, self.heads), self.dropout if self.training else 0.0
        return self.out_proj(merge_heads(attend(q, k, v, hides, p)))


class SpatialDecoderLayer(nn.Module):
    """Self-attention over the clip, cross-attention of every frame's query to its own memory, feed-forward. Parameter
    names are the published ones."""

    def __init__(self, d: int, heads: int, ffn: int, dropout: float, first: bool) -> None:
        super().__init__()
        self.sa_qcontent_proj, self.sa_kcontent_proj = nn.Linear(d, d), nn.Linear(d, d)
        self.sa_qpos_proj, self.sa_kpos_proj = nn.Linear(d, d), nn.Linear(d, d)
        self.sa_qtime_proj, self.sa_ktime_proj = nn.Linear(d, d), nn.Linear(d, d)
        self.sa_v_proj = nn.Linear(d, d)
        self.self_attn = Attention(d, heads, dropout)
        self.ca_qcontent_proj, self.ca_kcontent_proj = nn.Linear(d, d), nn.Linear(d, d)
        self.ca_qpos_sine_proj, self.ca_kpos_proj = nn.Linear(d, d), nn.Linear(d, d)
        self.ca_v_proj = nn.Linear(d, d)
        self.ca_qpos_proj = nn.Linear(d, d) if first else None
        self.cross_attn = PlacedCrossAttention(d, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(d, ffn), nn.Linear(ffn, d)
        self.norm1, self.norm3, self.norm4 = (ResidualNorm(d, dropout) for _ in range(3))
        self.dropout = dropout

    def forward(
        self,
        x: Tensor,
        place: Tensor,
        sine: Tensor,
        times: Tensor,
        memory: Tensor,
        code: Tensor,
        hides: Tensor,
        absent: Tensor,
    ) -> Tensor:
        """x, place, sine (B, T, d), times (T, d); memory (B, T, S, d), its code (B, S, d); ``hides`` (B·T, 1, 1, S) and
        ``absent`` (B, 1, 1, T): the masks of memory and of slots.

        ``place``: the position of queries. ``sine``: the scaled sine code of the anchors' centres. Returns (B, T, d).
        """
        query, key, value = beside(x, self.sa_qcontent_proj, self.sa_kcontent_proj, self.sa_v_proj)
        at_time = beside(times, self.sa_qtime_proj, self.sa_ktime_proj)
        at_place = beside(place, self.sa_qpos_proj, self.sa_kpos_proj)
        query, key = query + at_time[0] + at_place[0], key + at_time[1] + at_place[1]
        x = self.norm1(x, self.self_attn(query, key, value, absent))
        x = self.norm3(x, self.look(x, place, sine, memory, code, hides))
        return self.norm4(x, feed_forward(x, self.linear1, self.linear2, self.dropout, self.training))

    def look(self, x: Tensor, place: Tensor, sine: Tensor, memory: Tensor, code: Tensor, hides: Tensor) -> Tensor:
        """Cross-attention of every query to its own frame's memory: (B, T, d)."""
        query = self.ca_qcontent_proj(x)
        if self.ca_qpos_proj is not None:  # the first layer: its queries have zero content
            query = query + self.ca_qpos_proj(place)
        query, of_place = (q.flatten(0, 1)[:, None] for q in (query, self.ca_qpos_sine_proj(sine)))
        if memory.device.type == "cpu":
            return self.weighed(query, of_place, memory.flatten(0, 1), code, hides).view(x.shape)
        key, value = beside(memory, self.ca_kcontent_proj, self.ca_v_proj)
        where = self.ca_kpos_proj(code)[:, None].expand_as(key)
        key = key if self.ca_qpos_proj is None else key + where
        keys = [key.flatten(0, 1), where.flatten(0, 1)]
        return self.cross_attn([query, of_place], keys, value.flatten(0, 1), hides).view(x.shape)

    def weighed(self, query: Tensor, place: Tensor, memory: Tensor, code: Tensor, hides: Tensor) -> Tensor:
        """Attended values of queries (R, 1, d) in memory (R, S, d), computed without keys and values; see
        `cpu.look`."""
        heads, p = self.cross_attn.heads, self.cross_attn.dropout if self.training else 0.0
        query, place = (q * (2 * q.shape[-1] // heads) ** -0.5 for q in (query, place))
        content, of_place, value = self.ca_kcontent_proj, self.ca_kpos_proj, self.ca_v_proj
        place = place if self.ca_qpos_proj is None else place + query
        asked = [(query, memory, content.weight, content.bias), (place, code, of_place.weight, of_place.bias)]
        return self.cross_attn.out_proj(cpu.look(asked, memory, value.weight, value.bias, hides, heads, p))


class SpatialDecoder(Stack):
    """Decoder layers. Each starts from the anchors that the layer before refined."""

    def __init__(self, d: int, heads: int, ffn: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SpatialDecoderLayer(d, heads, ffn, dropout, i == 0) for i in range(layers))
        self.query_scale, self.ref_point_head = MLP([d, d, d]), MLP([2 * d, d, d])
        self.norm = nn.LayerNorm(d)

    def forward(
        self,
        anchors: Tensor,
        times: Tensor,
        memory: Tensor,
        code: Tensor,
        padding: Tensor,
        frame_padding: Tensor,
        boxes: nn.Module,
    ) -> tuple[Tensor, Tensor]:
        """anchors (B, T, 4) cxcywh fractions, times (T, d), memory (B, T, S, d), its code (B, S, d) and padding (B, S),
        frame_padding (B, T). ``boxes``: the box head.

        Returns normalised states (L, B, T, d) of all layers, and the reference boxes (L, B, T, 4) that each started
        from. The gradient of a reference box reaches the layer that produced it, but not the anchor which that layer
        refined.
        """
        B, T, d = *anchors.shape[:2], times.shape[-1]
        x = torch.zeros_like(memory[:, :, 0])
        memory, code, times = (t.to(self.product_type) for t in (memory, code, times))
        hides = hidden(padding.repeat_interleave(T, 0, output_size=B * T), self.product_type)
        absent = hidden(frame_padding, self.product_type)
        states, references = [], [anchors]
        for layer in self.layers:
            code_of_box = box_sine(anchors, d)
            place, sine = self.ref_point_head(code_of_box), code_of_box[..., :d]
            if layer is not self.layers[0]:
                sine = sine * self.query_scale(x)
            x = self.run(layer, x, place, sine, times, memory, code, hides, absent)
            states.append(x)
            if len(states) < len(self.layers):
                references.append(moved(boxes, x, anchors))
                anchors = references[-1].detach()
        return self.norm(torch.stack(states)), torch.stack(references)


def moved(boxes: nn.Module, states: Tensor, anchors: Tensor) -> Tensor:
    """Anchors (…, 4) refined by the box head's output for states (…, d), in float32: half precision is too coarse."""
    with torch.autocast(states.device.type, enabled=False):
        states = states.to(next(boxes.parameters()).dtype)
        return F.sigmoid(boxes(states) + inverse_sigmoid(anchors.to(states.dtype)))

"""The decoder: queries → tubes. Stream 1 decodes N candidate tubes over all frames. Stream 2, in training only, decodes
the annotated tube from RoI features of the annotated boxes. Streams that share layers run through them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from . import cpu
from .attention import Attention, attend, hidden, merge_heads, placed_product, split_heads
from .feed_forward import feed_forward
from .layers import ResidualNorm, Stack


@dataclass(frozen=True)
class Stream:
    """n queries for each of T slots of B clips, and the memory that they attend to."""

    position: Tensor
    """(B or 1, n, T, d): query embedding plus time code. The content of queries starts at zero."""
    padding: Tensor
    """(B, T) bool: slots that temporal self-attention ignores."""
    memory: Tensor
    """(R, S, d): memory of every slot of every clip (R = B · T), or of ``slots`` only."""
    code: Tensor
    """(R / m, S, d): position codes of the memory; m consecutive rows of memory share one."""
    memory_padding: Tensor | None = None
    """(R / m, S) bool."""
    slots: Tensor | None = None
    """(2, R) int64: clip and slot of every row of memory. The attended values of all other slots are zero."""
    of_frame: Tensor | None = None
    """(B or 1, n, T, d): the position added to queries in cross-attention. None: ``position``."""


@dataclass(frozen=True)
class Seen:
    """A stream's memory as one layer attends to it: keys and values (R, heads, S, dh). On a CPU neither is computed:
    memory (R, S, d) and code (R / m, S, d) are given instead; see `cpu.look`."""

    count: int
    hides: Tensor | None
    slots: Tensor | None
    keys: Tensor | None = None
    values: Tensor | None = None
    memory: Tensor | None = None
    code: Tensor | None = None


class CrossAttention(Attention):
    """Cross-attention: the queries of a slot attend to the memory of that slot, in each stream separately."""

    def forward(self, query: Tensor, seen: Sequence[Seen]) -> Tensor:  # type: ignore[override]
        """query (B, N, T, d), the N queries of all streams → (B, N, T, d)."""
        d = query.shape[-1]
        q = nn.functional.linear(query, self.in_proj_weight[:d], self.in_proj_bias[:d]).transpose(1, 2)
        found = [self.look(part, by) for part, by in zip(q.split([s.count for s in seen], dim=2), seen, strict=True)]
        return self.out_proj(found[0] if len(found) == 1 else torch.cat(found, dim=2)).transpose(1, 2)

    def look(self, q: Tensor, seen: Seen) -> Tensor:
        """q (B, T, n, d) → attended values (B, T, n, d)."""
        rows = q.flatten(0, 1) if seen.slots is None else q[*seen.slots]
        p = self.dropout if self.training else 0.0
        if seen.memory is not None and seen.code is not None:
            rows = rows * (q.shape[-1] // self.heads) ** -0.5
            (of_key, weight), (bias_of_key, bias) = (t.chunk(3)[1:] for t in (self.in_proj_weight, self.in_proj_bias))
            asked = [(rows, seen.memory, of_key, bias_of_key), (rows, seen.code, of_key, None)]
            found = cpu.look(asked, seen.memory, weight, bias, seen.hides, self.heads, p)
        else:
            assert seen.keys is not None
            assert seen.values is not None
            found = merge_heads(attend(split_heads(rows, self.heads), seen.keys, seen.values, seen.hides, p))
        if seen.slots is None:
            return found.unflatten(0, q.shape[:2])
        return torch.zeros_like(q).index_put(tuple(seen.slots), found)


class DecoderLayer(nn.Module):
    """Temporal self-attention per query, then cross-attention to the same frame's memory, then a feed-forward layer.

    The published weights name the norms 1, 3 and 4; these names are kept.
    """

    def __init__(self, d: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(d, heads, dropout)
        self.cross_attn_image = CrossAttention(d, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(d, ffn), nn.Linear(ffn, d)
        self.norm1, self.norm3, self.norm4 = (ResidualNorm(d, dropout) for _ in range(3))
        self.dropout = dropout

    def forward(
        self, x: Tensor, position: Tensor, hides: Tensor, seen: Sequence[Seen], of_frame: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x (B, N, T, d), position and ``of_frame`` (B or 1, N, T, d), ``hides`` (B·N, 1, 1, T).

        Returns (B, N, T, d) and the temporal attention (B, N, T, T), rows = queries.
        """
        update, weights = self.self_attn.within_and_weights(x, position, hides)
        x = self.norm1(x, update.view(x.shape))
        x = self.norm3(x, self.cross_attn_image(x + of_frame, seen))
        x = self.norm4(x, feed_forward(x, self.linear1, self.linear2, self.dropout, self.training))
        return x, weights.unflatten(0, x.shape[:2])


class Decoder(Stack):
    """Decoder layers, and one final norm that is applied to every layer's output."""

    def __init__(self, d: int, heads: int, ffn: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(d, heads, ffn, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(d)

    def forward(self, streams: Sequence[Stream], layers: nn.ModuleList | None = None) -> tuple[Tensor, Tensor]:
        """``layers`` replaces this decoder's own layers, for the unshared second stream of table VIII; the norm is the
        same.

        Returns normalised states (L, B, N, T, d) and temporal attention (L, B, N, T, T) of all layers and streams.
        """
        layers = self.layers if layers is None else layers
        B = len(streams[0].padding)
        position = torch.cat([s.position.expand(B, -1, -1, -1) for s in streams], dim=1)
        of_frame = position if streams[0].of_frame is None else streams[0].of_frame
        padding = torch.cat([s.padding[:, None].expand(-1, s.position.shape[1], -1) for s in streams], dim=1)
        hides = hidden(padding.flatten(0, 1), self.product_type)
        seen = [self.seen(stream, layers) for stream in streams]
        x = torch.zeros_like(position)
        states, attention = [], []
        for layer, of_layer in zip(layers, zip(*seen, strict=True), strict=True):
            x, weights = self.run(layer, x, position, hides, of_layer, of_frame)
            states.append(x)
            attention.append(weights)
        return self.norm(torch.stack(states)), torch.stack(attention)

    def seen(self, stream: Stream, layers: nn.ModuleList) -> list[Seen]:
        """The keys and values of a stream's memory for every layer, computed in one product."""
        dtype, together = self.product_type, len(stream.memory) // len(stream.code)
        hides = None
        if stream.memory_padding is not None:
            padding = stream.memory_padding.repeat_interleave(together, 0, output_size=len(stream.memory))
            hides = hidden(padding, dtype)
        first = Seen(stream.position.shape[1], hides, stream.slots)
        if stream.memory.device.type == "cpu":
            return [replace(first, memory=stream.memory.to(dtype), code=stream.code.to(dtype))] * len(layers)
        attentions: list[Any] = [layer.cross_attn_image for layer in layers]
        d, heads = stream.memory.shape[-1], attentions[0].heads
        weight = torch.cat([a.in_proj_weight[d:] for a in attentions])
        bias = torch.cat([a.in_proj_bias[d:] for a in attentions])
        memory = stream.memory.unflatten(0, (len(stream.code), -1))
        both = placed_product(memory, stream.code[:, None], weight, bias, 2 * d, d).flatten(0, 1)  # (R, S, L·2d)
        parts = both.unflatten(-1, (-1, heads, d // heads)).unbind(2)
        return [
            replace(first, keys=k.transpose(1, 2), values=v.transpose(1, 2))
            for k, v in zip(parts[::2], parts[1::2], strict=True)
        ]

"""The FSM head: fusion, space-text encoder, two-stream decoder, and the small heads that read boxes, spans and scores."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..cache.batches.batch import Batch, Inputs, Targets
from .boxes import to_corners
from .decoder import Decoder
from .dropout import Dropout
from .encoder import Encoder
from .fusion import Fusion
from .layers import MLP, MaskedGroupNorm, Standard, StoredLinear, roi_align, roi_sine, sine_2d, time_code
from .model_config import GROUPS, FeatureFacts, ModelConfig


@dataclass(frozen=True)
class LayerOutput:
    """What one decoder layer says about B samples: N candidate tubes over T slots."""

    boxes: Tensor
    """(B, N, T, 4) cxcywh fractions."""
    span: Tensor
    """(B, N, T, 2) logits of start and end."""
    score: Tensor | None
    """(B, N, T) logits: is this the one meant. None without query matching, or where nothing trains them."""
    attention: Tensor
    """(B, N, T, T) temporal attention, rows = queries, before dropout."""
    states: Tensor
    """(B, N, T, d)."""


@dataclass(frozen=True)
class Anchor:
    """The second stream's reading of the annotated tube; meaningful only on slots inside the moment."""

    boxes: Tensor
    """(B, T, 4) cxcywh fractions."""
    states: Tensor
    """(B, T, d)."""


@dataclass(frozen=True)
class Output:
    """All decoder layers, last one last; the second stream in training only."""

    layers: list[LayerOutput]
    anchor: Anchor | None = None


class Resizer(nn.Module):
    """Token features to width d. The layer norm stays in float32: its epsilon, 1e-12, vanishes in half precision."""

    def __init__(self, text_width: int, d: int, dropout: float) -> None:
        super().__init__()
        self.fc = nn.Linear(text_width, d)
        self.layer_norm = nn.LayerNorm(d, eps=1e-12)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        with torch.autocast(tokens.device.type, enabled=False):
            return self.dropout(self.layer_norm(self.fc(tokens.to(self.fc.weight.dtype))))


class LevelProjection(nn.Module):
    """A further level to width d: a 1x1 convolution (a linear layer on channels-last cells) and, optionally, group norm.

    On stored regions the norm's statistics are taken over the region instead of the map, which is not the same model:
    train on a cache of ``--levels full``, or with ``proj_norm=none``, where that matters.
    """

    def __init__(self, channels: int, d: int, norm: str) -> None:
        super().__init__()
        self.conv = StoredLinear(channels, d)
        self.norm = MaskedGroupNorm(GROUPS, d) if norm == "groupnorm" else None

    def forward(self, cells: Tensor, padding: Tensor | None = None, standard: Standard | None = None) -> Tensor:
        """cells (G, L, channels), padding (G, L) bool → (G, L, d)."""
        cells = self.conv(cells, standard)
        return cells if self.norm is None else self.norm(cells, padding)


class FSM(nn.Module):
    """Feature semantic matching for spatio-temporal video grounding, from cached features."""

    def __init__(self, config: ModelConfig, features: FeatureFacts, scored: bool = True) -> None:
        """``scored``: candidates say whether they are the one meant. Not without a loss that teaches them to."""
        super().__init__()
        c, d = config, config.d
        self.config, self.features, self.scored = config, features, scored and config.qmm
        self.memory_level, self.region_levels = config.levels(features.levels)
        read = (self.memory_level, *self.region_levels) if c.standardise else ()
        self.standards = nn.ModuleDict({level.name: Standard(level.channels) for level in read})
        self.input_proj = StoredLinear(self.memory_level.channels, d)
        self.resizer = Resizer(features.text_width, d, c.dropout)
        self.fusion = Fusion(d, c.max_frames, c.fusion, c.dropout)
        self.encoder = Encoder(d, c.heads, c.ffn, c.encoder_layers, c.dropout)
        self.decoder = Decoder(d, c.heads, c.ffn, c.decoder_layers, c.dropout)
        self.query_embed = nn.Embedding(c.num_queries if c.qmm else 1, d)
        self.bbox_embed = MLP([d, d, d, 4])
        self.sted_embed = MLP([d, d, 2], dropout=c.span_dropout)
        for stack in (self.encoder, self.decoder):
            for parameter in stack.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        if c.fast:
            self.fast_encoder, self.fast_residual = nn.Linear(d, d), nn.Linear(d, d)
            nn.init.zeros_(self.fast_residual.weight)  # so that memory starts as the encoder's
            nn.init.zeros_(self.fast_residual.bias)
        if c.qmm:
            self.class_embed = nn.Linear(d, 1)
            self.anchor_query = nn.Embedding(1, d)
            if self.region_levels:
                projections = {k.name: LevelProjection(k.channels, d, c.proj_norm) for k in self.region_levels}
                self.level_proj = nn.ModuleDict(projections)
            self.anchor_layers = None if c.shared_decoder else copy.deepcopy(self.decoder.layers)

    def forward(self, inputs: Inputs, targets: Targets | None = None) -> Output:
        """Candidate tubes of every sample. ``targets`` run the training-only second stream; inference has none to give."""
        memory, position, padding, shape = self.encode(inputs)
        B, T = inputs.frame_padding.shape
        times = time_code(T, self.config.d, memory.device)
        query_position = self.query_embed.weight[None, :, None] + times
        states, attention = self.decoder(
            query_position.expand(B, -1, -1, -1), memory, position, padding, inputs.frame_padding
        )
        layers = [self.read(s, a) for s, a in zip(states, attention, strict=True)]
        anchor = None
        if targets is not None and self.config.qmm:
            anchor = self.anchor_stream(inputs, targets, memory, shape, times)
        return Output(layers, anchor)

    def standard(self, level: str) -> Standard | None:
        """What a level is standardised by; None where features are read as they are."""
        found = self.standards[level] if self.config.standardise else None
        assert found is None or isinstance(found, Standard)
        return found

    def recompute(self, on: bool) -> None:
        """Whether training forgets what happens inside the transformer layers, and computes it again; see `Stack`."""
        self.encoder.recompute = self.decoder.recompute = on

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
        """Memory, its position code (B, T, h·w + M, d), its padding (B, T, h·w + M), and (h, w)."""
        T, stride = inputs.frame_padding.shape[1], self.config.stride
        slow = inputs if stride == 1 else every(inputs, stride, keep_frames=self.config.fast)
        index = slow.frame_index  # (B, ⌈T / stride⌉)
        visual = self.input_proj(slow.maps, self.standard(self.memory_level.name)).flatten(1, 2)  # (U, h·w, d)
        cells = slow.cell_padding.flatten(1)
        words = self.resizer(inputs.tokens)
        x, words = self.fusion(visual, words, cells, inputs.token_padding, index, slow.frame_padding)
        tokens = torch.cat([x, words], dim=2)  # eq 6
        code = sine_2d(slow.cell_padding, self.config.d).flatten(1, 2).to(tokens.dtype)[index]
        position = torch.cat([code, torch.zeros_like(words)], dim=2)
        token_padding = inputs.token_padding[:, None].expand(-1, index.shape[1], -1)
        padding = torch.cat([cells[index], token_padding], dim=2)
        memory = self.encoder(tokens.flatten(0, 1), position.flatten(0, 1), padding.flatten(0, 1))
        memory = memory.unflatten(0, index.shape)
        if stride > 1:
            nearest = torch.arange(T, device=memory.device) // stride
            # A clip's frames are all of one size, so the slow frame's padding is also its followers'.
            memory, position, padding = memory[:, nearest], position[:, nearest], padding[:, nearest]
        if self.config.fast:
            memory = self.correct(memory, visual, inputs.frame_index)
        return memory, position, padding, (inputs.maps.shape[1], inputs.maps.shape[2])

    def correct(self, memory: Tensor, visual: Tensor, frame_index: Tensor) -> Tensor:
        """The fast branch: add to the visual part of repeated memory (B, T, S, d) what each slot's own frame shows.

        ``visual`` (U, h·w, d): projected tokens of the distinct frames. Words are left as they are.
        """
        own = self.fast_encoder(visual)[frame_index]  # (B, T, h·w, d)
        seen, words = memory.split([own.shape[2], memory.shape[2] - own.shape[2]], dim=2)
        return torch.cat([seen + self.fast_residual(seen + own), words], dim=2)

    def read(self, states: Tensor, attention: Tensor) -> LayerOutput:
        """Boxes, spans and scores of one decoder layer's states (B, N, T, d), in float32."""
        with torch.autocast(states.device.type, enabled=False):
            score = self.class_embed(states).squeeze(-1) if self.scored else None
            return LayerOutput(self.boxes(states), self.sted_embed(states), score, attention, states)

    def boxes(self, states: Tensor) -> Tensor:
        """Boxes (…, 4) of states (…, d). In bfloat16 a coordinate would move in steps of a 256th of the picture."""
        with torch.autocast(states.device.type, enabled=False):
            return self.bbox_embed(states).sigmoid()

    def anchor_stream(
        self, inputs: Inputs, targets: Targets, memory: Tensor, shape: tuple[int, int], times: Tensor
    ) -> Anchor:
        """Stream 2: decode the annotated tube from its own regions, on the moment's slots only.

        The slots of every sample's moment are packed to the left, so that no frame outside costs anything.
        """
        inside, (sample, slot) = targets.in_moment, targets.slots
        order = (~inside).to(torch.int8).argsort(dim=1, stable=True)[:, : targets.longest]  # (B, D) slots
        kept, place = inside.gather(1, order), inside.cumsum(1)[sample, slot] - 1  # place (G,) among the D
        regions, region_position = self.regions(inputs, targets, memory, shape)  # (G, L·S², d)
        B, D = order.shape
        region_memory = regions.new_zeros(B, D, *regions.shape[1:])
        region_code = torch.zeros_like(region_memory)
        region_memory[sample, place], region_code[sample, place] = regions, region_position.to(regions.dtype)
        position = (self.anchor_query.weight + times[order])[:, None]  # (B, 1, D, d), the same times as stream 1
        states, _ = self.decoder(position, region_memory, region_code, None, ~kept, self.anchor_layers)
        full = states[-1].new_zeros(B, inside.shape[1], self.config.d)
        full[sample, slot] = states[-1][sample, 0, place]
        return Anchor(self.boxes(full), full)

    def regions(
        self, inputs: Inputs, targets: Targets, memory: Tensor, shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """RoI-aligned features of the annotated boxes over all levels, and their position codes: two (G, L·S², d)."""
        sample, slot = targets.slots
        size = targets.size[sample]  # (G, 2) width, height
        corners = to_corners(targets.boxes[sample, slot]) * size.repeat(1, 2)  # rendition pixels
        features, codes = [], []
        for level in (*self.region_levels, self.memory_level):
            cells = corners / level.stride
            extents = torch.div(size.flip(1) + level.stride - 1, level.stride, rounding_mode="floor")  # rows, columns
            if level is self.memory_level:  # from the memory, so that anchors live in the space stream 1 decodes
                h, w = shape
                maps = memory[sample, slot, : h * w].unflatten(1, (h, w))
                features.append(roi_align(maps, cells, extents, self.features.roi_size))
            else:
                features.append(self.level_regions(level.name, targets, cells, extents))
            codes.append(roi_sine(cells, extents, self.config.d, self.features.roi_size))
        return torch.cat(features, dim=1), torch.cat(codes, dim=1)

    def level_regions(self, level: str, targets: Targets, corners: Tensor, extents: Tensor) -> Tensor:
        """Projected RoI features (G, S², d) of a further level, from stored regions or from stored maps."""
        projection = self.level_proj[level]
        assert isinstance(projection, LevelProjection)
        if level in targets.regions:
            return projection(targets.regions[level], None, self.standard(level))
        if level not in targets.maps:
            raise ValueError(f"the batch has neither regions nor maps of level {level}")
        maps = targets.maps[level]
        h, w = maps.shape[1:3]
        rows = torch.arange(h, device=maps.device)[None, :, None] >= extents[:, 0, None, None]
        columns = torch.arange(w, device=maps.device)[None, None] >= extents[:, 1, None, None]
        padding = (rows | columns).flatten(1)
        projected = projection(maps.flatten(1, 2), padding, self.standard(level)).unflatten(1, (h, w))
        return roi_align(projected, corners, extents, self.features.roi_size)


class Grounder(nn.Module):
    """A head behind whatever encoders train with it: batches in, tubes' logits out."""

    def __init__(self, head: FSM, encoders: nn.Module | None = None) -> None:
        super().__init__()
        self.head, self.encoders = head, encoders

    def forward(self, batch: Batch) -> Output:
        """The head's output on a batch; a batch without targets cannot give them away."""
        if self.encoders is not None:
            batch = self.encoders(batch)
        return self.head(batch.inputs, batch.targets)


def every(inputs: Inputs, stride: int, keep_frames: bool) -> Inputs:
    """Every stride-th slot. Unless ``keep_frames``, frames behind no such slot are dropped, and cost nothing."""
    index, padding = inputs.frame_index[:, ::stride], inputs.frame_padding[:, ::stride]
    if keep_frames:
        return replace(inputs, frame_index=index, frame_padding=padding)
    rows, index = index.unique(return_inverse=True)
    maps, cells = inputs.maps[rows], inputs.cell_padding[rows]
    return replace(inputs, maps=maps, cell_padding=cells, frame_index=index, frame_padding=padding)


def build_model(config: ModelConfig, features: FeatureFacts, seed: int = 0, scored: bool = True) -> FSM:
    """An FSM head with seeded initial weights; the caller's random state is left as it was. ``scored``: see `FSM`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FSM(config, features, scored)

"""The FSM head: fusion, space-text encoder, two-stream decoder, and output layers for boxes, spans and scores."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ...cache.batches.batch import Inputs, Targets
from ..boxes import to_corners
from ..decoder import Stream
from ..layers import MaskedGroupNorm, Standard, StoredLinear, roi_align, roi_sine, time_code
from ..model import Anchor, Output, TubeHead
from ..model_config import GROUPS, FeatureFacts, ModelConfig
from ..precision import call
from .cells import CellMap, Cells
from .fusion import Fusion


class LevelProjection(nn.Module):
    """Projects a further level to width d: a 1x1 convolution (a linear layer on channels-last cells), optionally group
    norm.

    On stored regions the statistics of the norm are those of the region, not of the map: this is a different model.
    Where that matters, train on a cache of ``--levels full``, or with ``proj_norm=none``.
    """

    def __init__(self, channels: int, d: int, norm: str) -> None:
        super().__init__()
        self.conv = StoredLinear(channels, d)
        self.norm = MaskedGroupNorm(GROUPS, d) if norm == "groupnorm" else None

    def forward(self, cells: Tensor, padding: Tensor | None = None, standard: Standard | None = None) -> Tensor:
        """cells (G, L, channels), padding (G, L) bool → (G, L, d)."""
        cells = self.conv(cells, standard)
        return cells if self.norm is None else self.norm(cells, padding)


class FSM(TubeHead):
    """Feature semantic matching for spatio-temporal video grounding, from cached features."""

    def __init__(self, config: ModelConfig, features: FeatureFacts, scored: bool = True) -> None:
        """``scored``: candidates get scores. False where no loss trains them."""
        super().__init__(config, features, config.num_queries if config.qmm else 1)
        c, d = config, config.d
        self.config, self.scored = config, scored and config.qmm
        self.fusion = Fusion(d, c.max_frames, c.fusion, c.dropout)
        if c.cell_map:
            self.cell_map = CellMap(d)
            for parameter in self.bbox_embed.layers[-1].parameters():
                nn.init.zeros_(parameter)  # boxes start as those of the cells
        if c.qmm:
            self.class_embed = nn.Linear(d, 1)
            self.anchor_query = nn.Embedding(1, d)
            if self.region_levels:
                projections = {k.name: LevelProjection(k.channels, d, c.proj_norm) for k in self.region_levels}
                self.level_proj = nn.ModuleDict(projections)
            self.anchor_layers = None if c.shared_decoder else copy.deepcopy(self.decoder.layers)

    def forward(self, inputs: Inputs, targets: Targets | None = None) -> Output:
        """Candidate tubes of every sample. ``targets`` run the second stream, in training only; inference has none."""
        (memory, position, padding), similarity = self.encode(inputs)
        inside = similarity if self.config.frame_decision else None
        cells = self.map_cells(memory, inputs) if self.config.cell_map else None
        box = None if cells is None else cells.reference()
        times = time_code(inputs.frame_padding.shape[1], self.config.d, memory.device)
        query = self.query_embed.weight[None, :, None] + times
        candidates = Stream(query, inputs.frame_padding, memory.flatten(0, 1), position, padding)
        if targets is None or not self.config.qmm:
            states, attention = call(self.decoder, [candidates])
            return Output(self.read(states, attention, box), None, similarity, cells, inside)
        target = self.anchor_stream(inputs, targets, memory, times)
        if self.anchor_layers is None:
            states, attention = call(self.decoder, [candidates, target])
            of_target = states[-1][:, -1]
            states, attention = states[:, :, :-1], attention[:, :, :-1]
        else:
            states, attention = call(self.decoder, [candidates])
            of_target = self.decoder([target], self.anchor_layers)[0][-1][:, 0]
        of_target = of_target.where(targets.in_moment[..., None], 0)
        anchor = Anchor(self.boxes(of_target, box), of_target)
        return Output(self.read(states, attention, box), anchor, similarity, cells, inside)

    def encode(self, inputs: Inputs) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
        """Memory of fused frames and words, see `TubeHead.remember`; and `Fusion.similarity`."""
        x, words, similarity = call(
            self.fusion,
            self.project(inputs),
            self.resizer(inputs.tokens),
            inputs.cell_padding.flatten(1),
            inputs.token_padding,
            inputs.frame_index,
            inputs.frame_padding,
        )
        return self.remember(x, words, inputs), similarity  # eq 6

    def map_cells(self, memory: Tensor, inputs: Inputs) -> Cells:
        """The map and the boxes of memory's cells; see `Stack.recompute`."""
        padding = inputs.cell_padding[inputs.frame_index[:, 0]]
        cells: Cells = self.encoder.run(self.cell_map, memory[:, :, : padding[0].numel()], padding)
        return cells

    def score(self, states: Tensor) -> Tensor | None:
        """See `TubeHead`."""
        return self.class_embed(states).squeeze(-1) if self.scored else None

    def anchor_stream(self, inputs: Inputs, targets: Targets, memory: Tensor, times: Tensor) -> Stream:
        """Stream 2: decodes the annotated tube from RoI features of its boxes, on the moment's slots only."""
        position = self.anchor_query.weight[None, :, None] + times  # the time codes of stream 1
        return Stream(position, ~targets.in_moment, *self.regions(inputs, targets, memory), slots=targets.slots)

    def regions(self, inputs: Inputs, targets: Targets, memory: Tensor) -> tuple[Tensor, Tensor]:
        """RoI-aligned features of the annotated boxes over all levels, and their position codes: two (G, L·S², d)."""
        sample, slot = targets.slots
        size = targets.size[sample]  # (G, 2) width, height
        corners = to_corners(targets.boxes[sample, slot]) * size.repeat(1, 2)  # rendition pixels
        features, codes = [], []
        for level in (*self.region_levels, self.memory_level):
            cells = corners / level.stride
            extents = torch.div(size.flip(1) + level.stride - 1, level.stride, rounding_mode="floor")  # rows, columns
            if level is self.memory_level:  # cut from the memory, which stream 1 decodes
                h, w = inputs.maps.shape[1:3]
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

"""What heads have in common: what one says of a batch, the parts that several are made of, and the model around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..cache.batches.batch import Batch, Inputs
from .decoder import Decoder
from .dropout import Dropout
from .encoder import Encoder
from .layers import MLP, Standard, StoredLinear, sine_2d
from .model_config import FeatureFacts, HeadConfig


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


class FeatureHead(nn.Module):
    """What every head has: which levels of the features it reads, and what it standardises them by."""

    config: Any
    """The head's own: a `HeadConfig`."""

    def __init__(self, config: HeadConfig, features: FeatureFacts) -> None:
        super().__init__()
        self.config, self.features = config, features
        self.memory_level, self.region_levels = config.levels(features.levels)
        read = (self.memory_level, *self.region_levels) if config.standardise else ()
        self.standards = nn.ModuleDict({level.name: Standard(level.channels) for level in read})

    def standard(self, level: str) -> Standard | None:
        """What a level is standardised by; None where features are read as they are."""
        found = self.standards[level] if self.config.standardise else None
        assert found is None or isinstance(found, Standard)
        return found


class TubeHead(FeatureHead):
    """What FSM and TubeDETR share: every frame's cells and words become memory, and queries decode tubes from it."""

    def __init__(self, config: HeadConfig, features: FeatureFacts, queries: int) -> None:
        super().__init__(config, features)
        c, d = config, config.d
        self.input_proj = StoredLinear(self.memory_level.channels, d)
        self.resizer = Resizer(features.text_width, d, c.dropout)
        self.encoder = Encoder(d, c.heads, c.ffn, c.encoder_layers, c.dropout)
        self.decoder = Decoder(d, c.heads, c.ffn, c.decoder_layers, c.dropout)
        self.query_embed = nn.Embedding(queries, d)
        self.bbox_embed = MLP([d, d, d, 4])
        self.sted_embed = MLP([d, d, 2], dropout=c.span_dropout)
        for stack in (self.encoder, self.decoder):
            for parameter in stack.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def recompute(self, on: bool) -> None:
        """Whether training forgets what happens inside the transformer layers, and computes it again; see `Stack`."""
        self.encoder.recompute = self.decoder.recompute = on

    def project(self, maps: Tensor) -> Tensor:
        """Maps (U, h, w, C) of the level that is remembered → (U, h·w, d)."""
        return self.input_proj(maps, self.standard(self.memory_level.name)).flatten(1, 2)

    def remember(self, visual: Tensor, words: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Cells (B, T, h·w, d) and words (B, T, M, d) of every slot of ``inputs`` as memory.

        Returns it (B, T, h·w + M, d), its position code of the same shape, and its padding (B, T, h·w + M).
        """
        index = inputs.frame_index
        tokens = torch.cat([visual, words], dim=2)
        code = sine_2d(inputs.cell_padding, tokens.shape[-1]).flatten(1, 2).to(tokens.dtype)[index]
        position = torch.cat([code, torch.zeros_like(words)], dim=2)
        token_padding = inputs.token_padding[:, None].expand(-1, index.shape[1], -1)
        padding = torch.cat([inputs.cell_padding.flatten(1)[index], token_padding], dim=2)
        memory = self.encoder(tokens.flatten(0, 1), position.flatten(0, 1), padding.flatten(0, 1))
        return memory.unflatten(0, index.shape), position, padding

    def read(self, states: Tensor, attention: Tensor) -> LayerOutput:
        """Boxes, spans and scores of one decoder layer's states (B, N, T, d), in float32."""
        with torch.autocast(states.device.type, enabled=False):
            return LayerOutput(self.boxes(states), self.sted_embed(states), self.score(states), attention, states)

    def score(self, states: Tensor) -> Tensor | None:
        """Whether each candidate is the one meant: (B, N, T) logits, where that is taught."""
        return None

    def boxes(self, states: Tensor) -> Tensor:
        """Boxes (…, 4) of states (…, d). In bfloat16 a coordinate would move in steps of a 256th of the picture."""
        with torch.autocast(states.device.type, enabled=False):
            return self.bbox_embed(states).sigmoid()


class Grounder(nn.Module):
    """A head behind whatever encoders train with it: batches in, tubes' logits out."""

    def __init__(self, head: Any, encoders: nn.Module | None = None) -> None:
        super().__init__()
        self.head, self.encoders = head, encoders

    def forward(self, batch: Batch) -> Output:
        """The head's output on a batch; a batch without targets cannot give them away."""
        if self.encoders is not None:
            batch = self.encoders(batch)
        return self.head(batch.inputs, batch.targets)

"""Shared by all heads: their outputs, common modules, and the model that wraps a head and its encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from ..cache.batches.batch import Batch, Inputs
from .decoder import Decoder
from .dropout import Dropout, dropout
from .encoder import Encoder
from .layers import MLP, Standard, StoredLinear, sine_2d
from .model_config import FeatureFacts, HeadConfig
from .precision import call

if TYPE_CHECKING:
    from .fsm.cells import Cells


@dataclass(frozen=True)
class LayerOutput:
    """The output of one decoder layer for B samples: N candidate tubes over T slots. The output of all layers has one
    more leading axis."""

    boxes: Tensor
    """(B, N, T, 4) cxcywh, as fractions of the frame."""
    span: Tensor
    """(B, N, T, 2) logits of start and end."""
    score: Tensor | None
    """(B, N, T) logits that the candidate is the annotated tube. None without query matching, or where no loss trains
    them."""
    attention: Tensor
    """(B, N, T, T) temporal attention, rows = queries, before dropout."""
    states: Tensor
    """(B, N, T, d) decoder states."""

    def at(self, which: int | slice) -> Self:
        """The output of a layer, or of a slice of layers."""
        some: dict[str, Any] = {k: None if v is None else v[which] for k, v in vars(self).items()}
        return replace(self, **some)

    def only_last(self) -> Self:
        """The output of the last layer, with the axis of layers kept."""
        return self.at(slice(-1, None))


@dataclass(frozen=True)
class Anchor:
    """The second stream's output for the annotated tube. Valid only on slots inside the moment."""

    boxes: Tensor
    """(B, T, 4) cxcywh, as fractions of the frame."""
    states: Tensor
    """(B, T, d) decoder states."""


@dataclass(frozen=True)
class Output:
    """The output of all decoder layers in order, and what further losses need."""

    every: Any
    """A `LayerOutput` of all L layers: (L, B, …)."""
    anchor: Anchor | None = None
    """The second stream's output, in training only."""
    similarity: Tensor | None = None
    """(B, T) logits of FSM's frame weights: how similar frame and sentence are (eq 4)."""
    cells: Cells | None = None
    """The `Cells` of FSM's cell map."""
    inside: Tensor | None = None
    """(B, T) logits that a slot is inside the moment, for the decision. None: starts and ends decide alone."""

    @classmethod
    def of(cls, layers: Sequence[LayerOutput], anchor: Anchor | None = None) -> Output:
        """From the outputs of single layers."""
        found: dict[str, list[Any]] = {name: [vars(layer)[name] for layer in layers] for name in vars(layers[0])}
        every: dict[str, Any] = {k: None if v[0] is None else torch.stack(v) for k, v in found.items()}
        return cls(replace(layers[0], **every), anchor)

    @property
    def layers(self) -> list[Any]:
        """The `LayerOutput` of each layer."""
        return [self.every.at(i) for i in range(len(self.every.boxes))]


class Resizer(nn.Module):
    """Projects token features to width d. The layer norm is computed in float32: its epsilon, 1e-12, underflows in half
    precision."""

    def __init__(self, text_width: int, config: HeadConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(text_width, config.d)
        self.layer_norm = nn.LayerNorm(config.d, eps=1e-12)
        self.dropout, self.word_dropout = Dropout(config.dropout), config.word_dropout

    def forward(self, tokens: Tensor) -> Tensor:
        with torch.autocast(tokens.device.type, enabled=False):
            words = self.layer_norm(self.fc(tokens.to(self.fc.weight.dtype)))
            if self.training and self.word_dropout:
                words = words * (dropout(torch.ones_like(words[..., :1]), self.word_dropout, training=True) > 0)
            return self.dropout(words)


class FeatureHead(nn.Module):
    """Base of all heads: the levels of the features that it reads, and their statistics for standardising."""

    config: Any
    """The head's settings: a `HeadConfig`."""

    def __init__(self, config: HeadConfig, features: FeatureFacts) -> None:
        super().__init__()
        self.config, self.features = config, features
        self.memory_level, self.region_levels = config.levels(features.levels)
        read = (self.memory_level, *self.region_levels) if config.standardise else ()
        self.standards = nn.ModuleDict({level.name: Standard(level.channels) for level in read})
        self.input_proj = StoredLinear(self.memory_level.channels, config.d)

    def project(self, inputs: Inputs) -> Tensor:
        """The cells of all distinct frames, projected to width d: (U, h·w, d)."""
        cells = self.input_proj(inputs.maps, self.standard(self.memory_level.name))
        if self.config.content_positions:
            cells = cells + sine_2d(inputs.cell_padding, self.config.d).to(cells.dtype)
        return cells.flatten(1, 2)

    def places(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Position codes (B, S, d) of every clip's S cells and words, and their padding (B, S).

        All frames of a clip have one size, so the first frame's codes are used for all. The codes of words are zero.
        """
        cells = inputs.cell_padding[inputs.frame_index[:, 0]]
        code = sine_2d(cells, self.config.d).flatten(1, 2)
        code = nn.functional.pad(code, (0, 0, 0, inputs.token_padding.shape[1]))
        return code, torch.cat([cells.flatten(1), inputs.token_padding], dim=1)

    def standard(self, level: str) -> Standard | None:
        """The statistics that standardise a level; None where features are not standardised."""
        found = self.standards[level] if self.config.standardise else None
        assert found is None or isinstance(found, Standard)
        return found


class TubeHead(FeatureHead):
    """Base of FSM and TubeDETR: cells and words of every frame are encoded as memory, and queries decode tubes from
    it."""

    def __init__(self, config: HeadConfig, features: FeatureFacts, queries: int) -> None:
        super().__init__(config, features)
        c, d = config, config.d
        self.resizer = Resizer(features.text_width, c)
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
        """Turn gradient checkpointing of the layers on or off; see `Stack`."""
        self.encoder.recompute = self.decoder.recompute = on

    def remember(self, visual: Tensor, words: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Encode cells (B, T, h·w, d) and words (B, T, M, d) of every slot of ``inputs`` as memory.

        Returns the memory (B, T, h·w + M, d), its position codes (B, h·w + M, d) and its padding (B, h·w + M).
        """
        position, padding = self.places(inputs)
        memory = call(self.encoder, torch.cat([visual, words], dim=2), position, padding)
        return memory, position, padding

    def read(self, states: Tensor, attention: Tensor, reference: Tensor | None = None) -> LayerOutput:
        """Boxes, spans and scores from all decoder layers' states (L, B, N, T, d), in float32. ``reference``: see
        `boxes`."""
        with torch.autocast(states.device.type, enabled=False):
            reference = None if reference is None else reference[:, None]
            return LayerOutput(
                self.boxes(states, reference), self.sted_embed(states), self.score(states), attention, states
            )

    def score(self, states: Tensor) -> Tensor | None:
        """The candidates' scores, (L, B, N, T) logits; None where the head has none."""
        return None

    def boxes(self, states: Tensor, reference: Tensor | None = None) -> Tensor:
        """Boxes (…, 4) from states (…, d), in float32: bfloat16 would round coordinates to 1/256 of the frame.
        ``reference``: logits of the boxes that these refine, broadcast against them."""
        with torch.autocast(states.device.type, enabled=False):
            moved = self.bbox_embed(states)
            return (moved if reference is None else moved + reference).sigmoid()


class Grounder(nn.Module):
    """A head, preceded by the encoders that train with it: batch → `Output`."""

    def __init__(self, head: Any, encoders: nn.Module | None = None) -> None:
        super().__init__()
        self.head, self.encoders = head, encoders

    def forward(self, batch: Batch) -> Output:
        """The head's output on a batch. In inference the batch has no targets."""
        if self.encoders is not None:
            batch = self.encoders(batch)
        return self.head(batch.inputs, batch.targets)

"""The STCAT head: tokens of frame and video, a template, two decoders, and output layers for boxes, spans,
actionness."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...cache.batches.batch import Inputs, Targets
from ..decoder import Decoder, Stream
from ..layers import MLP, time_code
from ..model import FeatureHead, LayerOutput, Output, Resizer
from ..model_config import FeatureFacts
from ..precision import at_least_float32, call
from .anchors import Template
from .config import STCATConfig
from .encoder import TokenEncoder
from .spatial_decoder import SpatialDecoder, moved


@dataclass(frozen=True)
class STCATLayer(LayerOutput):
    """The output of one layer of both decoders for B samples: one tube (N = 1) over T slots."""

    action: Tensor
    """(B, T) logits that the slot is inside the moment. Trained, but not used in decoding."""
    reference: Tensor
    """(B, T, 4) cxcywh, as fractions of the frame: the boxes that the spatial layer refines."""


class STCAT(FeatureHead):
    """One tube per sentence, from cached features of the last level."""

    def __init__(self, config: STCATConfig, features: FeatureFacts) -> None:
        super().__init__(config, features)
        c, d = config, config.d
        self.resizer = Resizer(features.text_width, c)
        self.encoder = TokenEncoder(d, c.heads, c.ffn, c.encoder_layers, c.dropout)
        self.template = Template(d)
        self.spatial_decoder = SpatialDecoder(d, c.heads, c.ffn, c.decoder_layers, c.dropout)
        self.temporal_decoder = Decoder(d, c.heads, c.ffn, c.decoder_layers, c.dropout)
        self.bbox_embed = MLP([d, d, d, 4])
        self.temp_embed = MLP([d, d, 2], dropout=c.span_dropout)
        self.action_embed = MLP([d, d, 1], dropout=c.span_dropout)
        for part in (self.encoder, self.template, self.spatial_decoder, self.temporal_decoder):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def forward(self, inputs: Inputs, targets: Targets | None = None) -> Output:
        """The tube of every sample, from all layers. ``targets`` are not used."""
        T = inputs.frame_padding.shape[1]
        code, padding = self.places(inputs)
        memory, frames, video = call(self.encoder, self.tokens(inputs), code, padding, inputs.frame_padding)
        anchors, content = self.template(frames, video)
        # Slots are numbered from 0 here, and from 1 in the encoder.
        times = time_code(T, self.config.d, memory.device).to(next(self.parameters()).dtype)
        anchors, places = at_least_float32(anchors).sigmoid(), (memory, code, padding, inputs.frame_padding)
        states, references = call(self.spatial_decoder, anchors, times, *places, self.bbox_embed)
        query = content[:, None, None]
        stream = Stream(query + times, inputs.frame_padding, memory.flatten(0, 1), code, padding, of_frame=query)
        when, attention = call(self.temporal_decoder, [stream])
        return Output(self.read(states, references, when, attention))

    def recompute(self, on: bool) -> None:
        """Turn gradient checkpointing of the transformer layers on or off; see `Stack`."""
        self.encoder.recompute = self.spatial_decoder.recompute = self.temporal_decoder.recompute = on

    def tokens(self, inputs: Inputs) -> Tensor:
        """Cells and words of every slot (B, T, S, d)."""
        visual = self.project(inputs)[inputs.frame_index]
        words = self.resizer(inputs.tokens).to(visual.dtype)
        return torch.cat([visual, words[:, None].expand(-1, visual.shape[1], -1, -1)], dim=2)

    def read(self, states: Tensor, reference: Tensor, when: Tensor, attention: Tensor) -> STCATLayer:
        """The outputs of all layers, in float32, from spatial states (L, B, T, d) and temporal ones (L, B, 1, T, d)."""
        boxes = moved(self.bbox_embed, states, reference)[:, :, None]
        with torch.autocast(when.device.type, enabled=False):
            span, action = self.temp_embed(when), self.action_embed(when[:, :, 0]).squeeze(-1)
        return STCATLayer(boxes, span, None, attention, when, action, reference)

"""``torchvision:NAME``: torchvision's Video Swin transformers, which encode each frame with its neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...config import nearest
from ...errors import CheckpointError, UsageError
from ...weights import load_exactly, read_weights
from .contract import IMAGENET_MEAN, IMAGENET_STD, Backbone, Origin
from .kinds import EncoderRequest
from .networks import quietly, randomise

NAMES = ("swin3d_t", "swin3d_s", "swin3d_b")
TUBELET = 2
"""Frames per temporal position."""


class VideoSwin(nn.Module):
    """Pixels (n, 8, 3, H, W) → maps of the fifth frame at strides 8, 16, 32, the last one after the last norm."""

    mean, std = IMAGENET_MEAN, IMAGENET_STD
    window = 8
    multiple = 4

    def __init__(self, network: Any) -> None:
        super().__init__()
        del network.head, network.avgpool
        self.network = network
        width = network.num_features
        self.levels = (("s8", width // 4, 8), ("s16", width // 2, 16), ("s32", width, 32))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        network = self.network
        x = network.patch_embed(pixels.transpose(1, 2))
        at = self.window // 2 // TUBELET
        stages = []
        for layer in network.features:
            x = layer(x)
            if isinstance(layer, nn.Sequential):  # a stage; the others merge patches
                stages.append(x[:, at])
        maps = [*stages[-3:-1], network.norm(stages[-1])]
        return {name: m.permute(0, 3, 1, 2) for (name, _, _), m in zip(self.levels, maps, strict=True)}


def build(asked: EncoderRequest) -> Backbone:
    if asked.name not in NAMES:
        raise UsageError(f"torchvision:{asked.name} is not among the encoders", hint=nearest(asked.name, NAMES))
    encoder = VideoSwin(quietly(lambda: create(asked.name)))
    if asked.random:
        randomise(encoder.network, asked.seed)
        source = f"random, seed {asked.seed}"
    elif asked.weights is None:
        raise CheckpointError(
            f"no weights for torchvision:{asked.name}",
            expected="--backbone-weights FILE: torchvision's published weights",
            effect="nothing is downloaded",
            hint="--backbone-weights random to try things out",
        )
    else:
        found = read_weights(Path(asked.weights)).beside("patch_embed.proj.weight")
        load_exactly(encoder.network, {k: v for k, v in found.tensors.items() if not k.startswith("head.")}, found)
        source = str(found)
    extra = f"torchvision {asked.name} window {VideoSwin.window}".encode()
    return Backbone(encoder.to(asked.device), Origin(f"torchvision:{asked.name}", source, extra))


def create(name: str) -> nn.Module:
    from torchvision.models import video

    with torch.no_grad():
        return getattr(video, name)(weights=None)

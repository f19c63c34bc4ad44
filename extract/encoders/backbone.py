"""The table of visual encoders: one row per kind of name, one file per kind."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from ...errors import UsageError
from . import huggingface, lite0, resnet, timm_models, tiny, video_swin
from .contract import CPU, Backbone
from .kinds import EncoderKind, EncoderRequest, find
from .plugins import build_plugin
from .several import BETWEEN, build_several

__all__ = ("BACKBONES", "Backbone", "build_backbone")

log = logging.getLogger(__name__)

BACKBONES: tuple[EncoderKind[Backbone], ...] = (
    EncoderKind("resnet101", "ResNet-101, as in the papers; weights: a file, or torch's local hub cache", resnet.build),
    EncoderKind("lite0", "EfficientNet-Lite0, small, ImageNet; weights: extra lite, or a file", lite0.build),
    EncoderKind("tiny", "small, random from a seed, for synthetic videos; no weights", tiny.build),
    EncoderKind(
        "timm:", "timm:NAME, a network of timm; weights: a file or folder with timm's tensor names", timm_models.build
    ),
    EncoderKind("hf:", "hf:FOLDER, a backbone of transformers with its weights", huggingface.build),
    EncoderKind(
        "torchvision:", "torchvision:swin3d_t, swin3d_s, swin3d_b: Video Swin; weights: a file", video_swin.build
    ),
    EncoderKind(
        "CLASS", "file.py:Class, package:Class, or an entry point", lambda asked: build_plugin(asked, Backbone)
    ),
)


def build_backbone(name: str, weights: str | Path | None = None, seed: int = 0, device: torch.device = CPU) -> Backbone:
    """A frozen visual encoder; if the name is a comma-separated list, several side by side (see `several`).

    ``weights``: a file or folder, ``random`` (seeded), or None for the default place of its kind.

    Raises UsageError for an unknown name, CheckpointError for weights that are missing or do not fit, EncoderError for
    a class that does not fulfil the contract.
    """
    if name.startswith("imported:"):
        raise UsageError(
            f"{name} cannot compute features: those of its cache were made elsewhere",
            effect="nothing was computed",
            hint="make the features of new videos with the same tool, then: stvg cache import",
        )
    if BETWEEN in name:
        return build_several(
            name, None if weights is None else str(weights), lambda n, w: build_backbone(n, w, seed, device)
        )
    asked = EncoderRequest(name, str(weights) if weights is not None else None, seed=seed, device=device)
    kind, asked = find(BACKBONES, "backbone", asked)
    found = kind.build(asked)
    log.info("%s: weights %s", found.name, found.source)
    return found

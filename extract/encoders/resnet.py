"""ResNet-101 as in the papers: torchvision's first weights, frozen batch norm, the last three stages."""

from __future__ import annotations

import math
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.checkpoint import checkpoint

from ...errors import CheckpointError
from ...weight_files import NAMES
from ...weights import StateDict, load_exactly, random_values, read_weights, some
from .contract import IMAGENET_MEAN, IMAGENET_STD, Backbone, Origin
from .kinds import EncoderRequest

PUBLISHED = "resnet101-63fe2227.pth"
"""torchvision's first weights, which the papers start from. The second ones, resnet101-cd907fc2.pth, differ."""
ANCHOR = "layer4.0.conv1.weight"
"""This tensor's name shows the prefix of a ResNet inside a larger model."""


class FrozenNorm(nn.Module):
    """torchvision's frozen batch norm, but half-precision inputs stay half precision.

    torchvision's would return float32, which is kept for the backward pass, and cast again by the next convolution.
    """

    eps = 1e-5
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def _load_from_state_dict(self, state_dict: StateDict, prefix: str, *rest: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        scale, shift = (v.to(x.dtype)[:, None, None] for v in (scale, shift))
        return x * scale + shift


def stage(blocks: Any, x: Tensor) -> Tensor:
    """Apply the residual blocks in order.

    In training, the output of every second block is not kept for the backward pass but recomputed, which takes only the
    block's last convolution. Block outputs are most of the memory that a trained backbone keeps.
    """
    opened = blocks[0].conv1(x)
    for i, (block, following) in enumerate(pairwise(blocks)):
        parts = (block, following, inside(block, opened), x)
        if i % 2 and parts[2].requires_grad:
            x, opened = checkpoint(passed_on, *parts, use_reentrant=False, preserve_rng_state=False)
        else:
            x, opened = passed_on(*parts)
    return closed(blocks[-1], inside(blocks[-1], opened), x)


def inside(block: Any, opened: Tensor) -> Tensor:
    """The input of a block's last convolution, from the output of its first one."""
    return block.relu(block.bn2(block.conv2(block.relu(block.bn1(opened)))))


def closed(block: Any, hidden: Tensor, x: Tensor) -> Tensor:
    """The output of a block, from the input of its last convolution and its own input ``x``."""
    return block.relu(block.bn3(block.conv3(hidden)) + (x if block.downsample is None else block.downsample(x)))


def passed_on(block: Any, following: Any, hidden: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output of a block, and the output of the following block's first convolution."""
    out = closed(block, hidden, x)
    return out, following.conv1(out)


class ResNet101(nn.Module):
    """ResNet-101 without its classifier. Batch norm is frozen: its four tensors are buffers. 42,394,816 parameters."""

    levels = (("c3", 512, 8), ("c4", 1024, 16), ("c5", 2048, 32))
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self) -> None:
        from torchvision.models import resnet101  # takes as long to load as torch itself

        super().__init__()
        self.body = resnet101(weights=None, norm_layer=FrozenNorm)
        del self.body.fc

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        levels = self.early(pixels)
        return {**levels, "c5": self.last_stage(levels["c4"])}

    def early(self, pixels: Tensor) -> dict[str, Tensor]:
        body = self.body
        c2 = stage(body.layer1, body.maxpool(body.relu(body.bn1(body.conv1(pixels)))))
        c3 = stage(body.layer2, c2)
        return {"c3": c3, "c4": stage(body.layer3, c3)}

    def last_stage(self, c4: Tensor) -> Tensor:
        return stage(self.body.layer4, c4)

    def trained(self) -> list[nn.Parameter]:
        """The parameters of stages 2 to 4; the first convolution and stage 1 stay frozen, as in the baseline."""
        stages = [self.body.get_submodule(f"layer{i}") for i in (2, 3, 4) if hasattr(self.body, f"layer{i}")]
        return [p for stage in stages for p in stage.parameters()]

    def drop_early_stages(self) -> None:
        for name in ("conv1", "bn1", "layer1", "layer2", "layer3"):
            delattr(self.body, name)

    def folded(self) -> ResNet101:
        """A copy with norms folded into the convolutions before them. Equal up to rounding, and a quarter faster."""
        copy = deepcopy(self)
        for block in list(copy.modules()):
            names = list(dict(block.named_children()))
            for before, name in pairwise(names):
                conv, norm = getattr(block, before), getattr(block, name)
                if isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenNorm):
                    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
                    weight, bias = fuse_conv_bn_weights(conv.weight, None, *statistics)
                    conv.weight, conv.bias = (nn.Parameter(p.detach(), requires_grad=False) for p in (weight, bias))
                    setattr(block, name, nn.Identity())
        return copy

    def randomise(self, seed: int) -> None:
        """Fill in seeded weights that keep the activations of all 33 blocks within the range of float16.

        Convolutions preserve variance; each block's last norm scales its branch by a quarter, so that 33 residual
        additions multiply the second moment by about 1.06 each instead of 2.
        """
        for name, value in self.body.state_dict().items():
            if value.dim() == 4:
                fan_in = value[0].numel()
                value.copy_(random_values(value.shape, seed, name) * math.sqrt(2 / fan_in))
            elif name.endswith("bn3.weight"):
                value.fill_(0.25)

    def load(self, path: Path) -> str:
        """Load the ResNet-101 of a file or folder, also from inside a larger model; returns the source.

        Tensors have torchvision's names; the classifier is left out. Raises CheckpointError; see `read_weights`.
        """
        found = read_weights(path, ("backbone.safetensors", *NAMES)).beside(ANCHOR)
        load_exactly(self.body, {k: v for k, v in found.tensors.items() if not k.startswith("fc.")}, found)
        return str(found)


def build(asked: EncoderRequest) -> Backbone:
    network = ResNet101()
    if asked.random:
        network.randomise(asked.seed)
        source = f"random, seed {asked.seed}"
    else:
        source = network.load(Path(asked.weights) if asked.weights else _in_hub_cache())
    return Backbone(network.to(asked.device), Origin("resnet101", source, b"resnet101"))


def _in_hub_cache() -> Path:
    """The papers' weights in torch's local cache. Raises CheckpointError, which names other ResNet-101 files there."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if (folder / PUBLISHED).is_file():
        return folder / PUBLISHED
    others = sorted(p.name for p in folder.glob("resnet101-*"))
    raise CheckpointError(
        "no weights for resnet101",
        expected=f"{PUBLISHED} (torchvision's IMAGENET1K_V1, as in the papers) in {folder}",
        found=f"{some(others)}: other weights, which give other features" if others else None,
        effect="nothing is downloaded",
        hint="--backbone-weights FILE, or --backbone-weights random to try things out",
    )

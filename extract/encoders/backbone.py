"""Frozen visual encoders with their facts: ResNet-101 as the field uses it, and a tiny one for the demo and tests."""

from __future__ import annotations

import logging
import math
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models import resnet101
from torchvision.ops import FrozenBatchNorm2d

from ...config import nearest
from ...errors import CheckpointError, UsageError
from ...weight_files import NAMES
from ...weights import load_exactly, random_values, read_weights, some, state_sha256

log = logging.getLogger(__name__)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


PUBLISHED = "resnet101-63fe2227.pth"
"""torchvision's first weights, from which the field starts. Its second, resnet101-cd907fc2.pth, give other features."""
ANCHOR = "layer4.0.conv1.weight"
"""Where a ResNet stands in a larger model is seen by this tensor."""


class Backbone(nn.Module):
    """Pixels (n, 3, H, W), normalised with ``mean`` and ``std`` → {"c3", "c4", "c5"}: (n, C, ⌈H / s⌉, ⌈W / s⌉) each.

    In evaluation mode and without gradients unless the caller says otherwise.
    """

    name: str
    channels: tuple[int, int, int]
    strides: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights_sha256: str
    source = "random"
    """Where the weights come from, as printed."""

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        c3, c4 = self.early_stages(pixels)
        return {"c3": c3, "c4": c4, "c5": self.last_stage(c4)}

    @classmethod
    def build(cls, weights: str | Path | None, seed: int) -> Backbone:
        """Made and filled as `build_backbone` says."""
        raise TypeError(f"{cls.__name__} must say how it is built")

    def early_stages(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """C3 and C4 of normalised pixels."""
        raise TypeError(f"{type(self).__name__} must say how it encodes")

    def last_stage(self, c4: Tensor) -> Tensor:
        """C5 from C4 (n, C4, h, w) alone, so that this stage can train on cached C4."""
        raise TypeError(f"{type(self).__name__} must say how it encodes")

    def trained(self) -> list[nn.Parameter]:
        """The parameters that train when the whole encoder does."""
        return list(self.parameters())

    def drop_early_stages(self) -> Backbone:
        """Keep what `last_stage` needs, for a module that only ever sees C4; returns itself."""
        return self

    def folded(self) -> Backbone:
        """A copy for inference alone: the same function in fewer steps, where there are any to save."""
        return self

    def for_extraction(self, device: torch.device) -> Backbone:
        """Folded, on a device, and laid out as its convolutions are fastest."""
        return self.folded().to(device).to(memory_format=torch.channels_last)

    def freeze(self) -> Backbone:
        """Hash the weights and switch to frozen evaluation."""
        self.weights_sha256 = state_sha256(self.state_dict(), self.name.encode())
        return self.eval().requires_grad_(False)


class ResNet101(Backbone):
    """ResNet-101 without its classifier; batch norm frozen, its four statistics are buffers. 42,394,816 parameters."""

    name = "resnet101"
    channels, strides = (512, 1024, 2048), (8, 16, 32)
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self) -> None:
        super().__init__()
        self.body = resnet101(weights=None, norm_layer=FrozenBatchNorm2d)
        del self.body.fc

    @classmethod
    def build(cls, weights: str | Path | None, seed: int) -> Backbone:
        backbone = cls()
        if str(weights) == "random":
            backbone.randomise(seed)
            backbone.source = f"random, seed {seed}"
        else:
            backbone.load(Path(weights) if weights else _in_hub_cache())
        log.info("%s: weights %s", cls.name, backbone.source)
        return backbone

    def early_stages(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        body = self.body
        c2 = body.layer1(body.maxpool(body.relu(body.bn1(body.conv1(pixels)))))
        c3 = body.layer2(c2)
        return c3, body.layer3(c3)

    def last_stage(self, c4: Tensor) -> Tensor:
        return self.body.layer4(c4)

    def trained(self) -> list[nn.Parameter]:
        """Stages 2 to 4; the first convolution and stage 1 stay as they are, as in the baseline."""
        body = self.body
        return [p for stage in (body.layer2, body.layer3, body.layer4) for p in stage.parameters()]

    def drop_early_stages(self) -> Backbone:
        for name in ("conv1", "bn1", "layer1", "layer2", "layer3"):
            delattr(self.body, name)
        return self

    def folded(self) -> Backbone:
        """A copy whose norms are part of the convolutions before them. Equal but for rounding, and a quarter faster."""
        copy = deepcopy(self)
        for block in list(copy.modules()):
            names = list(dict(block.named_children()))
            for before, name in pairwise(names):
                conv, norm = getattr(block, before), getattr(block, name)
                if isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenBatchNorm2d):
                    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
                    weight, bias = fuse_conv_bn_weights(conv.weight, None, *statistics)
                    conv.weight, conv.bias = (nn.Parameter(p.detach(), requires_grad=False) for p in (weight, bias))
                    setattr(block, name, nn.Identity())
        return copy

    def randomise(self, seed: int) -> None:
        """Seeded weights that keep activations of all 33 blocks between fp16's ends.

        Convolutions preserve variance; each block's last norm scales its branch by a quarter, so that 33 residual
        additions multiply the second moment by about 1.06 each instead of 2.
        """
        for name, value in self.body.state_dict().items():
            if value.dim() == 4:
                fan_in = value[0].numel()
                value.copy_(random_values(value.shape, seed, name) * math.sqrt(2 / fan_in))
            elif name.endswith("bn3.weight"):
                value.fill_(0.25)

    def load(self, path: Path) -> None:
        """The ResNet-101 of a file or folder, under torchvision's names or inside of a larger model.

        The classifier is left out. Raises CheckpointError; see `read_weights`.
        """
        found = read_weights(path, ("backbone.safetensors", *NAMES)).beside(ANCHOR)
        load_exactly(self.body, {k: v for k, v in found.tensors.items() if not k.startswith("fc.")}, found)
        self.source = str(found)


class TinyBackbone(Backbone):
    """A small frozen encoder for synthetic videos: colour, texture and place, readable by a linear layer. No training.

    Six rectified colour opponents (zero on grey), brightness, darkness and edges are averaged over small cells; seeded
    random convolutions add mixtures of them. C5 keeps the 2 x 2 layout inside its cell, and where the cell lies.
    """

    name = "tiny"
    channels, strides = (34, 50, 92), (4, 8, 16)
    mean, std = (0.45, 0.45, 0.45), (0.27, 0.27, 0.27)
    MIXTURES = (24, 40, 48)
    CUES = 10

    def __init__(self, seed: int) -> None:
        super().__init__()
        opponents = [[1, -0.5, -0.5], [-0.5, 1, -0.5], [-0.5, -0.5, 1], [0.5, 0.5, -1], [0.5, -1, 0.5], [-1, 0.5, 0.5]]
        self.register_buffer("opponents", torch.tensor(opponents)[:, :, None, None])
        width = self.CUES
        for level, mixtures in enumerate(self.MIXTURES):
            kernel = random_values((mixtures, width, 3, 3), seed, f"tiny {level}")
            self.register_parameter(f"mix{level}", nn.Parameter(kernel * math.sqrt(2 / (9 * width))))
            width = mixtures

    @classmethod
    def build(cls, weights: str | Path | None, seed: int) -> Backbone:
        if weights not in (None, "random"):
            raise UsageError("backbone tiny has no weights to load", found=weights, hint="leave --backbone-weights out")
        return cls(seed)

    def cues(self, pixels: Tensor) -> Tensor:
        """(n, 10, H, W): what a glance sees in a pixel."""
        colour = F.conv2d(pixels, self.get_buffer("opponents")).relu()
        light = pixels.mean(1, keepdim=True)
        edges = (light - F.avg_pool2d(light, 3, 1, 1)).abs() * 3
        return torch.cat([colour, edges, (light - 1).relu() * 2, (-light - 1).relu() * 2, light * 0.3], dim=1)

    def early_stages(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        # Cells at the right and bottom may be incomplete; they average what is there.
        fine = F.avg_pool2d(self.cues(pixels), 4, ceil_mode=True, count_include_pad=False)
        middle = F.avg_pool2d(fine, 2, ceil_mode=True, count_include_pad=False)
        mixed3 = F.conv2d(fine, self.get_parameter("mix0"), padding=1).relu()
        mixed4 = F.conv2d(mixed3, self.get_parameter("mix1"), stride=2, padding=1).relu()
        return torch.cat([fine, mixed3], dim=1), torch.cat([middle, mixed4], dim=1)

    def last_stage(self, c4: Tensor) -> Tensor:
        middle, mixed4 = c4[:, : self.CUES], c4[:, self.CUES :]
        mixed5 = F.conv2d(mixed4, self.get_parameter("mix2"), stride=2, padding=1).relu()
        even = F.pad(middle, (0, middle.shape[3] % 2, 0, middle.shape[2] % 2))
        layout = F.pixel_unshuffle(even, 2) * 2
        n, _, h, w = layout.shape
        rows, columns = (torch.arange(size, device=c4.device) for size in (h, w))
        y = 3 * ((rows + 0.5) * 2 / h - 1)[None, None, :, None].expand(n, 2, -1, w)
        x = 3 * ((columns + 0.5) * 2 / w - 1)[None, None, None, :].expand(n, 2, h, -1)
        return torch.cat([layout, mixed5, y, x], dim=1)


def _in_hub_cache() -> Path:
    """The weights of the field in torch's local cache. CheckpointError names what else lies there; nothing is guessed."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if (folder / PUBLISHED).is_file():
        return folder / PUBLISHED
    others = sorted(p.name for p in folder.glob("resnet101-*"))
    raise CheckpointError(
        "no weights for resnet101",
        expected=f"{PUBLISHED} (torchvision's IMAGENET1K_V1, the field's) in {folder}",
        found=f"{some(others)}: other weights, which give other features" if others else None,
        effect="nothing is downloaded",
        hint="--backbone-weights FILE, or --backbone-weights random to try things out",
    )


BACKBONES: dict[str, type[Backbone]] = {"resnet101": ResNet101, "tiny": TinyBackbone}


def build_backbone(name: str, weights: str | Path | None = None, seed: int = 0) -> Backbone:
    """A frozen encoder. ``weights``: a file, ``random`` (seeded), or None for torch's local hub cache.

    Raises UsageError for an unknown name, CheckpointError for weights that are missing or do not fit.
    """
    if name not in BACKBONES:
        raise UsageError(f"there is no backbone {name!r}", hint=nearest(name, BACKBONES))
    return BACKBONES[name].build(weights, seed).freeze()

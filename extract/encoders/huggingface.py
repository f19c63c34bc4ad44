"""``hf:FOLDER``: backbones of transformers (DINOv2, Swin, ConvNeXt, …), with weights and settings of a local folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, EncoderError, UsageError
from ...weights import some
from ...wording import first_line
from .contract import IMAGENET_MEAN, IMAGENET_STD, Backbone, Origin
from .kinds import EncoderRequest
from .networks import multiple_of, quietly, randomise

FINEST = 8
"""Smallest stride of a level, if the folder does not choose stages."""
SIDE = 224
"""Side, in pixels, of the square picture that strides are measured with: a multiple of all usual strides."""
NORMS = "hidden_states_norms."
"""Norms of the stages, which weights of classifiers lack; initialised, they normalise without gain and bias."""


class HfFeatures(nn.Module):
    """A backbone of transformers: the maps of its stages, named as the stages."""

    def __init__(self, network: nn.Module, levels: Sequence[tuple[str, int, int]], folder: Path) -> None:
        super().__init__()
        self.network, self.levels, self.multiple = network, tuple(levels), 1
        self.mean, self.std = normalisation_of(folder)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        maps = self.network(pixels).feature_maps
        return {name: found for (name, _, _), found in zip(self.levels, maps, strict=True)}


def build(asked: EncoderRequest) -> Backbone:
    folder = model_folder(asked.name, "backbone")
    if asked.weights not in (None, "random"):
        raise weights_elsewhere(asked, "--backbone-weights")
    config = config_of(folder)
    levels = choose_levels(config, folder)
    config.out_features = [name for name, _, _ in levels]
    network = quietly(lambda: empty(config, folder))
    if asked.random:
        randomise(network, asked.seed)
        source = f"random, seed {asked.seed}"
    else:
        network, lacking = loaded(type(network), config, folder)
        require_whole(folder, [k for k in lacking if NORMS not in k])
        source = f"{folder}; norms of its stages as they start" if lacking else str(folder)
    features = HfFeatures(network.eval(), levels, folder).eval().to(asked.device)
    features.multiple = multiple_of(features, f"hf:{asked.name}", int(getattr(config, "patch_size", 1) or 1))
    extra = f"hf {config.model_type} {config.out_features}".encode()
    return Backbone(features, Origin(f"hf:{name_of(folder)}", source, extra))


def weights_elsewhere(asked: EncoderRequest, option: str) -> UsageError:
    return UsageError(f"hf:{asked.name} has its weights in its folder", found=asked.weights, hint=f"leave {option} out")


def require_whole(folder: Path, lacking: Sequence[str]) -> None:
    if lacking:
        raise CheckpointError(
            f"the weights of {folder} are incomplete", missing=some(lacking), effect="nothing was loaded"
        )


def model_folder(name: str, what: str) -> Path:
    """The folder that ``hf:`` names. Raises UsageError if it holds no model; names on a hub are not looked up."""
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{what} hf:{name}: there is no config.json in that folder",
            expected="a folder with a model as transformers saves it",
            effect="nothing is downloaded",
            hint="download it once (hf download NAME --local-dir FOLDER) and name the folder",
        )
    return folder


def name_of(folder: Path) -> str:
    """The folder's name in a recipe, without its parents; for a snapshot in a hub's cache, the repository's name."""
    whole = folder.resolve()
    return whole.parents[1].name if whole.parent.name == "snapshots" else whole.name


def config_of(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # KeyError, ValueError, OSError …, depending on the fault
        raise CheckpointError(f"{folder / 'config.json'} cannot be read", found=first_line(error)) from None


def choose_levels(config: Any, folder: Path) -> list[tuple[str, int, int]]:
    """Name, channels, stride of the levels: the stages that config.json chooses, else the last stage of every stride.

    transformers writes the last stage as the default. So a single stage in config.json counts as no choice.
    """
    stages = list(getattr(config, "stage_names", None) or ())
    chosen = list(getattr(config, "out_features", None) or ())
    if not stages or config.model_type.startswith("timm"):
        raise UsageError(
            f"{folder} holds no backbone", found=f"a model of type {config.model_type}", hint="timm:NAME, or a class"
        )
    config.out_features = stages
    try:
        with torch.device("meta"), torch.inference_mode():
            network = empty(config, folder).eval()
            maps = network(torch.zeros(1, 3, SIDE, SIDE)).feature_maps
    except RuntimeError as error:
        raise EncoderError(f"hf:{folder} does not take pictures of any size", found=first_line(error)) from None
    found = {name: (name, int(m.shape[1]), SIDE // int(m.shape[2])) for name, m in zip(stages, maps, strict=True)}
    if len(chosen) > 1:
        return [found[name] for name in chosen]
    last = {stride: level for level in found.values() for stride in [level[2]]}
    return [level for stride, level in sorted(last.items()) if stride >= FINEST] or [last[max(last)]]


def empty(config: Any, folder: Path) -> nn.Module:
    from transformers import AutoBackbone

    try:
        return AutoBackbone.from_config(config)
    except ValueError as error:
        raise UsageError(f"{folder} holds no backbone of transformers", found=first_line(error)) from None


def loaded(kind: Any, config: Any, folder: Path) -> tuple[nn.Module, list[str]]:
    """The model of a folder, and the names of missing tensors. Raises CheckpointError. Nothing is downloaded."""
    with silent():
        try:
            network, said = kind.from_pretrained(
                str(folder), config=config, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
        except Exception as error:  # OSError, RuntimeError, ValueError, SafetensorError …
            raise CheckpointError(f"the weights in {folder} cannot be loaded", found=first_line(error)) from None
    if said["mismatched_keys"]:
        names = [str(key[0]) if isinstance(key, tuple) else str(key) for key in said["mismatched_keys"]]
        raise CheckpointError(f"the weights in {folder} do not fit its config.json", misshapen=some(names))
    return network, sorted(said["missing_keys"])


@contextmanager
def silent() -> Iterator[None]:
    """Suppress transformers' log lines and progress bars; `loaded` reports problems itself."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


def normalisation_of(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of preprocessor_config.json, or ImageNet's. Raises CheckpointError if the scale is not 1/255."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return IMAGENET_MEAN, IMAGENET_STD
    said = json.loads(file.read_text(encoding="utf-8"))
    if not said.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if abs(255 * said.get("rescale_factor", 1 / 255) - 1) > 1e-3:
        raise CheckpointError(
            f"{file}: pixels on another scale", expected="rescale_factor 1/255", found=said["rescale_factor"]
        )
    return tuple(said.get("image_mean", IMAGENET_MEAN)), tuple(said.get("image_std", IMAGENET_STD))

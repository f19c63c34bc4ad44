"""Reading of weights files: a single file, or shards with an index. Only tensors and plain data are loaded, never
code."""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .errors import CheckpointError
from .wording import first_line, install

INDEX = ".index.json"
NAMES = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
"""File names of weights in a Hugging Face folder. The first existing one is used."""
CHECKPOINTS = ("best.safetensors", "last.safetensors")
"""File names of checkpoints in the folder of a run. The first existing one is used."""


def find_file(place: Path, names: Sequence[str] = NAMES, what: str = "weights") -> Path:
    """``place`` if it is not a folder, else the first existing file of ``names`` in it.

    CheckpointError if there is none.
    """
    if not place.is_dir():
        return place
    found = next((place / name for name in names if (place / name).is_file()), None)
    if found is None:
        raise CheckpointError(f"no {what} in {place}", expected=f"one of {', '.join(names)}")
    return found


def checkpoint_in(place: Path) -> Path:
    """``place``, or the best checkpoint in it if it is the folder of a run. Raises CheckpointError if it has none."""
    return find_file(place, CHECKPOINTS, "checkpoint")


def read_file(path: Path) -> Any:
    """The content of a .safetensors file, a torch file or an index of shards.

    Raises CheckpointError for other files. A pickle with other objects than tensors is rejected without being executed.
    """
    return read_shards(path) if path.name.endswith(INDEX) else read_whole(path)


def read_whole(path: Path) -> Any:
    """The content of one file. Its first bytes determine the format."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"weights {path} cannot be read", found=error.strerror) from None
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a git-lfs pointer, not weights",
            found=f"{size} bytes of text",
            hint="git lfs pull, or download the file itself",
        )
    try:
        if head[8:9] == b"{" or (path.suffix == ".safetensors" and not head.startswith(b"PK")):
            return load_file(path)
        # MDETR and TubeDETR store their options as an argparse namespace, which holds only data.
        # The file is opened here, because torch.load would choose safetensors by the file name.
        with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise exceptions of any type
        raise CheckpointError(
            f"{path} cannot be read as weights",
            expected="a complete .safetensors file, or a torch file of tensors only",
            found=f"{size:,} bytes; {why(error)}",
            hint="download it again, or save only its state dict, preferably as safetensors",
        ) from None


def why(error: Exception) -> str:
    """The reason why a weights file could not be read, without torch's advice to load it unsafely."""
    if isinstance(error, SafetensorError | RuntimeError | EOFError | OSError):
        return first_line(error)
    refused = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    return f"it holds more than tensors: {refused[1]}" if refused else "it is not a torch file"


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all shards of an index, each from the shard that the index gives.

    Raises CheckpointError for an invalid index, a shard that is missing or outside the index's folder, and a tensor
    that is not in its shard.
    """
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not places or not all(isinstance(p, str) for p in places.values()):
            raise ValueError("its weight_map names no files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index} cannot be read as an index of shards", expected='{"weight_map": {tensor: file}}', found=error
        ) from None
    shards: dict[str, Any] = {}
    for name in sorted(set(places.values())):
        if PurePosixPath(name).name != name or PureWindowsPath(name).name != name or name == "..":
            raise CheckpointError(
                f"{index} names a shard outside its folder", found=name, effect="nothing was read from there"
            )
        if not (index.parent / name).is_file():
            raise CheckpointError(
                f"{index} names a shard that is missing",
                expected=f"{index.parent / name}, one of {len(set(places.values()))} shards",
                hint="download the missing file into the same folder",
            )
        shards[name] = read_whole(index.parent / name)
    lost = [k for k, name in places.items() if not isinstance(shards[name], Mapping) or k not in shards[name]]
    if lost:
        raise CheckpointError(
            f"{index} and its shards do not belong together",
            missing=f"{lost[0]} in {places[lost[0]]} ({len(lost)} such tensors)",
            hint="download the index and all shards again",
        )
    return {k: shards[name][k] for k, name in places.items()}


def require_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    """Raise CheckpointError for a tensor with NaN or infinity, and for a meta, quantised or sparse tensor."""
    for name, value in tensors.items():
        if value.is_meta or value.is_quantized or value.layout is not torch.strided:
            raise CheckpointError(f"{where}: {name} is not a plain tensor", found=f"{value.device}, {value.layout}")
        if value.is_floating_point() and not (finite := value.to(torch.float32).isfinite()).all():
            raise CheckpointError(
                f"{where}: {name} holds numbers that are not finite",
                found=f"{int((~finite).sum()):,} of {value.numel():,} values are NaN or infinite in float32",
                effect="nothing was loaded",
                hint="these weights are damaged, or their training diverged; use others",
            )


@dataclass(frozen=True)
class PackagedWeights:
    """A file or folder of weights inside a Python package."""

    encoder: str
    """Name of the encoder."""
    distribution: str
    """Name of the package on the package index."""
    module: str
    """Name of the package for import."""
    place: str
    """Path of the weights, relative to the package's folder."""
    otherwise: str
    """Alternative to installing the package, for the error message."""

    def find(self) -> Path:
        """Path of the weights. Raises CheckpointError if the package is not installed. Nothing is downloaded."""
        spec = find_spec(self.module)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (Path(folder) / self.place).exists():
                return Path(folder) / self.place
        raise CheckpointError(
            f"no weights for {self.encoder}",
            expected=f"the package {self.distribution}",
            effect="nothing is downloaded",
            hint=f"{install('lite')}; or {self.otherwise}",
        )

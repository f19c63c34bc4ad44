"""Weights from files the user names: tensors only, never code; and a hash that does not depend on the file format."""

from __future__ import annotations

import argparse
import hashlib
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import CheckpointError

StateDict = dict[str, Tensor]


CONTAINERS = ("model_ema", "model", "state_dict")
"""Entries of a checkpoint that hold a state dict, the better first. MDETR and TubeDETR write a ``model_ema`` of None
when they average nothing."""


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a .safetensors or torch file, by name; see `read_container`."""
    return read_container(path)[0]


def read_container(path: Path) -> tuple[StateDict, str | None]:
    """The tensors of a .safetensors or torch file, and the entry of `CONTAINERS` that held them (None: the file itself).

    Raises CheckpointError for anything else; a pickle that holds more than tensors is refused without running it.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"weights {path} cannot be read", found=error.strerror) from None
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is not weights but a git-lfs pointer",
            found=f"{path.stat().st_size} bytes of text",
            hint="git lfs pull, or download the file itself",
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path), None
        # MDETR and TubeDETR store their options as an argparse namespace, which holds data and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        # Torch answers with advice on how to run what the file holds.
        why = (
            "no pickle, or one of more than tensors" if isinstance(error, pickle.UnpicklingError) else first_line(error)
        )
        raise CheckpointError(
            f"{path} cannot be read as weights",
            expected="a whole .safetensors file, or a torch file of tensors only",
            found=f"{path.stat().st_size:,} bytes; {why}",
            hint="download it again, or convert it to safetensors",
        ) from None
    entry = next((c for c in CONTAINERS if isinstance(loaded, Mapping) and isinstance(loaded.get(c), Mapping)), None)
    tensors = loaded[entry] if entry else loaded
    if not isinstance(tensors, Mapping) or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise CheckpointError(f"{path} holds no state dict", expected="names and tensors", found=type(tensors).__name__)
    return dict(tensors), entry


def first_line(error: Exception) -> str:
    """What a library's error says, short enough for one of ours."""
    return (str(error) or type(error).__name__).splitlines()[0][:160]


def load_exactly(module: nn.Module, tensors: StateDict, where: object) -> None:
    """Load every tensor of ``module`` by name and shape. CheckpointError lists what is missing or left over."""
    wanted = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in tensors.items()}
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    misshapen = sorted(k for k in wanted.keys() & found.keys() if wanted[k] != found[k])
    if missing or unexpected or misshapen:
        raise CheckpointError(
            f"{where} does not fit {type(module).__name__}",
            missing=some(missing),
            unexpected=some(unexpected),
            misshapen=some(f"{k} {found[k]} instead of {wanted[k]}" for k in misshapen),
            effect="nothing was loaded",
        )
    module.load_state_dict(tensors)


def some(names: Iterable[str], count: int = 4) -> str | None:
    """The first names of a list, and how many more there are; None when there are none."""
    listed = list(names)
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more if listed else None


def state_sha256(tensors: Mapping[str, Tensor], extra: bytes = b"") -> str:
    """Hash of names, types, shapes and values, whatever file they came from; ``extra`` is hashed in."""
    digest = hashlib.sha256(extra)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()


def random_values(shape: Sequence[int], seed: int, name: str) -> Tensor:
    """Seeded random numbers of mean 0 and variance 1, float32, the same on every machine.

    Torch's normal numbers differ in their last bits with the processor's vector unit, and so would the hash of weights
    made of them. These are whole numbers scaled, which leaves nothing to rounding: uniform, every tensor by itself.
    """
    number = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "little")
    whole = np.random.Generator(np.random.PCG64(number)).integers(-(2**22), 2**22, tuple(shape), dtype=np.int32)
    return torch.from_numpy(whole.astype(np.float32) * np.float32(3**0.5 / 2**22))

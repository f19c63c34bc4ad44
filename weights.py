"""State dicts from weights files of various layouts, and a hash of them that does not depend on the file format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import CheckpointError
from .weight_files import NAMES, find_file, read_file, require_finite

StateDict = dict[str, Tensor]

AVERAGED = ("model_ema", "ema", "ema_model", "state_dict_ema", "ema_state_dict", "params_ema")
"""Names of entries and modules with averaged weights, which are preferred. MDETR and TubeDETR write a ``model_ema`` of
None if they do not average."""
CONTAINERS = (*AVERAGED, "model", "state_dict", "model_state_dict", "module", "params")
"""Entries of a checkpoint that hold a state dict or another container, in order of preference."""
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of tensor names that DataParallel, torch.compile, FSDP and recomputation add. They are removed."""
DEEPEST = 3
"""Maximum depth of nested entries."""
COUNTERS = ("num_batches_tracked", "n_averaged")
"""Last name parts of tensors that count steps. They are not weights."""


@dataclass(frozen=True)
class Weights:
    """A state dict, its file, and the changes made while reading it. Prints as one line."""

    tensors: StateDict
    file: Path
    entry: str | None = None
    """The entry that held the tensors, such as ``model`` or ``state_dict.model``; None for the top level."""
    removed: tuple[str, ...] = ()
    """Parts that were removed from tensor names."""

    def __str__(self) -> str:
        entry = [f"entry {self.entry}"] if self.entry else []
        removed = [f"{' and '.join(self.removed)} removed from the names"] if self.removed else []
        kinds = sorted({str(v.dtype).removeprefix("torch.") for v in self.tensors.values() if v.is_floating_point()})
        stored = [f"stored as {' and '.join(kinds)}"] if kinds and kinds != ["float32"] else []
        notes = "; ".join(entry + removed + stored)
        return f"{self.file} ({notes})" if notes else str(self.file)

    def beside(self, anchor: str) -> Weights:
        """The weights of the module that has the tensor ``anchor``, for any prefix of its name. Counters are left out.

        Raises CheckpointError if several modules have such a tensor, unless exactly one of them is averaged.
        """
        prefix = self.prefix_of(anchor) or ""
        kept = {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}
        kept = {k: v for k, v in kept.items() if k.rpartition(".")[2] not in COUNTERS}
        return replace(self, tensors=kept, removed=(*self.removed, prefix) if prefix else self.removed)

    def prefix_of(self, anchor: str) -> str | None:
        """The prefix of the tensor with a name that ends in ``anchor``; None if there is no such tensor."""
        ends = [k.removesuffix(anchor) for k in self.tensors if k.endswith(anchor)]
        found = [p for p in ends if not p or p.endswith(".")]
        chosen = found if len(found) == 1 else [p for p in found if {*AVERAGED} & {*p.split(".")}]
        if len(found) > 1 and len(chosen) != 1:
            raise CheckpointError(
                f"{self.file} holds several matching modules",
                found=some(f"{p}{anchor}" for p in found),
                effect="nothing was loaded",
                hint="save only the state dict of one of them",
            )
        return chosen[0] if chosen else None


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a weights file, by name; see `read_weights`."""
    return read_weights(path).tensors


def read_weights(place: Path, names: Sequence[str] = NAMES) -> Weights:
    """The state dict of a .safetensors or torch file, of an index of shards, or of the first of ``names`` in a folder.

    Averaged weights are preferred, see `CONTAINERS`. `WRAPPERS` are removed from names. Raises CheckpointError for
    other files, for values that are not finite, and if two tensors would get the same name.
    """
    path = find_file(place, names)
    loaded = read_file(path)
    found = state_dict_in(loaded)
    if found is None:
        entries = some(map(str, loaded)) if isinstance(loaded, Mapping) else None
        raise CheckpointError(
            f"{path} holds no state dict",
            expected=f"names and tensors, alone or in one of the entries {', '.join(CONTAINERS)}",
            found=entries or type(loaded).__name__,
        )
    named, entry = found
    tensors: StateDict = {}
    origin: dict[str, str] = {}
    removed: dict[str, None] = {}
    for name, value in named.items():
        parts = name.split(".")
        plain = ".".join(p for p in parts if p not in WRAPPERS)
        removed |= dict.fromkeys(f"{p}." for p in parts if p in WRAPPERS)
        if plain in tensors:
            raise CheckpointError(
                f"two tensors of {path} have the name {plain}",
                found=f"{origin[plain]}, {name}",
                effect="nothing was loaded",
                hint="save only the state dict of one of the two",
            )
        tensors[plain], origin[plain] = value, name
    require_finite(tensors, path)
    return Weights(tensors, path, ".".join(entry) or None, tuple(removed))


def state_dict_in(loaded: Any, entry: tuple[str, ...] = ()) -> tuple[StateDict, tuple[str, ...]] | None:
    """The preferred state dict in a file's content, and the entries that lead to it; None if there is none."""
    if not isinstance(loaded, Mapping) or not loaded or len(entry) > DEEPEST:
        return None
    if all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()):
        return dict(loaded), entry
    inside = (state_dict_in(loaded.get(c), (*entry, c)) for c in CONTAINERS)
    return next((found for found in inside if found), None)


def load_exactly(module: nn.Module, tensors: StateDict, where: object) -> None:
    """Load every tensor of ``module``. Names, shapes and kinds of number must match; floats are cast to its precision.

    Raises CheckpointError with lists of the missing, unexpected and mismatched tensors.
    """
    state = module.state_dict()
    wanted = {k: tuple(v.shape) for k, v in state.items()}
    found = {k: tuple(v.shape) for k, v in tensors.items()}
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    both = sorted(wanted.keys() & found.keys())
    misshapen = [f"{k} {found[k]} instead of {wanted[k]}" for k in both if wanted[k] != found[k]]
    kinds = [k for k in both if state[k].is_floating_point() != tensors[k].is_floating_point()]
    if missing or unexpected or misshapen or kinds:
        raise CheckpointError(
            f"{where} does not fit {type(module).__name__}",
            missing=some(missing),
            unexpected=some(unexpected),
            misshapen=some(misshapen),
            numbers=some(f"{k} {tensors[k].dtype} instead of {state[k].dtype}" for k in kinds),
            effect="nothing was loaded",
        )
    module.load_state_dict(tensors)


def some(names: Iterable[str], count: int = 4) -> str | None:
    """The first names of a list and the number of others, as text; None for an empty list."""
    listed = list(names)
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more if listed else None


def state_sha256(tensors: Mapping[str, Tensor], extra: bytes = b"") -> str:
    """Hash of names, types, shapes and values, independent of the file format. ``extra``: more bytes to hash."""
    digest = hashlib.sha256(extra)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()


def random_values(shape: Sequence[int], seed: int, name: str) -> Tensor:
    """Seeded uniform random numbers with mean 0 and variance 1, float32, identical on every machine.

    The last bits of torch's normal numbers depend on the CPU's vector unit, and so would the hash of random weights.
    These numbers are scaled integers, so every machine rounds them equally. Every tensor name has a stream of its own.
    """
    number = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "little")
    whole = np.random.Generator(np.random.PCG64(number)).integers(-(2**22), 2**22, tuple(shape), dtype=np.int32)
    return torch.from_numpy(whole.astype(np.float32) * np.float32(3**0.5 / 2**22))

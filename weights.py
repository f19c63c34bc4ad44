"""Weights from files the user names, whatever they are wrapped in; and a hash that does not depend on the file format."""

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
"""Names of the entries, and of the modules, that hold averaged weights; these are preferred. MDETR and TubeDETR write a
``model_ema`` of None when they average nothing."""
CONTAINERS = (*AVERAGED, "model", "state_dict", "model_state_dict", "module", "params")
"""Entries of a checkpoint that hold a state dict, or another container; the better first."""
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of a tensor's name that come from DataParallel, torch.compile, FSDP and recomputation, and say nothing."""
DEEPEST = 3
"""Entries within entries that are looked into."""
COUNTERS = ("num_batches_tracked", "n_averaged")
"""Last parts of the names of what counts steps, and is no weight."""


@dataclass(frozen=True)
class Weights:
    """The state dict of a file, and what had to be taken off to get at it. Prints as one line that says so."""

    tensors: StateDict
    file: Path
    entry: str | None = None
    """The entry of the file that held them, such as ``model`` or ``state_dict.model``; None: the file itself."""
    removed: tuple[str, ...] = ()
    """Parts of names that were taken off."""

    def __str__(self) -> str:
        entry = [f"entry {self.entry}"] if self.entry else []
        removed = [f"{' and '.join(self.removed)} taken off the names"] if self.removed else []
        kinds = sorted({str(v.dtype).removeprefix("torch.") for v in self.tensors.values() if v.is_floating_point()})
        stored = [f"stored as {' and '.join(kinds)}"] if kinds and kinds != ["float32"] else []
        notes = "; ".join(entry + removed + stored)
        return f"{self.file} ({notes})" if notes else str(self.file)

    def beside(self, anchor: str) -> Weights:
        """The module that has the tensor ``anchor``, whatever its name in the file; counters are left out.

        Raises CheckpointError when several modules have one and not exactly one of these is averaged.
        """
        prefix = self.prefix_of(anchor) or ""
        kept = {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}
        kept = {k: v for k, v in kept.items() if k.rpartition(".")[2] not in COUNTERS}
        return replace(self, tensors=kept, removed=(*self.removed, prefix) if prefix else self.removed)

    def prefix_of(self, anchor: str) -> str | None:
        """What stands before ``anchor`` in the name of the one tensor that ends so; None when none does."""
        ends = [k.removesuffix(anchor) for k in self.tensors if k.endswith(anchor)]
        found = [p for p in ends if not p or p.endswith(".")]
        chosen = found if len(found) == 1 else [p for p in found if {*AVERAGED} & {*p.split(".")}]
        if len(found) > 1 and len(chosen) != 1:
            raise CheckpointError(
                f"{self.file} holds several modules that could be meant",
                found=some(f"{p}{anchor}" for p in found),
                effect="nothing was loaded",
                hint="save the state dict of one of them alone",
            )
        return chosen[0] if chosen else None


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a file of weights, by name; see `read_weights`."""
    return read_weights(path).tensors


def read_weights(place: Path, names: Sequence[str] = NAMES) -> Weights:
    """The state dict of a .safetensors or torch file, of an index of shards, or of the first of ``names`` in a folder.

    Averaged weights are preferred to others, see `CONTAINERS`; `WRAPPERS` are taken off the names. Raises CheckpointError
    for anything else, for numbers that are not finite, and for tensors that would have one name.
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
                f"two tensors of {path} are both {plain}",
                found=f"{origin[plain]}, {name}",
                effect="nothing was loaded",
                hint="save the state dict of one of the two alone",
            )
        tensors[plain], origin[plain] = value, name
    require_finite(tensors, path)
    return Weights(tensors, path, ".".join(entry) or None, tuple(removed))


def state_dict_in(loaded: Any, entry: tuple[str, ...] = ()) -> tuple[StateDict, tuple[str, ...]] | None:
    """The best state dict in what a file holds, and through which entries it was reached; None if there is none."""
    if not isinstance(loaded, Mapping) or not loaded or len(entry) > DEEPEST:
        return None
    if all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()):
        return dict(loaded), entry
    inside = (state_dict_in(loaded.get(c), (*entry, c)) for c in CONTAINERS)
    return next((found for found in inside if found), None)


def load_exactly(module: nn.Module, tensors: StateDict, where: object) -> None:
    """Load every tensor of ``module`` by name, shape and kind of number; half precision becomes the module's own.

    CheckpointError lists what is missing or left over.
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

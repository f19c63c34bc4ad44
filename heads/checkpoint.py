"""Checkpoints: one safetensors file with the whole state of a run, from which it resumes exactly.

Tensors are named ``model.…``, ``ema.…`` and ``optimizer.<parameter>.<state>``. All other state (step, configuration,
features, fingerprint) is JSON in the header. The header's ``crc32c`` covers the whole file, with eight zeros in place
of the checksum itself, so a change of any byte is detected. A file is written under a temporary name, synced, then
renamed.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from awscrt.checksums import crc32c
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..atomic import open_atomic
from ..errors import CheckpointError
from ..weights import some
from .model import Grounder

FORMAT = "stvg checkpoint 2"
GROUPS = ("model", "ema", "optimizer")
"""Groups of tensors in a checkpoint of `Run.save`."""
NO_SUM = b"00000000"
SUM = re.compile(rb'"crc32c":"([0-9a-f]{8})"')
"""The checksum entry of a header. Quotes inside other entries are escaped, so the pattern matches nowhere else."""
BLOCK = 1 << 24


class EMA:
    """A copy of a model with exponentially averaged weights, updated after every optimiser step."""

    def __init__(self, model: Grounder, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: Grounder) -> None:
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.model.load_state_dict(tensors)


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint. ``facts``: step, configuration, features, fingerprint, and the progress of
    training."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors whose names start with ``name.``, without that prefix."""
        return {k[len(name) + 1 :]: v for k, v in self.tensors.items() if k.startswith(name + ".")}


def save_checkpoint(path: Path, facts: dict[str, Any], tensors: dict[str, Tensor], keep: Path | None = None) -> None:
    """Write a checkpoint. A reader of ``path`` sees the complete old file or the complete new one.

    ``keep``: the path to which the old file is renamed, once the new one is on the disk.
    """
    header = {"format": FORMAT, "facts": json.dumps(facts), "crc32c": NO_SUM.decode()}
    content = memoryview(save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata=header))
    at = place_of_sum(content[: 8 + int.from_bytes(content[:8], "little")])
    with open_atomic(path) as file:
        file.write(content[:at])
        file.write(f"{checksum([content]):08x}".encode())
        file.write(content[at + len(NO_SUM) :])
        if keep is not None and path.exists():
            file.flush()
            os.fsync(file.fileno())
            os.replace(path, keep)


def place_of_sum(head: bytes | memoryview) -> int:
    """The offset of the checksum in a file. Raises ValueError where the header has none."""
    found = SUM.search(head)
    if found is None:
        raise ValueError("its header has no checksum")
    return found.start(1)


def checksum(blocks: Iterable[bytes | memoryview]) -> int:
    """The crc32c of consecutive blocks."""
    total = 0
    for block in blocks:
        for at in range(0, len(block), BLOCK):
            total = crc32c(block[at : at + BLOCK], total)
    return total


def require_whole(path: Path) -> None:
    """Raises ValueError where a checkpoint does not match its checksum. Reads the file once, in blocks."""
    with path.open("rb") as file:
        prefix = file.read(8)
        head = prefix + file.read(min(int.from_bytes(prefix, "little"), path.stat().st_size))
        at = place_of_sum(head)
        said, cleared = int(head[at : at + 8], 16), head[:at] + NO_SUM + head[at + 8 :]
        found = checksum(chain([cleared], iter(lambda: file.read(BLOCK), b"")))
    if found != said:
        raise ValueError(f"its checksum is {found:08x}, written was {said:08x}")


def load_checkpoint(path: Path, groups: tuple[str, ...] = GROUPS) -> Checkpoint:
    """Read a checkpoint, and of its tensors only the named groups. Raises CheckpointError for a missing, damaged or
    foreign file."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} is not a checkpoint of stvg train-head",
                    expected=f"format {FORMAT!r}",
                    found=header.get("format", "no format entry"),
                )
            require_whole(path)
            names = [k for k in file.keys() if k.split(".", 1)[0] in groups]  # noqa: SIM118  (not a mapping)
            return Checkpoint(json.loads(header["facts"]), {k: file.get_tensor(k) for k in names})
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist", hint="train one with stvg train-head") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint",
            expected="a complete safetensors file written by stvg train-head",
            found=f"{path.stat().st_size:,} bytes; {error}" if path.is_file() else str(error),
            effect="nothing was loaded",
            hint="use another checkpoint of the run, or train again",
        ) from None


def load_into(model: nn.Module, tensors: dict[str, Tensor], where: object) -> None:
    """Load tensors by name. Raises CheckpointError unless names and shapes equal those of the model."""
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in tensors.items()}
    if expected != found:
        wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        raise CheckpointError(
            f"{where} does not fit the model it describes",
            expected=f"{wrong[0]} {expected.get(wrong[0], 'absent')}",
            found=f"{wrong[0]} {found.get(wrong[0], 'absent')} ({len(wrong)} such tensors)",
            effect="nothing was loaded",
            hint="it may be of another version of stvg: use that one, or train again",
        )
    model.load_state_dict(tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as tensors named ``<parameter>.<entry>``."""
    names: dict[Tensor, str] = {p: n for n, p in model.named_parameters()}
    return {f"{names[p]}.{k}": v for p, state in optimizer.state.items() for k, v in state.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load what `optimizer_tensors` returned. The optimiser chooses each tensor's device: a fused one keeps its step
    counters beside the parameters. Raises CheckpointError for the state of a parameter that does not train now."""
    names: dict[Tensor, str] = {p: n for n, p in model.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, entry = key.rpartition(".")
        found.setdefault(name, {})[entry] = value
    if frozen := sorted(found.keys() - {names[p] for p in parameters}):
        raise CheckpointError(
            "the checkpoint has trained parameters that would not train now",
            found=some(frozen),
            effect="the run was not continued",
            hint="continue with the version of stvg that began it, or begin again in another --out folder",
        )
    state = {i: found[names[p]] for i, p in enumerate(parameters) if names[p] in found}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})

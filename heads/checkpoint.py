"""Checkpoints: one safetensors file with everything a run needs to go on exactly where it stopped.

Tensors are named ``model.…``, ``ema.…``, ``optimizer.<parameter>.<state>`` and ``rng.…``; what is not a tensor (step,
configuration, features, fingerprint) is JSON in the file's header. Written aside, synced, then renamed.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..cache.atomic import write_atomic
from ..cache.errors import CheckpointError
from .model import Grounder

FORMAT = "stvg checkpoint 1"


class EMA:
    """A copy of a model whose weights are the moving average of its own; updated after every optimiser step."""

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
    """What a checkpoint file holds. ``facts``: step, config, features, fingerprint, and how training stands."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors under ``name.``, with that prefix taken off."""
        return {k[len(name) + 1 :]: v for k, v in self.tensors.items() if k.startswith(name + ".")}


def save_checkpoint(path: Path, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint; whoever opens ``path`` sees the old file or the whole new one."""
    header = {"format": FORMAT, "facts": json.dumps(facts)}
    write_atomic(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata=header))


def load_checkpoint(path: Path, groups: tuple[str, ...] = ("model", "ema", "optimizer", "rng")) -> Checkpoint:
    """Read a checkpoint, only the named groups of tensors. Raises CheckpointError for anything but a whole file of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} is not a checkpoint of stvg train-head",
                    expected=f"format {FORMAT!r}",
                    found=header.get("format", "no format entry"),
                )
            names = [k for k in file.keys() if k.split(".", 1)[0] in groups]  # noqa: SIM118  (not a mapping)
            return Checkpoint(json.loads(header["facts"]), {k: file.get_tensor(k) for k in names})
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist", hint="train one with stvg train-head") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint",
            expected="a whole safetensors file written by stvg train-head",
            found=f"{path.stat().st_size:,} bytes; {error}" if path.is_file() else str(error),
            effect="nothing was loaded",
            hint="use another checkpoint of the run, or train again",
        ) from None


def load_into(model: nn.Module, tensors: dict[str, Tensor], where: object) -> None:
    """Load tensors by name; every parameter must be there with its shape, and nothing else."""
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in tensors.items()}
    if expected != found:
        wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        raise CheckpointError(
            f"{where} does not fit the model it describes",
            expected=f"{wrong[0]} {expected.get(wrong[0], 'absent')}",
            found=f"{wrong[0]} {found.get(wrong[0], 'absent')} ({len(wrong)} such tensors)",
        )
    model.load_state_dict(tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state by parameter name."""
    names: dict[Tensor, str] = {p: n for n, p in model.named_parameters()}
    return {f"{names[p]}.{k}": v for p, state in optimizer.state.items() for k, v in state.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    for name, parameter in model.named_parameters():
        prefix = name + "."
        state = {
            k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix) and "." not in k[len(prefix) :]
        }
        if state:
            optimizer.state[parameter] = {
                k: v.clone() if k == "step" else v.to(parameter.device, copy=True) for k, v in state.items()
            }

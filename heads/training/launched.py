"""What the environment says of how this process was started."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ...errors import UsageError

COUNTS = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""How many processes a launcher has started, or was told to start. Slurm's own step is asked before the job it is in."""
NUMBERS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""Which of them this is, from 0."""


def by_torchrun(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun started this process, which then finds the others."""
    return "TORCHELASTIC_RUN_ID" in environment


def one_of_several(environment: Mapping[str, str] = os.environ) -> str:
    """The variable by which this is one process of several, with its value; empty where it is alone."""
    chosen = [n for n in COUNTS if n != "SLURM_NTASKS" or "SLURM_STEP_NUM_TASKS" not in environment]
    several = [n for n in chosen if _number(environment, n) > 1] + [n for n in NUMBERS if _number(environment, n) > 0]
    return ", ".join(f"{name}={environment[name]}" for name in several[:2])


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "").strip()
    return int(text) if text.isdecimal() else 0


def require_alone_or_torchrun(environment: Mapping[str, str] = os.environ) -> None:
    """Raises UsageError for one process of several that torchrun did not start: each would train the whole run alone."""
    if not by_torchrun(environment) and (found := one_of_several(environment)):
        raise UsageError(
            "this is one process of several, but torchrun did not start it",
            expected="torchrun, under which processes train one run together, or one process alone",
            found=found,
            effect="nothing was trained",
            hint="torchrun --nproc-per-node N -m stvg train-head … (under Slurm one torchrun a node: srun "
            f"--ntasks-per-node 1 torchrun …); for one process alone: env {_unset(environment)} stvg train-head …",
        )


def require_alone(what: str, instead: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raises UsageError for one process of several, however started, of a command that is one process."""
    if found := one_of_several(environment):
        raise UsageError(
            f"{what} is one process, and this is one of several",
            found=found,
            effect="nothing was done",
            hint=f"{instead}; for one process alone: env {_unset(environment)} stvg …",
        )


def _unset(environment: Mapping[str, str]) -> str:
    return " ".join(f"-u {name}" for name in (*COUNTS, *NUMBERS) if _number(environment, name) > (name in COUNTS))

"""How this process was launched, by its environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ...errors import UsageError

COUNTS = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""Variables with the number of processes that a launcher started, or was told to start. Slurm's step has precedence
over its job."""
NUMBERS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""Variables with the index of this process, from 0."""


def by_torchrun(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun started this process; the ranks can then find each other."""
    return "TORCHELASTIC_RUN_ID" in environment


def one_of_several(environment: Mapping[str, str] = os.environ) -> str:
    """The variables, with their values, that show this process to be one of several; empty where it is alone."""
    chosen = [n for n in COUNTS if n != "SLURM_NTASKS" or "SLURM_STEP_NUM_TASKS" not in environment]
    several = [n for n in chosen if _number(environment, n) > 1] + [n for n in NUMBERS if _number(environment, n) > 0]
    return ", ".join(f"{name}={environment[name]}" for name in several[:2])


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "").strip()
    return int(text) if text.isdecimal() else 0


def require_alone_or_torchrun(environment: Mapping[str, str] = os.environ) -> None:
    """Raises UsageError for one of several processes that torchrun did not start: each would train the whole run."""
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
    """Raises UsageError for one of several processes, however launched. For commands that run as one process."""
    if found := one_of_several(environment):
        raise UsageError(
            f"{what} is one process, and this is one of several",
            found=found,
            effect="nothing was done",
            hint=f"{instead}; for one process alone: env {_unset(environment)} stvg …",
        )


def _unset(environment: Mapping[str, str]) -> str:
    return " ".join(f"-u {name}" for name in (*COUNTS, *NUMBERS) if _number(environment, name) > (name in COUNTS))

"""Shares of the videos, i of n. The share of this process is given as numbers, or by the launcher's environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import UsageError


@dataclass(frozen=True)
class Part:
    """One of ``count`` equal shares of the videos: every ``count``-th, from number ``index`` on."""

    index: int = 0
    count: int = 1

    def of(self, videos: Sequence[str]) -> Sequence[str]:
        return videos[self.index :: self.count]

    def split(self, index: int, count: int) -> Part:
        """Share ``index`` of ``count`` of this share."""
        return Part(self.index + self.count * index, self.count * count)


@dataclass(frozen=True)
class Starter:
    """A program that starts several processes, and the environment variables it sets for each."""

    name: str
    number: str
    """Variable with the process's number, from 0."""
    count: str
    """Variable with the number of processes."""
    device: str | None = None
    """Variable with the process's number on its machine."""
    one_terminal: bool = False
    """All processes write to the same terminal."""


STARTERS = (
    Starter("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", one_terminal=True),
    Starter("SkyPilot", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"),
    Starter("Slurm, srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", one_terminal=True),
    Starter("Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", one_terminal=True),
)
"""The first match counts. torchrun is first: it numbers processes across machines, also when Slurm started it."""
ARRAY = Starter("a Slurm array", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
"""The tasks of an array divide the videos; processes started inside a task divide the task's share."""


@dataclass(frozen=True)
class Assigned:
    """The share of this process. ``why``: the environment variables that assign it, for printing."""

    part: Part
    why: str = ""
    device: int | None = None
    """Index of this process's GPU on its machine; None: not assigned."""
    quiet: bool = False
    """Show no progress: another process does so in the same terminal."""


def assigned_part(text: str, environment: Mapping[str, str]) -> Assigned:
    """Parse ``2/8`` (the second of eight shares) or ``auto`` (from the environment). Raises UsageError."""
    if text == "auto":
        return _automatic(environment)
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"{text!r} is no shard", expected="i/n with i from 1 to n, such as 2/8; or auto")
    return Assigned(Part(int(index) - 1, int(count)))


def _automatic(environment: Mapping[str, str]) -> Assigned:
    starter = next((s for s in STARTERS if s.number in environment and s.count in environment), None)
    in_array = ARRAY.number in environment and ARRAY.count in environment
    if not starter and not in_array:
        pairs = [f"{s.number} and {s.count}" for s in (ARRAY, *STARTERS)]
        raise UsageError(
            "--shard auto: no environment variable assigns a share to this process",
            expected=", or ".join(pairs),
            effect="nothing was extracted",
            hint="start it with sbatch --array, srun, sky launch or torchrun; or name the share: --shard 1/8",
        )
    given, found = Assigned(Part()), []
    if in_array:
        given, found = Assigned(_array_part(environment)), [ARRAY]
    if starter:
        number, count = _numbers(starter, environment)
        part = given.part.split(number, count)
        device = _whole(starter.device, environment) if starter.device in environment else None
        given, found = Assigned(part, device=device, quiet=starter.one_terminal and number > 0), [*found, starter]
    said = " and ".join(f"{s.number}={environment[s.number]}, {s.count}={environment[s.count]}" for s in found)
    why = f"shard {given.part.index + 1}/{given.part.count}, by {said}"
    return Assigned(given.part, why, given.device, given.quiet)


def _array_part(environment: Mapping[str, str]) -> Part:
    """The share of an array task. Arrays may begin at any number and have any step."""
    first, step = (_whole(f"SLURM_ARRAY_TASK_{n}", environment, d) for n, d in (("MIN", 0), ("STEP", 1)))
    number, count = _whole(ARRAY.number, environment), _whole(ARRAY.count, environment)
    index, rest = divmod(number - first, max(1, step))
    if rest or not 0 <= index < count:
        raise UsageError(
            f"--shard auto: task {number} is not one of {count} consecutive tasks from {first} on",
            found="an array with gaps: no task would extract some of the shares",
            effect="nothing was extracted",
            hint="repeat the whole array (finished videos take no time); or name the share: --shard 1/8",
        )
    return Part(index, count)


def _numbers(starter: Starter, environment: Mapping[str, str]) -> tuple[int, int]:
    index, count = _whole(starter.number, environment), _whole(starter.count, environment)
    alone = starter.count == "SLURM_NTASKS" and "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment
    if alone and count > 1:
        raise UsageError(
            f"--shard auto: the job has {count} tasks, but this process is its batch script, not a task",
            effect="nothing was extracted",
            hint="start the tasks with srun stvg extract …",
        )
    if index >= count:
        raise UsageError(
            f"--shard auto: {starter.number}={index} is none of {starter.count}={count} processes",
            expected=f"a number below {count}",
        )
    return index, count


def _whole(name: str | None, environment: Mapping[str, str], default: int | None = None) -> int:
    text = environment.get(name or "", "" if default is None else str(default))
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f"--shard auto: {name} is not a number", found=text or "nothing")
    return int(text)

"""Parts of the videos, i of n, and which of them is this process's: said by a number, or by what started it."""

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
        """A share of this share."""
        return Part(self.index + self.count * index, self.count * count)


@dataclass(frozen=True)
class Starter:
    """What starts several processes, and the variables by which each knows its number, from 0, and theirs."""

    name: str
    number: str
    count: str
    device: str | None = None
    """The number among the processes of this machine."""
    one_terminal: bool = False
    """All of them write to the same terminal."""


STARTERS = (
    Starter("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", one_terminal=True),
    Starter("SkyPilot", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"),
    Starter("Slurm, srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", one_terminal=True),
    Starter("Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", one_terminal=True),
)
"""The first that is found counts: torchrun numbers the processes of all machines, whatever started it there."""
ARRAY = Starter("a Slurm array", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
"""Its tasks share the videos; what is started inside of a task shares the task's."""


@dataclass(frozen=True)
class Assigned:
    """A part of the videos, and how it is known to be this process's."""

    part: Part
    why: str = ""
    device: int | None = None
    """Which of the machine's devices is this process's; None: it was not said."""
    quiet: bool = False
    """Another process reports in the same terminal."""


def assigned_part(text: str, environment: Mapping[str, str]) -> Assigned:
    """``2/8``: the second of eight; ``auto``: as the environment says. Raises UsageError."""
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
            "--shard auto: nothing says which share is this process's",
            expected=", or ".join(pairs),
            effect="nothing was extracted",
            hint="start it by sbatch --array, srun, sky launch or torchrun; or name the share: --shard 1/8",
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
    """Arrays need not begin at 0, nor count in ones."""
    first, step = (_whole(f"SLURM_ARRAY_TASK_{n}", environment, d) for n, d in (("MIN", 0), ("STEP", 1)))
    number, count = _whole(ARRAY.number, environment), _whole(ARRAY.count, environment)
    index, rest = divmod(number - first, max(1, step))
    if rest or not 0 <= index < count:
        raise UsageError(
            f"--shard auto: task {number} is not one of {count} that follow each other from {first} on",
            found="an array with gaps, of which some share would be nobody's",
            effect="nothing was extracted",
            hint="repeat the whole array, where finished videos cost nothing; or name the share: --shard 1/8",
        )
    return Part(index, count)


def _numbers(starter: Starter, environment: Mapping[str, str]) -> tuple[int, int]:
    index, count = _whole(starter.number, environment), _whole(starter.count, environment)
    alone = starter.count == "SLURM_NTASKS" and "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment
    if alone and count > 1:
        raise UsageError(
            f"--shard auto: a job of {count} tasks, but this is its script, not one of them",
            effect="nothing was extracted",
            hint="srun stvg extract … starts the tasks",
        )
    if index >= count:
        raise UsageError(
            f"--shard auto: {starter.number}={index} is none of {starter.count}={count}", expected="a number below"
        )
    return index, count


def _whole(name: str | None, environment: Mapping[str, str], default: int | None = None) -> int:
    text = environment.get(name or "", "" if default is None else str(default))
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f"--shard auto: {name} is no number", found=text or "nothing")
    return int(text)

"""The launchers: a row each. All of them take a job apart in the same way; the store needs no coordination.

Every process opens the same cache folder and extracts its part of the videos, so whatever dies leaves complete videos
behind, and repeating the command does the rest. Processes that something else starts (a job array, torchrun) take their
parts by ``--shard``; see parts.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ..job import Bar, ExtractJob
    from .messages import Outcome

LAUNCHERS = {
    "local": "stvg.extract.launchers.local:run",
    "ray": "stvg.extract.launchers.ray_tasks:run",
}
"""The function of a launcher: (jobs, progress) → what all of them did. Raises StvgError when one of them fails."""


def launch(
    job: ExtractJob, launcher: str, devices: Sequence[torch.device], processes: int, progress: Bar | None = None
) -> Outcome:
    """Extract with so many processes, at least one for each device."""
    outcome: Outcome = resolve_name(LAUNCHERS[launcher])(divide(job, devices, max(processes, len(devices))), progress)
    return outcome


def divide(job: ExtractJob, devices: Sequence[torch.device], processes: int) -> list[ExtractJob]:
    """The job's part, split evenly; process i works on device i modulo their number."""
    return [replace(job, part=job.part.split(i, processes), device=devices[i % len(devices)]) for i in range(processes)]

"""The table of launchers. All of them divide a job in the same way, and processes need no coordination.

Every process opens the same cache folder and extracts its share of the videos. If one dies, its finished videos remain,
and repeating the command extracts the rest. Processes started by another program (a job array, torchrun) get their
shares by ``--shard``; see parts.py.
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
"""Launcher → its function: (jobs, progress) → the combined outcome. Raises StvgError if a job fails."""


def launch(
    job: ExtractJob, launcher: str, devices: Sequence[torch.device], processes: int, progress: Bar | None = None
) -> Outcome:
    """Extract with ``processes`` processes, at least one per device."""
    outcome: Outcome = resolve_name(LAUNCHERS[launcher])(divide(job, devices, max(processes, len(devices))), progress)
    return outcome


def divide(job: ExtractJob, devices: Sequence[torch.device], processes: int) -> list[ExtractJob]:
    """Split the job's share evenly; process i uses device i modulo the number of devices."""
    return [replace(job, part=job.part.split(i, processes), device=devices[i % len(devices)]) for i in range(processes)]

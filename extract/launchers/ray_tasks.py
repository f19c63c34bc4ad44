"""Run an extraction as tasks of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from ...cluster import connect
from ...errors import StvgError
from ..job import Bar, ExtractJob
from .messages import Outcome, attempt, died, gather


def run(jobs: Sequence[ExtractJob], progress: Bar | None = None) -> Outcome:
    """Run each job as a Ray task: on the cluster of RAY_ADDRESS, or on this machine.

    On every machine, stvg must be installed, and cache folder, annotations and videos must have the same paths. If a
    worker dies, Ray restarts its task, which continues from the units in the cache.
    """
    ray = connect()
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)) // len(jobs))
    gpus = 1 if jobs[0].device.type == "cuda" else 0
    task = ray.remote(_attempt_at).options(num_cpus=1 if gpus else cpus, num_gpus=gpus, max_retries=3)
    return gather(_results(ray, [task.remote(os.getcwd(), job) for job in jobs]), progress)


def _attempt_at(folder: str, job: ExtractJob) -> Outcome | StvgError:
    os.chdir(folder)  # relative paths refer to the user's folder
    return attempt(job)


def _results(ray: Any, pending: list[Any]) -> Iterator[Any]:
    while pending:
        done, pending = ray.wait(pending)
        try:
            yield ray.get(done[0])
        except ray.exceptions.RayError as error:
            yield died(str(error).splitlines()[0])

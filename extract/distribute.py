"""Dividing an extraction: processes of this machine, ranks of torchrun, tasks of a Ray cluster. Nothing else differs.

Every process opens the same cache folder and takes its part of the videos; the store needs no coordination, so whatever
dies leaves complete videos behind, and repeating the command does the rest.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ..cluster import connect
from ..errors import AnnotationError, StvgError, UsageError
from .job import Bar, ExtractJob, run_job
from .work import Part, Report

Outcome = tuple[Report, list[AnnotationError]]


def parse_shard(text: str) -> Part:
    """``2/8``: the second of eight shares. Raises UsageError."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"{text!r} is no shard", expected="i/n with i from 1 to n, such as 2/8")
    return Part(int(index) - 1, int(count))


def divide(job: ExtractJob, devices: Sequence[torch.device], processes: int) -> list[ExtractJob]:
    """The job's part, split evenly; process i works on device i modulo their number."""
    return [replace(job, part=job.part.split(i, processes), device=devices[i % len(devices)]) for i in range(processes)]


def of_rank(job: ExtractJob, environment: Mapping[str, str]) -> ExtractJob:
    """What this rank of torchrun does. Raises UsageError outside of torchrun."""
    try:
        rank, world, local = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except (KeyError, ValueError):
        raise UsageError(
            "this process was not started by torchrun",
            expected="RANK, WORLD_SIZE and LOCAL_RANK in the environment",
            hint="torchrun --nproc-per-node 2 --no-python stvg extract … --launcher torchrun",
        ) from None
    device = torch.device("cuda", local) if job.device.type == "cuda" else job.device
    return replace(job, part=job.part.split(rank, world), device=device)


# --- processes of this machine -----------------------------------------------------------------------------------------


def run_processes(jobs: Sequence[ExtractJob], progress: Bar | None = None) -> Outcome:
    """One process for each job. StvgError when one of them fails; the others finish first."""
    context = get_context("spawn")
    team: dict[Connection, Any] = {}
    for job in jobs:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(job, theirs, len(jobs)), daemon=True)
        process.start()
        theirs.close()
        team[ours] = process
    return gather(_messages(team), progress)


def _work(job: ExtractJob, channel: Connection, processes: int) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    if job.part.index == 0:  # what all of them would say is said once
        logging.getLogger("stvg").setLevel(logging.INFO)
    if job.device.type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    channel.send(attempt(job, Relay(channel.send)))


class Relay:
    """A progress display in another process."""

    def __init__(self, send: Callable[[tuple[str, tuple[Any, ...]]], None]) -> None:
        self.send = send

    def total(self, count: int) -> None:
        self.send(("total", (count,)))

    def frames(self, count: int) -> None:
        self.send(("frames", (count,)))

    def __call__(self, video_id: str, frames: int, skipped: str | None, stages: dict[str, float]) -> None:
        self.send(("video", (video_id, frames, skipped, stages)))


def attempt(job: ExtractJob, progress: Bar | None = None) -> Outcome | StvgError:
    """Errors as values, since they cross between processes."""
    try:
        return run_job(job, progress)
    except StvgError as error:
        return error


def _messages(team: dict[Connection, Any]) -> Iterator[Any]:
    while team:
        for channel in wait(list(team)):
            assert isinstance(channel, Connection)
            try:
                yield channel.recv()
            except EOFError:
                process = team.pop(channel)
                process.join()
                if process.exitcode:
                    yield died(process.exitcode)


def died(code: object) -> StvgError:
    return StvgError(
        "a process of the extraction died",
        found=f"exit status {code}",
        effect="the videos it had finished are in the cache",
        hint="repeat the command to extract the rest",
    )


def gather(messages: Iterator[Any], progress: Bar | None) -> Outcome:
    """Add up reports and pass progress on. The first error is raised at the end."""
    report, dropped, errors, total = Report(), [], [], 0
    for message in messages:
        match message:
            case StvgError():
                errors.append(message)
            case ("total", (count,)):
                total += count
                if progress:
                    progress.total(total)
            case ("frames", (count,)):
                if progress:
                    progress.frames(count)
            case ("video", told):
                if progress:
                    progress(*told)
            case (Report() as part, found):
                report.add(part)
                dropped = found  # every process reads the same annotations
    if errors:
        raise errors[0]
    return report, dropped


# --- Ray ---------------------------------------------------------------------------------------------------------------


def run_ray(jobs: Sequence[ExtractJob], progress: Bar | None = None) -> Outcome:
    """One Ray task for each job: on the cluster of RAY_ADDRESS, or on this machine.

    stvg must be installed, and cache folder, annotations and videos be at the same place, on every machine. A task whose
    worker dies is started again, and goes on from what is in the cache.
    """
    ray = connect()
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)) // len(jobs))
    gpus = 1 if jobs[0].device.type == "cuda" else 0
    task = ray.remote(_attempt_at).options(num_cpus=1 if gpus else cpus, num_gpus=gpus, max_retries=3)
    return gather(_results(ray, [task.remote(os.getcwd(), job) for job in jobs]), progress)


def _attempt_at(folder: str, job: ExtractJob) -> Outcome | StvgError:
    os.chdir(folder)  # relative paths mean what they meant to the user
    return attempt(job)


def _results(ray: Any, pending: list[Any]) -> Iterator[Any]:
    while pending:
        done, pending = ray.wait(pending)
        try:
            yield ray.get(done[0])
        except ray.exceptions.RayError as error:
            yield died(str(error).splitlines()[0])


LAUNCHERS = ("local", "torchrun", "ray")


def launch(
    job: ExtractJob, launcher: str, devices: Sequence[torch.device], processes: int, progress: Bar | None = None
) -> Outcome:
    """Extract as asked. Raises UsageError for options that do not go together."""
    if launcher == "torchrun":
        if processes > 1:
            raise UsageError("under torchrun, --processes has no meaning", hint="torchrun --nproc-per-node")
        return run_job(of_rank(job, os.environ), progress)
    jobs = divide(job, devices, max(processes, len(devices)))
    if launcher == "ray":
        return run_ray(jobs, progress)
    return run_job(jobs[0], progress) if len(jobs) == 1 else run_processes(jobs, progress)

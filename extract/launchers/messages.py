"""Messages from the processes of an extraction to the command that started them: progress, reports, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ...errors import AnnotationError, StvgError
from ..job import Bar, ExtractJob, run_job
from ..work import Report

Outcome = tuple[Report, list[AnnotationError]]


class Relay:
    """A progress display that sends every call to another process."""

    def __init__(self, send: Callable[[tuple[str, tuple[Any, ...]]], None]) -> None:
        self.send = send

    def plan(self, text: str) -> None:
        self.send(("plan", (text,)))

    def total(self, count: int) -> None:
        self.send(("total", (count,)))

    def frames(self, count: int) -> None:
        self.send(("frames", (count,)))

    def __call__(self, video_id: str, frames: int, skipped: str | None, stages: dict[str, float]) -> None:
        self.send(("video", (video_id, frames, skipped, stages)))


def attempt(job: ExtractJob, progress: Bar | None = None) -> Outcome | StvgError:
    """Run a job; return a StvgError instead of raising it, so that it can be sent to another process."""
    try:
        return run_job(job, progress)
    except StvgError as error:
        return error


def died(code: object) -> StvgError:
    return StvgError(
        "a process of the extraction died",
        found=f"exit status {code}",
        effect="the videos it had finished are in the cache",
        hint="repeat the command to extract the rest",
    )


def gather(messages: Iterator[Any], progress: Bar | None) -> Outcome:
    """Add up reports and forward progress. Raises the first error after all messages were read."""
    report, dropped, errors, total = Report(), [], [], 0
    for message in messages:
        match message:
            case StvgError():
                errors.append(message)
            case ("plan", (text,)):
                if progress:
                    progress.plan(text)
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

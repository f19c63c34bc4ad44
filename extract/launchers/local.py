"""Run an extraction in processes on this machine."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ...stop import Stop
from ..job import ASKED, Bar, ExtractJob, run_job
from ..video.decoders import deaf
from ..work import Report
from .messages import Outcome, Relay, attempt, died, gather


def run(jobs: Sequence[ExtractJob], progress: Bar | None = None) -> Outcome:
    """Run each job in a process; a single job runs in this process. If one fails, the others finish first."""
    if len(jobs) == 1:
        return run_job(jobs[0], progress)
    context = get_context("spawn")
    team: dict[Connection, Any] = {}

    def pass_on(number: int) -> None:
        for process in team.values():
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    with Stop(ASKED, pass_on) as stop:
        for job in jobs:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(job, theirs, len(jobs)), daemon=True)
            with deaf():  # `_work` unblocks the signals once it can handle them
                process.start()
            theirs.close()
            team[ours] = process
        report, dropped = gather(_messages(team), progress)
    report.asked = report.asked or stop.signal
    return report, dropped


def _work(job: ExtractJob, channel: Connection, processes: int) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    if job.part.index == 0:  # messages that all processes share are logged once
        logging.getLogger("stvg").setLevel(logging.INFO)
    if job.device.type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    with Stop(ASKED) as stop:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)  # delivers signals that arrived during the start
        channel.send((Report(ended=stop.signal), []) if stop.signal else attempt(job, Relay(channel.send)))


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

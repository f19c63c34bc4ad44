"""Run an extraction request in this process, for its share of the videos."""

from __future__ import annotations

from ..job import Bar, ExtractJob
from ..request import ExtractRequest
from .messages import Outcome
from .parts import Assigned
from .table import launch


def extract_requested(request: ExtractRequest, given: Assigned, bar: Bar) -> Outcome:
    """Extract this process's share; returns the report, and errors of dropped records."""
    devices = request.targets(given.device)
    job = ExtractJob.of(request, given.part, devices[0])
    return launch(job, request.launcher, devices, request.processes, bar)

"""An extraction as it was asked for, by whatever process this is."""

from __future__ import annotations

from ..job import Bar, ExtractJob
from ..request import ExtractRequest
from .messages import Outcome
from .parts import Assigned
from .table import launch


def extract_requested(request: ExtractRequest, given: Assigned, bar: Bar) -> Outcome:
    """Extract this process's part: the report, and the records that were dropped."""
    devices = request.targets(given.device)
    job = ExtractJob.of(request, given.part, devices[0])
    return launch(job, request.launcher, devices, request.processes, bar)

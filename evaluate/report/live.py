"""A report that reads its pictures from the videos when a sample is shown: `stvg report --serve`."""

from __future__ import annotations

import base64
from functools import lru_cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from ...errors import VideoError
from ..serve.host import as_json
from . import gallery
from .findings import ReportContent
from .frames import Taken, take_pictures
from .page import render

POLICY = "frame-ancestors 'none'"
"""Sent as a header, in addition to the policy inside the page, which cannot forbid framing."""
KEPT = 256
"""Number of samples whose pictures are kept in memory."""


class LiveReport:
    """The page, and for each of its samples pictures of all frames in its clip."""

    def __init__(self, findings: ReportContent, videos: Path) -> None:
        self.findings, self.videos, self.rows = findings, videos, gallery.shown(findings)
        self.text = render(findings, self.rows, [], Taken(), live=True)
        self.pictures_of = lru_cache(KEPT)(self.read)

    @property
    def routes(self) -> list[Route]:
        return [Route("/", self.page), Route("/pictures/{row:int}", self.pictures)]

    def page(self, _: Request) -> Response:
        return HTMLResponse(self.text.encode("utf-8", "replace"))

    def pictures(self, request: Request) -> Response:
        """WebP by source frame, in base64, for the sample in a row of the page; or an error message."""
        row = request.path_params["row"]
        if row >= len(self.rows):
            raise HTTPException(404)
        try:
            return as_json({"pictures": self.pictures_of(row)})
        except VideoError as error:
            return as_json({"error": error.message})

    def read(self, row: int) -> dict[int, str]:
        """Raises VideoError if the video does not exist or does not decode."""
        sample, _, _ = self.rows[row]
        wanted = [(sample, gallery.clip_frames(self.findings, sample))]
        taken = take_pictures(wanted, self.videos, self.findings.dataset)
        for fault in taken.faults.values():
            raise fault
        found = taken.pictures[sample.video.video_id]
        return {frame: base64.b64encode(picture).decode() for frame, picture in found.items()}

"""The page for questions about videos, and the requests it sends to the server.

Sentences and file names are untrusted text: they are sent as JSON, and the page inserts them as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from ...atomic import open_atomic
from ...errors import UsageError
from ..grounding.request import videos_below
from .desk import Asked, Desk
from .host import as_json

HERE = Path(__file__).parent
REPORT = HERE.parent / "report"
STYLES = (REPORT / "page.css", HERE / "page.css")
SCRIPTS = (REPORT / "elements.js", REPORT / "theme.js", HERE / "answers.js", HERE / "page.js")
UPLOAD_BYTES = 4 * 2**30
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; media-src 'self' blob:; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Site:
    """The routes of the page. ``videos``: a folder to choose from; ``uploads``: an empty one; ``about``: head facts."""

    def __init__(self, desk: Desk, videos: Path | None, uploads: Path, about: Mapping[str, str]) -> None:
        self.desk, self.videos, self.uploads, self.about = desk, videos, uploads, dict(about)
        self.known: dict[str, Path] = {}
        """Videos that can be chosen, by displayed name. No other file of the machine can be requested."""
        self.numbers = count(1)

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/", self.page),
            Route("/page.css", self.style),
            Route("/page.js", self.script),
            Route("/videos", self.listed),
            Route("/preview", self.preview),
            Route("/uploads", self.upload, methods=["POST"]),
            Route("/questions", self.history, methods=["GET"]),
            Route("/questions", self.ask, methods=["POST"]),
            Route("/questions/{question:int}", self.state),
            Route("/questions/{question:int}/predictions.jsonl", self.boxes),
            Route("/questions/{question:int}/{sentence:int}.mp4", self.film),
        ]

    def page(self, _: Request) -> Response:
        return FileResponse(HERE / "page.html")

    def style(self, _: Request) -> Response:
        return Response("\n".join(p.read_text(encoding="utf-8") for p in STYLES), media_type="text/css")

    def script(self, _: Request) -> Response:
        return Response("\n".join(p.read_text(encoding="utf-8") for p in SCRIPTS), media_type="text/javascript")

    def listed(self, _: Request) -> Response:
        """The names of videos that can be chosen, the size limit of an upload, and the facts of the head."""
        if self.videos:
            self.known = videos_below(self.videos)
        return as_json({"names": list(self.known), "limit": UPLOAD_BYTES, "about": self.about})

    def preview(self, request: Request) -> Response:
        """The file of a video that can be chosen; browsers request ranges of it."""
        file = self.known.get(request.query_params.get("video", ""))
        if file is None or not file.is_file():
            raise HTTPException(404)
        return FileResponse(file)

    async def upload(self, request: Request) -> Response:
        """Store a video, sent as the request's body, under a number."""
        number, size = next(self.numbers), 0
        try:
            with open_atomic(self.uploads / str(number)) as file:
                async for piece in request.stream():
                    size += len(piece)
                    if size > UPLOAD_BYTES:
                        raise UsageError("the video is too large", expected=f"at most {UPLOAD_BYTES:,} bytes")
                    file.write(piece)
        except OSError as error:
            raise UsageError("the video cannot be kept", found=error.strerror) from None
        return as_json({"upload": number}, 201)

    async def ask(self, request: Request) -> Response:
        """``{"sentences": […], "video": name}``, or instead of ``video`` an ``upload`` number and its ``name``."""
        try:
            asked = json.loads(await request.body())
            sentences = [str(sentence) for sentence in asked["sentences"]]
            if "video" in asked:
                file, name = self.known[asked["video"]], asked["video"]
            else:
                file, name = self.uploads / str(int(asked["upload"])), str(asked["name"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise HTTPException(404) from None
        return as_json({"question": self.desk.ask(file, name, sentences).number}, 201)

    def history(self, _: Request) -> Response:
        """All questions since the server started, so that a reloaded page shows them."""
        return as_json(self.desk.history())

    def state(self, request: Request) -> Response:
        return as_json(self.desk.state(self.question(request)))

    def boxes(self, request: Request) -> Response:
        return self.written(request, "predictions.jsonl")

    def film(self, request: Request) -> Response:
        return self.written(request, f"{request.path_params['sentence']}.mp4")

    def question(self, request: Request) -> Asked:
        found = self.desk.questions.get(request.path_params["question"])
        if found is None:
            raise HTTPException(404)
        return found

    def written(self, request: Request, name: str) -> Response:
        """A file of a question's answer; browsers request ranges of it."""
        path = self.desk.folder / str(self.question(request).number) / name
        if not path.is_file():
            raise HTTPException(404)
        return FileResponse(path)

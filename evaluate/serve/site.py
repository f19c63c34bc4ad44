"""The page and what it asks for, on this machine's own address and for those who know its token.

The token is the first part of every path: a cookie would go to whatever else listens on this machine, since browsers
do not tell its ports apart. Requests under another host's name, as a page elsewhere could make its own name mean this
machine, are refused. Sentences and file names are anyone's text: they travel as JSON, and the page sets them as text.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...atomic import open_atomic
from ...errors import StvgError, UsageError
from .desk import Desk, Question

HERE = Path(__file__).parent
REPORT = HERE.parent / "report"
STYLES = (REPORT / "page.css", HERE / "page.css")
SCRIPTS = (REPORT / "elements.js", REPORT / "theme.js", HERE / "page.js")
HOST = "127.0.0.1"
UPLOAD_BYTES = 4 * 2**30
SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv", ".wmv", ".3gp"}
"""Files that are offered; what they hold is seen when they are decoded."""
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "media-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@contextmanager
def serving(desk: Desk, videos: Path | None, uploads: Path, port: int) -> Iterator[str]:
    """The page's address, served by a thread while the block runs. ``port``: 0 for any free one.

    ``videos``: a folder to choose from; ``uploads``: an empty folder. Raises UsageError when the port cannot be had.
    """
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise UsageError(f"port {port} cannot be had", found=error.strerror, hint="another --port") from None
    token = secrets.token_urlsafe(16)
    app = Guard(Site(desk, videos, uploads).app(token), token)
    quiet: dict[str, Any] = {"log_config": None, "access_log": False, "server_header": False, "proxy_headers": False}
    config = uvicorn.Config(app, lifespan="off", ws="none", timeout_graceful_shutdown=1, **quiet)
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, args=([listening],), name="serve", daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{listening.getsockname()[1]}/{token}/"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


class Guard:
    """Lets those through who know the token, and tells browsers what the page may do."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        given = scope["path"].removeprefix("/").partition("/")[0]
        known = secrets.compare_digest(given.encode(errors="replace"), self.token.encode())
        refused = PlainTextResponse("Open the address that stvg predict --serve printed.\n", 403)
        await (self.app if known else refused)(scope, receive, guarded)


class Site:
    """What can be asked for."""

    def __init__(self, desk: Desk, videos: Path | None, uploads: Path) -> None:
        self.desk, self.videos, self.uploads = desk, videos, uploads
        self.known: dict[str, Path] = {}
        """What can be chosen, by the name it is shown under. Nothing else of the machine's files can be named."""
        self.numbers = count(1)

    def app(self, token: str) -> ASGIApp:
        routes = [
            Route("/", self.page),
            Route("/page.css", self.style),
            Route("/page.js", self.script),
            Route("/videos", self.listed),
            Route("/uploads", self.upload, methods=["POST"]),
            Route("/questions", self.ask, methods=["POST"]),
            Route("/questions/{question:int}", self.state),
            Route("/questions/{question:int}/predictions.jsonl", self.boxes),
            Route("/questions/{question:int}/{sentence:int}.mp4", self.film),
        ]
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
        return Starlette(
            routes=[Mount(f"/{token}", routes=routes)], middleware=[hosts], exception_handlers={StvgError: refusal}
        )

    def page(self, _: Request) -> Response:
        return FileResponse(HERE / "page.html")

    def style(self, _: Request) -> Response:
        return Response("\n".join(p.read_text(encoding="utf-8") for p in STYLES), media_type="text/css")

    def script(self, _: Request) -> Response:
        return Response("\n".join(p.read_text(encoding="utf-8") for p in SCRIPTS), media_type="text/javascript")

    def listed(self, _: Request) -> Response:
        """The names of what can be chosen, and how large an upload may be."""
        if self.videos:
            files = sorted(p for p in self.videos.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            self.known = {file.relative_to(self.videos).as_posix(): file for file in files}
        return as_json({"names": list(self.known), "limit": UPLOAD_BYTES})

    async def upload(self, request: Request) -> Response:
        """Keep a video, sent as it is, under a number."""
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
        """``{"sentences": […], "video": name}``, or in place of ``video`` an ``upload`` and what it is called."""
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

    def state(self, request: Request) -> Response:
        return as_json(self.desk.state(self.question(request)))

    def boxes(self, request: Request) -> Response:
        return self.written(request, "predictions.jsonl")

    def film(self, request: Request) -> Response:
        return self.written(request, f"{request.path_params['sentence']}.mp4")

    def question(self, request: Request) -> Question:
        found = self.desk.questions.get(request.path_params["question"])
        if found is None:
            raise HTTPException(404)
        return found

    def written(self, request: Request, name: str) -> Response:
        """A file of a question's answer; browsers ask for ranges of it."""
        path = self.desk.folder / str(self.question(request).number) / name
        if not path.is_file():
            raise HTTPException(404)
        return FileResponse(path)


def as_json(value: Any, status: int = 200) -> Response:
    """In ASCII: a file's name may hold half a character, which no encoding has."""
    return Response(json.dumps(value), status, media_type="application/json")


def refusal(_: Request, error: Exception) -> Response:
    return as_json({"error": str(error)}, 400)

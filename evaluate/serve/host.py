"""A web site on the loopback address, protected by a token.

The token is the first component of every path. A cookie would be sent to all servers on this machine, because browsers
do not separate cookies by port. Requests with another host name are refused: a foreign page could resolve its own name
to this machine (DNS rebinding).
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import StvgError, UsageError

HOST = "127.0.0.1"
HEADERS = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@contextmanager
def serving(routes: Sequence[BaseRoute], policy: str, port: int) -> Iterator[str]:
    """Serve a site in a thread while the block runs, and yield its address. ``port``: 0 for any free port.

    ``policy``: the content security policy. Raises UsageError if the port is not available.
    """
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise UsageError(f"port {port} cannot be had", found=error.strerror, hint="another --port") from None
    token = secrets.token_urlsafe(16)
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
    app = Starlette(
        routes=[Mount(f"/{token}", routes=list(routes))], middleware=[hosts], exception_handlers={StvgError: refusal}
    )
    quiet: dict[str, Any] = {"log_config": None, "access_log": False, "server_header": False, "proxy_headers": False}
    guarded = Guard(app, token, {"content-security-policy": policy, **HEADERS})
    server = uvicorn.Server(uvicorn.Config(guarded, lifespan="off", ws="none", timeout_graceful_shutdown=1, **quiet))
    thread = Thread(target=server.run, args=([listening],), name="serve", daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{listening.getsockname()[1]}/{token}/"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


class Guard:
    """Refuses requests without the token, and adds the security headers to every response."""

    def __init__(self, app: ASGIApp, token: str, headers: dict[str, str]) -> None:
        self.app, self.token, self.headers = app, token, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        given = scope["path"].removeprefix("/").partition("/")[0]
        known = secrets.compare_digest(given.encode(errors="replace"), self.token.encode())
        refused = PlainTextResponse("Open the address that stvg printed, with all of its letters.\n", 403)
        await (self.app if known else refused)(scope, receive, guarded)


def as_json(value: Any, status: int = 200) -> Response:
    """A JSON response in ASCII: a file's name may contain a lone surrogate, which UTF-8 cannot encode."""
    return Response(json.dumps(value), status, media_type="application/json")


def refusal(_: Request, error: Exception) -> Response:
    return as_json({"error": str(error)}, 400)

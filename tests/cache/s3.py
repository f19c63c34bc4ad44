"""A real S3-compatible server on loopback, behind a door that fails, hangs up and dawdles when told to."""

from __future__ import annotations

import http.client
import logging
import random
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from moto.server import ThreadedMotoServer

SLOW = 0.75
"""Seconds by which a slow answer is late."""


class Door(ThreadingHTTPServer):
    """Passes requests on. ``faults`` are the shares of requests that meet each fault; ``met`` counts them."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.port, self.random = port, random.Random(7)
        self.faults: dict[str, float] = {}
        self.met = dict.fromkeys(("500", "dropped", "cut", "slow", "passed"), 0)

    def fault(self) -> str:
        at = self.random.random()
        for name, share in self.faults.items():
            if at < share:
                self.met[name] += 1
                return name
            at -= share
        self.met["passed"] += 1
        return ""

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up: that is what is tested."""


class Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or the body of an answer waits 40 ms until its headers are acknowledged
    server: Door

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault()
        if fault == "dropped":
            self.close_connection = True
            return
        if fault == "500":
            self.answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
            return
        inner = http.client.HTTPConnection("127.0.0.1", self.server.port)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        inner.request(self.command, self.path, body, headers)
        answer = inner.getresponse()
        data = answer.read()
        inner.close()
        if fault == "slow":
            time.sleep(SLOW)
        skip = ("transfer-encoding", "connection", "content-length")
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in skip]
        length = int(answer.getheader("Content-Length") or len(data)) if self.command == "HEAD" else len(data)
        self.answer(answer.status, kept, data[: len(data) // 2] if fault == "cut" else data, length)
        if fault == "cut":
            self.close_connection = True

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, length: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def s3_server() -> Iterator[tuple[Door, str]]:
    """The door, and the address of the server as it is seen through it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")).close()
    door = Door(port)
    Thread(target=door.serve_forever, daemon=True).start()
    try:
        yield door, f"http://127.0.0.1:{door.server_address[1]}"
    finally:
        door.shutdown()
        door.server_close()
        server.stop()

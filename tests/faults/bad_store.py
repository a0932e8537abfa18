"""An S3 server behind a road on which things go wrong: errors, throttling, and connections that are cut."""

from __future__ import annotations

import http.client
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from typing import Literal

from served import served

Fault = Literal["500", "503", "cut", "cut after"]
"""An answer of 500; one of 503 SlowDown; a connection cut before the request is made, or after it was done."""

_XML = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}, by the test</Message></Error>'


class Road:
    """What happens to requests on the way to the server at `backend`: a `fault` to that `share` of them."""

    def __init__(self, backend: str) -> None:
        self.backend = backend.removeprefix("http://")
        self.url = ""
        self._lock = threading.Lock()
        self._draw, self._fault, self._share = random.Random(0), "500", 0.0
        self.faults = 0

    def set(self, fault: Fault, share: float, seed: int) -> None:
        """From now on this goes wrong."""
        with self._lock:
            self._draw, self._fault, self._share, self.faults = random.Random(seed), fault, share, 0

    def clear(self) -> None:
        """From now on nothing goes wrong."""
        with self._lock:
            self._share = 0.0

    def next(self) -> str | None:
        """What happens to the next request."""
        with self._lock:
            if self._draw.random() >= self._share:
                return None
            self.faults += 1
            return self._fault


@contextmanager
def bad_road(backend: str) -> Iterator[Road]:
    """A proxy before an S3 server, for as long as the block lasts."""
    road = Road(backend)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = road.next()
            if fault == "cut":
                self._cut()
                return
            if fault in {"500", "503"}:
                code = "InternalError" if fault == "500" else "SlowDown"
                self._answer(int(fault), {"Content-Type": "application/xml"}, _XML.format(code=code).encode())
                return
            connection = http.client.HTTPConnection(road.backend, timeout=60)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                data = answer.read()
                if fault == "cut after":
                    self._cut()
                else:
                    self._answer(answer.status, dict(answer.getheaders()), data)
            except OSError as error:  # the server itself is gone
                self._answer(502, {}, f"{type(error).__name__}: {error}".encode())
            finally:
                connection.close()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do

        def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response_only(status)
            length = str(len(data))
            for name, value in headers.items():
                if name.lower() == "content-length" and self.command == "HEAD":
                    length = value
                elif name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def _cut(self) -> None:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            pass

    with served(Handler) as road.url:
        yield road

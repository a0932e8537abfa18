"""A small hub on this machine: what huggingface_hub, hf_xet and datasets ask of the Hub, and faults on request.

Its answers are made from the client's own source and from requests that it was seen to make. It keeps everything in one
folder. `Hub.faults` says what goes wrong, `Hub.seen` lists the kinds of the requests that came.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub.endpoints import Answer, answer, kind_of
from hub.repository import Refused, Repository, Store
from served import served

TOKEN = "hf_A1b2C3d4E5f6G7h8I9j0TestTokenXyz"  # looks like one, so that it can be searched for


@dataclass
class Fault:
    """At the requests of a kind that these positions count, from 0: a status, or the connection is cut.

    `cut` is "before", when nothing is done, or "after": it is done, and the reply is lost.
    """

    kind: str
    at: tuple[int, ...] = (0,)
    status: int | None = None
    cut: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Account:
    name: str
    may_write: bool = True
    organizations: tuple[str, ...] = ()


class Hub:
    """The hub itself. `accounts` are by token, `repositories` by name."""

    def __init__(self, folder: Path, *, large: int = 4096, xet: bool = True) -> None:
        self.store = Store(folder)
        self.repositories: dict[str, Repository] = {}
        self.accounts = {TOKEN: Account("me", organizations=("lab",))}
        self.faults: list[Fault] = []
        self.seen: list[str] = []
        self.large, self.xet = large, xet
        self.at_request: Callable[[int, str], None] = lambda number, when: None
        """Called before and after each request is answered, with its number from 0."""
        self.lock = threading.RLock()
        self.url = ""

    def create(self, name: str, **settings: Any) -> Repository:
        repository = self.repositories[name] = Repository(name, **settings)
        attributes = self.store.add_small(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n")
        repository.commit("main", "initial commit", {".gitattributes": attributes}, name.partition("/")[0])
        return repository

    def contents(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Every file of a repository, by its path."""
        tree = self.repositories[name].resolve(revision).tree
        return {path: self.store.read(blob) for path, blob in tree.items()}

    def fault_of(self, kind: str) -> tuple[Fault | None, int]:
        """What goes wrong with a request of this kind, and the request's number among all."""
        with self.lock:
            number, place = self.seen.count(kind), len(self.seen)
            self.seen.append(kind)
            fault = next((each for each in self.faults if each.kind == kind and number in each.at), None)
            return fault, place


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        address = urlsplit(self.path)
        body = self._body()
        kind = kind_of(self.command, address.path)
        fault, number = self.hub.fault_of(kind)
        self.hub.at_request(number, "before")
        if fault is not None and fault.cut == "before":
            self._cut()
            return
        if fault is not None and fault.status is not None:
            self._send(
                Answer({"error": "a fault"}, fault.status, {"X-Error-Message": "a fault", **fault.headers})
            )
            return
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            result = answer(
                self.hub, self.command, unquote(address.path), address.path, parse_qs(address.query), body, token,
            )  # fmt: skip
        except Refused as error:
            headers = {"X-Error-Message": error.message} | (
                {"X-Error-Code": error.code} if error.code else {}
            )
            result = Answer({"error": error.message}, error.status, headers)
        if fault is not None and fault.cut == "after":
            self._cut()
            return
        self.hub.at_request(number, "after")
        self._send(result)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, result: Answer) -> None:
        body = result.body if isinstance(result.body, bytes) else json.dumps(result.body).encode()
        status, headers = result.status, dict(result.headers)
        wanted = self.headers.get("Range")
        if wanted and status == 200:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(body) - 1), len(body) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
            body, status = body[start : end + 1], 206
        self.send_response(status)
        headers.setdefault("Content-Type", "application/json")
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub at `hub.url` while the block runs."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with served(handler) as hub.url:
        yield hub

"""A completion server on loopback that answers as it is told: well, badly, late or not at all."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from served import served


@dataclass
class Answer:
    """What the server says: `body` as JSON, or as it is when it is text, after `late` seconds; or it hangs up.

    `pieces` are sent in place of a body, one at a time, for as long as the client takes them.
    """

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    late: float = 0.0
    hang_up: bool = False
    pieces: Iterable[bytes] | None = None


Behave = Callable[[dict[str, Any]], Answer]


@dataclass
class Loopback:
    """A running server: what it serves, what it was asked, and how it behaves on a POST."""

    behave: Behave
    cards: list[dict[str, Any]]
    version: dict[str, Any] | None = None
    description: dict[str, Any] | None = None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    authorization: list[str | None] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""


def completion(text: str = "fine", *, prompt: int, reason: str = "stop", count: int = 3) -> Answer:
    """A good /v1/completions answer."""
    choice = {"index": 0, "text": text, "finish_reason": reason}
    return Answer({"choices": [choice], "usage": {"prompt_tokens": prompt, "completion_tokens": count}})


def well(body: dict[str, Any]) -> Answer:
    """Complete the prompt, and count its ids."""
    return completion(prompt=len(body["prompt"]))


@contextmanager
def serving(behave: Behave = well, **settings: Any) -> Iterator[Loopback]:
    """Run the server for as long as the block lasts."""
    settings.setdefault("cards", [{"id": "served", "owned_by": "vllm", "max_model_len": 64}])
    state = Loopback(behave, **settings)
    lock = threading.Lock()
    connections: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            connections.append(self.request)
            super().setup()

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self._say(Answer({"object": "list", "data": state.cards}))
            elif self.path == "/openapi.json" and state.description is not None:
                self._say(Answer(state.description))
            elif self.path == "/api/version" and state.version is not None:
                self._say(Answer(state.version))
            else:
                self._say(Answer({"error": "not found"}, 404))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.asked.append((self.path, body))
                state.authorization.append(self.headers["Authorization"])
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
            try:
                self._say(state.behave(body))
            finally:
                with lock:
                    state.at_once -= 1

        def _say(self, answer: Answer) -> None:
            time.sleep(answer.late)
            if answer.hang_up:
                self.close_connection = True
                return
            if answer.pieces is not None:
                self._say_in_pieces(answer, answer.pieces)
                return
            said = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(said.encode())), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said.encode())

        def _say_in_pieces(self, answer: Answer, pieces: Iterable[bytes]) -> None:
            self.send_response(answer.status)
            for name, value in {"Transfer-Encoding": "chunked", **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for piece in pieces:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *args: Any) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (ConnectionError, TimeoutError):
                self.close_connection = True

    try:
        with served(Handler) as url:
            state.url = f"{url}/v1"
            yield state
    finally:
        for connection in connections:  # those that are kept alive would outlive the server
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

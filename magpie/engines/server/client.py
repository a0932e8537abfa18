"""A client for HTTP servers that answer with JSON: retries with backoff, and errors that say what to do next."""

from __future__ import annotations

import asyncio
import os
import random
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import httpx

from magpie.errors import ServerError
from magpie.recipe import Server

_RETRIED = frozenset({408, 425, 429})
"""Statuses below 500 that are retried: timeouts and rate limits. All statuses from 500 on are."""

_REFUSES_ALL = {
    401: "put the key it wants into ${key}",
    403: "put a key that may use it into ${key}",
    404: "let `server.url` end in /v1, and set `model` to one it serves",
    405: "let `server.url` end in /v1",
}
"""Statuses that every request will get, and what to do about them."""

_LONGEST_WAIT = 60.0
"""Seconds: the most that a backoff waits, and the most that Retry-After can ask for."""


class RequestError(Exception):
    """This request fails however often it is tried. The server is up, and other requests may succeed."""


class RefusedError(RequestError):
    """The server refuses this request with a 4xx, for its form or its content."""


class JsonClient:
    """A client of one server. `request` sends one request and retries it.

    Connection errors, timeouts, 408, 425, 429, 5xx and answers that are not JSON objects are retried up to
    `settings.retries` times, after `settings.backoff` seconds and twice as long each time. A random part, up to half,
    is taken off each wait, but not below what Retry-After says. The key is sent as a bearer token and appears in no
    message. `start` is the command that starts such a server, for the error when nothing answers.
    """

    def __init__(self, settings: Server, *, start: str) -> None:
        self._settings, self._start = settings, start
        self._key = os.environ.get(settings.api_key_env) or None
        url = httpx.URL(settings.url.rstrip("/") + "/")
        bare = url.copy_with(userinfo=b"")
        self.url = str(bare).rstrip("/")
        is_local = url.host in {"localhost", "127.0.0.1", "::1"}
        self._client = httpx.AsyncClient(
            base_url=bare if self._key else url,  # a name and password in the URL would replace the key
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            # A request may wait for a free connection as long as it takes.
            timeout=httpx.Timeout(settings.timeout, connect=min(10.0, settings.timeout), pool=None),
            limits=httpx.Limits(max_connections=settings.concurrency),
            trust_env=not is_local,  # no proxy is needed to reach this machine
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, needs: str, seed: int = 0
    ) -> dict[str, Any]:
        """The server's answer: a JSON object that has the key `needs`. `seed` makes the waits repeatable.

        Raises RequestError when only this request fails, ServerError when the server does.
        """
        # Random waits, so that requests that failed together do not all come back together.
        jitter = random.Random(seed)
        problem, wait = "", 0.0
        cause: httpx.HTTPError | None = None
        for attempt in range(self._settings.retries + 1):
            await asyncio.sleep(wait)
            wait = min(_LONGEST_WAIT, self._settings.backoff * 2**attempt) * (1 - jitter.random() / 2)
            try:
                answer = await self._client.request(method, path, json=body)
            except httpx.HTTPError as error:
                cause, problem = error, f"{type(error).__name__}: {self._quote(str(error))}"
                continue
            result = self._read(answer, needs)
            if isinstance(result, dict):
                return result
            cause, problem = None, result
            wait = max(wait, _retry_after(answer))
        tries = f"{attempt + 1} time{'s' if attempt else ''}"
        if isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout):
            raise ServerError(f"nothing answers at {self.url}; start it with `{self._start}`") from cause
        if cause is None and answer.status_code < 300:
            raise self.error(f"{problem}; set `server.url` to the /v1 of a completion server") from cause
        # A prompt may crash or stall a server that is fine otherwise: then only this request is lost.
        if body is not None and await self._is_up():
            raise RequestError(f"the server failed {tries} on this prompt: {problem}") from cause
        raise self.error(f"failed {tries}: {problem}; read its log and start it again") from cause

    async def get_or_empty(self, path: str) -> dict[str, Any]:
        """The JSON object at `path`, without retries; an empty one when there is none."""
        try:
            answer = (await self._client.get(path)).json()
        except (httpx.HTTPError, ValueError):
            return {}
        return answer if isinstance(answer, dict) else {}

    def error(self, problem: str) -> ServerError:
        """A ServerError that names the server. `problem` is the rest of the sentence."""
        return ServerError(f"the server at {self.url} {problem}")

    def _read(self, answer: httpx.Response, needs: str) -> dict[str, Any] | str:
        """The object in a good answer, or the problem with one that is worth a retry. Raises for all others."""
        status, text = answer.status_code, self._quote(answer.text)
        if status in _REFUSES_ALL:
            advice = _REFUSES_ALL[status].replace("{key}", self._settings.api_key_env)
            raise self.error(f"answers {status} to {answer.request.url.path}: {text}; {advice}")
        if status >= 500 or status in _RETRIED:
            return f"{status}: {text}"
        if status >= 400:
            raise RefusedError(f"the server answers {status}: {text}")
        try:
            result = answer.json()
        except ValueError:
            result = None
        if status < 300 and isinstance(result, dict) and needs in result:
            return result
        # A server that is still starting may answer with a page, or with an object of another kind.
        return f"answers {status} and no JSON with `{needs}`: {text}"

    async def _is_up(self) -> bool:
        try:
            return (await self._client.get("models")).status_code < 500
        except httpx.HTTPError:
            return False

    def _quote(self, text: str) -> str:
        """One line of the server's text, cut short and without the key, which some servers repeat in their errors."""
        line = " ".join(text.split()) or "nothing"
        line = line.replace(self._key, "[key]") if self._key else line
        return line if len(line) <= 200 else f"{line[:200]}..."


def _retry_after(answer: httpx.Response) -> float:
    """Seconds the server asks to wait, from a number or a date, at most `_LONGEST_WAIT`; 0 when it does not say."""
    value = answer.headers.get("Retry-After", "").strip()
    try:
        seconds = float(value) if value[:1].isdigit() else parsedate_to_datetime(value).timestamp() - time()
    except (ValueError, TypeError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT)

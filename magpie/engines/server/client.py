"""Asking an HTTP server for JSON, patiently: retries with back-off, and errors that say what to do."""

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

_PASSING = frozenset({408, 425, 429})
"""Statuses below 500 worth another try: timeouts and rate limits. From 500 on it is the server's own trouble."""

_SHUT = {
    401: "put the key it wants into ${key}",
    403: "put a key that may use it into ${key}",
    404: "let `server.url` end in /v1, and `model` be one it serves",
    405: "let `server.url` end in /v1",
}
"""Statuses that say no to every request, and what to do."""

_LONGEST_WAIT = 60.0
"""Seconds: the bound on a back-off, and on what Retry-After may ask for."""


class RequestError(Exception):
    """This request failed and will go on failing; the server is there, and another request may do well."""


class RefusedError(RequestError):
    """A 4xx about the request: its form, or what is in it."""


class JsonClient:
    """One server, asked for JSON objects by `ask`.

    Connection errors, timeouts, 408, 425, 429, 5xx and answers that are no JSON object are tried again, as often as
    `settings.retries` says, after `settings.backoff` seconds and twice as long each time, shortened by up to a half
    at random but never below what Retry-After says. The key is sent as a bearer token and is in no message.
    `start` is the command that starts such a server, for the error that says nothing answers.
    """

    def __init__(self, settings: Server, *, start: str) -> None:
        self._settings, self._start = settings, start
        self._key = os.environ.get(settings.api_key_env) or None
        url = httpx.URL(settings.url.rstrip("/") + "/")
        bare = url.copy_with(userinfo=b"")
        self.url = str(bare).rstrip("/")
        here = url.host in {"localhost", "127.0.0.1", "::1"}
        self._client = httpx.AsyncClient(
            base_url=bare if self._key else url,  # a name and password in the URL would replace the key
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(settings.timeout, connect=min(10.0, settings.timeout), pool=None),
            limits=httpx.Limits(max_connections=settings.concurrency),
            trust_env=not here,  # a proxy does not stand before this machine
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, needs: str, seed: int = 0
    ) -> dict[str, Any]:
        """The JSON object, with the key `needs`, that the server answers with. `seed` makes the waits repeatable.

        Raises RequestError when this request fails for good, ServerError when the server is lost to all.
        """
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
            found = self._read(answer, needs)
            if isinstance(found, dict):
                return found
            cause, problem = None, found
            wait = max(wait, _retry_after(answer))
        tries = f"{attempt + 1} time{'s' if attempt else ''}"
        if isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout):
            raise ServerError(f"nothing answers at {self.url}; start it with `{self._start}`") from cause
        if cause is None and answer.status_code < 300:
            raise self.fault(f"{problem}; let `server.url` be the /v1 of a completion server") from cause
        if body is not None and await self._lives():
            raise RequestError(f"the server failed {tries} on this prompt: {problem}") from cause
        raise self.fault(f"failed {tries}: {problem}; read its log and start it again") from cause

    async def peek(self, path: str) -> dict[str, Any]:
        """The JSON object at `path`, asked for once; empty when there is none."""
        try:
            found = (await self._client.get(path)).json()
        except (httpx.HTTPError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def fault(self, what: str) -> ServerError:
        """The error that ends the use of this server."""
        return ServerError(f"the server at {self.url} {what}")

    def _read(self, answer: httpx.Response, needs: str) -> dict[str, Any] | str:
        """The object in a good answer, or what is wrong with one that another try may mend; raises for the rest."""
        status, said = answer.status_code, self._quote(answer.text)
        if status in _SHUT:
            advice = _SHUT[status].replace("{key}", self._settings.api_key_env)
            raise self.fault(f"answers {status} to {answer.request.url.path}: {said}; {advice}")
        if status >= 500 or status in _PASSING:
            return f"{status}: {said}"
        if status >= 400:
            raise RefusedError(f"the server answers {status}: {said}")
        try:
            found = answer.json()
        except ValueError:
            found = None
        if status < 300 and isinstance(found, dict) and needs in found:
            return found
        return f"answers {status} and no JSON with `{needs}`: {said}"

    async def _lives(self) -> bool:
        try:
            return (await self._client.get("models")).status_code < 500
        except httpx.HTTPError:
            return False

    def _quote(self, text: str) -> str:
        """A line of what the server said, without the key."""
        line = " ".join(text.split()) or "nothing"
        line = line.replace(self._key, "[key]") if self._key else line
        return line if len(line) <= 200 else f"{line[:200]}..."


def _retry_after(answer: httpx.Response) -> float:
    """Seconds the server asks to wait, from a number or a date, at most `_LONGEST_WAIT`; 0 when it does not say."""
    said = answer.headers.get("Retry-After", "").strip()
    try:
        seconds = float(said) if said[:1].isdigit() else parsedate_to_datetime(said).timestamp() - time()
    except (ValueError, TypeError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT)

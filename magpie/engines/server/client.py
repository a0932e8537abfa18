"""A client for HTTP servers that answer with JSON: retries with backoff, and errors that say what to do next."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
from collections.abc import Generator
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from time import monotonic, time
from typing import Any
from urllib.request import proxy_bypass

import httpx

from magpie import secrets
from magpie.errors import ServerError
from magpie.recipe import Server

_RETRIED = frozenset({408, 425})
"""Statuses below 500 that are retried: timeouts. All statuses from 500 on are."""

_BUSY = frozenset({429, 502, 503, 529})
"""What a server answers that has too much to do or is starting: no request is to blame, and none is given up for it."""

_MAY_BE_THE_PROMPT = frozenset({"502", "503"})
"""Those that a gateway also answers where the server behind it ended on a prompt."""

_BUSY_WORDS = frozenset(
    {*map(str, _BUSY), "rate_limit_exceeded", "rate_limit_error", "overloaded_error", "overloaded"}
)
"""The same as the code or the type of an error, which gateways send in an answer whose status is 200."""

_SHORTEST_WAIT = 0.5
"""Seconds between two requests to a busy server."""

_LARGEST_ANSWER = 64 << 20
"""Bytes, unpacked: a hundred times what the longest completion takes."""

_REFUSES_ALL = {
    401: "put the key it wants into ${key}",
    402: "pay its bill, or put the key of another account into ${key}",
    403: "put a key that may use it into ${key}",
    404: "let `server.url` end in /v1, and set `model` to one it serves",
    405: "let `server.url` end in /v1",
    407: "put the proxy's user name and password into the variable that names it, or set NO_PROXY",
    410: "set `server.url` and `model` to what is still served",
    451: "use another server",
}
"""Statuses that every request will get, and what to do about them."""

_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")

_LONGEST_WAIT = 60.0
"""Seconds: the most that a backoff waits, and the most that Retry-After can ask for."""


class RequestError(Exception):
    """This request fails however often it is tried. The server is up, and other requests may succeed."""


class RefusedError(RequestError):
    """The server refuses this request with a 4xx, for its form or its content."""


class _Bearer(httpx.Auth):
    """Puts the key in a variable, if there is one, on each request. Raises SecretError.

    Nothing that shows this object, as a traceback with locals does, shows the key: httpx.Headers hide it.
    """

    def __init__(self, variable: str) -> None:
        key = secrets.from_environment(variable)
        self._headers = httpx.Headers({} if key is None else {"Authorization": f"Bearer {key}"})

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers.update(self._headers)
        yield request


class JsonClient:
    """A client of one server. `request` sends one request and retries it.

    Connection errors, timeouts, 408, 425, 5xx and answers that are not JSON objects are retried up to
    `settings.retries` times, after `settings.backoff` seconds and twice as long each time. A random part, up to half,
    is taken off each wait, but not below what Retry-After says. A server that is busy (429, 502, 503) is waited for,
    until it has answered nothing else for `settings.patience` seconds. A prompt that meets 502 or 503 for so long while
    others are answered is given up: what stands behind a gateway may end on it each time. The key is sent as a bearer
    token and appears in no message. `start` is the command that starts such a server, for the error when nothing
    answers.
    """

    def __init__(self, settings: Server, *, start: str) -> None:
        self._settings, self._start = settings, start
        bearer = _Bearer(settings.api_key_env)
        url = httpx.URL(settings.url.rstrip("/") + "/")
        self.url = str(url).rstrip("/")
        self._busy_since: float | None = None
        self._completes = False
        self._answered_at = -math.inf
        self._proxies = "" if _is_this_machine(url.host) else _proxies_of(url)
        limits = httpx.Limits(max_connections=settings.concurrency)
        try:
            # A client that is given a transport makes none for proxies, which may be of a kind that it cannot use.
            direct = None if self._proxies else httpx.AsyncHTTPTransport(limits=limits)
            self._client = httpx.AsyncClient(
                base_url=url,
                headers={"Accept-Encoding": "identity"},
                auth=bearer,
                # A request may wait for a free connection as long as it takes.
                timeout=httpx.Timeout(settings.timeout, connect=min(10.0, settings.timeout), pool=None),
                limits=limits,
                transport=direct,
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise ServerError(
                f"the proxy in {self._proxies or 'the environment'} cannot be used for {self.url}; name one "
                "that begins with http://, or leave the server out of it with NO_PROXY"
            ) from error

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
        problem, wait, attempt = "", 0.0, 0
        cause: Exception | None = None
        busy_since = math.inf
        while attempt <= self._settings.retries:
            await asyncio.sleep(wait)
            wait = min(_LONGEST_WAIT, self._settings.backoff * 2**attempt) * (1 - jitter.random() / 2)
            try:
                answer = await self._exchange(method, path, body)
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
                cause, problem = error, self._failure(error)
                attempt += 1
                continue
            if busy := _busy_code(answer):
                wait = max(wait, self._wait_while_busy(answer, busy), _SHORTEST_WAIT)
                now, patience = monotonic(), self._settings.patience
                if busy_since == math.inf or busy not in _MAY_BE_THE_PROMPT:
                    busy_since = now
                # Others must have been answered of late too: a server that has become busy for all costs no row.
                if now - busy_since > patience and now - self._answered_at < patience / 2:
                    raise RequestError(
                        f"for {now - busy_since:.0f} s the server answers {busy} to this prompt, and others well"
                    )
                continue
            self._busy_since, busy_since = None, math.inf
            self._answered_at = monotonic()
            result = self._read(answer, needs)
            if isinstance(result, dict):
                self._completes = self._completes or body is not None
                return result
            cause, problem = None, result
            wait = max(wait, _retry_after(answer))
            attempt += 1
        tries = f"{attempt} time{'s' if attempt > 1 else ''}"
        if isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            if self._proxies:
                raise ServerError(
                    f"nothing answers at {self.url}, asked through the proxy in {self._proxies}; check both, or leave "
                    "the server out of the proxy with NO_PROXY"
                ) from cause
            raise ServerError(f"nothing answers at {self.url}; start it with `{self._start}`") from cause
        # Once it has completed a prompt it is a completion server: then an odd answer is about one prompt.
        if cause is None and answer.status_code < 400 and not (body is not None and self._completes):
            raise self.error(f"{problem}; set `server.url` to the /v1 of a completion server") from cause
        # A prompt may crash or stall a server that is fine otherwise: then only this request is lost.
        if body is not None and await self._is_up():
            raise RequestError(f"the server failed {tries} on this prompt: {problem}") from cause
        raise self.error(f"failed {tries}: {problem}; read its log and start it again") from cause

    async def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        """One request and its whole answer, which has `timeout` seconds in all and may not be too large."""
        async with (
            asyncio.timeout(self._settings.timeout),
            self._client.stream(method, path, json=body) as answer,
        ):
            packed = answer.headers.get("Content-Encoding", "identity").lower()
            if packed not in {"", "identity", "gzip", "deflate"}:
                # None was asked for, and a few bytes of these can unpack to gigabytes at once.
                raise httpx.DecodingError(f"the answer is packed as {packed[:20]!r}")
            data = bytearray()
            async for chunk in answer.aiter_bytes(65536):
                data += chunk
                if len(data) > _LARGEST_ANSWER:
                    raise httpx.DecodingError(f"the answer is longer than {_LARGEST_ANSWER >> 20} MiB")
        headers = [(name, value) for name, value in answer.headers.items() if name != "content-encoding"]
        return httpx.Response(
            answer.status_code, headers=headers, content=bytes(data), request=answer.request
        )

    def _wait_while_busy(self, answer: httpx.Response, busy: str) -> float:
        """How long a busy server wants to be left alone. Raises ServerError when it has been busy for too long.

        No prompt is given up for it: the server would say the same of any other.
        """
        now = monotonic()
        self._busy_since = now if self._busy_since is None else self._busy_since
        asked = _retry_after(answer)
        patience = self._settings.patience
        if now + asked - self._busy_since > patience:
            said = self._quote(answer.text)
            more = f", and asks to be left alone for {asked:.0f} s" if asked else ""
            raise self.error(
                f"is busy: for {now - self._busy_since:.0f} s it answers nothing but {busy}{more} "
                f"({said}); no row is lost: run the same command again later to go on, with a smaller "
                "`server.concurrency` or a larger `server.patience`"
            )
        return asked

    def _failure(self, error: Exception) -> str:
        """What went wrong with a request that got no answer."""
        if isinstance(error, TimeoutError):
            return f"no whole answer in {self._settings.timeout:g} s"
        return f"{type(error).__name__}: {self._quote(str(error))}"

    async def get_or_empty(self, path: str) -> dict[str, Any]:
        """The JSON object at `path`, without retries; an empty one when there is none."""
        try:
            answer = (await self._exchange("GET", path, None)).json()
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, RecursionError):
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
        except (ValueError, RecursionError):  # too deep to be an answer
            result = None
        if status < 300 and isinstance(result, dict) and needs in result:
            return result
        # A server that is still starting may answer with a page, or with an object of another kind.
        if 300 <= status < 400:
            return f"answers {status} and points to {self._quote(answer.headers.get('Location', 'nowhere'))}"
        if isinstance(result, dict) and result.get("error"):
            text = self._quote(_error_text(result["error"]))
            return f"answers {status} with an error: {text}"
        return f"answers {status} and no JSON with `{needs}`: {text}"

    async def _is_up(self) -> bool:
        try:
            return (await self._exchange("GET", "models", None)).status_code < 500
        except (httpx.HTTPError, TimeoutError):
            return False

    def _quote(self, text: str) -> str:
        """One line of the server's text, cut short and without the key, which some servers repeat in their errors."""
        line = secrets.redacted(" ".join(text.split())) or "nothing"
        return line if len(line) <= 200 else f"{line[:200]}..."


def _busy_code(answer: httpx.Response) -> str:
    """By what a server says that it is busy: its status, or the code of an error in the answer; "" where it is not."""
    if answer.status_code in _BUSY:
        return str(answer.status_code)
    if answer.status_code >= 300 or b'"error"' not in answer.content:
        return ""
    try:
        held = answer.json()
    except (ValueError, RecursionError):
        return ""
    error = held.get("error") if isinstance(held, dict) else None
    names = [str(error.get(key)) for key in ("code", "status", "type")] if isinstance(error, dict) else []
    return next((name for name in names if name in _BUSY_WORDS), "")


def _error_text(error: Any) -> str:
    """What an error says: its message, where it is an object that has one."""
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else json.dumps(error)


def _retry_after(answer: httpx.Response) -> float:
    """Seconds the server asks to wait, from a number or a date, at most `_LONGEST_WAIT`; 0 when it does not say."""
    value = answer.headers.get("Retry-After", "").strip()
    try:
        seconds = float(value) if value[:1].isdigit() else parsedate_to_datetime(value).timestamp() - time()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT) if math.isfinite(seconds) else 0.0


def _proxies_of(url: httpx.URL) -> str:
    """The variables that name a proxy for this address; none where NO_PROXY leaves it out."""
    if proxy_bypass(url.host):
        return ""
    wanted = [name for name in _PROXIES if name in {f"{url.scheme.upper()}_PROXY", "ALL_PROXY"}]
    return " or ".join(name for name in wanted if os.environ.get(name) or os.environ.get(name.lower()))


def _is_this_machine(host: str) -> bool:
    """Whether a server's host is this machine: its name, or an address of it."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified

"""Servers that are busy, and answers that do not end, are too long or unpack to too much; keys and proxies."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import traceback
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from asking import GREEDY, PROMPT, ask, free_port, model, noted_waits
from loopback import Answer, serving, well

from magpie import secrets
from magpie.engines.base import Completion
from magpie.engines.server import ServerEngine
from magpie.errors import MagpieError, ServerError

FINE = Completion("fine", 3, "stop")


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that were asked for; the clock of the client goes on by them, and nobody waits."""
    waits = noted_waits(monkeypatch)
    monkeypatch.setattr("magpie.engines.server.client.monotonic", lambda: sum(waits))
    return waits


@pytest.mark.parametrize("status", [429, 502, 503, 529])
@pytest.mark.parametrize("headers", [{}, {"Retry-After": "2"}])
def test_a_server_that_is_busy_for_a_while_loses_no_row(
    no_waits: list[float], status: int, headers: dict[str, str]
) -> None:
    busy = iter(range(40))  # more often than the retries last

    def behave(body: dict[str, Any]) -> Answer:
        return well(body) if next(busy, None) is None else Answer({"error": "slow down"}, status, headers)

    with serving(behave) as server:
        assert ask(server.url, *[PROMPT] * 8, retries=0, patience=1e4) == [FINE] * 8


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "7"}, {"Retry-After": "3600"}])
def test_one_that_stays_busy_ends_the_build_and_fails_no_row(
    no_waits: list[float], headers: dict[str, str]
) -> None:
    with serving(lambda body: Answer({"error": "slow down"}, 429, headers)) as server:
        results = ask(server.url, *[PROMPT] * 40, retries=0, patience=20.0)
    assert all(isinstance(result, ServerError) for result in results)
    assert "is busy" in str(results[0]) and "no row is lost: run the same command again" in str(results[0])


@pytest.mark.parametrize(
    "error", [{"code": 429}, {"code": "503"}, {"type": "overloaded_error"}, {"code": "rate_limit_exceeded"}]
)
def test_a_gateway_that_says_busy_in_a_good_answer_is_busy(
    no_waits: list[float], error: dict[str, Any]
) -> None:
    busy = iter(range(6))

    def behave(body: dict[str, Any]) -> Answer:
        return well(body) if next(busy, None) is None else Answer({"error": {"message": "later", **error}})

    with serving(behave) as server:
        assert ask(server.url, *[PROMPT] * 2, retries=0, patience=1e4) == [FINE] * 2
    with serving(lambda body: Answer({"error": {"message": "later", **error}})) as server:
        [result] = ask(server.url, retries=0, patience=20.0)
    assert isinstance(result, ServerError) and "is busy" in str(result) and "later" in str(result)


@pytest.mark.parametrize("in_answer", [False, True])
def test_a_prompt_that_ends_what_stands_behind_a_gateway_does_not_hold_up_the_build(
    no_waits: list[float], in_answer: bool
) -> None:
    fatal = [66, 66]

    def behave(body: dict[str, Any]) -> Answer:
        if body["prompt"] != fatal:
            return well(body)
        return Answer({"error": {"code": 502}}) if in_answer else Answer("Bad Gateway", 502)

    async def go(url: str) -> list[Completion]:
        engine = await ServerEngine.open(model(url, retries=2, patience=20.0))
        try:
            doomed = asyncio.create_task(engine.complete(fatal, GREEDY))
            well_done = []
            while not doomed.done():
                well_done.append(await engine.complete(PROMPT, GREEDY))
            return [await doomed, *well_done]
        finally:
            await engine.close()

    with serving(behave) as server:
        lost, *others = asyncio.run(go(server.url))
    assert lost.finish_reason == "error" and "502 to this prompt, and others well" in (lost.error or "")
    assert others and set(others) == {FINE}


def test_one_that_answers_some_and_then_becomes_busy_for_all_costs_no_row(no_waits: list[float]) -> None:
    """Whatever the order in which requests were answered before."""
    asked = iter(range(1000))

    def behave(body: dict[str, Any]) -> Answer:
        number = next(asked)
        return well(body) if number % 3 and number < 30 else Answer("Bad Gateway", 502)

    with serving(behave) as server:
        results = ask(server.url, *[PROMPT] * 40, retries=0, patience=20.0)
    assert not [result for result in results if result != FINE and not isinstance(result, ServerError)]
    assert any(isinstance(result, ServerError) for result in results)


def trickle() -> Iterator[bytes]:
    while True:
        time.sleep(0.02)
        yield b" "


def test_an_answer_that_trickles_has_a_deadline() -> None:
    behave = lambda body: Answer(pieces=trickle()) if body["prompt"][0] == 9 else well(body)  # noqa: E731
    with serving(behave) as server:
        bad, good = ask(server.url, [9], PROMPT, timeout=0.3, retries=0, concurrency=2)
    assert (bad.finish_reason, good) == ("error", FINE)
    assert "no whole answer in 0.3 s" in bad.error


def packed(wbits: int) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=wbits)
    yield from (packer.compress(bytes(1 << 20)) for _ in range(200))
    yield packer.flush()


@pytest.mark.parametrize("packing", ["identity", "gzip", "deflate"])
def test_an_answer_too_long_is_dropped_before_it_fills_the_memory(packing: str) -> None:
    def huge(body: dict[str, Any]) -> Answer:
        if body["prompt"][0] != 9:
            return well(body)
        if packing == "identity":
            return Answer(pieces=itertools.repeat(bytes(1 << 20), 400))
        bomb = b"".join(packed(31 if packing == "gzip" else 15))
        return Answer(pieces=[bomb], headers={"Content-Encoding": packing})

    with serving(huge) as server:
        bad, good = ask(server.url, [9], PROMPT, retries=0, timeout=60.0, concurrency=2)
    assert (bad.finish_reason, good) == ("error", FINE)
    assert "the answer is longer than 64 MiB" in bad.error


@pytest.mark.parametrize("packing", ["br", "zstd", "gzip, gzip", "nonsense"])
def test_a_packing_that_was_not_asked_for_is_not_unpacked(packing: str) -> None:
    with serving(lambda body: Answer(pieces=[b"x"], headers={"Content-Encoding": packing})) as server:
        [result] = ask(server.url, retries=0)
    assert result.finish_reason == "error"
    assert "packed as" in result.error


KEY = "sk-abcdef-0123456789"


def test_a_key_that_ends_in_a_line_break_is_stripped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGPIE_API_KEY", f" {KEY}\r\n")
    with serving() as server:
        assert ask(server.url) == [FINE]
    assert server.authorization == [f"Bearer {KEY}"]


@pytest.mark.parametrize("between", ["\n", "\r\n", "\x1b[2J", "\x7f", " ", "\t", "\u2028", "é", "\x00"])
def test_a_key_that_no_header_takes_is_refused_unseen(monkeypatch: pytest.MonkeyPatch, between: str) -> None:
    first, second = "sk-first-half", "second-half-sk"
    # No variable can hold a NUL.
    if between == "\x00":
        monkeypatch.setattr("os.environ", {"MAGPIE_API_KEY": first + between + second})
    else:
        monkeypatch.setenv("MAGPIE_API_KEY", first + between + second)
    with serving() as server, pytest.raises(MagpieError, match="MAGPIE_API_KEY holds a space") as caught:
        ask(server.url)
    assert server.asked == []
    shown = "".join(traceback.TracebackException.from_exception(caught.value).format()) + str(caught.value)
    assert first not in shown and second not in shown


def test_no_traceback_with_locals_and_no_log_line_shows_the_key(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MAGPIE_API_KEY", KEY)
    make = logging.getLogRecordFactory()
    monkeypatch.setattr(logging, "_logRecordFactory", secrets.RedactedRecords(make))
    caplog.set_level(logging.DEBUG)

    def repeat(body: dict[str, Any]) -> Answer:
        return Answer({"error": f"the key {KEY} of Bearer {KEY} is wrong"}, 401)

    async def go(url: str) -> str:
        engine = await ServerEngine.open(model(url))
        try:
            await engine.complete(PROMPT, GREEDY)
        except ServerError as error:
            told = traceback.TracebackException.from_exception(error, capture_locals=True)
            return "".join(told.format()) + repr(vars(engine)) + repr(vars(engine._client))
        finally:
            await engine.close()
        return ""

    with serving(repeat) as server:
        shown = asyncio.run(go(server.url))
    assert "answers 401" in shown
    assert KEY not in caplog.text + shown


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_this_machine_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with serving() as server:
        assert ask(server.url) == [FINE]
        assert ask(server.url.replace("127.0.0.1", "localhost")) == [FINE]
        assert ask(server.url.replace("127.0.0.1", "0.0.0.0")) == [FINE]


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize("proxy", ["gopher://user:secret-word@127.0.0.1:1", "127.0.0.1:no"])
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ServerError, match=r"the proxy in ALL_PROXY cannot be used for") as caught:
        ask("http://completions.example:8000/v1", retries=0, timeout=2.0)
    assert "secret-word" not in str(caught.value)


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY", "all_proxy"])
def test_a_proxy_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ServerError, match=rf"asked through the proxy in {name.upper()}"):
        ask("http://completions.example:8000/v1", retries=0, timeout=2.0)
    # SOCKS needs a package that may be there: either way the variable is named.
    monkeypatch.setenv(name, f"socks5://127.0.0.1:{free_port()}")
    with pytest.raises(ServerError, match=rf"the proxy in {name.upper()}"):
        ask("http://completions.example:8000/v1", retries=0, timeout=2.0)
    monkeypatch.setenv("NO_PROXY", "completions.example")
    with pytest.raises(
        ServerError, match=r"nothing answers at http://completions\.example:8000/v1; start it"
    ):
        ask("http://completions.example:8000/v1", retries=0, timeout=2.0)

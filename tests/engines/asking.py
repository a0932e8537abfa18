"""Asking a server engine, in one call."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from loopback import Answer, well

from magpie.engines.base import Sampling
from magpie.engines.server import ServerEngine
from magpie.recipe import Model, Server

GREEDY = Sampling(max_tokens=8, seed=0, temperature=0.0)
PROMPT = [5, 6, 7, 8]


def model(url: str, **settings: Any) -> Model:
    patience: dict[str, Any] = {"timeout": 30.0, "retries": 2, "backoff": 0.001} | settings
    return Model(model="wanted", server=Server(url=url, **patience))


def ask(
    url: str,
    *prompts: list[int],
    sampling: Sampling = GREEDY,
    opened: dict[str, Any] | None = None,
    **settings: Any,
) -> list[Any]:
    """What becomes of each prompt: its Completion, or the error raised."""

    async def go() -> list[Any]:
        engine = await ServerEngine.open(model(url, **settings), **(opened or {}))
        try:
            asked = (engine.complete(prompt, sampling) for prompt in prompts or (PROMPT,))
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await engine.close()

    return asyncio.run(go())


def noted_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that are asked for from here on, while nobody waits."""
    waits: list[float] = []
    at_once = asyncio.sleep

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await at_once(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    return waits


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def in_turn(*answers: Answer) -> Callable[[dict[str, Any]], Answer]:
    """Give each answer once, in order, then answer well."""
    left = list(answers)
    return lambda body: left.pop(0) if left else well(body)

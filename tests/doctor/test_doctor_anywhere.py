"""doctor and tune for Python: they work where an event loop runs already, as in a notebook, and in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from samples import recipe_for, scripted

import magpie


def without_speed(value: Any) -> Any:
    """What was found but for `tokens_per_second`: no two samples take the same time. It must be there all the same."""
    if isinstance(value, dict):
        assert value.get("tokens_per_second", 1) > 0
        return {key: without_speed(item) for key, item in value.items() if key != "tokens_per_second"}
    return [without_speed(item) for item in value] if isinstance(value, list) else value


def doctor() -> Any:
    return magpie.doctor(scripted(), n=4).to_json()


def tune() -> Any:
    model = scripted()
    return magpie.tune(model, recipe=recipe_for(model), n=4, temperatures=(1,), top_ps=(1,)).to_json()


@pytest.mark.parametrize("verb", [doctor, tune])
def test_the_same_in_a_running_loop_and_in_a_thread(verb: Callable[[], Any]) -> None:
    def found() -> Any:
        return without_speed(verb())

    async def as_in_a_notebook() -> Any:
        return found()

    usual = found()
    assert usual
    assert asyncio.run(as_in_a_notebook()) == usual
    with ThreadPoolExecutor(1) as beside:
        assert beside.submit(asyncio.run, as_in_a_notebook()).result() == usual

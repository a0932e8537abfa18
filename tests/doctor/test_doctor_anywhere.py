"""doctor for Python: it works where an event loop runs already, as in a notebook, and in a thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from samples import scripted

import magpie


def _doctor() -> Any:
    found = magpie.doctor(scripted(), n=4)
    assert found.sample is not None
    return found.verdict, found.sample.rates


def test_the_same_in_a_running_loop_and_in_a_thread() -> None:
    async def as_in_a_notebook() -> Any:
        return _doctor()

    usual = _doctor()
    assert asyncio.run(as_in_a_notebook()) == usual
    with ThreadPoolExecutor(1) as beside:
        assert beside.submit(_doctor).result() == usual
        assert beside.submit(asyncio.run, as_in_a_notebook()).result() == usual

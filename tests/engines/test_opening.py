"""An engine whose opening is cancelled lets go of what it was loading. What is loaded here is a stand-in."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from magpie.engines import transformers
from magpie.engines.transformers import TransformersEngine
from magpie.engines.vllm import VllmEngine
from magpie.models import ModelFiles
from magpie.recipe import Model

MODEL = Model(model="any")
FILES = ModelFiles("any", Path(), "none")


class SlowVllm(VllmEngine):
    """Loads when it is told to, and then a stand-in for vLLM that only notes that it was shut down."""

    def __init__(self, model: Model, files: ModelFiles) -> None:
        super().__init__(model, files)
        self.may_load, self.let_go = threading.Event(), threading.Event()
        opened.append(self)

    def _load(self) -> Any:
        assert self.may_load.wait(30)
        self._call_on_loop(self._set_loaded, None)
        return SimpleNamespace(engine_core=SimpleNamespace(shutdown=self.let_go.set))


opened: list[SlowVllm] = []


def test_a_vllm_engine_that_nobody_waits_for_is_shut_down_once_loaded() -> None:
    async def go() -> None:
        opening = asyncio.create_task(SlowVllm.open(MODEL, FILES))
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        assert opening.cancelled()
        opened[-1].may_load.set()
        await asyncio.to_thread(opened[-1]._thread.join, 30)

    asyncio.run(go())
    assert opened[-1].let_go.is_set()


@pytest.mark.parametrize("loop_ends_first", [False, True])
def test_a_transformers_engine_that_nobody_waits_for_ends_once_loaded(
    monkeypatch: pytest.MonkeyPatch, loop_ends_first: bool
) -> None:
    pytest.importorskip("torch")
    is_loading, may_load = threading.Event(), threading.Event()
    config = SimpleNamespace(max_position_embeddings=64, vocab_size=8)
    network = SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: config), can_generate=lambda: False
    )

    def load(*_: object) -> Any:
        is_loading.set()
        assert may_load.wait(30)
        return network

    monkeypatch.setattr(TransformersEngine, "_load", load)
    tokenizer = SimpleNamespace(eos_token_id=1, added_tokens_decoder={}, all_special_ids=[1])
    monkeypatch.setattr(transformers, "_tokenizer", lambda *_: tokenizer)
    monkeypatch.setattr(transformers, "Grammars", lambda *_: None)
    before = set(threading.enumerate())

    async def go() -> None:
        opening = asyncio.create_task(TransformersEngine.open(MODEL, FILES))
        await asyncio.to_thread(is_loading.wait, 30)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        assert opening.cancelled()
        if not loop_ends_first:
            may_load.set()

    asyncio.run(go())
    may_load.set()
    for name in ("transformers-load", "transformers-engine"):  # the second is started by the first
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith(name):
                thread.join(30)
                assert not thread.is_alive()

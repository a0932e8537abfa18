"""The transformers engine with the real embedded model."""

from __future__ import annotations

import asyncio

import pytest
from controls import controls_hold

from magpie.chat import ChatFormat
from magpie.engines.base import Completion, Sampling
from magpie.engines.transformers import TransformersEngine
from magpie.models import resolve
from magpie.recipe import Model

pytest.importorskip("torch")


@pytest.mark.slow
def test_the_embedded_model_answers_stops_and_has_its_first_tokens_changed() -> None:
    files = resolve(Model(model="demo"))
    model = Model(model="demo", engine="transformers", context_length=512)
    chat = ChatFormat.from_model(model)

    async def go() -> Completion:
        engine = await TransformersEngine.open(model, files)
        try:
            await controls_hold(engine, chat, files)
            asked = Sampling(max_tokens=24, seed=0, temperature=0.0)
            return await engine.complete(chat.prompt(["What is the capital of France?"]), asked)
        finally:
            await engine.close()

    answer = asyncio.run(go())
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
    assert "<|im_end|>" not in answer.text

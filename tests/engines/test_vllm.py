"""The real vLLM with the real embedded model: seeds, stops, schemas, controls, cancellation, and a clean end."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from controls import controls_hold

from magpie.chat import ChatFormat
from magpie.engines import open_engine
from magpie.engines.base import Completion, Engine, Sampling
from magpie.errors import EngineError
from magpie.models import ModelFiles, resolve
from magpie.recipe import Model
from magpie.steps.tag import QUESTIONS, JudgePrompt

pytest.importorskip("vllm", reason="vLLM is not installed on this machine")
pytestmark = pytest.mark.slow

MODEL = Model(model="demo", engine="vllm", context_length=1024, slots=64)
SAMPLING = Sampling(max_tokens=48, seed=0)


def with_engine(work: Callable[[Engine, ChatFormat], Awaitable[None]]) -> None:
    async def run() -> None:
        engine = await open_engine(MODEL, resolve(MODEL))
        try:
            await work(engine, ChatFormat.from_model(MODEL))
        finally:
            await engine.close()

    asyncio.run(run())


def test_one_loaded_model_does_all_it_promises() -> None:
    """One load, many checks: loading takes most of the time."""

    async def work(engine: Engine, chat: ChatFormat) -> None:
        assert engine.model.name == "demo"
        assert engine.model.slots == 64
        assert engine.model.context_length == 1024
        await seeds_decide(engine, chat)
        await stops_end_and_are_left_out(engine, chat)
        await schemas_hold(engine, chat)
        await a_presence_penalty_is_taken_from_what_was_written(engine, chat)
        await prompts_of_a_judge_are_cached(engine, chat)
        await controls_hold(engine, chat, resolve(MODEL))
        await too_long_a_prompt_is_one_failed_completion(engine)
        await cancelled_requests_leave_the_engine(engine, chat)

    with_engine(work)


async def seeds_decide(engine: Engine, chat: ChatFormat) -> None:
    sampling = replace(SAMPLING, stop_ids=chat.stop_ids, stop=("\n",))
    prompt = chat.prompt([])

    async def draw() -> list[Completion]:
        return await asyncio.gather(
            *(engine.complete(prompt, replace(sampling, seed=seed)) for seed in range(100))
        )

    first, again = await draw(), await draw()
    assert first == again
    assert len({done.text for done in first}) > 80
    for done in first:
        assert done.token_count <= 48
        assert "\n" not in done.text
        assert not any(leak in done.text for leak in chat.leaks)


async def stops_end_and_are_left_out(engine: Engine, chat: ChatFormat) -> None:
    greedy = replace(SAMPLING, temperature=0.0, max_tokens=64)
    prompt = chat.prompt(["Say the word yes."])
    free = await engine.complete(prompt, replace(greedy, max_tokens=8))
    assert free.finish_reason in {"length", "stop"}
    stopped = await engine.complete(prompt, replace(greedy, stop=(free.text.split()[0],)))
    assert stopped.finish_reason == "stop"
    assert free.text.split()[0] not in stopped.text
    ended = await engine.complete(prompt, replace(greedy, stop_ids=chat.stop_ids, max_tokens=400))
    assert "<|im_end|>" not in ended.text
    cut = await engine.complete(prompt, replace(greedy, max_tokens=1))
    assert (cut.finish_reason, cut.token_count) == ("length", 1)


async def schemas_hold(engine: Engine, chat: ChatFormat) -> None:
    schema = {
        "type": "object",
        "properties": {
            "why": {"type": "string", "maxLength": 60},
            "label": {"type": "string", "enum": ["good", "poor"]},
        },
        "required": ["why", "label"],
        "additionalProperties": False,
    }
    sampling = replace(SAMPLING, max_tokens=120, schema=json.dumps(schema), stop_ids=chat.stop_ids)
    prompts = [chat.prompt([f"How good is the number {number}?"]) for number in range(20)]
    for done in await asyncio.gather(*(engine.complete(prompt, sampling) for prompt in prompts)):
        answer = json.loads(done.text)
        assert list(answer) == ["why", "label"]
        assert answer["label"] in {"good", "poor"}
        assert len(answer["why"]) <= 60


async def a_presence_penalty_is_taken_from_what_was_written(engine: Engine, chat: ChatFormat) -> None:
    """What is in the prompt costs nothing: the first token is the same. After that new tokens come up more often."""
    greedy = replace(SAMPLING, temperature=0.0, max_tokens=60, stop_ids=(), stop=())
    prompt = chat.encode("apples, pears and plums, " * 6)  # what goes on as it began
    kinds = []
    for penalty in (0.0, 2.0):
        drawn = replace(greedy, presence_penalty=penalty)
        done = await engine.complete(prompt, drawn)
        first = await engine.complete(prompt, replace(drawn, max_tokens=1))
        written = chat.encode(done.text)
        kinds.append((first.text, len(set(written)) / len(written)))
    (first, plain), (again, penalized) = kinds
    assert first == again and penalized > plain


async def prompts_of_a_judge_are_cached(engine: Engine, chat: ChatFormat) -> None:
    """What the engine itself says of its prefix cache, over prompts it has not seen: all but the instruction hits."""
    judge = JudgePrompt.load(QUESTIONS["quality"].part.prompt, chat)
    prompts = [judge.ids(f"What is {number} times seven?", room=800) for number in range(40)]
    sampling = replace(SAMPLING, temperature=0.0, max_tokens=1)
    done = await asyncio.gather(*(engine.complete(prompt, sampling) for prompt in prompts))
    hits = sum(one.cached_tokens or 0 for one in done)
    assert hits / sum(map(len, prompts)) > 0.5
    assert all((one.cached_tokens or 0) < len(prompt) for one, prompt in zip(done, prompts, strict=True))


async def too_long_a_prompt_is_one_failed_completion(engine: Engine) -> None:
    done = await engine.complete([5] * 2000, SAMPLING)
    assert done.finish_reason == "error"
    assert "2000 tokens" in (done.error or "")


async def cancelled_requests_leave_the_engine(engine: Engine, chat: ChatFormat) -> None:
    endless = replace(SAMPLING, max_tokens=900)
    tasks = [asyncio.create_task(engine.complete(chat.prompt([]), endless)) for _ in range(80)]
    await asyncio.sleep(0.5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    done = await engine.complete(chat.prompt(["Say yes."]), replace(SAMPLING, max_tokens=2))
    assert done.token_count == 2


def test_a_model_that_cannot_be_loaded_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')

    async def run() -> None:
        await open_engine(MODEL, ModelFiles("broken", tmp_path, "local"))

    with pytest.raises(EngineError, match="could not load broken"):
        asyncio.run(run())

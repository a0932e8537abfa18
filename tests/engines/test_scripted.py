"""The scripted engine: what it writes depends on the prompt, the seed and its script, and on nothing else."""

import asyncio
import json
from dataclasses import replace
from typing import Any

from magpie.chat import ChatFormat
from magpie.engines.base import Completion, Sampling
from magpie.engines.scripted import ScriptedEngine, ScriptedTokenizer
from magpie.recipe import Script

CHAT = ChatFormat.derive(ScriptedTokenizer())
SAMPLING = Sampling(max_tokens=64, seed=1)


def complete(script: Script, count: int, *, prompt: list[int] | None = None) -> list[Completion]:
    async def run() -> list[Completion]:
        engine = ScriptedEngine(script)
        prompts = CHAT.prompt([]) if prompt is None else prompt
        return await asyncio.gather(
            *(engine.complete(prompts, replace(SAMPLING, seed=seed)) for seed in range(count))
        )

    return asyncio.run(run())


def test_the_same_seeds_give_the_same_texts_in_any_company() -> None:
    assert complete(Script(), 50) == complete(Script(slots=3), 100)[:50]


def test_different_seeds_give_different_texts() -> None:
    assert len({done.text for done in complete(Script(repeat_rate=0), 200)}) > 190


def test_lengths_failures_and_cuts_come_from_the_script() -> None:
    done = complete(Script(min_tokens=10, max_tokens=20, failure_rate=0.2, cut_rate=0.3), 1000)
    failed = [one for one in done if one.finish_reason == "error"]
    cut = [one for one in done if one.finish_reason == "length"]
    assert 150 < len(failed) < 250
    assert 180 < len(cut) < 300
    assert all(one.error for one in failed)
    assert {one.token_count for one in done if one not in failed} <= set(range(8, 21))


def test_repeats_repeat() -> None:
    texts = [done.text for done in complete(Script(repeat_rate=1), 200)]
    assert len(set(texts)) <= 16


def test_held_back_openings_are_not_written_and_the_rest_stays() -> None:
    async def write(prompt: list[int], **settings: Any) -> list[Completion]:
        engine = ScriptedEngine(Script(repeat_rate=0))
        asked = (replace(SAMPLING, seed=seed, **settings) for seed in range(60))
        return await asyncio.gather(*(engine.complete(prompt, sampling) for sampling in asked))

    question, answer = CHAT.prompt([]), CHAT.prompt(["Why?"])
    free, same = asyncio.run(write(question)), asyncio.run(write(question, stop_repetition=True))
    assert free == same
    assert any(done.text.startswith("W") for done in free)
    held = asyncio.run(write(question, hold_back=tuple(b"WH")))
    assert {done.text[0] for done in held} == {"C"}
    assert not any(done.text.startswith("p") for done in asyncio.run(write(answer, hold_back=tuple(b"p"))))
    assert asyncio.run(write(question, hold_back=tuple(b"WHC")))[0].finish_reason == "error"
    divided = asyncio.run(write(question, first_token_divisor=1.2))
    assert divided != free
    assert divided == asyncio.run(write(question, first_token_divisor=1.2))


def test_a_schema_is_satisfied() -> None:
    schema = {
        "type": "object",
        "properties": {
            "why": {"type": "string", "maxLength": 20},
            "label": {"type": "string", "enum": ["good", "poor"]},
            "more": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "maxItems": 2},
        },
        "required": ["why", "label", "more"],
    }

    async def run() -> Completion:
        return await ScriptedEngine().complete(
            CHAT.prompt(["Judge."]), replace(SAMPLING, schema=json.dumps(schema))
        )

    answer = json.loads(asyncio.run(run()).text)
    assert answer["label"] in {"good", "poor"}
    assert len(answer["why"]) <= 20
    assert len(answer["more"]) <= 2


def test_the_tokenizer_round_trips() -> None:
    tokenizer = ScriptedTokenizer()
    text = "<|im_start|>user\nñ 鳥 <|im_end|>\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert CHAT.pre_query.endswith("<|im_start|>user\n")
    assert 257 in CHAT.stop_ids

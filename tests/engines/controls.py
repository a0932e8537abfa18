"""What a real engine with the real embedded model must make of hold_back, first_token_divisor and stop_repetition."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from magpie.chat import ChatFormat
from magpie.engines.base import CONTROLS, Completion, Engine, Sampling
from magpie.models import ModelFiles

ONE = Sampling(max_tokens=1, seed=0)
LOOPING = (
    "Once upon a time there was a king who said: I am the king.",
    "apples, pears and plums, apples, pears and plums, apples, pears and plums, apples, pears and plums, ",
)


async def controls_hold(engine: Engine, chat: ChatFormat, files: ModelFiles) -> None:
    """Three checks, on one loaded engine."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(files.path)
    assert engine.model.controls == CONTROLS
    common = await openings_are_held_back(engine, chat, tokenizer)
    await a_schema_is_kept_to_all_the_same(engine, chat, tokenizer, common)
    await a_repetition_is_ended(engine, tokenizer)


async def openings_are_held_back(engine: Engine, chat: ChatFormat, tokenizer: Any) -> tuple[int, ...]:
    """The ten commonest first tokens of 200 rows, held back, come first in none of 500."""

    async def first(count: int, **settings: Any) -> list[Completion]:
        asked = (replace(ONE, seed=seed, **settings) for seed in range(count))
        return await asyncio.gather(*(engine.complete(chat.prompt([]), sampling) for sampling in asked))

    def id_of(done: Completion) -> int:
        ids = tokenizer.encode(done.text, add_special_tokens=False)
        return (
            int(ids[0]) if len(ids) == 1 else -1
        )  # a token that is part of a character has no text of its own

    free = await first(200)
    counted = Counter(id_of(done) for done in free)
    common = tuple(token for token, _ in counted.most_common() if token >= 0)[:10]
    assert sum(counted[token] for token in common) > 100
    held, flat = await asyncio.gather(first(500, hold_back=common), first(200, first_token_divisor=2.0))
    assert not {id_of(done) for done in held} & set(common)
    assert len({done.text for done in flat}) > 2 * len({done.text for done in free})
    both = [
        engine.complete(chat.prompt([]), replace(ONE, seed=seed, hold_back=common if seed % 2 else ()))
        for seed in range(40)
    ]
    assert (await asyncio.gather(*both))[::2] == free[
        :40:2
    ]  # a row beside those that hold back draws as ever
    return common


async def a_schema_is_kept_to_all_the_same(
    engine: Engine, chat: ChatFormat, tokenizer: Any, common: Sequence[int]
) -> None:
    schema = {"type": "object", "properties": {"it": {"enum": ["is", "was"]}}, "required": ["it"]}
    braces = [i for text, i in tokenizer.get_vocab().items() if text.startswith("{")]
    asked = replace(ONE, max_tokens=24, schema=json.dumps(schema), stop_ids=chat.stop_ids)
    done = await engine.complete(chat.prompt(["Say it."]), replace(asked, hold_back=(*braces, *common)))
    assert json.loads(done.text)["it"] in {"is", "was"}


async def a_repetition_is_ended(engine: Engine, tokenizer: Any) -> None:
    """At temperature 0 and without stops, less than half as many tokens; what is written is a beginning of the rest."""
    greedy = replace(ONE, temperature=0.0, max_tokens=512)
    prompts = [tokenizer.encode(text, add_special_tokens=False) for text in LOOPING]
    done = await asyncio.gather(
        *(engine.complete(prompt, greedy) for prompt in prompts),
        *(engine.complete(prompt, replace(greedy, stop_repetition=True)) for prompt in prompts),
    )
    endless, ended = done[: len(prompts)], done[len(prompts) :]
    assert {one.finish_reason for one in ended} == {"repetition"}
    assert 2 * sum(one.token_count for one in ended) <= sum(one.token_count for one in endless)
    print("tokens without and with stop_repetition:", [one.token_count for one in done])

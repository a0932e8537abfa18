"""Samples and rows made by hand, for tests of what is said of them."""

import asyncio
from typing import Any

import pyarrow as pa

from magpie.chat import ChatFormat
from magpie.doctor.measures import PROBLEMS, Sample
from magpie.doctor.sampling import beside, sampling_recipe
from magpie.engines.scripted import ScriptedTokenizer
from magpie.recipe import Clean, Instruct, Model, Recipe, Script
from magpie.recipe.loading import load_recipe
from magpie.steps.clean import CleanStep

CHAT = ChatFormat.derive(ScriptedTokenizer())


def scripted(**script: float) -> Model:
    return Model(model="scripted", engine="scripted", script=Script(**script))


def recipe_for(model: Model, **changes: Any) -> Recipe:
    """A recipe to sample with that looks at no language: lingua takes seconds to load."""
    recipe = sampling_recipe("tests", model, Instruct(max_tokens=256))
    return load_recipe(recipe, overrides={"language": None, **changes})


def rates(**given: float) -> Sample:
    """A sample of 64 with these rates; the rest is valid."""
    problems = dict.fromkeys(PROBLEMS, 0.0) | given
    valid = 1.0 - sum(problems.values())
    return Sample(
        rows=64,
        rates={**problems, "valid": valid},
        whole=tuple(at < round(valid * 64) for at in range(64)),
        median_tokens=20,
        tokens_per_second=100.0,
        examples={},
        languages={"en": 0.7, "zh": 0.3},
    )


def cleaned(*texts: tuple[str, str], **columns: list[Any]) -> pa.Table:
    """Raw texts, each with its finish reason, after `clean`; `columns` beside them."""
    count = len(texts)
    rows = pa.table(
        {
            "id": [f"row-{at}" for at in range(count)],
            "index": pa.array(range(count), pa.int64()),
            "rejected": pa.nulls(count, pa.string()),
            "raw_instruction": [text for text, _ in texts],
            "instruct_finish_reason": [finish for _, finish in texts],
            "instruct_error": ["lost" if finish == "error" else None for _, finish in texts],
            "instruct_tokens": [10] * count,
        }
    )
    rows = beside(rows, asyncio.run(CleanStep(Clean()).with_chat(CHAT).run(rows, None)))
    return beside(rows, pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}))

"""Samples and rows made by hand, for tests of what `doctor` and `tune` make of them."""

import asyncio
from collections.abc import Mapping
from functools import cache
from typing import Any

import pyarrow as pa

from magpie.chat import ChatFormat
from magpie.doctor.doctor import Diagnosis, doctor
from magpie.doctor.measures import PROBLEMS, Keep, Sample, problems_of
from magpie.doctor.sampling import Written, sampling_recipe
from magpie.engines.scripted import ScriptedTokenizer
from magpie.recipe import Clean, Instruct, Language, Model, Recipe, Script
from magpie.recipe.loading import load_recipe
from magpie.runs.run import with_columns
from magpie.steps.clean import Cleaner, CleanStep
from magpie.steps.language import LanguageStep

CHAT = ChatFormat.derive(ScriptedTokenizer())


def scripted(**script: float) -> Model:
    return Model(model="scripted", engine="scripted", script=Script(**script))


def recipe_for(model: Model, **changes: Any) -> Recipe:
    """A recipe to sample with that looks at no language: lingua takes seconds to load."""
    recipe = sampling_recipe("tests", model, Instruct(max_tokens=256))
    return load_recipe(recipe, overrides={"language": None, **changes})


@cache
def often_cut() -> Diagnosis:
    """What doctor says of a model whose instructions are often cut, and a remedy that does nothing for it."""
    return doctor(scripted(cut_rate=0.3, repeat_rate=0), n=48, fix=True)


def rates(**shares: float) -> Sample:
    """A sample of 64 with these rates; the rest is valid."""
    problems = dict.fromkeys(PROBLEMS, 0.0) | shares
    valid = 1.0 - sum(problems.values())
    return Sample(
        rows=64,
        rates={**problems, "valid": valid},
        valid_rows=tuple(at < round(valid * 64) for at in range(64)),
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
    rows = with_columns(rows, asyncio.run(Cleaner(Clean(), CHAT.leaks).run(rows, None)))
    more = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    return with_columns(rows, pa.table(more)) if more else rows


def written(rows: pa.Table, *, seconds: float = 1.0, keep: Keep = None) -> Written:
    """The rows as a Sampler hands them on."""
    return Written(rows, seconds, CHAT, problems(rows), keep)


def problems(rows: pa.Table) -> Mapping[str, str]:
    """What is wrong with rows that `clean` or `language` rejected."""
    model = scripted()
    return problems_of([CleanStep(Clean(), "generator", model), LanguageStep(Language(keep=("en",)))], rows)

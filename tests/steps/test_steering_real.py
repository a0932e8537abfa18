"""Steering moves what a real model writes about: the shipped recipe `code`, with its steering and without it."""

import asyncio
import re

import pyarrow as pa
import pytest

from magpie.engines import open_engine
from magpie.engines.base import Engine
from magpie.errors import ModelError
from magpie.models import resolve
from magpie.plan import BuildTools
from magpie.recipe import Recipe
from magpie.recipe.loading import load_recipe
from magpie.runs.run import with_columns
from magpie.steps.clean import CleanStep
from magpie.steps.instruct import InstructStep

pytest.importorskip("vllm", reason="vLLM is not installed on this machine")
pytestmark = pytest.mark.slow

ROWS = 64
CODING = (
    "algorithm", "api", "array", "backend", "bash", "bug", "c#", "c++", "code", "coding", "compiler", "css", "database",
    "data structure", "debug", "debugging", "frontend", "function", "git", "github", "golang", "html", "java",
    "javascript", "json", "linked list", "loop", "program", "programmer", "programming", "python", "recursion",
    "recursive", "regex", "rust", "script", "software", "sql", "typescript", "unit test", "web app",
)  # fmt: skip
"""An instruction that holds one of these words, in the singular or with an s, counts as one about code."""

_WORD = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, CODING))})s?(?!\w)", re.IGNORECASE)


def about_code(instructions: list[str | None]) -> float:
    """The share of the instructions that name something of programming."""
    written = [text for text in instructions if text is not None]
    return sum(bool(_WORD.search(text)) for text in written) / len(written)


async def written(recipe: Recipe, engine: Engine) -> list[str | None]:
    """The clean instructions of the recipe's first rows."""
    rows = pa.table(
        {
            "id": [str(at) for at in range(ROWS)],
            "index": pa.array(range(ROWS), pa.int64()),
            "rejected": pa.nulls(ROWS, pa.string()),
        }
    )
    tools = BuildTools()
    for plan, given in ((InstructStep.plan, engine), (CleanStep.plan, None)):
        (step,) = plan(recipe, rows.schema)
        rows = with_columns(rows, await step.bind(tools).run(rows, given))
    cleaned: list[str | None] = rows["instruction"].to_pylist()
    return cleaned


def test_the_code_recipe_has_at_least_twice_as_many_instructions_about_code() -> None:
    recipe = load_recipe("code", engine="vllm")
    model = recipe.model("generator")
    try:
        files = resolve(model)
    except ModelError as error:
        pytest.skip(f"the embedded model is not installed: {error}")

    async def both() -> tuple[float, float]:
        engine = await open_engine(model, files)
        try:
            steered, plain = await asyncio.gather(
                written(recipe, engine),
                written(recipe.model_copy(update={"steer": None}), engine),
            )
        finally:
            await engine.close()
        return about_code(steered), about_code(plain)

    steered, plain = asyncio.run(both())
    print(f"about code: {steered:.0%} with steering, {plain:.0%} without")
    assert steered >= 2 * plain
    assert steered >= 0.3


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("How do I reverse a list in Python?", True),
        ("Why are my C++ programs so slow?", True),
        ("Explain C#.", True),
        ("Which codes of law did the Romans have?", True),  # a plain count is not clever
        ("How do I encode my feelings in a poem?", False),
        ("Rusty nails: are they dangerous?", False),
        ("What is the capital of Java's neighbour?", True),
    ],
)
def test_what_counts_as_about_code(text: str, counts: bool) -> None:
    assert about_code([text]) == counts

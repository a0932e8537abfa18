from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from samples import cleaned, recipe_for, scripted

from magpie.build import build
from magpie.doctor.measures import Neighbors
from magpie.doctor.sampling import Sampler, Written, neighbors, sample_steps
from magpie.engines.embedder import scripted_vectors, unit
from magpie.errors import RecipeError
from magpie.recipe import Model, Recipe
from magpie.recipe.loading import load_recipe


def sampled(recipe: Recipe, count: int, progress: list[Any] | None = None, **where: Any) -> Written:
    async def write() -> Written:
        async with Sampler(lambda *what: None if progress is None else progress.append(what)) as sampler:
            return await sampler.write(recipe, count, **where)

    return asyncio.run(write())


def test_a_sample_is_what_a_build_writes(tmp_path: Path) -> None:
    recipe = recipe_for(scripted(cut_rate=0.2, failure_rate=0.1), dedup=None, tag=None, respond=None)
    built = build(load_recipe(recipe, rows=32), tmp_path / "run").table()
    rows = sampled(recipe, 32).rows
    assert rows["rejected"].null_count < 32
    for name in ("raw_instruction", "instruction", "rejected", "instruct_seed", "temperature"):
        assert rows[name].to_pylist() == built[name].to_pylist()


def test_rows_further_on_are_other_rows() -> None:
    recipe = recipe_for(scripted())
    whole = sampled(recipe, 8).rows
    later = sampled(recipe, 4, first=4).rows
    assert later.equals(whole.slice(4).combine_chunks().select(later.column_names))


def test_the_progress_is_reported() -> None:
    progress: list[Any] = []
    sampled(recipe_for(scripted()), 8, progress, what="trying")
    assert progress[0] == ("loading scripted", 0, 0)
    assert progress[1:] == [("trying", done, 8) for done in range(9)]


def test_an_engine_stays_loaded_until_something_else_is_asked_for() -> None:
    told: list[str] = []
    model = scripted()
    prompts_only = model.model_copy(update={"thinking": "keep", "chat_template_kwargs": {"a": 1}})
    other = scripted(min_tokens=9)

    async def several() -> None:
        async with Sampler(lambda what, *_: told.append(what)) as sampler:
            for one in (model, prompts_only, other, model):
                await sampler.write(recipe_for(one), 1)

    asyncio.run(several())
    assert sum(what.startswith("loading") for what in told) == 3


def test_the_judge_tags_the_rows_that_are_in() -> None:
    recipe = recipe_for(scripted(failure_rate=0.3))

    async def judged() -> pa.Table:
        async with Sampler(lambda *_: None) as sampler:
            return await sampler.judge(recipe, (await sampler.write(recipe, 16)).rows)

    rows = asyncio.run(judged())
    out = [reason is not None for reason in rows["rejected"].to_pylist()]
    assert any(out) and not all(out)
    assert all(
        label is None for label, gone in zip(rows["input_quality"].to_pylist(), out, strict=True) if gone
    )


@pytest.mark.parametrize("most", [None, 20])
def test_neighbors_are_those_of_brute_force(most: int | None) -> None:
    recipe = recipe_for(scripted(repeat_rate=0.3, failure_rate=0.2))
    rows = sampled(recipe, 48).rows
    texts = [text for text in rows["instruction"].to_pylist() if text is not None][:most]
    vectors = unit(scripted_vectors(texts)).astype(np.float16).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    apart = np.square(vectors[:, None] - vectors[None]).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    (found,) = asyncio.run(neighbors(recipe, [rows], most=most))
    assert isinstance(found, Neighbors)
    assert found.distance.value == pytest.approx(apart.min(axis=1).mean(), abs=1e-4)
    assert found.distance.rows == found.duplicates.rows == len(texts)
    kept: list[int] = []
    for at in range(len(texts)):
        kept += [] if any(apart[at, other] < 0.05 for other in kept) else [at]
    assert found.duplicates.value == pytest.approx(1 - len(kept) / len(texts))


def test_too_few_rows_have_no_neighbors_and_no_error() -> None:
    recipe = recipe_for(scripted())
    (none, one) = asyncio.run(neighbors(recipe, [cleaned(("", "stop")), cleaned(("Why is it so?", "stop"))]))
    assert isinstance(none, Neighbors) and none.distance.rows == none.duplicates.rows == 0
    assert isinstance(one, Neighbors) and one.distance.rows == 0 and one.duplicates.rows == 1


def test_a_recipe_that_embeds_nothing_is_embedded_all_the_same() -> None:
    recipe = recipe_for(scripted(), dedup=None, embed=None)
    assert not isinstance(asyncio.run(neighbors(recipe, [sampled(recipe, 8).rows])), str)


def test_a_step_that_compares_all_rows_is_no_part_of_a_sample(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "How many legs has a spider?"}\n')
    plain = recipe_for(scripted(), dedup=None, embed=None)
    recipe = load_recipe(plain, overrides={"decontaminate": {"files": [str(questions)]}})
    names = [step.name for step in sample_steps(recipe)]
    assert names == ["instruct", "clean", "decontaminate", "tag"]
    rows = sampled(recipe, 8).rows
    assert rows.equals(sampled(plain, 8).rows) and "contaminated_by" not in rows.column_names
    assert asyncio.run(neighbors(recipe, [rows])) == asyncio.run(neighbors(plain, [rows]))


def test_rows_that_are_all_out_are_not_judged_and_no_judge_is_loaded() -> None:
    recipe = recipe_for(scripted(failure_rate=1))
    loading: list[str] = []

    async def judged(rows: pa.Table) -> pa.Table:
        async with Sampler(lambda what, *_: loading.append(what)) as sampler:
            return await sampler.judge(recipe, rows)

    rows = sampled(recipe, 4).rows
    for some in (rows, rows.slice(0, 0)):
        labels = asyncio.run(judged(some))
        assert labels["input_quality"].to_pylist() == [None] * some.num_rows
        assert labels["id"].equals(some["id"])
    assert loading == []


def test_an_embedder_that_is_not_there_is_a_reason() -> None:
    recipe = recipe_for(scripted(), **{"models.embedder": {"model": "no/such-embedder", "engine": "vllm"}})
    found = asyncio.run(neighbors(recipe, [sampled(recipe_for(scripted()), 4).rows]))
    assert isinstance(found, str) and "no/such-embedder" in found


def test_the_steps_are_those_before_an_answer() -> None:
    names = [step.name for step in sample_steps(load_recipe("demo"))]
    assert names == ["instruct", "clean", "language", "embed", "dedup", "tag"]


def test_a_recipe_that_cannot_be_planned_is_refused_before_a_model_is_loaded() -> None:
    recipe = recipe_for(scripted(), **{"models.generator": Model(model="x", engine="server").model_dump()})
    with pytest.raises(RecipeError, match="url"):
        sampled(recipe, 2)

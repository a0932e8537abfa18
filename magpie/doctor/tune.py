"""Choosing the temperature by measurement: a small grid of settings, what each is worth, and the best of them as a mix.

Every cell samples the same number of instructions, each cell from rows of its own, on one loaded engine. Measured are
validity (see `measures.py`), diversity (the mean squared distance to the nearest neighbour, among equally many rows of
each cell, and what `dedup` would reject), and what a judge says of quality and difficulty, 1 to 5.

The axes of the front are validity, quality and neighbour distance; difficulty has no better end. One cell dominates
another when it is at least as good on every axis, and on one of them better by more than a standard error of the
difference; cells that nothing dominates are the front. An axis that cannot tell the cells apart is left out, and the
notes say so: one on which they differ no more than chance makes them in one case of twenty, and a judge that finds the
same instructions with their words shuffled as good as they were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.doctor.judge_check import grades, shuffle_test
from magpie.doctor.measures import Mean, Neighbors, Sample, measure
from magpie.doctor.pareto import AXES, find_front
from magpie.doctor.sampling import Sampler, neighbors, sampling_recipe
from magpie.errors import RecipeError
from magpie.neighbors.vectors import no_progress
from magpie.recipe import Draw, EngineKind, Instruct, Model, Recipe, Tag
from magpie.recipe.loading import load_recipe
from magpie.steps.base import live
from magpie.steps.base.scales import DIFFICULTIES, QUALITIES

if TYPE_CHECKING:
    from magpie.doctor.measures import Written
    from magpie.neighbors.vectors import ProgressCallback

TEMPERATURES = (0.8, 1.0, 1.2)
TOP_PS = (1.0, 0.95)

_INSTRUCT = Instruct(max_tokens=256)
_TAG = Tag(tags=("quality", "difficulty"), max_tokens=256, max_text_length=120)
_CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to sample, and what came of it. `neighbors` are None where the embedder is not there.

    `quality` and `difficulty` are means on the scales of 1 to 5 of `steps/tag.py`, over the rows that the judge tagged.
    """

    draw: Draw
    sample: Sample
    quality: Mean
    difficulty: Mean
    neighbors: Neighbors | None = None
    is_best: bool = False

    def axes(self) -> Mapping[str, Mean]:
        """The means that cells are compared by."""
        distance = Mean.of(()) if self.neighbors is None else self.neighbors.distance
        return dict(zip(AXES, (self.sample.valid, self.quality, distance), strict=True))

    def to_json(self) -> dict[str, Any]:
        """The cell as JSON can hold it."""
        near = self.neighbors
        return {
            "temperature": self.draw.temperature,
            "top_p": self.draw.top_p,
            "in_front": self.is_best,
            "validity": self.sample.valid.to_json(),
            "quality": self.quality.to_json(),
            "difficulty": self.difficulty.to_json(),
            "neighbor_distance": None if near is None else near.distance.to_json(),
            "duplicates": None if near is None else near.duplicates.to_json(),
            **self.sample.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Tuning:
    """What tune found. `axes` are those that the front was found by, and `notes` say what should be known of it.

    `shuffled` is the judge's mean quality of instructions whose words were shuffled, and `unshuffled` that of the same
    instructions as they were.
    """

    model: str
    judge: str
    cells: tuple[Cell, ...]
    axes: tuple[str, ...]
    notes: tuple[str, ...]
    shuffled: Mean
    unshuffled: Mean

    @property
    def front(self) -> tuple[Cell, ...]:
        """The cells that nothing dominates."""
        return tuple(cell for cell in self.cells if cell.is_best)

    @property
    def mix(self) -> str:
        """The lines to paste into a recipe, as YAML: even shares over the front."""
        draws = (cell.draw for cell in self.front)
        lines = (
            f"    - {{share: 1, temperature: {draw.temperature:g}, top_p: {draw.top_p:g}}}" for draw in draws
        )
        return "\n".join(("instruct:", "  mix:", *lines))

    def to_json(self) -> dict[str, Any]:
        """The tuning as JSON can hold it."""
        return {
            "model": self.model,
            "judge": self.judge,
            "axes": list(self.axes),
            "notes": list(self.notes),
            "shuffled_quality": self.shuffled.to_json(),
            "unshuffled_quality": self.unshuffled.to_json(),
            "cells": [cell.to_json() for cell in self.cells],
            "mix": self.mix,
        }


def tune(
    model: str | Model,
    *,
    recipe: str | Recipe | None = None,
    n: int = 128,
    temperatures: Sequence[float] = TEMPERATURES,
    top_ps: Sequence[float] | None = None,
    engine: EngineKind | None = None,
    seed: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> Tuning:
    """Sample `n` instructions of `model` for each pair of temperature and top_p, and mark the best pairs.

    A `recipe` gives everything but the generator and its mix: how it is loaded, token limits, steering, the judge and
    the embedder. Without one the model judges itself. `top_ps` None is 1 and 0.95 on a GPU, and 1 elsewhere.

    Raises RecipeError, ModelError or EngineError.
    """
    if n < 2:
        raise RecipeError(f"cannot tell settings apart by {n} instructions each; give 2 at least, better 128")
    notes = []
    if top_ps is None:
        top_ps = TOP_PS if _has_gpu() else TOP_PS[:1]
        if len(top_ps) == 1:
            notes.append(
                "only top_p 1 was tried: on a CPU one row below 1 has the whole vocabulary sorted for every row; "
                "--top-ps 1,0.95 tries more"
            )
    base = _recipe(model, recipe, engine=engine, seed=seed)
    try:
        draws = [
            Draw(temperature=t, top_p=p) for p in dict.fromkeys(top_ps) for t in dict.fromkeys(temperatures)
        ]
    except ValueError as error:
        raise RecipeError(
            f"a temperature must be 0 or more, and a top_p above 0 and at most 1; got {temperatures} and {top_ps}"
        ) from error
    if not draws:
        raise RecipeError("nothing to try; give at least one temperature and one top_p")
    return asyncio.run(_tuned(base, draws, n, notes, on_progress or no_progress))


async def _tuned(
    recipe: Recipe, draws: Sequence[Draw], count: int, notes: Sequence[str], on_progress: ProgressCallback
) -> Tuning:
    async with Sampler(on_progress) as sampler:
        written = []
        for number, draw in enumerate(draws):
            part = recipe.instruct.model_copy(update={"mix": (draw,)})
            one = recipe.with_sections(instruct=part)
            what = f"temperature {draw.temperature:g}, top_p {draw.top_p:g} ({number + 1} of {len(draws)})"
            written.append(await sampler.write(one, count, first=number * count, what=what))
        rows = pa.concat_tables(cell.rows for cell in written)
        judged = await sampler.judge(recipe, rows)
        plain, mixed = await shuffle_test(sampler, recipe, judged)
    on_progress("comparing", 0, 0)
    fewest = min(len(live(cell.rows)) for cell in written)
    near = await neighbors(recipe, [cell.rows for cell in written], most=max(fewest, count // 2))
    known: Sequence[Neighbors | None] = [None] * len(written) if isinstance(near, str) else near
    cells = [
        _cell(draw, one, judged.slice(number * count, count), known[number])
        for number, (draw, one) in enumerate(zip(draws, written, strict=True))
    ]
    asked, got = sum(len(live(cell.rows)) for cell in written), sum(cell.quality.rows for cell in cells)
    if got < asked:
        notes = [*notes, f"the judge gave no quality for {asked - got} of {asked} instructions"]
    if isinstance(near, str):
        notes = [*notes, f"neighbours not measured: {near}"]
    found = find_front([cell.axes() for cell in cells], plain=plain, shuffled=mixed)
    assert recipe.tag is not None
    return Tuning(
        model=recipe.model(recipe.instruct.model).model,
        judge=recipe.model(recipe.tag.model).model,
        cells=tuple(replace(cell, is_best=at in found.front) for at, cell in enumerate(cells)),
        axes=found.axes,
        notes=(*notes, *found.notes),
        shuffled=mixed,
        unshuffled=plain,
    )


def _cell(draw: Draw, written: Written, judged: pa.Table, near: Neighbors | None) -> Cell:
    sample = measure(written)
    quality = Mean.of(grades(judged["input_quality"].to_pylist(), QUALITIES))
    difficulty = Mean.of(grades(judged["difficulty"].to_pylist(), DIFFICULTIES))
    return Cell(draw, sample, quality, difficulty, near)


def _recipe(
    model: str | Model, recipe: str | Recipe | None, *, engine: EngineKind | None, seed: int | None
) -> Recipe:
    """What to sample with: the given recipe with this generator, or one made for the model."""
    if recipe is None:
        given = Model(model=model, context_length=_CONTEXT) if isinstance(model, str) else model
        if engine is not None:
            given = given.model_copy(update={"engine": engine})
        base = sampling_recipe("tune", given, _INSTRUCT, seed=42 if seed is None else seed)
    else:
        base = load_recipe(recipe)
        place = f"models.{base.instruct.model}"
        changes: dict[str, Any] = {}
        if not isinstance(model, str):
            changes = {place: model.model_dump(mode="json")}
        elif model != base.model(base.instruct.model).model:
            # What belongs to the recipe's own generator goes with it.
            own: dict[str, Any] = {
                "model": model,
                "revision": None,
                "chat_template": None,
                "chat_template_kwargs": {},
            }
            changes = {f"{place}.{name}": value for name, value in own.items()}
        base = load_recipe(recipe, overrides=changes, engine=engine, seed=seed)
    alone = _TAG.model_copy(update={"model": base.instruct.model})
    tag = alone if recipe is None or base.tag is None else base.tag
    return base.with_sections(tag=tag.model_copy(update={"tags": _TAG.tags}))


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())

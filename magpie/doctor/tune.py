"""Temperature and top_p chosen by measurement: a small grid of settings, figures for each, and the best as a mix.

Each cell of the grid is one pair of settings. All cells sample the same number of rows, each at other positions, on one
loaded engine. Three figures are compared: validity (see `measures.py`), quality, which a judge grades from 1 to 5, and
the distance to the nearest neighbour. The best cells are the Pareto front (see `pareto.py`): no other cell is better by
these figures. Difficulty is shown, and not compared, for neither easy nor hard is better.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.doctor.judge_check import grades, shuffle_test
from magpie.doctor.measures import Mean, Neighbors, Sample, measure
from magpie.doctor.pareto import AXES, pareto_front
from magpie.doctor.sampling import Sampler, neighbors, sampling_recipe
from magpie.errors import RecipeError
from magpie.execution.signals import run_to_end
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
    """One pair of settings, and the figures of its sample. `neighbors` is None where they could not be measured.

    `quality` and `difficulty` are mean grades from 1 to 5, on the scales of `steps/base/scales.py`, over the rows that
    the judge graded. `is_best` says that the cell is on the Pareto front.
    """

    draw: Draw
    sample: Sample
    quality: Mean
    difficulty: Mean
    neighbors: Neighbors | None = None
    is_best: bool = False

    def axes(self) -> Mapping[str, Mean]:
        """The figures that cells are compared by."""
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
    """What tune found. `axes` are the figures that cells were compared by, and `notes` tell of what limits the result.

    `shuffled` is the judge's mean quality of instructions whose words were shuffled, and `unshuffled` its mean quality
    of the same instructions as they were.
    """

    model: str
    judge: str
    cells: tuple[Cell, ...]
    axes: tuple[str, ...]
    notes: tuple[str, ...]
    shuffled: Mean
    unshuffled: Mean

    @property
    def best(self) -> tuple[Cell, ...]:
        """The cells on the Pareto front."""
        return tuple(cell for cell in self.cells if cell.is_best)

    @property
    def mix(self) -> str:
        """The lines to paste into a recipe, as YAML: the best settings in equal shares."""
        draws = (cell.draw for cell in self.best)
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

    From a `recipe`, everything is taken but the generator and its mix: how the generator is loaded, token limits,
    steering, the judge and the embedder. Without a recipe the model is its own judge. `top_ps` is 1 and 0.95 by default
    on a GPU, and 1 elsewhere.

    Raises RecipeError, ModelError, ChatFormatError or EngineError.
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
    except RecipeError as error:
        raise RecipeError(
            f"a temperature must be 0 or more, and a top_p above 0 and at most 1; got {temperatures} and {top_ps}"
        ) from error
    if not draws:
        raise RecipeError("nothing to try; give at least one temperature and one top_p")
    return run_to_end(_tune(base, draws, n, notes, on_progress or no_progress))


async def _tune(
    recipe: Recipe, draws: Sequence[Draw], count: int, notes: Sequence[str], on_progress: ProgressCallback
) -> Tuning:
    assert recipe.tag is not None
    async with Sampler(on_progress) as sampler:
        samples = []
        most = len(draws) * count * recipe.instruct.max_tokens
        ahead = f"at most {most:,} tokens in all, then the judge"
        began = time.monotonic()
        for number, draw in enumerate(draws):
            if number:
                left = (time.monotonic() - began) / number * (len(draws) - number)
                ahead = f"about {max(1, round(left / 60))} min more, then the judge"
            instruct = recipe.instruct.model_copy(update={"mix": (draw,)})
            what = f"temperature {draw.temperature:g}, top_p {draw.top_p:g} ({number + 1} of {len(draws)})"
            what += f", {ahead}"
            cell_recipe = recipe.with_sections(instruct=instruct)
            # Each cell has positions, and so seeds and ids, of its own.
            samples.append(await sampler.write(cell_recipe, count, first=number * count, what=what))
        # All cells are judged in one go, so that the judge is loaded once.
        judged = await sampler.judge(recipe, pa.concat_tables(written.rows for written in samples))
        unshuffled, shuffled = await shuffle_test(sampler, recipe, judged)
    on_progress("comparing", 0, 0)
    live_rows = [len(live(written.rows)) for written in samples]
    # The more rows, the nearer the nearest one. So equally many rows of each cell are compared: as many as the cell
    # with the fewest has. That may be almost none, and then it is half a sample of each of the others.
    most = max(min(live_rows), count // 2)
    near = await neighbors(recipe, [written.rows for written in samples], most=most)
    measured: Sequence[Neighbors | None] = [None] * len(samples) if isinstance(near, str) else near
    cells = [
        _cell(draw, written, judged.slice(number * count, count), measured[number])
        for number, (draw, written) in enumerate(zip(draws, samples, strict=True))
    ]
    ungraded = sum(live_rows) - sum(cell.quality.rows for cell in cells)
    if ungraded > 0:
        notes = [*notes, f"the judge gave no quality for {ungraded} of {sum(live_rows)} instructions"]
    if isinstance(near, str):
        notes = [*notes, f"neighbours not measured: {near}"]
    front = pareto_front([cell.axes() for cell in cells], plain=unshuffled, shuffled=shuffled)
    return Tuning(
        model=recipe.model(recipe.instruct.model).model,
        judge=recipe.model(recipe.tag.model).model,
        cells=tuple(replace(cell, is_best=position in front.cells) for position, cell in enumerate(cells)),
        axes=front.axes,
        notes=(*notes, *front.notes),
        shuffled=shuffled,
        unshuffled=unshuffled,
    )


def _cell(draw: Draw, written: Written, judged: pa.Table, near: Neighbors | None) -> Cell:
    sample = measure(written)
    quality = Mean.of(grades(judged["input_quality"].to_pylist(), QUALITIES))
    difficulty = Mean.of(grades(judged["difficulty"].to_pylist(), DIFFICULTIES))
    return Cell(draw, sample, quality, difficulty, near)


def _recipe(
    model: str | Model, recipe: str | Recipe | None, *, engine: EngineKind | None, seed: int | None
) -> Recipe:
    """The recipe to sample with: the caller's with this generator, or one made for the model."""
    if recipe is None:
        generator = Model(model=model, context_length=_CONTEXT) if isinstance(model, str) else model
        if engine is not None:
            generator = generator.model_copy(update={"engine": engine})
        base = sampling_recipe("tune", generator, _INSTRUCT, seed=42 if seed is None else seed)
    else:
        base = load_recipe(recipe)
        if base.method != "magpie":
            raise RecipeError(
                f"{recipe} has `method: {base.method}`, and tune tries out how Magpie's instructions are drawn; "
                "give it a recipe of `method: magpie`, or none"
            )
        place = f"models.{base.instruct.model}"
        changes: dict[str, Any] = {}
        if not isinstance(model, str):
            changes = {place: model.model_dump(mode="json")}
        elif model != base.model(base.instruct.model).model:
            # These settings belong to the recipe's own generator, which is replaced.
            settings: dict[str, Any] = {
                "model": model,
                "revision": None,
                "chat_template": None,
                "chat_template_kwargs": {},
            }
            changes = {f"{place}.{name}": value for name, value in settings.items()}
        base = load_recipe(recipe, overrides=changes, engine=engine, seed=seed)
    own_judge = _TAG.model_copy(update={"model": base.instruct.model})
    tag = own_judge if recipe is None or base.tag is None else base.tag
    # Steps and questions of the user's own are no matter of how instructions are drawn.
    tag = tag.model_copy(update={"tags": _TAG.tags, "questions": None})
    return base.with_sections(tag=tag, steps=())


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())

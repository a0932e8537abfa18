"""Samples of what a model writes: builds of a few rows that are kept in memory, on an engine that stays loaded.

`doctor` and `tune` sample under one setting after another. What shapes prompts and draws alone (the chat template, a
system prompt, the temperature) needs no other engine; a change of what is loaded loads it anew.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from magpie.doctor.measures import Neighbors, Written, neighbors_of
from magpie.errors import ModelError
from magpie.execution.base import Began, Completed, Event, Loading, Report
from magpie.execution.driver import Driver
from magpie.execution.local import LocalExecutor
from magpie.neighbors.vectors import ProgressCallback
from magpie.plan import BuildTools, Plan, bind, make_plan
from magpie.plan.phases import into_phases
from magpie.recipe import Dedup, Embed, Instruct, Language, Model, Recipe
from magpie.runs.run import Run, numbered, with_columns
from magpie.runs.storage import MemoryStorage
from magpie.steps import MAGPIE, Method
from magpie.steps.base import REJECTED, GlobalStep, RowStep, RowWork, Tools, live

_EMBEDDER = "demo-embedder"

# No sample is answered, and none is filtered.
_SAMPLE = Method(MAGPIE.instructions, answers=(), filtered=False)


@dataclass(frozen=True, slots=True)
class GivenRows(RowStep, RowWork[None]):
    """Adds the columns of rows that are there already: the first step of a sample that goes on with them."""

    rows: pa.Table

    name = "given"
    reads = ()

    @property
    def adds(self) -> pa.Schema:
        """The columns of the rows."""
        return pa.schema(field for field in self.rows.schema if field.name not in {"id", "index"})

    @property
    def settings(self) -> dict[str, Any]:
        """Nothing: a sample is not resumed."""
        return {}

    def bind(self, _: Tools) -> GivenRows:
        return self

    async def run(self, rows: pa.Table, _: None) -> pa.Table:
        """The columns, under the ids of the sample."""
        return pa.table(
            [rows["id"], *(self.rows[name] for name in self.adds.names)], ["id", *self.adds.names]
        ).cast(pa.schema([pa.field("id", pa.string()), *self.adds]))


def sampling_recipe(name: str, model: Model, instruct: Instruct, *, seed: int = 42) -> Recipe:
    """A recipe for sampling one model, which is its own judge too, with the embedder that ships."""
    return Recipe(
        name=name,
        rows=1,
        seed=seed,
        models={"generator": model, "judge": model, "embedder": _embedder(model)},
        instruct=instruct,
        language=Language(),
    )


class Sampler:
    """Samples instructions, and has them judged. One engine at a time, loaded when it is first needed.

    All calls come from one event loop. Use it as an asynchronous context: leaving it closes the engine.
    """

    def __init__(self, on_progress: ProgressCallback) -> None:
        self._on_progress = on_progress
        self._executor = LocalExecutor()
        self._tools = BuildTools()

    async def __aenter__(self) -> Sampler:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def write(self, recipe: Recipe, count: int, *, first: int = 0, what: str = "sampling") -> Written:
        """`count` rows of a build of `recipe` from position `first`, a multiple of `count`, as far as texts go."""
        steps = _of_texts(sample_steps(recipe))
        # One shard of a run that is just long enough: a row's seed and sampling follow from its position.
        recipe = recipe.with_sections(rows=first + count, shard_rows=count)
        timer = _Timer(what, count, self._on_progress)
        run = await self._build(recipe, steps, timer.handle, shard=first // count)
        rows = run.rows(first // count, run.schema.names)
        return Written(
            rows.select(["id", "index", *(name for name in run.schema.names if name not in {"id", "index"})]),
            timer.seconds,
            self._tools.chat(recipe.model(recipe.instruct.model)),
            _problems(run, rows),
            None if recipe.language is None else recipe.language.keep,
        )

    async def judge(self, recipe: Recipe, rows: pa.Table, *, what: str = "judging") -> pa.Table:
        """The rows with the labels of the recipe's judge beside them."""
        judge = next(step for step in sample_steps(recipe) if step.labels)
        timer = _Timer(what, len(live(rows)) * len(judge.labels), self._on_progress)
        run = await self.go_on(recipe, rows, [judge], timer.handle)
        labels = run.read(run.steps[-1], 0)
        return with_columns(rows, labels.drop_columns(["id"]))

    async def go_on(
        self, recipe: Recipe, rows: pa.Table, steps: Sequence[RowStep | GlobalStep], report: Report
    ) -> Run:
        """A run of these steps on rows that are there already."""
        length = max(1, rows.num_rows)
        recipe = recipe.with_sections(rows=length, shard_rows=length)
        return await self._build(recipe, [GivenRows(rows), *steps], report, shard=0)

    async def close(self) -> None:
        """Let the engine go."""
        await self._executor.close()

    async def _build(
        self, recipe: Recipe, steps: Sequence[RowStep | GlobalStep], report: Report, *, shard: int
    ) -> Run:
        run_steps = numbered(steps)
        bound = bind(Plan(recipe, run_steps, into_phases(run_steps)), self._tools)
        run = Run(MemoryStorage(), recipe, run_steps)
        await Driver(run, bound, self._executor, report, shards=[shard]).build()
        return run


async def neighbors(
    recipe: Recipe, tables: Sequence[pa.Table], *, most: int | None = None
) -> tuple[Neighbors, ...] | str:
    """How far apart the live rows of each table are, or why that is not known: the embedder is not there.

    Only the first `most` live rows of a table are compared: among more rows, a nearest neighbour is nearer. Call it
    when the engine is closed: an embedder on a GPU wants memory of its own.
    """
    embed, dedup = _comparing_steps(recipe)
    samples = [rows.take(pa.array(live(rows)[:most], pa.int64())).select(_COMPARED) for rows in tables]
    found: list[Neighbors] = []
    async with Sampler(lambda *_: None) as sampler:
        try:
            # All tables at once, so that the embedder is loaded once.
            embedded = await sampler.go_on(recipe, pa.concat_tables(samples), [embed], _ignore)
            vectors, start = embedded.read(embedded.steps[-1], 0), 0
            for rows in samples:
                if not rows.num_rows:
                    found.append(neighbors_of(rows))
                    continue
                of_rows = vectors.slice(start, rows.num_rows).drop_columns(["id"])
                start += rows.num_rows
                compared = await sampler.go_on(recipe, with_columns(rows, of_rows), [dedup], _ignore)
                found.append(neighbors_of(compared.read(compared.steps[-1], 0)))
        except ModelError as error:
            return str(error)
    return tuple(found)


def sample_steps(recipe: Recipe) -> tuple[RowStep | GlobalStep, ...]:
    """What a build of `recipe` does to a row before it is answered or filtered, in order."""
    return tuple(run_step.step for run_step in make_plan(recipe, _SAMPLE).steps)


_COMPARED = ["id", "index", REJECTED.name, "instruction"]


def _of_texts(steps: Sequence[RowStep | GlobalStep]) -> list[RowStep | GlobalStep]:
    """The steps that write and look at a row's text: those before another model, or before all rows are needed."""
    chosen: list[RowStep | GlobalStep] = []
    for step in steps:
        has_model = step.uses is not None and step.uses.loaded is not None
        if isinstance(step, GlobalStep) or (has_model and chosen):
            break
        chosen.append(step)
    return chosen


def _comparing_steps(recipe: Recipe) -> tuple[RowStep | GlobalStep, RowStep | GlobalStep]:
    """The steps that embed instructions and that compare them with one another, in the order of their rows."""
    part = (recipe.dedup or Dedup()).model_copy(update={"keep": "first", "against": ()})
    if recipe.embed is None:
        models = recipe.models | {"embedder": _embedder(recipe.model(recipe.instruct.model))}
        recipe = recipe.with_sections(models=models, embed=Embed())
    steps = sample_steps(recipe.with_sections(dedup=part))
    embed, dedup = (
        next(step for step in steps if column in step.adds.names)
        for column in ("embedding", "min_neighbor_distance")
    )
    return embed, dedup


def _problems(run: Run, rows: pa.Table) -> dict[str, str]:
    """For each reason that there is, what is wrong with such a row."""
    problems: dict[str, str] = {}
    for reason in set(rows[REJECTED.name].drop_null().to_pylist()):
        named = (step.step.problem(reason) for step in run.steps if reason.startswith(f"{step.name}: "))
        problems[reason] = next((problem for problem in named if problem is not None), "other")
    return problems


def _embedder(generator: Model) -> Model:
    return Model(model=_EMBEDDER, engine="scripted" if generator.engine == "scripted" else None)


def _ignore(_: Event) -> None:
    """Nobody waits long enough to be told."""


class _Timer:
    """Tells how many of the completions are back, and how long they took, loading left out."""

    def __init__(self, what: str, total: int, on_progress: ProgressCallback) -> None:
        self._what, self._total, self._on_progress = what, total, on_progress
        self._back = 0
        self._began: float | None = None
        self.seconds = 0.0

    def handle(self, event: Event) -> None:
        """Take an event of the sample."""
        match event:
            case Loading(what):
                self._on_progress(f"loading {what}", 0, 0)
            case Began(_, _) if self._began is None:
                self._began = time.perf_counter()
                self._on_progress(self._what, 0, self._total)
            case Completed(_, _, _, _):
                self._back += 1
                self.seconds = time.perf_counter() - (self._began or 0.0)
                # A judge may be asked twice about one row.
                self._on_progress(self._what, self._back, max(self._back, self._total))

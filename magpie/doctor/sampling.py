"""Samples of what a model writes: builds of a few rows, whose shards are kept in memory.

`doctor` and `tune` sample with one setting after another. The engine stays loaded as long as only prompts and sampling
change, such as the chat template, a system prompt or the temperature. It is loaded again when the model changes, or how
it is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from magpie.doctor.measures import Neighbors, Written, neighbors_of, problems_of
from magpie.engines import find_engine
from magpie.errors import ModelError
from magpie.execution.base import Began, Completed, Event, Loading, Report
from magpie.execution.driver import Driver
from magpie.execution.local import LocalExecutor
from magpie.neighbors.vectors import ProgressCallback, no_progress
from magpie.plan import BuildTools, Plan, bind, make_plan
from magpie.plan.phases import into_phases
from magpie.recipe import Dedup, Embed, Instruct, Language, Model, Recipe, Respond
from magpie.runs.run import Run, numbered, with_columns
from magpie.steps import MAGPIE, Method
from magpie.steps.base import REJECTED, GlobalStep, RowStep, RowWork, Tools, live
from magpie.storage import MemoryStorage

_EMBEDDER = "demo-embedder"
_ANSWER = Respond(temperature=0.7, max_tokens=128)  # greedy, a small model repeats itself

# A sample needs no responses, and no filter.
_SAMPLE = Method(MAGPIE.instructions, answers=(), filtered=False)


@dataclass(frozen=True, slots=True)
class ExistingRows(RowStep, RowWork[None]):
    """Adds the columns of rows from another run. It is the first step of a run that works on with them."""

    rows: pa.Table

    name = "existing"
    reads = ()

    @property
    def adds(self) -> pa.Schema:
        """All columns of the rows."""
        return pa.schema(field for field in self.rows.schema if field.name not in {"id", "index"})

    @property
    def settings(self) -> dict[str, Any]:
        """Nothing: fingerprints are for resuming, and a sample is not resumed."""
        return {}

    def bind(self, _: Tools) -> ExistingRows:
        return self

    async def run(self, rows: pa.Table, _: None) -> pa.Table:
        """The columns of the rows, with the ids of this run."""
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
    """Samples instructions, has them answered, and has a judge label them.

    It has one engine at a time, loaded when it is first needed. Use it in `async with`, which closes the engine at the
    end, and call it from that event loop alone.
    """

    def __init__(self, on_progress: ProgressCallback) -> None:
        self._on_progress = on_progress
        # Each sample is a run of its own. Lingua takes seconds to load, and is to be loaded once for all of them.
        self._executor = LocalExecutor(keeps_prepared=True)
        self._tools = BuildTools()

    async def __aenter__(self) -> Sampler:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def write(self, recipe: Recipe, count: int, *, first: int = 0, what: str = "sampling") -> Written:
        """Sample the `count` rows from position `first`, a multiple of `count`, that a build of `recipe` would write.

        Raises RecipeError, ModelError, ChatFormatError or EngineError.
        """
        steps = _text_steps(sample_steps(recipe))
        # The sample is the last shard of a run of `first + count` rows. A row's seed and sampling follow from its
        # position, so that two samples from one position can be compared row by row.
        recipe = recipe.with_sections(rows=first + count, shard_rows=count)
        timer = _Timer(what, count, self._on_progress)
        run = await self._build(recipe, steps, timer.handle, shard=first // count)
        rows = run.rows(first // count, run.schema.names)
        return Written(
            rows.select(["id", "index", *(name for name in run.schema.names if name not in {"id", "index"})]),
            timer.seconds,
            self._tools.chat(recipe.model(recipe.instruct.model)),
            problems_of(steps, rows),
            None if recipe.language is None else recipe.language.keep,
        )

    async def judge(self, recipe: Recipe, rows: pa.Table, *, what: str = "judging") -> pa.Table:
        """The rows with the columns of the recipe's judge."""
        judge = next(step for step in sample_steps(recipe) if step.labels)
        if not live(rows):
            # No engine needs to be loaded for this, and a run cannot have no rows.
            return with_columns(rows, judge.adds.empty_table().take(pa.nulls(rows.num_rows, pa.int64())))
        timer = _Timer(what, len(live(rows)) * len(judge.labels), self._on_progress)
        labels = await self.apply(recipe, rows, judge, timer.handle)
        return with_columns(rows, labels.drop_columns(["id"]))

    async def answer(self, recipe: Recipe, rows: pa.Table, *, what: str = "answering") -> pa.Table:
        """The rows with the generator's responses, of at most 128 tokens."""
        if not live(rows):
            return rows
        answering = recipe.with_sections(respond=_ANSWER, extend=None, filter=None)
        step = next(each.step for each in make_plan(answering).steps if each.step.answers)
        timer = _Timer(what, len(live(rows)), self._on_progress)
        answers = await self.apply(answering, rows, step, timer.handle)
        return with_columns(rows, answers.drop_columns(["id"]))

    async def apply(
        self, recipe: Recipe, rows: pa.Table, step: RowStep | GlobalStep, report: Report
    ) -> pa.Table:
        """What a step adds to these rows, of which there must be one at least."""
        recipe = recipe.with_sections(rows=rows.num_rows, shard_rows=rows.num_rows)
        run = await self._build(recipe, [ExistingRows(rows), step], report, shard=0)
        return run.read(run.steps[-1], 0)

    async def close(self) -> None:
        """Close the engine, if one is loaded, and let go of what steps have loaded."""
        await self._executor.close()

    async def _build(
        self, recipe: Recipe, steps: Sequence[RowStep | GlobalStep], report: Report, *, shard: int
    ) -> Run:
        run_steps = numbered(steps)
        bound = bind(Plan(recipe, MAGPIE, run_steps, into_phases(run_steps)), self._tools)
        run = Run(MemoryStorage(), recipe, run_steps)
        await Driver(run, bound, self._executor, report, shards=[shard]).build()
        return run


async def neighbors(
    recipe: Recipe, tables: Sequence[pa.Table], *, most: int | None = None
) -> tuple[Neighbors, ...] | str:
    """How much the rows of each table differ; or, in words, why that cannot be measured: there is no embedder.

    Only the first `most` rows that are not rejected are compared: the more rows, the nearer the nearest one. Close the
    engine before the call: an embedder needs GPU memory, too.
    """
    embed, dedup = _comparing_steps(recipe)
    samples = [rows.take(pa.array(live(rows)[:most], pa.int64())).select(_COMPARED) for rows in tables]
    if not any(rows.num_rows for rows in samples):
        return tuple(neighbors_of(rows) for rows in samples)
    measured: list[Neighbors] = []
    async with Sampler(no_progress) as sampler:
        try:
            # All tables are embedded in one run, so that the embedder is loaded once.
            vectors = await sampler.apply(recipe, pa.concat_tables(samples), embed, _ignore)
            start = 0
            for rows in samples:
                if not rows.num_rows:
                    measured.append(neighbors_of(rows))
                    continue
                own_vectors = vectors.slice(start, rows.num_rows).drop_columns(["id"])
                start += rows.num_rows
                compared = await sampler.apply(recipe, with_columns(rows, own_vectors), dedup, _ignore)
                measured.append(neighbors_of(compared))
        except ModelError as error:
            return str(error)
    return tuple(measured)


def sample_steps(recipe: Recipe) -> tuple[RowStep | GlobalStep, ...]:
    """The steps of a build of `recipe` that come before responses and the filter, in order."""
    return tuple(run_step.step for run_step in make_plan(recipe, _SAMPLE).steps)


_COMPARED = ["id", "index", REJECTED.name, "instruction"]


def _text_steps(steps: Sequence[RowStep | GlobalStep]) -> list[RowStep | GlobalStep]:
    """The steps that write a row's instruction and look at that alone.

    They are those before the first that loads another model, or sees all rows at once.
    """
    chosen: list[RowStep | GlobalStep] = []
    for step in steps:
        loads_model = step.uses is not None and step.uses.loaded is not None
        # The first step loads the generator.
        if isinstance(step, GlobalStep) or (loads_model and chosen):
            break
        chosen.append(step)
    return chosen


def _comparing_steps(recipe: Recipe) -> tuple[RowStep | GlobalStep, RowStep | GlobalStep]:
    """The steps that embed instructions and compare them with one another, also where the recipe has no such steps."""
    # Which of two duplicates is kept does not matter here, and `keep: best_quality` would need the judge. A sample is
    # compared with itself, and with no other dataset.
    part = (recipe.dedup or Dedup()).model_copy(update={"keep": "first", "against": ()})
    if recipe.embed is None:
        models = recipe.models | {"embedder": _embedder(recipe.model(recipe.instruct.model))}
        recipe = recipe.with_sections(models=models, embed=Embed())
    steps = sample_steps(recipe.with_sections(dedup=part))
    # They are known by what they add, not by their names.
    embed, dedup = (
        next(step for step in steps if column in step.adds.names)
        for column in ("embedding", "min_neighbor_distance")
    )
    return embed, dedup


def _embedder(generator: Model) -> Model:
    # An engine that loads no files embeds by rule too, and then nothing is loaded for the sample.
    by_rule = not find_engine(generator.engine).capabilities.loads_files
    return Model(model=_EMBEDDER, engine=generator.engine if by_rule else None)


def _ignore(_: Event) -> None:
    """A Report that does nothing: embedding and comparing a sample takes seconds."""


class _Timer:
    """Reports how many completions are done, and measures the time from the first request to the last completion."""

    def __init__(self, what: str, total: int, on_progress: ProgressCallback) -> None:
        self._what, self._total, self._on_progress = what, total, on_progress
        self._done = 0
        self._began: float | None = None
        self.seconds = 0.0

    def handle(self, event: Event) -> None:
        """Take an event of the build."""
        match event:
            case Loading(what):
                self._on_progress(f"loading {what}", 0, 0)
            case Began(_, _) if self._began is None:
                self._began = time.perf_counter()
                self._on_progress(self._what, 0, self._total)
            case Completed():
                self._done += event.completions
                self.seconds = time.perf_counter() - (self._began or 0.0)
                # A judge whose answer cannot be read is asked again, so there may be more completions than expected.
                self._on_progress(self._what, self._done, max(self._done, self._total))

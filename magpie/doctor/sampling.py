"""Samples of what a model writes, made by the very steps a build runs, on an engine that stays loaded.

`doctor` and `tune` sample under one setting after another. What shapes prompts and draws alone (the chat template, a
system prompt, the temperature) needs no other engine; a change of what is loaded loads it anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from magpie.doctor.measures import Keep, Neighbors, neighbors_of
from magpie.engines import open_engine
from magpie.errors import EngineError, ModelError
from magpie.plan.fingerprints import chat_format, model_key
from magpie.plan.phases import PlannedStep
from magpie.plan.planning import make_plan
from magpie.recipe import Dedup, Embed, Instruct, Language, Model, Recipe
from magpie.steps.base import REJECTED, Prepared, live

if TYPE_CHECKING:
    from magpie.chat import ChatFormat
    from magpie.engines.base import Completion, Engine, ModelInfo, Sampling

Tell = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and of how much: 0 of 0 where that is not known."""

_AFTER_WRITING = ("embed", "dedup", "tag")
_EMBEDDER = "demo-embedder"


@dataclass(frozen=True, slots=True)
class Written:
    """Rows as a build has them when their language is known. `seconds` is what the engine took to write them.

    `keep` is the recipe's `language.keep`. `chat` is the format the generator was prompted in.
    """

    rows: pa.Table
    seconds: float
    chat: ChatFormat
    keep: Keep = None


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

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._engine: Engine | None = None
        self._loaded: Model | None = None
        self._chats: dict[str, ChatFormat] = {}
        self._prepared: list[Prepared] = []

    async def __aenter__(self) -> Sampler:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def write(self, recipe: Recipe, count: int, *, first: int = 0, what: str = "sampling") -> Written:
        """`count` rows of a build of `recipe`, from position `first`, up to the step before `embed`."""
        positions = range(first, first + count)
        rows = pa.table(
            {
                "id": [f"{recipe.name}-{index:08d}" for index in positions],
                "index": pa.array(positions, pa.int64()),
                REJECTED.name: pa.nulls(count, pa.string()),
            }
        )
        seconds = 0.0
        for planned in planned_steps(recipe).values():
            if planned.name in _AFTER_WRITING:
                break
            rows, took = await self._run(planned, rows, count, what)
            seconds += took if planned.generates else 0.0
        keep = None if recipe.language is None else recipe.language.keep
        return Written(rows, seconds, self._chat(recipe.model(recipe.instruct.model)), keep)

    async def judge(self, recipe: Recipe, rows: pa.Table, *, what: str = "judging") -> pa.Table:
        """The rows with the tags of the recipe's judge beside them."""
        tag = planned_steps(recipe)["tag"]
        asked = len(live(rows)) * len(set(tag.step.settings["tags"]))
        return (await self._run(tag, rows, asked, what))[0]

    async def close(self) -> None:
        """Let the engine go, and what steps have loaded."""
        engine, self._engine, self._loaded = self._engine, None, None
        for step in self._prepared:
            await step.close()
        self._prepared.clear()
        if engine is not None:
            with suppress(EngineError):
                await engine.close()

    async def _run(
        self, planned: PlannedStep, rows: pa.Table, requests: int, what: str
    ) -> tuple[pa.Table, float]:
        """The rows with one step's columns, and the seconds it took, loading left out."""
        step: Any = planned.step
        if planned.chat_model is not None:
            step = step.with_chat(self._chat(planned.chat_model, judges=planned.judges))
        if isinstance(step, Prepared):
            self._prepared.append(step)
        engine: Any = None
        if planned.generates:
            assert planned.model is not None
            engine = _Counting(await self._engine_for(planned.model), requests, what, self._tell)
            self._tell(what, 0, requests)
        began = time.perf_counter()
        more = await step.run(rows, engine)
        return beside(rows, more), time.perf_counter() - began

    async def _engine_for(self, model: Model) -> Engine:
        wanted = model.as_loaded
        if self._engine is None or self._loaded != wanted:
            await self.close()
            self._tell(f"loading {model.model}", 0, 0)
            self._engine, self._loaded = await open_engine(model), wanted
        return self._engine

    def _chat(self, model: Model, *, judges: bool = False) -> ChatFormat:
        key = model_key(model)
        if key not in self._chats:
            self._chats[key] = chat_format(model, judges=judges)
        return self._chats[key]


async def neighbors(
    recipe: Recipe, tables: Sequence[pa.Table], *, most: int | None = None
) -> tuple[Neighbors, ...] | str:
    """How far apart the live rows of each table are, or why that is not known: the embedder is not there.

    Only the first `most` live rows of a table are compared: among more rows, a nearest neighbour is nearer. Call it
    when the engine is closed: an embedder on a GPU wants memory of its own.
    """
    if recipe.embed is None:
        models = recipe.models | {"embedder": _embedder(recipe.model(recipe.instruct.model))}
        recipe = recipe.model_copy(update={"models": models, "embed": Embed()})
    steps = planned_steps(recipe.model_copy(update={"dedup": recipe.dedup or Dedup()}))
    embed, dedup = (steps[name].step for name in ("embed", "dedup"))
    found = []
    try:
        for rows in tables:
            some = rows.take(pa.array(live(rows)[:most], pa.int64()))
            some = beside(some, await embed.run(some, None))  # type: ignore[union-attr]
            found.append(neighbors_of(dedup.run_all(some)))  # type: ignore[union-attr]
    except ModelError as error:
        return str(error)
    finally:
        await embed.close()  # type: ignore[union-attr]
    return tuple(found)


def planned_steps(recipe: Recipe) -> dict[str, PlannedStep]:
    """What a build of `recipe` does to a row before it is answered or filtered, by name and in order."""
    bare = recipe.model_copy(update={"respond": None, "extend": None, "prefer": None, "filter": None})
    return {planned.name: planned for planned in make_plan(bare).steps}


def beside(rows: pa.Table, more: pa.Table) -> pa.Table:
    """The rows with the columns of `more`, which are for the same rows; a reason given earlier stays."""
    for name in more.column_names:
        column = pc.coalesce(rows[name], more[name]) if name == REJECTED.name else more[name]
        at = rows.schema.get_field_index(name)
        rows = rows.append_column(name, column) if at < 0 else rows.set_column(at, name, column)
    return rows


def _embedder(generator: Model) -> Model:
    return Model(model=_EMBEDDER, engine="scripted" if generator.engine == "scripted" else None)


@dataclass(slots=True)
class _Counting:
    """The engine, telling how many of the completions are back."""

    engine: Engine
    total: int
    what: str
    tell: Tell
    back: int = field(default=0)

    @property
    def model(self) -> ModelInfo:
        return self.engine.model

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        completion = await self.engine.complete(prompt, sampling)
        self.back += 1
        self.tell(self.what, self.back, max(self.back, self.total))  # a judge may be asked twice
        return completion

    async def close(self) -> None:
        """The sampler closes the engine."""

"""Small recipes for tests: every step, on the scripted engine, in well under a second."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from magpie.data.dataset import DatasetFiles
from magpie.engines import open_engine
from magpie.engines.base import Completion, Engine, ModelInfo, Sampling
from magpie.errors import EngineError
from magpie.recipe import Model, Recipe
from magpie.recipe.loading import parse_recipe
from magpie.runs.run import Run
from magpie.storage import open_storage

RULES = [
    {"name": "quality", "where": "input_quality IN ('average', 'good', 'excellent')"},
    {"name": "long enough", "where": "response_length > 60"},
    {"name": "medium or harder", "where": "difficulty NOT IN ('very easy', 'easy')"},
]


def small_recipe(**changes: Any) -> Recipe:
    """96 rows in 6 shards; `changes` replace whole sections."""
    recipe: dict[str, Any] = {
        "name": "small",
        "rows": 96,
        "shard_rows": 16,
        "engine": "scripted",
        "models": {"generator": "scripted", "judge": "generator", "embedder": "scripted"},
        "instruct": {
            "mix": [{"share": 2, "temperature": 1.0}, {"share": 1, "temperature": 0.7, "top_p": 0.9}]
        },
        "language": None,
        "extend": {"turns": 3},
        "filter": {"name": "small", "rules": RULES},
    }
    return parse_recipe(recipe | changes)


def small_self_instruct(**changes: Any) -> Recipe:
    """120 places for tasks in 6 rounds, the last prompt of each with fewer places than the others."""
    recipe: dict[str, Any] = {
        "name": "small-si",
        "method": "self-instruct",
        "rows": 120,
        "shard_rows": 20,
        "engine": "scripted",
        "models": {"generator": "scripted", "embedder": "scripted"},
        "language": None,
        "embed": None,
        "dedup": None,
        "tag": None,
        "filter": [{"name": "short", "where": "response_length < 4000"}],
    }
    return parse_recipe(recipe | changes)


def scripted(**script: Any) -> dict[str, Any]:
    """The `models` section with a scripted engine that behaves as `script` says."""
    return {
        "generator": {"model": "scripted", "script": script},
        "judge": "generator",
        "embedder": {"model": "scripted"},
    }


def shard_path(run: Run, step: str, shard: int) -> Path:
    """Where the shard of a step lies on disk."""
    return run.folder / run.shard_name(run.step(step), shard)


def dataset_paths(run: Run) -> list[Path]:
    """The files of a run's dataset on disk, in order."""
    return [run.folder / name for name in run.dataset_files.names()]


def dataset_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a dataset in a folder, in order."""
    names = DatasetFiles(open_storage(folder)).names()
    return [row for name in names for row in pq.read_table(folder / name).to_pylist()]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a run that a build promises to make identical, by its place."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for place in ("steps", "dataset", "recipe.yaml", "report.json")
        for path in ([folder / place] if (folder / place).is_file() else sorted((folder / place).rglob("*")))
        if path.is_file()
    }


class DyingEngine:
    """The engine that a model asks for, lost for good at one of its completions. Counts what it gave."""

    def __init__(self, engine: Engine, *, dies_at: int) -> None:
        self._engine = engine
        self._dies_at = dies_at
        self.completions = 0
        self.is_closed = False

    @property
    def model(self) -> ModelInfo:
        return self._engine.model

    async def complete(self, prompt: Any, sampling: Sampling) -> Completion:
        if self.completions >= self._dies_at:
            raise EngineError("the engine died; run the build again")
        self.completions += 1
        return await self._engine.complete(prompt, sampling)

    async def close(self) -> None:
        self.is_closed = True
        await self._engine.close()


class Opener:
    """Opens engines that die, for a LocalExecutor, and keeps them to be looked at."""

    def __init__(self, *, dies_at: int) -> None:
        self._dies_at = dies_at
        self.opened: list[DyingEngine] = []

    async def __call__(self, model: Model) -> Engine:
        self.opened.append(DyingEngine(await open_engine(model), dies_at=self._dies_at))
        return self.opened[-1]

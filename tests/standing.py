"""What runs hold, whatever their metadata says, and what engines are asked over several builds."""

from __future__ import annotations

from collections import Counter
from typing import Any

from builds import DyingEngine, tree

from magpie.engines import open_engine
from magpie.engines.base import Completion, Sampling
from magpie.execution.local import LocalExecutor
from magpie.recipe import Model
from magpie.runs.earlier import REPLACED
from magpie.runs.run import Run
from magpie.runs.verify import quarantined, verify
from magpie.storage.sealed import inspect_shard


class Counting(DyingEngine):
    """Keeps what it was asked: the prompt and the seed of each completion."""

    def __init__(self, engine: Any, asked: Counter[Any]) -> None:
        super().__init__(engine, dies_at=10**9)
        self._asked = asked

    async def complete(self, prompt: Any, sampling: Sampling) -> Completion:
        self._asked[tuple(prompt), sampling.seed, sampling.max_tokens, repr(sampling.schema)] += 1
        return await super().complete(prompt, sampling)


class Asked(Counter[Any]):
    """Counts what engines are asked, over several builds."""

    @property
    def executor(self) -> LocalExecutor:
        async def opened(model: Model) -> Any:
            return Counting(await open_engine(model), self)

        return LocalExecutor(engines=opened)


def contents(run: Run) -> dict[str, str]:
    """The digest of what each shard holds, whatever its metadata says of how it came about."""
    return {
        run.shard_name(step, shard): inspect_shard(run.storage, run.shard_name(step, shard)).content
        for step in run.steps
        for shard in range(run.shards)
    }


def same_as(run: Run, other: Run) -> None:
    """Every row of every step, the dataset, the recipe and the report are the same, byte for byte."""
    assert contents(run) == contents(other)
    trees = [
        {name: data for name, data in tree(each.folder).items() if not name.startswith("steps/")}
        for each in (run, other)
    ]
    assert trees[0] == trees[1]
    assert verify(run) == [] and quarantined(run) == []
    assert run.storage.names(REPLACED) == []

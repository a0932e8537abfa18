"""The gate: a planted collapse pauses the build before a response is written, and ordinary runs pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from builds import small_recipe, tree

from magpie import api
from magpie.build import build
from magpie.engines import open_engine
from magpie.engines.base import Completion, Engine, ModelInfo, Sampling
from magpie.errors import GateError, PausedError
from magpie.execution.local import LocalExecutor
from magpie.recipe import Model
from magpie.recipe.loading import load_recipe
from magpie.runs.run import Run
from magpie.runs.verify import verify


class Collapsing:
    """An engine of which all instructions but one in ten are about one journey; counts the responses asked for."""

    def __init__(self, engine: Engine, asked: list[int]) -> None:
        self._engine, self._asked = engine, asked

    @property
    def model(self) -> ModelInfo:
        return self._engine.model

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        completion = await self._engine.complete(prompt, sampling)
        if sampling.schema is not None or completion.text.endswith("."):
            self._asked.append(sampling.seed)
            return completion
        if sampling.seed % 10 == 0:
            return completion
        ending = f"{completion.text.split()[-1]} {sampling.seed}"
        return Completion(f"What should I pack for a trip to Venice in spring, and {ending}?", 12, "stop")

    async def close(self) -> None:
        await self._engine.close()


def gated(*, rows: int = 100, **gate: Any) -> Any:
    """Shards of 20 rows, which are enough to look at."""
    settings = {"at": [0.01] if rows > 100 else [0.2, 0.5], "fewest_rows": 15} | gate
    return small_recipe(rows=rows, shard_rows=20, gate=settings, filter=None, extend=None, tag=None)


@pytest.fixture
def collapsing() -> tuple[LocalExecutor, list[int]]:
    asked: list[int] = []

    async def opened(model: Model) -> Engine:
        return Collapsing(await open_engine(model), asked)

    return LocalExecutor(engines=opened), asked


def seen(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "gate.json").read_text()))


def test_a_planted_collapse_pauses_at_one_percent(
    tmp_path: Path, collapsing: tuple[LocalExecutor, list[int]]
) -> None:
    executor, asked = collapsing
    recipe = gated(rows=2000)  # 1 % is one shard of 20 rows
    said = r"paused at the gate at 1% of the rows, \d+ rows: .*“what should i pack for a .*--go-on"
    with pytest.raises(PausedError, match=said):
        build(recipe, tmp_path / "run", executor=executor)
    assert not asked, "no response was asked for"
    run = Run.open(tmp_path / "run")
    made = [name for name in run.storage.names("steps/") if name.endswith(".parquet")]
    assert {name.rpartition("/")[2] for name in made} == {"00000.parquet"}
    assert list(seen(run.folder)) == ["at 1% of the rows"]
    # The same command again is paused again.
    with pytest.raises(PausedError):
        build(recipe, tmp_path / "run", executor=executor)


def test_one_that_is_passed_is_looked_at_again_further_on(
    tmp_path: Path, collapsing: tuple[LocalExecutor, list[int]]
) -> None:
    executor, asked = collapsing
    for place in ("at 20% of the rows", "at 50% of the rows", "before the first response"):
        with pytest.raises(PausedError, match=f"paused at the gate {place}"):
            build(gated(), tmp_path / "run", executor=executor, go_on=True)
        assert not seen(tmp_path / "run")[place]["passed"] and not asked
    run = build(gated(), tmp_path / "run", executor=executor, go_on=True)
    assert len(asked) > 0 and verify(run) == [] and api.status(run).finished


def test_a_gate_that_warns_goes_on_and_one_that_stops_does_not(
    tmp_path: Path, collapsing: tuple[LocalExecutor, list[int]]
) -> None:
    executor, asked = collapsing
    with pytest.raises(GateError, match=r"stopped at the gate.*--set gate\.") as caught:
        build(gated(action="stop"), tmp_path / "run", executor=executor)
    assert not isinstance(caught.value, PausedError) and not asked
    with pytest.raises(GateError):
        build(gated(action="stop"), tmp_path / "run", executor=executor, go_on=True)
    # The gate shapes no row: it may be another one, or none, when the build goes on.
    run = build(gated(action="warn"), tmp_path / "run", executor=executor)
    assert all(place["passed"] for place in seen(run.folder).values())
    said = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert any("gate at 50%" in json.dumps(line) for line in said)


def test_rows_are_the_same_with_a_gate_and_without(tmp_path: Path) -> None:
    recipe = small_recipe(gate={"fewest_rows": 20})
    with_gate = build(recipe, tmp_path / "with")
    without = build(small_recipe(), tmp_path / "without")
    assert {
        name: data for name, data in tree(with_gate.folder).items() if name.startswith("steps")
    }.keys() == {name for name in tree(without.folder) if name.startswith("steps")}
    assert with_gate.table().equals(without.table())


def test_all_steps_in_one_phase_are_looked_at_too(
    tmp_path: Path, collapsing: tuple[LocalExecutor, list[int]]
) -> None:
    executor, asked = collapsing
    recipe = small_recipe(
        rows=100, shard_rows=20, gate={"at": [], "fewest_rows": 20}, embed=None, dedup=None, tag=None,
        filter=None, extend=None,
    )  # fmt: skip
    with pytest.raises(PausedError, match=r"before the first response, \d+ rows"):
        build(recipe, tmp_path / "run", executor=executor)
    assert not asked


@pytest.mark.parametrize(
    ("script", "steer", "why"),
    [
        ({"cut_rate": 0.6}, None, r"% of the instructions were cut by length \(most 30%\)"),
        ({"repeat_rate": 0.9}, None, r"% of the rows are near copies \(most 30%\)|begin with the same"),
    ],
)
def test_each_measure_has_its_bound(tmp_path: Path, script: Any, steer: Any, why: str) -> None:
    models = {"generator": {"model": "scripted", "script": script}, "embedder": "scripted"}
    recipe = small_recipe(
        rows=160, shard_rows=40, models=models, gate={"fewest_rows": 20}, tag=None, filter=None
    )
    with pytest.raises(PausedError, match=why):
        build(recipe, tmp_path / "run")


def test_too_few_rows_tell_nothing_and_a_run_without_answers_has_no_gate(tmp_path: Path) -> None:
    run = build(small_recipe(gate={}), tmp_path / "few")
    assert all(place["passed"] for place in seen(run.folder).values())
    run = build(
        small_recipe(gate={"fewest_rows": 20}, respond=None, extend=None, filter=None), tmp_path / "none"
    )
    assert not (run.folder / "gate.json").exists()


@pytest.mark.parametrize("seed", range(20))
def test_ordinary_seeds_of_the_demo_do_not_pause(seed: int, tmp_path: Path) -> None:
    off = {
        "tag": None,
        "extend": None,
        "filter": None,
        "language": None,
    }  # what comes before the gate is as in the demo
    recipe = load_recipe("demo", engine="scripted", seed=seed, overrides={"gate": {}, **off})
    run = build(recipe, tmp_path / "run")
    assert seen(run.folder)["before the first response"]["findings"]

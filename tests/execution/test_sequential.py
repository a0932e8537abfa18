"""A step whose shards depend on its earlier ones: one after the other, from what is committed and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from builds import Opener, shard_path, small_recipe, tree

from magpie.build import build
from magpie.engines.base import Engine
from magpie.errors import DamagedShardError, EngineError
from magpie.execution.local import LocalExecutor
from magpie.execution.recall import recall
from magpie.plan import make_plan
from magpie.recipe import Recipe
from magpie.runs.manifest import Manifest
from magpie.runs.run import Run
from magpie.runs.verify import verify
from magpie.steps import MAGPIE, Method
from magpie.steps.base import SequentialStep, SequentialWork, Tools

SHARDS = 6


@dataclass(frozen=True, slots=True)
class TotalStep(SequentialStep):
    """Adds how many characters the instructions have up to here, this one included."""

    name = "total"
    section = "instruct"
    reads = ("raw_instruction",)
    recalls = ("characters",)
    settings: dict[str, Any] = field(default_factory=dict)
    adds = pa.schema([pa.field("characters", pa.int64())])

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[TotalStep, ...]:
        return (cls(),)

    def bind(self, _: Tools) -> Totals:
        return Totals()


@dataclass(slots=True)
class Totals(SequentialWork[Engine]):
    recalled: int = 0
    lineage: str = ""
    last: int = 0
    shown: list[int] = field(default_factory=list)

    def recall(self, rows: pa.Table) -> None:
        assert rows.column_names == ["id", "characters"]
        self.shown.append(rows.num_rows)
        self.last = rows["characters"][-1].as_py()

    def forget(self) -> None:
        self.last = 0

    async def run(self, rows: pa.Table, engine: Engine | None) -> pa.Table:
        lengths = [len(text or "") for text in rows["raw_instruction"].to_pylist()]
        totals = list(accumulate(lengths, initial=self.last))[1:]
        return pa.table({"id": rows["id"], "characters": pa.array(totals, pa.int64())})


# In the middle, so that the shards before it and its own earlier ones both count.
COUNTED = Method((MAGPIE.instructions[0], TotalStep.plan, MAGPIE.instructions[1]), (), filtered=False)


def recipe(**changes: Any) -> Recipe:
    return small_recipe(**({"respond": None, "extend": None, "tag": None, "filter": None} | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(recipe(), tmp_path_factory.mktemp("total") / "run", method=COUNTED)


def test_it_is_a_phase_by_itself(run: Run) -> None:
    phases = make_plan(recipe(), COUNTED).phases
    assert [[step.name for step in phase.steps] for phase in phases] == [["instruct"], ["total"], ["clean"]]
    assert [phase.is_sequential for phase in phases] == [False, True, False]


def test_each_shard_goes_on_from_the_one_before(run: Run) -> None:
    rows = run.table(["raw_instruction", "characters"]).to_pylist()
    lengths = [len(row["raw_instruction"] or "") for row in rows]
    assert [row["characters"] for row in rows] == list(accumulate(lengths))
    assert verify(run) == []


@pytest.mark.parametrize("step", [1, 20, 45, 77])
def test_a_build_that_died_goes_on_to_the_same_rows(run: Run, tmp_path: Path, step: int) -> None:
    executor = LocalExecutor(engines=Opener(dies_at=step))
    with pytest.raises(EngineError):
        build(recipe(), tmp_path / "run", method=COUNTED, executor=executor)
    again = build(recipe(), tmp_path / "run", method=COUNTED)
    assert tree(again.folder) == tree(run.folder)


def test_a_build_that_stopped_among_the_shards_goes_on(run: Run, tmp_path: Path) -> None:
    mine = build(recipe(), tmp_path / "run", method=COUNTED)
    for shard in (2, 3, 5):  # whatever is missing, in the middle too
        shard_path(mine, "total", shard).unlink()
    build(recipe(), tmp_path / "run", method=COUNTED)
    assert tree(mine.folder) == tree(run.folder)


def test_what_is_damaged_before_it_is_made_again_and_the_rest_stays(run: Run, tmp_path: Path) -> None:
    mine = build(recipe(), tmp_path / "run", method=COUNTED)
    made = shard_path(mine, "total", 4).stat().st_mtime_ns
    shard_path(mine, "instruct", 1).write_bytes(b"damaged")
    build(recipe(), tmp_path / "run", method=COUNTED)
    assert tree(mine.folder) == tree(run.folder)
    assert shard_path(mine, "total", 4).stat().st_mtime_ns == made


def test_the_lineage_of_a_shard_names_those_before_it(run: Run) -> None:
    manifest, _ = Manifest.scan(run)
    step, instruct = run.step("total"), run.step("instruct")
    first = [manifest.source(step, shard) for shard in range(SHARDS)]
    assert len(set(first)) == SHARDS and None not in first
    # Without shard 2 nobody can say what 3 is to be made from; 2 itself is still known.
    missing = manifest.get(step, 2)
    assert missing is not None
    manifest.remove(step, 2)
    assert [manifest.source(step, shard) for shard in range(SHARDS)] == [*first[:3], None, None, None]
    assert manifest.end is None and not manifest.is_current(step, 5)
    manifest.add(step, 2, missing)
    assert [manifest.source(step, shard) for shard in range(SHARDS)] == first and manifest.end
    # Another shard 1 of the step before: it is what shard 1 is made from, and only what it makes changes later ones.
    other, mine = manifest.get(instruct, 0), manifest.get(instruct, 1)
    assert other is not None and mine is not None
    manifest.add(instruct, 1, other)
    changed = [manifest.source(step, shard) for shard in range(SHARDS)]
    assert [one == two for one, two in zip(changed, first, strict=True)] == [
        True,
        False,
        True,
        True,
        True,
        True,
    ]


def test_work_is_shown_what_it_has_not_seen_and_begins_again_where_it_saw_other_shards(run: Run) -> None:
    manifest, _ = Manifest.scan(run)
    step, work = run.step("total"), Totals()
    earlier = [manifest.earlier(step, shard) or "" for shard in range(SHARDS)]
    recall(run, step, work, 0, earlier[0])
    assert (work.recalled, work.shown) == (0, [])
    recall(run, step, work, 2, earlier[2])
    recall(run, step, work, 3, earlier[3])
    assert (work.recalled, len(work.shown)) == (3, 3)
    work.lineage = "of other shards"
    recall(run, step, work, 4, earlier[4])
    assert (work.recalled, work.lineage, len(work.shown)) == (4, earlier[4], 3 + 1 + 4)
    recall(run, step, work, 1, earlier[1])  # a shard that was lost is made again
    assert (work.recalled, work.last) == (1, run.read(step, 0)["characters"][-1].as_py())
    with pytest.raises(DamagedShardError, match="run the build again"):
        recall(run, step, work, 5, "what nobody made")
    assert work.recalled == 0

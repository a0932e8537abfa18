"""What a step is asked of: one class and one entry in a method are all that the package needs to know of it.

The step stands in this file alone. It is planned, built, resumed, counted, verified, shown, filtered on and exported by
code that has never heard of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from builds import RULES, Opener, scripted, shard_path, small_recipe, tree
from rich.console import Console

from magpie.build import build
from magpie.chat import ChatFormat
from magpie.data.select import refilter
from magpie.engines.base import Completion, Engine, Sampling
from magpie.errors import EngineError, FilterError, RecipeChangedError, RunError
from magpie.execution.local import LocalExecutor
from magpie.figures.funnel import filter_funnel
from magpie.figures.status import status
from magpie.figures.summary import summary
from magpie.plan import DryRun, make_plan
from magpie.publish.formats import export
from magpie.recipe import Filter, Model, Recipe, Rule
from magpie.report.dry_run import print_plan
from magpie.report.run_table import print_status
from magpie.report.show import show_rejected, show_row, show_rows
from magpie.runs.kept import RunRows
from magpie.runs.run import Run
from magpie.runs.verify import quarantined, verify
from magpie.steps import MAGPIE, Method
from magpie.steps.base import (
    REJECTED,
    ModelUse,
    RowStep,
    RowWork,
    Tools,
    counts_tokens,
    inner,
    live,
    seeds,
    spread,
)


@dataclass(frozen=True)
class PolitenessStep(RowStep, RowWork[Engine]):
    """Has the judge say something about each instruction, and takes the length of that for how polite it is."""

    seed: int
    least: int
    model: Model
    chat: ChatFormat | None = None

    name = "politeness"
    reads = ("instruction", "difficulty")
    outcome_columns = ("politeness_error",)
    adds = pa.schema(
        [
            pa.field("politeness", pa.int32()),
            inner("politeness_error", pa.string()),
            counts_tokens("politeness_tokens"),
            REJECTED,
        ]
    )
    credited_as = "politeness_judge"
    bytes_per_row = 1000

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema, *, least: int = 60) -> tuple[PolitenessStep, ...]:
        return () if recipe.tag is None else (cls(recipe.seed, least, recipe.model("judge")),)

    @property
    def settings(self) -> dict[str, Any]:
        return {"seed": self.seed, "least": self.least}

    @property
    def uses(self) -> ModelUse:
        return ModelUse("judge", self.model, "write", "chat")

    def outcomes(self, columns: Mapping[str, Any]) -> list[str]:
        return [
            "weighed" if one is None else "not weighed" for one in columns["politeness_error"].to_pylist()
        ]

    def bind(self, tools: Tools) -> PolitenessStep:
        return replace(self, chat=tools.chat(self.model))

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        assert self.chat is not None
        at = live(rows)
        texts = rows["instruction"].take(pa.array(at, pa.int64())).to_pylist()
        drawn = seeds(self.seed, self.name, rows["index"].to_numpy()[at]).tolist()
        requests = (
            engine.complete(self.chat.prompt([f"How polite is this? {text}"]), Sampling(40, seed))
            for text, seed in zip(texts, drawn, strict=True)
        )
        said: list[Completion] = await asyncio.gather(*requests)
        lengths = [None if one.finish_reason == "error" else len(one.text) for one in said]
        columns = {
            "politeness": lengths,
            "politeness_error": [one.error for one in said],
            "politeness_tokens": [one.token_count for one in said],
            "rejected": [
                "politeness: rude" if length is not None and length < self.least else None
                for length in lengths
            ],
        }
        return spread(rows, at, columns, self.adds)


POLITE = Method((*MAGPIE.instructions, PolitenessStep.plan), MAGPIE.answers)
MODELS = scripted(failure_rate=0.05)
FILTER = {"name": "polite", "rules": [*RULES[:2], {"name": "very polite", "where": "politeness >= 90"}]}


def polite_recipe(**changes: Any) -> Recipe:
    """The small recipe, with a rule that reads the new column."""
    return small_recipe(**({"models": MODELS, "filter": FILTER} | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(polite_recipe(), tmp_path_factory.mktemp("polite") / "run", method=POLITE)


def said(show: Any, *arguments: Any, **options: Any) -> str:
    out = StringIO()
    show(*arguments, Console(file=out, width=120), **options)
    return out.getvalue()


def test_it_is_planned_where_its_columns_are_there_and_shares_the_loaded_model() -> None:
    plan = make_plan(polite_recipe(), POLITE)
    assert [phase.name for phase in plan.phases] == [
        "instruct → clean",
        "embed",
        "dedup",
        "tag → politeness → prefilter → respond → extend",
        "filter",
    ]
    early = Method((PolitenessStep.plan, *MAGPIE.instructions), MAGPIE.answers)
    names = [run_step.name for run_step in make_plan(polite_recipe(), early).steps]
    assert names.index("politeness") == names.index("tag") + 1, "it waits for the column `difficulty`"
    (prefilter,) = (run_step.step for run_step in plan.steps if run_step.name == "prefilter")
    assert [rule.name for rule in prefilter.rules] == ["quality", "very polite"], "its column is known early"
    with pytest.raises(FilterError, match="politeness"):
        make_plan(polite_recipe())
    without = make_plan(polite_recipe(filter=None))
    assert make_plan(polite_recipe(filter=None), POLITE).disk_bytes - without.disk_bytes == 96 * 1000 * 3 // 2
    assert "tag → politeness → prefilter" in said(partial(print_plan, DryRun(plan, Path("runs/polite"))))


def test_it_is_built_and_its_columns_are_in_the_run_and_the_dataset(run: Run) -> None:
    assert verify(run) == []
    rows = run.table().to_pylist()
    asked = [row for row in rows if row["politeness_tokens"] is not None]
    assert 0 < sum(row["politeness"] is None for row in asked) < len(asked)
    rude = [row for row in rows if row["rejected"] == "politeness: rude"]
    assert rude and all(row["politeness"] < 60 and row["response"] is None for row in rude)
    dataset = run.dataset()
    assert dataset.num_rows > 5 and min(dataset["politeness"]) >= 90
    assert set(dataset["politeness_judge"]) == {"scripted"}
    assert "politeness_error" not in dataset.column_names


def test_the_same_rows_come_of_it_and_a_shard_that_is_lost_is_made_again(run: Run, tmp_path: Path) -> None:
    again = build(polite_recipe(), tmp_path / "run", method=POLITE, stop_after="politeness")
    assert not status(again).finished
    build(polite_recipe(), tmp_path / "run", method=POLITE)
    assert tree(again.folder) == tree(run.folder)
    shard_path(again, "politeness", 2).unlink()
    damaged = shard_path(again, "politeness", 4)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    problems = "\n".join(verify(again))
    assert "politeness/00002.parquet" in problems and "politeness/00004.parquet" in problems
    build(polite_recipe(), tmp_path / "run", method=POLITE)
    assert tree(again.folder) == tree(run.folder)
    assert [Path(place).parent.name for place in quarantined(again)] == [run.step("politeness").folder]


def test_a_build_whose_engine_dies_in_it_goes_on(run: Run, tmp_path: Path) -> None:
    opener = Opener(dies_at=96 + 2 * 80)
    with pytest.raises(EngineError):
        build(polite_recipe(), tmp_path / "run", method=POLITE, executor=LocalExecutor(engines=opener))
    assert tree(build(polite_recipe(), tmp_path / "run", method=POLITE).folder) == tree(run.folder)


def test_another_run_takes_over_what_is_alike(run: Run, tmp_path: Path) -> None:
    stricter = polite_recipe(extend={"turns": 2})
    other = build(stricter, tmp_path / "other", method=POLITE, reuse=run.folder)
    for shard in range(run.shards):
        assert shard_path(run, "politeness", shard).samefile(shard_path(other, "politeness", shard))


def test_other_settings_or_no_such_step_are_another_run(run: Run, tmp_path: Path) -> None:
    harsher = replace(POLITE, instructions=(*MAGPIE.instructions, partial(PolitenessStep.plan, least=80)))
    with pytest.raises(RecipeChangedError, match=r"`politeness\.settings\.least` was 60, now 80"):
        build(polite_recipe(), run.folder, method=harsher)
    with pytest.raises(RunError, match="politeness"):
        Run.open(run.folder)
    opened = Run.open(run.folder, POLITE)
    assert opened.table().equals(run.table()) and verify(opened) == []
    with pytest.raises(RunError, match="not a run"):
        Run.open(tmp_path, POLITE)


def test_it_is_counted(run: Run) -> None:
    found = status(run)
    (step,) = (one for one in found.steps if one.name == "politeness")
    rows = run.table().to_pylist()
    assert step.tokens == sum(row["politeness_tokens"] or 0 for row in rows) > 0
    assert step.rejected == {"politeness: rude": sum(row["rejected"] == "politeness: rude" for row in rows)}
    assert step.outcomes == {
        "weighed": sum(row["politeness"] is not None for row in rows),
        "not weighed": sum(row["politeness_error"] is not None for row in rows),
    }
    assert sum(step.outcomes.values()) == step.rows_in
    assert step.rows_in == step.rows_out + sum(step.rejected.values())
    assert "politeness" in [one["name"] for one in summary(run, found)["steps"]]
    lines = filter_funnel(run, found)
    assert lines is not None and "very polite" in [line.name for line in lines]


def test_it_is_shown(run: Run) -> None:
    folder = run.step("politeness").folder
    (shown,) = (row for row in run.table().slice(0, 1).to_pylist())
    assert folder in said(partial(show_row, run, str(shown["index"])))
    assert "politeness: rude" in said(partial(show_rejected, run))
    assert said(partial(show_rows, run))
    table = said(partial(print_status, status(run)))
    assert "politeness" in table and "not weighed" in table


def test_it_is_filtered_on(run: Run, tmp_path: Path) -> None:
    rule = Rule(name="most polite", where="politeness > 110")
    found = refilter(RunRows(run), Filter(rules=(rule,)), tmp_path / "out", explain=True)
    # What the run's own filter dropped at its end comes to another filter too.
    came = [row for row in run.table().to_pylist() if row["rejected"] in {None, "filter: long enough"}]
    assert found.kept == sum((row["politeness"] or 0) > 110 for row in came) > 0
    assert pc.min(pq.read_table(tmp_path / "out")["politeness"]).as_py() > 110


def test_it_is_exported(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    assert export(run, format="messages", out=out).rows == run.dataset().num_rows
    assert pq.read_table(out)["politeness"].to_pylist() == run.dataset()["politeness"][:]

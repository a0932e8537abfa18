"""A whole build on the scripted engine: what it writes, how it goes on, and what it refuses."""

import asyncio
from pathlib import Path

import pyarrow.compute as pc
import pytest
from builds import Opener, scripted, shard_path, small_recipe, tree

from magpie.build import build
from magpie.errors import DamagedShardError, EngineError, RecipeChangedError, RunError
from magpie.execution.local import LocalExecutor
from magpie.figures.status import status
from magpie.recipe import Recipe
from magpie.runs.run import Run
from magpie.runs.verify import quarantined, verify
from magpie.storage.sealed import inspect_shard, read_shard, write_shard


def test_a_build_is_whole_and_can_be_read(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    assert verify(run) == []
    table = run.table()
    assert table.num_rows == 96
    assert len(set(table["id"].to_pylist())) == 96
    assert table["index"].to_pylist() == list(range(96))
    kept = run.table(rejected=False)
    assert 0 < kept.num_rows < 96
    dataset = run.dataset()
    assert dataset["id"][:] == kept["id"].to_pylist()
    conversation = dataset[0]["messages"]
    assert [turn["role"] for turn in conversation] == ["user", "assistant"] * 3
    assert conversation[0]["content"] == dataset[0]["instruction"]
    assert conversation[1]["content"] == dataset[0]["response"]


def test_every_row_says_how_it_came_about(tmp_path: Path) -> None:
    rows = build(small_recipe(), tmp_path / "run").table().to_pylist()
    assert {(round(row["temperature"], 2), round(row["top_p"], 2)) for row in rows} == {
        (1.0, 1.0),
        (0.7, 0.9),
    }
    assert sum(row["temperature"] == 1.0 for row in rows) == pytest.approx(64, abs=2)
    assert len({row["instruct_seed"] for row in rows}) == 96
    for row in rows:
        assert (row["rejected"] is None) <= (row["response"] is not None)


def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = (build(small_recipe(), tmp_path / name) for name in ("one", "other"))
    assert tree(one.folder) == tree(other.folder)
    third = build(small_recipe(seed=43), tmp_path / "third")
    assert tree(third.folder) != tree(one.folder)


def test_a_finished_build_is_left_alone(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.parquet")}
    build(small_recipe(), tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.parquet")} == before


@pytest.mark.parametrize("step", ["instruct", "dedup", "tag", "respond"])
def test_stop_after_then_go_on(tmp_path: Path, step: str) -> None:
    whole = build(small_recipe(), tmp_path / "whole")
    run = build(small_recipe(), tmp_path / "run", stop_after=step)
    found = status(run)
    done = {one.name: one.shards_done for one in found.steps}
    assert done[step] == 6
    assert done["filter"] == 0
    assert not found.finished
    assert verify(run)
    build(small_recipe(), tmp_path / "run")
    assert tree(run.folder) == tree(whole.folder)


def test_a_missing_shard_is_made_again(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    before = tree(run.folder)
    for name in ("instruct", "dedup", "respond", "filter"):
        shard_path(run, name, 2).unlink()
    assert verify(run)
    build(small_recipe(), tmp_path / "run")
    assert tree(run.folder) == before
    assert verify(run) == []


def test_a_damaged_shard_goes_to_quarantine_and_is_made_again(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    before = tree(run.folder)
    path = shard_path(run, "tag", 3)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert any("03.parquet" in problem or "00003.parquet" in problem for problem in verify(run))
    with pytest.raises(DamagedShardError, match=r"00003\.parquet"):
        run.table()
    build(small_recipe(), tmp_path / "run")
    assert tree(run.folder) == before
    assert [Path(place).name for place in quarantined(run)] == ["00003.parquet"]
    assert verify(run) == []


def test_text_made_again_otherwise_makes_stale_what_was_built_on_it(tmp_path: Path) -> None:
    """Shards copied from a run of another script stand for an engine that is not batch-invariant."""
    run = build(small_recipe(), tmp_path / "run")
    other = build(small_recipe(), tmp_path / "other")
    name = run.shard_name(run.step("instruct"), 1)
    table, stamp = read_shard(run.storage, name), inspect_shard(run.storage, name).stamp
    at = table.column_names.index("raw_instruction")
    changed = table.set_column(at, "raw_instruction", pc.utf8_upper(table["raw_instruction"]))
    write_shard(run.storage, name, changed, stamp, replace=True)
    assert any("earlier version" in problem for problem in verify(run))
    before = {path: path.stat().st_mtime_ns for path in (run.folder / "steps").rglob("*.parquet")}
    build(small_recipe(), tmp_path / "run")
    remade = {path for path, written in before.items() if path.stat().st_mtime_ns != written}
    for name in ("clean", "tag", "respond", "extend"):
        assert {path.name for path in remade if path.parent.name.endswith(name)} == {"00001.parquet"}
    assert verify(run) == []
    made, standing = run.table(["instruction"]), other.table(["instruction"])
    differs = [
        a != b
        for a, b in zip(made["instruction"].to_pylist(), standing["instruction"].to_pylist(), strict=True)
    ]
    assert all(differs[16:32])
    assert not any(differs[:16] + differs[32:])


def test_another_recipe_in_the_same_folder_is_refused_with_what_differs(tmp_path: Path) -> None:
    build(small_recipe(), tmp_path / "run", stop_after="clean")
    with pytest.raises(RecipeChangedError, match=r"`seed` was 42, now 7.*--out"):
        build(small_recipe(seed=7), tmp_path / "run")
    with pytest.raises(RecipeChangedError, match=r"extend.turns"):
        build(small_recipe(extend={"turns": 2}), tmp_path / "run")


def test_a_server_may_change_within_a_run_but_not_the_model_it_is_asked_for(tmp_path: Path) -> None:
    def with_server(**server: object) -> Recipe:
        return small_recipe(
            models=scripted() | {"generator": {"model": "scripted"} | ({"server": server} if server else {})}
        )

    build(with_server(url="http://one/v1"), tmp_path / "run", stop_after="clean")
    build(with_server(url="http://two/v1", concurrency=2), tmp_path / "run", stop_after="clean")
    build(with_server(), tmp_path / "run", stop_after="clean")
    with pytest.raises(RecipeChangedError, match=r"`models\.generator\.server` was None, now.*'model': 'b'"):
        build(with_server(url="http://two/v1", model="b"), tmp_path / "run")
    build(with_server(url="http://one/v1", model="b"), tmp_path / "named", stop_after="clean")
    build(with_server(url="http://two/v1", model="b"), tmp_path / "named", stop_after="clean")
    with pytest.raises(RecipeChangedError, match=r"`models\.generator\.server\.model` was 'b', now 'c'"):
        build(with_server(url="http://two/v1", model="c"), tmp_path / "named")


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"notes\.txt"):
        build(small_recipe(), tmp_path)
    with pytest.raises(RunError, match="not a run"):
        Run.open(tmp_path)


def test_rows_in_is_rows_out_plus_rejected_at_every_step(tmp_path: Path) -> None:
    run = build(
        small_recipe(models=scripted(failure_rate=0.1, cut_rate=0.1, repeat_rate=0.3)), tmp_path / "run"
    )
    found = status(run)
    rows = 96
    for step in found.steps:
        assert step.rows_in == rows
        assert step.rows_out == rows - sum(step.rejected.values())
        rows = step.rows_out
    assert found.kept == rows
    reasons = {reason for step in found.steps for reason in step.rejected}
    assert {"clean: cut by length", "dedup: repeat"} <= reasons
    assert any("engine error" in reason for reason in reasons)
    assert verify(run) == []


def test_push_down_keeps_the_same_rows_and_answers_only_those_it_must(tmp_path: Path) -> None:
    pushed = build(small_recipe(), tmp_path / "pushed")
    whole = build(small_recipe(respond={"rows": "all"}), tmp_path / "whole")
    assert pushed.dataset()["id"][:] == whole.dataset()["id"][:]
    assert "prefilter" in [run_step.name for run_step in pushed.steps]
    assert "prefilter" not in [run_step.name for run_step in whole.steps]
    for row in pushed.table().to_pylist():
        early = row["rejected"] in {"filter: quality", "filter: medium or harder"}
        assert not (early and row["response"] is not None)
    assert {row["rejected"] for row in whole.table().to_pylist()} == {
        row["rejected"] for row in pushed.table().to_pylist()
    }


def test_top_and_quotas_are_the_same_with_and_without_push_down(tmp_path: Path) -> None:
    filter_ = {
        "name": "top",
        "rules": [{"name": "quality", "where": "input_quality <> 'very poor'"}],
        "quotas": {"by": "difficulty", "each": 9},
        "top": {"by": "response_length", "n": 20},
    }
    kept = [
        build(small_recipe(filter=filter_, respond={"rows": rows}), tmp_path / rows).dataset()["id"][:]
        for rows in ("kept", "all")
    ]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 20


def test_no_filter_no_extension_no_response(tmp_path: Path) -> None:
    run = build(
        small_recipe(filter=None, extend=None, respond=None, tag=None, embed=None, dedup=None), tmp_path / "a"
    )
    assert verify(run) == []
    assert {len(messages) for messages in run.dataset()["messages"]} == {1}


@pytest.mark.parametrize("dies_at", [0, 40, 150, 430])
def test_an_engine_that_dies_loses_nothing(tmp_path: Path, dies_at: int) -> None:
    """Before its first completion, while it writes instructions, while it tags, and while it answers."""
    whole = build(small_recipe(), tmp_path / "whole")
    opener = Opener(dies_at=dies_at)
    executor = LocalExecutor(engines=opener)
    with pytest.raises(EngineError, match="the engine died"):
        build(small_recipe(), tmp_path / "run", executor=executor)
    (engine,) = opener.opened
    assert engine.completions == dies_at
    assert not engine.is_closed, "an executor that was lent is closed by its owner"
    asyncio.run(executor.close())
    assert engine.is_closed
    committed = tree(tmp_path / "run")
    assert dies_at < 96 or len([name for name in committed if name.endswith(".parquet")]) >= 6
    assert '"event": "ended early", "why": "EngineError' in (tmp_path / "run" / "log.jsonl").read_text()
    found = status(Run.open(tmp_path / "run"))
    assert not found.finished and found.damaged == ()
    finished = build(small_recipe(), tmp_path / "run")
    assert tree(finished.folder) == tree(whole.folder)
    assert committed.items() <= tree(finished.folder).items()
    assert quarantined(finished) == [] and verify(finished) == []


def test_an_engine_that_is_lent_is_used_and_stays_open(tmp_path: Path) -> None:
    """One engine for both phases, since the models are alike; it stays open until its owner closes it."""
    opener = Opener(dies_at=10_000)
    executor = LocalExecutor(engines=opener)
    run = build(small_recipe(), tmp_path / "run", executor=executor)
    (engine,) = opener.opened
    assert engine.completions > 96 * 3 and not engine.is_closed
    assert tree(run.folder) == tree(build(small_recipe(), tmp_path / "alone").folder)


def test_a_build_works_where_a_loop_is_running_as_in_a_notebook(tmp_path: Path) -> None:
    async def cell() -> Run:
        return build(small_recipe(rows=16), tmp_path / "run")

    assert verify(asyncio.run(cell())) == []


def test_one_row_and_a_last_shard_that_is_not_full(tmp_path: Path) -> None:
    one = build(small_recipe(rows=1, filter=None), tmp_path / "one")
    assert verify(one) == []
    uneven = build(small_recipe(rows=37), tmp_path / "uneven")
    assert verify(uneven) == []
    assert uneven.table().num_rows == 37

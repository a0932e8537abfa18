"""Whole builds of the second method on the scripted engine: rounds, reasons, kills, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from builds import Opener, shard_path, tree
from builds import small_self_instruct as small

import magpie
from magpie.build import build
from magpie.errors import EngineError, RecipeChangedError, RecipeError
from magpie.execution.local import LocalExecutor
from magpie.figures.status import status
from magpie.recipe.loading import load_recipe, parse_recipe
from magpie.runs.run import Run
from magpie.runs.verify import verify
from magpie.self_instruct.parsing import split_numbered
from magpie.self_instruct.rouge import RougeFilter
from magpie.self_instruct.tasks import seed_tasks


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(small(), tmp_path_factory.mktemp("si") / "run")


def test_every_candidate_that_a_model_wrote_has_a_row_and_a_reason(run: Run) -> None:
    assert verify(run) == []
    rows = run.table().to_pylist()
    texts = [row["raw_instruction"] for row in rows]
    assert len(rows) == 120 and any(text is None for text in texts)
    for row in rows:
        if row["raw_instruction"] is None:
            assert row["rejected"] == "bootstrap: nothing written"
    reasons = {row["rejected"] for row in rows if row["rejected"]}
    assert {
        "bootstrap: nothing written",
        "bootstrap: too similar",
        "bootstrap: too few words",
        "bootstrap: needs more than text",
        "bootstrap: an opening that the recipe refuses",
        "bootstrap: begins with punctuation",
        "bootstrap: begins outside ASCII",
    } <= reasons
    counted = status(run)
    assert sum(sum(step.rejected.values()) for step in counted.steps) + (counted.kept or 0) == 120
    outcomes = {step.name: step.outcomes or {} for step in counted.steps}
    assert outcomes["instances"].keys() >= {"input first", "output first"}
    assert outcomes["identify"].keys() == {"classification", "not classification"}


def test_the_pool_decides_as_one_filter_over_all_rounds(run: Run) -> None:
    """What each round accepts is what the original's loop would, over all candidates in their order."""
    rows = run.table(["instruction", "raw_instruction", "similar_to", "similarity"]).to_pylist()
    pool = RougeFilter(0.7)
    pool.add([task.instruction for task in seed_tasks(None)])
    compared = [
        row
        for row in rows
        if row["rejected"] in (None, "bootstrap: too similar") or not row["rejected"].startswith("bootstrap")
    ]
    from magpie.self_instruct.rules import tidied

    decisions = pool.screen([tidied(row["raw_instruction"]) for row in compared])
    assert [one.accepted for one in decisions] == [
        row["rejected"] != "bootstrap: too similar" for row in compared
    ]
    for row, one in zip(compared, decisions, strict=True):
        assert (row["similarity"] is None) == one.accepted
        if not one.accepted:
            assert row["similarity"] == one.most_similar[0][1] and row["similar_to"]


def test_prompts_show_seeds_and_what_earlier_rounds_made(run: Run) -> None:
    shown = run.table(["shots"]).to_pylist()
    first = {row["id"]: row["index"] for row in shown}
    accepted = {
        row["id"]
        for row in run.table(["shots"]).to_pylist()
        if not str(row["rejected"]).startswith("bootstrap")
    }
    for row in shown:
        machine = [shot for shot in row["shots"] if shot in first]
        assert len(row["shots"]) == len(set(row["shots"])) == 8
        assert len(machine) == (0 if row["index"] < 20 else 2)
        assert all(first[shot] // 20 < row["index"] // 20 and shot in accepted for shot in machine)


def test_tokens_count_once_a_prompt(run: Run) -> None:
    rows = run.table(["instruct_tokens", "instruct_seed"]).to_pylist()
    by_seed: dict[int, list[int]] = {}
    for row in rows:
        by_seed.setdefault(row["instruct_seed"], []).append(row["instruct_tokens"])
    assert len(by_seed) == 6 * 3 and all(
        sum(each is not None for each in group) == 1 for group in by_seed.values()
    )


def test_the_conversation_is_the_task_with_its_input_and_the_output(run: Run) -> None:
    table = pq.read_table(run.folder / "dataset")
    assert table.num_rows > 10
    for row in table.to_pylist():
        user, assistant = row["messages"]
        assert user["content"] == row["instruction"]
        assert assistant["content"] == row["response"] == row["instances"][0]["output"]
        parts = [row["task"], row["task_input"]] if row["task_input"] else [row["task"]]
        assert row["instruction"] == "\n\n".join(parts)
        assert row["task_input"] == row["instances"][0]["input"]
        assert 1 <= len(row["instances"]) <= 5
        assert all(one["output"] and one["input"] != one["output"] for one in row["instances"])


@pytest.mark.parametrize("seed", range(3))
def test_a_build_that_dies_again_and_again_is_the_same_to_the_byte(
    run: Run, tmp_path: Path, seed: int
) -> None:
    died = 0
    for attempt in range(60):
        opener = Opener(dies_at=3 + (attempt * 7 + seed) % 23)
        try:
            build(small(), tmp_path / "run", executor=LocalExecutor(engines=opener))
            break
        except EngineError:
            died += 1
    assert died > 3
    assert tree(tmp_path / "run") == tree(run.folder) and verify(Run.open(tmp_path / "run")) == []


def test_a_damaged_round_is_made_again_and_what_came_of_it_stays(run: Run, tmp_path: Path) -> None:
    mine = build(small(), tmp_path / "run")
    shard_path(mine, "bootstrap", 2).write_bytes(b"damaged")
    build(small(), tmp_path / "run")
    assert tree(mine.folder) == tree(run.folder)


def test_another_round_makes_all_later_ones_anew(run: Run, tmp_path: Path) -> None:
    """An early round that comes out otherwise: no later one may stand on the pool that is gone."""
    mine = build(small(), tmp_path / "run")
    other = build(small(seed=7), tmp_path / "other")
    place = shard_path(mine, "bootstrap", 1)
    # A real engine may write another text. Here the round of another seed is put in its place, with this run's stamp.
    from magpie.storage.sealed import inspect_shard, read_shard, write_shard

    name = mine.shard_name(mine.step("bootstrap"), 1)
    stamp = inspect_shard(mine.storage, name).stamp
    table = read_shard(other.storage, name)
    table = table.set_column(0, "id", read_shard(mine.storage, name, ["id"])["id"])
    place.unlink()
    write_shard(mine.storage, name, table, stamp, replace=False, about=mine.about or "{}")
    stale = [line for line in verify(Run.open(mine.folder)) if "made from an earlier version" in line]
    assert any("01-bootstrap/00002" in line for line in stale)
    build(small(), mine.folder)
    again = Run.open(mine.folder)
    assert verify(again) == []
    assert again.read(again.step("bootstrap"), 0).equals(run.read(run.step("bootstrap"), 0))
    assert not again.read(again.step("bootstrap"), 3).equals(run.read(run.step("bootstrap"), 3))


def test_it_stops_asking_when_enough_are_accepted(tmp_path: Path) -> None:
    run = build(small(bootstrap={"accepted": 25}), tmp_path / "run")
    assert verify(run) == []
    (step, *_) = status(run).steps
    assert step.rows_out == 25 and step.rejected["bootstrap: enough are accepted"] > 20
    last = run.read(run.step("bootstrap"), 5).to_pylist()
    assert all(row["shots"] is None and row["instruct_tokens"] is None for row in last)


def test_a_list_that_was_cut_goes_as_a_whole_or_from_the_cut_on(tmp_path: Path) -> None:
    models = {"generator": {"model": "scripted", "script": {"cut_rate": 0.5}}, "embedder": "scripted"}
    lost = {}
    for cut in ("all", "last"):
        run = build(small(models=models, bootstrap={"cut": cut}), tmp_path / cut)
        assert verify(run) == []
        rows = run.table(["instruct_finish_reason", "raw_instruction", "instruct_seed"]).to_pylist()
        is_cut = [row for row in rows if row["rejected"] == "bootstrap: cut by length"]
        assert is_cut and all(row["instruct_finish_reason"] == "length" for row in is_cut)
        lists = {row["instruct_seed"] for row in is_cut}
        if cut == "last":
            assert len(is_cut) == len(lists)
        lost[cut] = len(is_cut)
    assert lost["all"] > lost["last"]


def test_an_engine_that_fails_leaves_a_reason(tmp_path: Path) -> None:
    models = {"generator": {"model": "scripted", "script": {"failure_rate": 0.3}}, "embedder": "scripted"}
    run = build(small(models=models), tmp_path / "run")
    reasons = {reason for step in status(run).steps for reason in step.rejected}
    assert {"bootstrap: engine error", "identify: engine error", "instances: engine error"} <= reasons
    assert verify(run) == []


def test_without_identify_every_task_gets_its_input_first(tmp_path: Path) -> None:
    run = build(small(identify=None), tmp_path / "run")
    orders = {row["instance_order"] for row in run.table(["instance_order"], rejected=False).to_pylist()}
    assert orders == {"input first"} and verify(run) == []


def test_a_model_is_asked_in_its_chat_format_where_the_recipe_says_so(tmp_path: Path) -> None:
    speech = {"speech": "chat"}
    run = build(small(bootstrap=speech, identify=speech, instances=speech), tmp_path / "run")
    assert verify(run) == [] and status(run).kept
    assert run.recipe.bootstrap is not None and run.recipe.bootstrap.speech == "chat"


def test_seeds_of_ones_own_are_found_beside_the_recipe(tmp_path: Path) -> None:
    seeds = [
        {
            "id": f"mine-{number}",
            "instruction": f"Explain what the word {word} means to a child of six.",
            "instances": [{"input": "", "output": "It means something."}],
            "is_classification": number % 2 == 0,
        }
        for number, word in enumerate(
            ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
        )
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(one) + "\n" for one in seeds))
    raw = small().model_dump(mode="json") | {"bootstrap": {"seeds": "mine.jsonl"}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(raw))
    run = build(tmp_path / "recipe.yaml", tmp_path / "run")
    shown = {shot for row in run.table(["shots"]).to_pylist() for shot in row["shots"]}
    assert any(shot.startswith("mine-") for shot in shown) and not any(
        shot.startswith("seed_") for shot in shown
    )
    # Other seeds are another recipe, though the recipe names the same file.
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(one) + "\n" for one in seeds[:9]))
    with pytest.raises(RecipeChangedError, match="seeds"):
        build(tmp_path / "recipe.yaml", tmp_path / "run")


def test_the_shared_steps_and_a_pushed_down_filter_work_on_tasks(tmp_path: Path) -> None:
    rules = [
        {"name": "quality", "where": "input_quality NOT IN ('very poor')"},
        {"name": "no colon", "where": "NOT ends_with(instruction, ':')"},
    ]
    changes: dict[str, Any] = {
        "tag": {},
        "reward": {"model": "generator"},
        "pii": {"action": "redact"},
        "filter": rules,
    }
    run = build(small(**changes), tmp_path / "run")
    assert verify(run) == []
    names = [run_step.name for run_step in run.steps]
    assert names.index("tag") < names.index("prefilter") < names.index("identify") < names.index("reward")
    # The rule on the message waits until the message is there.
    assert [rule.name for rule in run.step("prefilter").step.rules] == ["quality"]
    table = run.table(rejected=False)
    assert table.num_rows and table["instruct_reward"].null_count == 0


def test_sections_of_the_other_method_are_refused() -> None:
    for changes, said in (
        ({"method": "magpie"}, "`bootstrap` is for `method: self-instruct`"),
        ({"steer": {"prompts": ["a"]}}, "`steer` is no part of"),
        ({"respond": {}}, "`respond` is no part of"),
        ({"instruct": {"max_tokens": 9}}, "`instruct` is no part of"),
        ({"bootstrap": {"shots": 1}}, "`bootstrap.machine_shots` is 2"),
        ({"method": "self"}, "method"),
    ):
        with pytest.raises(RecipeError, match=said):
            small(**({"bootstrap": {}} | changes))


def test_a_recipe_that_is_written_out_reads_as_itself() -> None:
    recipe = load_recipe("self-instruct", engine="scripted", overrides={"identify": None})
    again = parse_recipe(recipe.model_dump(mode="json"))
    assert again == recipe and again.identify is None and again.respond is None


def test_exports_have_a_row_for_each_instance(run: Run, tmp_path: Path) -> None:
    rows = pq.read_table(run.folder / "dataset").to_pylist()
    pairs = [(row["task"], one["input"], one["output"]) for row in rows for one in row["instances"]]
    assert len(pairs) > len(rows)
    result = magpie.export(run, "alpaca", tmp_path / "alpaca.jsonl")
    lines = read(tmp_path / "alpaca.jsonl")
    assert sorted((one["instruction"], one["input"], one["output"]) for one in lines) == sorted(pairs)
    assert result.rows == result.rows_in == len(pairs)
    assert len({one["id"] for one in lines}) == len(pairs)
    magpie.export(run, "csv", tmp_path / "a.csv")
    magpie.export(run, "messages", tmp_path / "m.jsonl")
    talks = [[turn["content"] for turn in one["messages"]] for one in read(tmp_path / "m.jsonl")]
    assert sorted(talks) == sorted(
        [f"{task}\n\n{given}" if given else task, out] for task, given, out in pairs
    )
    assert all("instances" not in one for one in read(tmp_path / "m.jsonl"))


def test_an_alpaca_export_loads_in_datasets(run: Run, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    magpie.export(run, "alpaca", tmp_path / "alpaca.json", columns=[])
    loaded = datasets.load_dataset(
        "json", data_files=str(tmp_path / "alpaca.json"), cache_dir=str(tmp_path / "c")
    )
    assert loaded["train"].column_names == ["instruction", "input", "output"]
    assert len(loaded["train"]) == len(json.loads((tmp_path / "alpaca.json").read_text()))


def test_several_forms_are_drawn_by_seed(run: Run, tmp_path: Path) -> None:
    out = {}
    for name, forms in (("a", 1), ("b", 1), ("c", 2), ("plain", None)):
        magpie.export(run, "prompt-completion", tmp_path / f"{name}.jsonl", forms=forms)
        out[name] = read(tmp_path / f"{name}.jsonl")
    assert out["a"] == out["b"] != out["c"]
    assert all(list(one) == ["prompt", "completion"] for one in out["a"])
    starts = {one["prompt"].startswith("Task:") for one in out["a"]}
    ends = {one["prompt"].endswith("Output:") for one in out["a"]}
    assert starts == ends == {True, False}
    for one, plain in zip(out["a"], out["plain"], strict=True):
        assert one["completion"].strip() == plain["completion"].strip() and one["completion"][:1] in " \n"
    magpie.export(run, "messages", tmp_path / "m.jsonl", forms=1)
    talks = read(tmp_path / "m.jsonl")
    assert sorted(one["messages"][0]["content"] for one in talks) == sorted(one["prompt"] for one in out["a"])


def test_what_a_scripted_list_holds_is_what_was_asked_for(run: Run) -> None:
    for row in run.table(["raw_instruction"]).to_pylist():
        text = row["raw_instruction"]
        if text is not None:
            assert split_numbered(text, 9, 15).texts == (text,)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

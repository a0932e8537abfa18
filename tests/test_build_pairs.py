"""Runs that make preference pairs: where the steps stand, what the dataset holds, and what is paid for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import dataset_paths, shard_path, small_recipe, tree
from recording import base_rows

from magpie.build import build
from magpie.chat import ChatFormat
from magpie.data.messages import messages_of, pairs_of
from magpie.data.published import Published
from magpie.data.select import refilter
from magpie.errors import ChatFormatError, FilterError, RecipeError, RunError
from magpie.figures.status import status
from magpie.plan import BuildTools, bind, make_plan
from magpie.publish.formats import export
from magpie.recipe import Filter, Pii, Prefer, Recipe
from magpie.recipe.loading import load_filter
from magpie.runs.kept import RunRows, kept_rows
from magpie.runs.run import DATASET, Run
from magpie.runs.verify import verify
from magpie.steps import columns_of
from magpie.steps.base import is_inner
from magpie.steps.candidates import CandidatesStep
from magpie.steps.pii import PiiStep
from magpie.storage.sealed import inspect_shard, write_shard

MODELS: dict[str, Any] = {
    "generator": {"model": "scripted", "script": {"cut_rate": 0.1, "failure_rate": 0.02}},
    "judge": "generator",
    "embedder": "scripted",
    "reward": {"model": "scripted-reward", "engine": "scripted"},
    "guard": "scripted",
}
RULES = [{"name": "quality", "where": "input_quality IN ('average', 'good', 'excellent')"}]


def pairs(**changes: Any) -> Recipe:
    """Four answers a row and no response, unless `changes` say otherwise."""
    alone: dict[str, Any] = {"respond": None, "extend": None, "prefer": {"responses": 4}}
    return small_recipe(**(alone | {"models": MODELS, "filter": {"name": "some", "rules": RULES}} | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(pairs(prefer={"responses": 4, "margin": 2.0}), tmp_path_factory.mktemp("runs") / "pairs")


def test_answers_and_scores_stand_where_their_models_are_loaded_anyway() -> None:
    whole = {"respond": {}, "extend": {"turns": 2}, "pii": {}, "reward": {}, "guard": {}}
    plan = make_plan(pairs(**whole))
    assert [phase.name for phase in plan.phases][-4:] == [
        "tag → prefilter → respond → extend → candidates → response_pii",
        "reward → prefer",
        "guard",
        "filter",
    ]
    assert [phase.scores for phase in plan.phases][-4:] == [False, True, False, False]


def test_no_candidate_is_paid_for_a_row_that_would_be_dropped(finished: Run, tmp_path: Path) -> None:
    raw = build(pairs(filter=None, prefer={"responses": 4, "margin": 2.0}), tmp_path / "raw")
    quality = finished.table(["input_quality", "candidates"]).to_pylist()
    dropped = [row for row in quality if row["rejected"] == "filter: quality"]
    assert dropped and all(row["candidates"] is None for row in dropped)
    late = refilter(RunRows(raw), Filter.model_validate({"name": "some", "rules": RULES}), tmp_path / "out")
    columns = ["id", "prompt", "chosen", "rejected", "chosen_reward"]
    assert late.kept == finished.dataset().num_rows > 10
    assert pq.read_table(tmp_path / "out", columns=columns).to_pylist() == [
        {name: row[name] for name in columns} for row in finished.dataset()
    ]
    assert refilter(RunRows(finished), Filter(name="all"), None).never_answered == len(dropped)


@pytest.mark.parametrize(
    ("respond", "names"), [(None, ["prefilter", "candidates"]), ({"rows": "all"}, ["tag", "respond"])]
)
def test_push_down_is_for_candidates_too_and_answering_all_rows_switches_it_off(
    respond: dict[str, str] | None, names: list[str]
) -> None:
    steps = [run_step.name for run_step in make_plan(pairs(respond=respond)).steps]
    assert steps[steps.index(names[0]) :][:2] == names
    assert ("prefilter" in steps) is (respond is None)


def test_the_dataset_holds_pairs_as_message_lists(finished: Run) -> None:
    assert verify(finished) == []
    source = {row["id"]: row for row in finished.table().to_pylist()}
    rows = pq.read_table(finished.folder / DATASET).to_pylist()
    for row in rows:
        made = source[row["id"]]
        texts = [(row["prompt"], "user", made["instruction"]), (row["chosen"], "assistant", made["chosen_response"]),
                 (row["rejected"], "assistant", made["rejected_response"])]  # fmt: skip
        for messages, role, text in texts:
            assert messages == [{"role": role, "content": text}]
        assert row["messages"] == row["prompt"] + row["chosen"]
        assert row["chosen_reward"] > row["rejected_reward"] + 2
        assert row["chosen"] != row["rejected"]
        chosen = made["candidates"].index(made["chosen_response"])
        assert made["candidate_finish_reasons"][chosen] == "stop"
    schema = pq.read_schema(dataset_paths(finished)[0])
    assert {schema.field(name).type for name in ("prompt", "chosen", "rejected")} == {
        schema.field("messages").type
    }


def test_the_folder_loads_for_sft_and_for_dpo(finished: Run, tmp_path: Path) -> None:
    """Without a name it gives conversations, and by the name `pairs` what is trained on as pairs."""
    import datasets

    refilter(RunRows(finished), Filter(name="all"), tmp_path / "all")
    refilter(Published(tmp_path / "all"), Filter(name="all"), tmp_path / "again")
    pair = {"prompt", "chosen", "rejected"}
    whole = finished.dataset()
    for folder in (finished.folder / DATASET, tmp_path / "all", tmp_path / "again"):
        cache = {"split": "train", "cache_dir": str(tmp_path / "cache")}
        rows = datasets.load_dataset(str(folder), **cache)
        assert set(rows.column_names) == set(whole.column_names) - pair
        assert rows["messages"] == whole["messages"]
        pairs = datasets.load_dataset(str(folder), "pairs", **cache)
        assert set(pairs.column_names) == set(whole.column_names) - {"messages"}
        assert pairs["chosen"] == whole["chosen"]
    assert verify(finished) == []


def test_lost_configurations_are_written_again(finished: Run) -> None:
    configs = finished.folder / DATASET / ".huggingface.yaml"
    before = configs.read_bytes()
    configs.unlink()
    build(finished.recipe, finished.folder)
    assert configs.read_bytes() == before


def test_the_dataset_is_small_and_its_columns_are_in_this_order(finished: Run) -> None:
    names = pq.read_schema(dataset_paths(finished)[0]).names
    assert names[:5] == ["id", "messages", "prompt", "chosen", "rejected"]
    rewards = [
        "candidate_rewards",
        "chosen_reasoning",
        "chosen_reward",
        "rejected_reasoning",
        "rejected_reward",
    ]
    assert names[-9:] == [*rewards, "rejected_finish_reason", "generator", "judge", "reward_model"]
    inner = {"candidates", "candidate_seeds", "chosen_response", "rejected_response", "prefer_error"}
    assert not inner & set(names)


def test_a_dataset_of_pairs_is_filtered_with_no_run_around_it(finished: Run, tmp_path: Path) -> None:
    rule = {"name": "rewarded", "where": "chosen_reward > 10 AND contains(instruction, ' ')"}
    source = Published(finished.folder / DATASET)
    found = refilter(source, Filter.model_validate({"name": "f", "rules": [rule]}), tmp_path / "out")
    back = pq.read_table(tmp_path / "out")
    assert 0 < found.kept == back.num_rows < source.rows
    assert back.column_names == pq.read_schema(dataset_paths(finished)[0]).names


def test_reasons_and_tokens_are_counted(finished: Run) -> None:
    steps = {step.name: step for step in status(finished).steps}
    counted = finished.table(["candidate_tokens"])["candidate_tokens"].to_pylist()
    assert steps["candidates"].tokens == sum(sum(tokens) for tokens in counted if tokens)
    assert steps["prefer"].rejected["prefer: only cut answers are better"] > 0
    assert all(reason.startswith("prefer: ") for reason in steps["prefer"].rejected)


def test_a_finished_run_is_left_as_it_is_and_a_lost_shard_is_made_the_same(finished: Run) -> None:
    before = tree(finished.folder)
    build(finished.recipe, finished.folder)
    assert tree(finished.folder) == before
    for name in ("candidates", "prefer"):
        shard_path(finished, name, 2).unlink()
        build(finished.recipe, finished.folder)
        assert tree(finished.folder) == before


def test_another_margin_writes_no_answer_anew(finished: Run) -> None:
    def fingerprinted(recipe: Recipe) -> dict[str, dict[str, Any]]:
        return {run_step.name: run_step.step.settings for run_step in make_plan(recipe).steps}

    one, other = fingerprinted(finished.recipe), fingerprinted(pairs(prefer={"responses": 4, "margin": 1.0}))
    assert one["candidates"] == other["candidates"]
    assert one["prefer"] != other["prefer"]


def test_the_response_stays_in_the_messages_where_there_is_one(tmp_path: Path) -> None:
    run = build(pairs(respond={}, extend={"turns": 2}, reward={}), tmp_path / "run")
    source = {row["id"]: row for row in run.table().to_pylist()}
    for row in run.dataset():
        said = [message["content"] for message in row["messages"]]
        assert said[:2] == [source[row["id"]]["instruction"], source[row["id"]]["response"]]
        assert [message["content"] for message in row["chosen"]] == [source[row["id"]]["chosen_response"]]


def test_reasoning_is_in_the_pairs_only_when_asked_for() -> None:
    rows = base_rows(
        0,
        1,
        instruction=["Why?"],
        chosen_response=["So."],
        chosen_reasoning=["Hm."],
        rejected_response=["No."],
    ).append_column("rejected_reasoning", base_rows(0, 1)["rejected"])
    for keeps, chosen in ((False, "So."), (True, "<think>\nHm.\n</think>\n\nSo.")):
        (messages,) = messages_of(rows, with_reasoning=keeps).to_pylist()
        (pair,) = pa.table(pairs_of(rows, with_reasoning=keeps)).to_pylist()
        assert pair["chosen"] == messages[1:] == [{"role": "assistant", "content": chosen}]
        assert pair["rejected"] == [{"role": "assistant", "content": "No."}]
        assert pair["prompt"] == messages[:1] == [{"role": "user", "content": "Why?"}]


@pytest.mark.parametrize("thinking", ["strip", "keep"])
def test_the_model_that_writes_the_candidates_says_whether_their_reasoning_is_kept(
    tmp_path: Path, thinking: str
) -> None:
    generator = MODELS["generator"] | {"thinking": thinking}
    recipe = pairs(models=MODELS | {"generator": generator}, prefer={"responses": 2}, filter=None)
    run = build(recipe, tmp_path / "run")
    step = run.step("candidates")
    name = run.shard_name(step, 0)
    shard, stamp = run.read(step, 0), inspect_shard(run.storage, name).stamp
    thoughts = pa.array([["Hm.", "Hm."]] * shard.num_rows)
    at = shard.column_names.index("candidate_reasoning")
    write_shard(run.storage, name, shard.set_column(at, "candidate_reasoning", thoughts), stamp, replace=True)
    build(recipe, tmp_path / "run")
    first = next(kept_rows(run)).to_pylist()
    assert first
    for row in first:
        for messages in (row["messages"][1:], row["chosen"], row["rejected"]):
            assert messages[0]["content"].startswith("<think>\nHm.\n</think>\n\n") == (thinking == "keep")


def test_a_filter_reads_the_chosen_reward(tmp_path: Path) -> None:
    few = load_filter("dpo-100k").model_copy(update={"rules": (), "quotas": None})
    rules = tuple(rule for rule in load_filter("dpo-100k").rules if "reward" in rule.name)
    recipe = pairs(filter=few.model_copy(update={"rules": rules}).model_dump(mode="json"))
    plan = make_plan(recipe)
    assert [name.partition(" (")[0] for name in plan.skipped_rules] == ["reward at least -5"]
    run = build(recipe, tmp_path / "run")
    kept = [row["chosen_reward"] for row in run.dataset()]
    assert kept and min(kept) >= -5
    lost = [
        row for row in run.table(["chosen_reward"]).to_pylist() if str(row["rejected"]).startswith("filter")
    ]
    assert all(row["chosen_reward"] < -5 for row in lost)


def test_a_rule_cannot_take_why_a_row_is_out_for_the_answer_a_pair_rejects(finished: Run) -> None:
    rule = {"name": "some", "where": "length(rejected) > 20"}
    with pytest.raises(FilterError, match=r"null in all that come to the filter.*`rejected_response`"):
        make_plan(pairs(filter=[rule]))
    rule["where"] = "length(rejected_response) > 20"
    kept = refilter(RunRows(finished), Filter.model_validate({"rules": [rule]}), None).kept
    assert kept > 10


@pytest.mark.parametrize("action", ["mark", "reject", "redact"])
def test_what_may_belong_to_a_person_is_looked_for_in_the_candidates(action: str) -> None:
    rows = base_rows(0, 3, out=[2]).append_column(
        "candidates", [[["Ask a@b.org.", None, "No."], ["So.", "Yes.", None], ["c@d.org", None, None]]]
    )
    thoughts = [[["A name?", None, None], [None, "c@d.org?", None], [None, None, None]]]
    rows = rows.append_column("candidate_reasoning", thoughts)
    answers = (CandidatesStep.adds.field("candidates"), CandidatesStep.adds.field("candidate_reasoning"))
    step = PiiStep(Pii(action=action), "response", answers)
    first, second, third = _looked(step, rows)
    assert first["response_pii"] == second["response_pii"] == ["email"] and third["response_pii"] is None
    if action == "reject":
        assert first["rejected"] == "response_pii: email" and third["rejected"] is None
    if action == "redact":
        assert first["candidates"] == ["Ask [EMAIL].", None, "No."]
        assert second["candidate_reasoning"] == [None, "[EMAIL]?", None]
        assert third["candidates"] == ["c@d.org", None, None]


@pytest.mark.parametrize("respond", [None, {}])
def test_a_build_that_redacts_is_whole(respond: dict[str, Any] | None, tmp_path: Path) -> None:
    run = build(pairs(respond=respond, pii={"action": "redact"}), tmp_path / "run")
    assert verify(run) == [] and run.dataset().num_rows > 10


def test_redacting_puts_no_column_into_the_dataset_that_marking_would_not() -> None:
    whole = {"respond": {}, "extend": {"turns": 2}, "reward": {"baseline": {"model": "generator"}}}
    marked, redacted = (
        columns_of(tuple(run_step.step for run_step in make_plan(pairs(**whole, pii={"action": one})).steps))
        for one in ("mark", "redact")
    )
    assert {field.name: is_inner(field) for field in redacted} == {
        field.name: is_inner(field) for field in marked
    }


def test_pairs_are_exported_as_trainers_of_preferences_take_them(finished: Run, tmp_path: Path) -> None:
    names = pq.read_schema(dataset_paths(finished)[0]).names
    out = {
        format: tmp_path / f"{format}.parquet" for format in ("preference", "messages", "sharegpt", "alpaca")
    }
    for format, path in out.items():
        assert export(finished, format=format, out=path).rows == finished.dataset().num_rows
    exported = {format: pq.read_schema(path).names for format, path in out.items()}
    assert exported["preference"] == [name for name in names if name != "messages"]
    assert exported["messages"] == [name for name in names if name not in {"prompt", "chosen", "rejected"}]
    for format in ("messages", "sharegpt", "alpaca"):
        assert not {"prompt", "chosen", "rejected"} & set(exported[format])
        assert "chosen_reward" in exported[format]
    outputs = pq.read_table(out["alpaca"])["output"].to_pylist()
    assert outputs == [row["chosen"][0]["content"] for row in finished.dataset()]


def test_a_reward_is_written_alike_among_the_candidates_and_beside_the_pair(
    finished: Run, tmp_path: Path
) -> None:
    export(finished, format="preference", out=tmp_path / "pairs.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any(None in row["candidate_rewards"] for row in rows)
    for row in rows:
        assert {row["chosen_reward"], row["rejected_reward"]} <= set(row["candidate_rewards"])


def test_a_run_without_pairs_has_none_to_export(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    with pytest.raises(RunError, match=r"no pairs.*`prefer`; use another --format"):
        export(run, format="preference", out=tmp_path / "rows.jsonl")
    assert not list(tmp_path.glob("*rows*"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"prefer": {"model": "nobody"}}, "`prefer.model` is 'nobody'"),
        ({"prefer": {"reward": "nobody"}}, "`prefer.reward` is 'nobody'.*reward model"),
        ({"prefer": {"responses": 1}}, "responses"),
        ({"prefer": {"temperature": 0}}, "temperature"),
        ({"prefer": {"margin": -1}}, "margin"),
        ({"reward": {}}, "`reward` needs `respond`"),
        ({"extend": {}}, "`extend` needs `respond`"),
        ({"guard": {}}, r"of: \[instruction\]"),
    ],
)
def test_a_recipe_that_cannot_make_pairs_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        pairs(**changes)


def test_five_answers_at_eight_tenths_are_the_default() -> None:
    assert (Prefer().responses, Prefer().temperature, Prefer().margin) == (5, 0.8, 0.0)
    with pytest.raises(RecipeError):
        Prefer(margin=float("inf"))


def test_a_server_is_not_asked_to_choose() -> None:
    served = {"model": "x", "engine": "server", "server": {"url": "http://127.0.0.1:1/v1"}}
    with pytest.raises(RecipeError, match=r"`models\.reward` is to score and engine server only writes"):
        make_plan(small_recipe(models=MODELS | {"reward": served}, prefer={}))


def test_a_system_prompt_is_tried_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = pairs(prefer={"system_prompt": "Be brief."})
    bind(make_plan(recipe), BuildTools())

    plainly = ChatFormat.prompt

    def refuse(chat: ChatFormat, turns: Any, *, system: str | None = None) -> Any:
        if system is not None:
            raise ChatFormatError(f"no place for {system!r}")
        return plainly(chat, turns)

    monkeypatch.setattr(ChatFormat, "prompt", refuse)
    with pytest.raises(ChatFormatError, match=r"`prefer\.system_prompt`: no place for 'Be brief\.'"):
        build(recipe, tmp_path / "run")
    assert not list(tmp_path.rglob("*.parquet"))


def _looked(step: PiiStep, rows: Any) -> list[dict[str, Any]]:
    result = asyncio.run(step.run(rows, None))
    assert result.column_names == ["id", *step.adds.names]
    return list(result.to_pylist())

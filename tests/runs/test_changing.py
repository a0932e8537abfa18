"""A run that is changed in its place: what stands is taken over row by row, and what is replaced is kept until then."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from builds import Opener, scripted, small_recipe
from rich.console import Console
from standing import Asked, contents, same_as

from magpie.api import status
from magpie.build import build
from magpie.errors import EngineError, RecipeChangedError
from magpie.execution.local import LocalExecutor
from magpie.plan import dry_run
from magpie.plan.dry_run import DryRun
from magpie.recipe import Recipe
from magpie.runs.earlier import REPLACED
from magpie.runs.run import LOG, Run
from magpie.runs.verify import verify
from magpie.storage.sealed import inspect_shard, read_shard, write_shard

RULE = [{"name": "long", "where": "length(instruction) > 130"}]
LOOSER = [{"name": "long", "where": "length(instruction) > 90"}]


def recipe(**changes: Any) -> Recipe:
    usual = {"filter": {"name": "f", "rules": RULE}, "respond": {"max_tokens": ANSWER}}
    return small_recipe(rows=64, **{**usual, **changes})


ANSWER = 300  # tokens of a response, by which a request for one is told from others
JUDGE = {"tag": {"max_tokens": 200}}


def foreseen(dry: DryRun) -> dict[str, tuple[int, int, int, int]]:
    return {step.step: (step.taken, step.may_be_taken, step.made, step.may_be_made) for step in dry.foreseen}


def files(folder: Path) -> dict[Path, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock")
    return {path: path.read_bytes() for path in paths}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return build(recipe(), tmp_path / "run")


def test_another_judge_prompt_makes_no_response_that_stood(run: Run, tmp_path: Path) -> None:
    before = run.table(["response", "later_turns"])
    dry = foreseen(dry_run(recipe(**JUDGE), run.folder))
    asked = Asked()
    changed = build(recipe(**JUDGE), run.folder, yes=True, executor=asked.executor)
    assert {key[2] for key in asked} == {200}  # of a judge, and nobody else
    assert changed.table(["response", "later_turns"]).equals(before)
    same_as(changed, build(recipe(**JUDGE), tmp_path / "alone"))
    answered = before["response"].null_count
    assert dry["respond"] == (64 - answered, 0, 0, 0)
    assert dry["tag"][0] == 0 and dry["tag"][2] == sum(
        step.rows_in for step in status(changed).steps if step.name == "tag"
    )


def test_a_looser_filter_makes_only_what_it_adds(run: Run, tmp_path: Path) -> None:
    answered = set(_answered(run))
    looser = recipe(filter={"name": "f", "rules": LOOSER})
    dry = foreseen(dry_run(looser, run.folder))
    asked = Asked()
    changed = build(looser, run.folder, yes=True, executor=asked.executor)
    now = set(_answered(changed))
    added = len(now - answered)
    assert answered <= now and added
    prompts = [key for key in asked if key[2] == ANSWER]
    assert sum(asked[key] for key in prompts) >= added and max(asked.values()) == 1
    assert dry["respond"] == (len(answered), 0, added, 0)
    assert dry["instruct"] == dry["clean"] == (64, 0, 0, 0)
    same_as(changed, build(looser, tmp_path / "alone"))


def _answered(run: Run) -> list[str]:
    table = run.table(["response"])
    return [row["id"] for row in table.to_pylist() if row["response"] is not None]


def test_what_is_foreseen_is_what_is_made(run: Run) -> None:
    for changes in (
        {"filter": {"name": "f", "rules": LOOSER}},
        {"respond": {"max_tokens": ANSWER, "temperature": 0.5}, "extend": None},
        {"extend": None},
    ):
        dry = dry_run(recipe(**changes), run.folder)
        step = next(each for each in dry.foreseen if each.step == "respond")
        asked = Asked()
        changed = build(recipe(**changes), run.folder, yes=True, executor=asked.executor)
        assert step.made == sum(asked[key] for key in asked if key[2] == ANSWER)
        assert verify(changed) == []
        build(recipe(), run.folder, yes=True)


def test_a_rule_about_the_labels_leaves_the_fate_of_rows_open(run: Run) -> None:
    good = {"name": "f", "rules": [{"name": "good", "where": "input_quality = 'good'"}]}
    build(recipe(filter=good), run.folder, yes=True)
    dry = foreseen(dry_run(recipe(filter=good, **JUDGE), run.folder))
    taken, may_be_taken, made, may_be_made = dry["respond"]
    assert (taken, made) == (0, 0) and may_be_taken and may_be_made
    asked = Asked()
    build(recipe(filter=good, **JUDGE), run.folder, yes=True, executor=asked.executor)
    assert sum(1 for key in asked if key[2] == ANSWER) <= may_be_made


def test_a_change_is_refused_unasked_and_made_with_yes_or_a_good_answer(run: Run) -> None:
    before = files(run.folder)
    with pytest.raises(RecipeChangedError, match=r"`tag\.max_tokens` was \d+, now 200; --yes makes again"):
        build(recipe(**JUDGE), run.folder)
    questions = list[str]()
    said = StringIO()

    def no(question: str) -> bool:
        questions.append(question)
        return False

    with pytest.raises(RecipeChangedError, match="is left as it was"):
        build(recipe(**JUDGE), run.folder, ask=no, console=Console(file=said, width=120))
    assert len(questions) == 1
    assert "rows taken over" in said.getvalue() and "tag" in said.getvalue()
    assert files(run.folder) == before
    changed = build(recipe(**JUDGE), run.folder, ask=lambda _: True)
    assert changed.recipe.tag is not None and changed.recipe.tag.max_tokens == 200
    assert verify(changed) == []


@pytest.mark.parametrize("change", [{"seed": 7}, {"name": "other"}, {"instruct": {"max_tokens": 9}}])
def test_what_ids_and_places_follow_from_does_not_change_in_place(run: Run, change: dict[str, Any]) -> None:
    with pytest.raises(RecipeChangedError, match="another folder"):
        build(recipe(**change), run.folder, yes=True)


def test_what_is_replaced_is_kept_until_the_new_one_stands_and_may_stay(run: Run, tmp_path: Path) -> None:
    was, rows = contents(run), run.dataset().to_list()
    with pytest.raises(EngineError):
        dying = LocalExecutor(engines=Opener(dies_at=50))
        build(recipe(**JUDGE), run.folder, yes=True, executor=dying)
    old = Run.open(run.folder / REPLACED / "0001")
    assert contents(old) == was and verify(old) == [] and old.dataset().to_list() == rows
    # Another wish half way: what both left is looked into.
    asked = Asked()
    third = {"tag": {"max_tokens": 201}}
    changed = build(recipe(**third), run.folder, yes=True, executor=asked.executor)
    assert {key[2] for key in asked} == {201}
    same_as(changed, build(recipe(**third), tmp_path / "alone"))
    kept = build(recipe(), run.folder, yes=True, keep_old=True)
    assert contents(kept) == was
    build(recipe(), run.folder)
    assert contents(Run.open(run.folder / REPLACED / "0001")) == contents(changed)


def test_going_back_half_way_costs_nothing(run: Run) -> None:
    was = contents(run)
    with pytest.raises(EngineError):
        dying = LocalExecutor(engines=Opener(dies_at=50))
        build(recipe(**JUDGE), run.folder, yes=True, executor=dying)
    asked = Asked()
    back = build(recipe(), run.folder, yes=True, executor=asked.executor)
    assert not asked and contents(back) == was


def test_steps_that_come_and_go_leave_no_stray_files(run: Run, tmp_path: Path) -> None:
    for changes in ({"extend": None}, {"tag": None, "extend": None}, {}):
        changed = build(recipe(**changes), run.folder, yes=True)
        assert verify(changed) == []
    assert '"event": "taken over"' in (run.folder / LOG).read_text()


def test_an_engine_is_not_even_loaded_where_every_row_stands(run: Run) -> None:
    opener = Opener(dies_at=10**9)
    top = {"name": "f", "rules": RULE, "top": {"n": 5, "by": "response_length"}}
    changed = build(recipe(filter=top), run.folder, yes=True, executor=LocalExecutor(engines=opener))
    assert opener.opened == [] and len(changed.dataset()) == 5


def test_another_folder_takes_over_row_by_row_too(run: Run, tmp_path: Path) -> None:
    asked = Asked()
    second = build(recipe(**JUDGE), tmp_path / "second", reuse=run.folder, executor=asked.executor)
    assert {key[2] for key in asked} == {200}
    alone = build(recipe(**JUDGE), tmp_path / "alone")
    assert contents(second) == contents(alone) and verify(second) == []


def test_a_shard_made_from_other_rows_does_not_stand(run: Run, tmp_path: Path) -> None:
    """Of an earlier run in which rows before a step have changed, nobody knows what the step was given."""
    step = run.step("clean")
    name = run.shard_name(step, 1)
    table = read_shard(run.storage, name)
    at = table.column_names.index("instruction")
    other = table.set_column(at, "instruction", table["instruction"].take(list(range(15, -1, -1))))
    write_shard(run.storage, name, other, inspect_shard(run.storage, name).stamp, replace=True)
    asked = Asked()
    second = build(recipe(**JUDGE), tmp_path / "second", reuse=run.folder, executor=asked.executor)
    assert {key[2] for key in asked} > {200}  # the rows of that shard are answered anew
    assert verify(second) == []


@pytest.mark.parametrize("back", [False, True])
def test_room_for_a_second_try_makes_again_only_what_was_cut(tmp_path: Path, back: bool) -> None:
    cutting = {"models": scripted(cut_rate=0.3)}
    once = recipe(**cutting, filter=None, extend=None)
    twice = recipe(
        **cutting, filter=None, extend=None, respond={"max_tokens": ANSWER, "retry_cut": 2 * ANSWER}
    )
    first, second = (twice, once) if back else (once, twice)
    run = build(first, tmp_path / "run")
    cut = run.table(["response_finish_reason"])["response_finish_reason"].to_pylist().count("length")
    tried_twice = (
        0 if not back else sum(filter(None, run.table(["response_retries"])["response_retries"].to_pylist()))
    )
    again = tried_twice if back else cut
    assert again
    dry = foreseen(dry_run(second, run.folder))
    asked = Asked()
    changed = build(second, run.folder, yes=True, executor=asked.executor)
    assert sum(asked[key] for key in asked if key[2] == ANSWER) == again == dry["respond"][2]
    same_as(changed, build(second, tmp_path / "alone"))

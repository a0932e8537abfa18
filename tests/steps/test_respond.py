"""Responses: only rows that are in are answered, reasoning is kept apart, and trouble is recorded."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from builds import small_recipe
from recording import SCRIPTED, Recorder, Thinker, base_rows, run

from magpie.api import export
from magpie.build import build
from magpie.engines.base import CONTROLS, Completion, ModelInfo, Sampling
from magpie.errors import RecipeError
from magpie.recipe import Recipe, Respond
from magpie.recipe.steer import Steer, SteerText
from magpie.steps.respond import RespondStep


def test_only_rows_that_are_in_are_answered() -> None:
    recorder = Recorder()
    rows = base_rows(0, 4, out=[1, 3], instruction=["a?", "b?", "c?", "d?"])
    table = run(RespondStep(Respond(), 42, SCRIPTED), rows, recorder)
    assert len(recorder.asked) == 2
    assert [text is None for text in table["response"].to_pylist()] == [False, True, False, True]
    assert recorder.asked[1][0].endswith("<|im_start|>user\nc?<|im_end|>\n<|im_start|>assistant\n")


def test_a_failed_response_is_a_rejected_row_and_no_error() -> None:
    table = run(
        RespondStep(Respond(), 42, SCRIPTED),
        base_rows(0, 3, instruction=["a?"] * 3),
        Recorder(failure_rate=1),
    )
    assert table["rejected"].to_pylist() == ["respond: engine error"] * 3


def test_reasoning_has_a_column_of_its_own() -> None:
    engine = Thinker()
    rows = base_rows(0, 3, instruction=["a?", "b?", "c?"])
    table = run(RespondStep(Respond(), 42, SCRIPTED), rows, engine)
    assert table["reasoning"].to_pylist() == ["Let me see."] * 3
    assert not any("think" in text for text in table["response"].to_pylist())
    assert table["response_length"].to_pylist() == [len(text) for text in table["response"].to_pylist()]
    assert table["rejected"].null_count == 3


def test_reasoning_that_never_ends_has_no_answer() -> None:
    table = run(
        RespondStep(Respond(), 42, SCRIPTED), base_rows(0, 2, instruction=["a?"] * 2), Thinker(closes=False)
    )
    assert table["rejected"].to_pylist() == ["respond: no answer after the reasoning"] * 2
    assert table["reasoning"].to_pylist() == ["Let me see"] * 2


def test_an_answer_that_repeats_itself_is_out() -> None:
    engine = Thinker(finish_reason="repetition")
    table = run(RespondStep(Respond(), 42, SCRIPTED), base_rows(0, 2, instruction=["a?"] * 2), engine)
    assert table["rejected"].to_pylist() == ["respond: repeats itself"] * 2
    assert all(sampling.stop_repetition for _, sampling in engine.asked)


def test_repetition_is_stopped_where_the_engine_can_and_the_recipe_does_not_say_no() -> None:
    rows = base_rows(0, 1, instruction=["a?"])
    for asked, controls, expected in (
        (None, CONTROLS, True),
        (None, frozenset(), False),
        (False, CONTROLS, False),
        (True, frozenset(), True),  # the engine refuses it, and says how to go on
    ):
        recorder = Recorder()
        recorder.model = replace(recorder.model, controls=frozenset(controls))
        run(RespondStep(Respond(stop_repetition=asked), 42, SCRIPTED), rows, recorder)
        assert recorder.asked[0][1].stop_repetition is expected


class _Says:
    """An engine that writes the same for every prompt."""

    def __init__(self, text: str) -> None:
        self.model = ModelInfo("says", "0", "says", 4096, 8, CONTROLS)
        self._text = text

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        return Completion(self._text, 4, "stop")

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("written", "kept", "reason"),
    [
        ("A wren.<|im_end|>\n", "A wren.", None),
        ("A wren.<|im_end|> <|im_end|>", "A wren.", None),
        ("A wren.<|im_end|>\n<|im_start|>user\nAnd a heron?", None, "respond: role header inside"),
        ("<|im_end|>", None, "respond: empty"),
    ],
)
def test_the_token_that_ends_a_turn_is_trimmed_at_the_end_and_out_inside(
    written: str, kept: str | None, reason: str | None
) -> None:
    table = run(RespondStep(Respond(), 42, SCRIPTED), base_rows(0, 1, instruction=["a?"]), _Says(written))
    assert table["rejected"].to_pylist() == [reason]
    assert kept is None or table["response"].to_pylist() == [kept]


CUT = {"max_tokens": 20, "retry_cut": 200}


class _Cutting(Recorder):
    """Ends what it writes where there is room for 100 tokens, and is cut else; fails at `fails` tries with room."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        await super().complete(prompt, sampling)
        if sampling.max_tokens < 100:
            return Completion("It goes", 20, "length")
        return Completion("", 0, "error", "lost") if self.fails else Completion("It goes on.", 35, "stop")


def test_a_response_that_is_cut_is_asked_for_once_more_with_more_room() -> None:
    engine, rows = _Cutting(), base_rows(0, 3, out=[1], instruction=["a?", "b?", "c?"])
    table = run(RespondStep(Respond(**CUT), 42, SCRIPTED), rows, engine)
    assert table["response"].to_pylist() == ["It goes on.", None, "It goes on."]
    assert table["response_tokens"].to_pylist() == [35, None, 35]
    assert table["response_cut_tokens"].to_pylist() == [20, None, 20]
    assert table["response_retries"].to_pylist() == [1, None, 1]
    first, _, again, _ = (sampling for _, sampling in engine.asked)
    assert again == replace(first, max_tokens=200)  # the same answer, with its seed
    step = RespondStep(Respond(**CUT), 42, SCRIPTED)
    columns = {name: table[name].take([0, 2]) for name in step.outcome_columns}
    assert step.outcomes(columns) == ["answered, asked twice"] * 2


@pytest.mark.parametrize("retry_cut", [None, 200])
def test_cut_responses_are_counted_and_many_of_them_are_said(retry_cut: int | None) -> None:
    step = RespondStep(Respond(max_tokens=20, retry_cut=retry_cut), 42, SCRIPTED)
    columns = {
        "response_finish_reason": pa.chunked_array([["stop", "length", "error", None, "repetition"]]),
        "response_retries": pa.chunked_array([[0, 1, 0, None, 0]], pa.int32()),
    }
    cut = "cut" if retry_cut is None else "cut, asked twice"
    assert step.outcomes(columns) == ["answered", cut, "not answered", "not answered", "not answered"]
    assert step.warning({"answered": 96, cut: 4, "not answered": 5}) is None
    said = step.warning({"answered": 95, cut: 5, "not answered": 5})
    assert said is not None and said.startswith("5% of the responses were cut at their limit: raise `respond")
    assert ("ask once more" in said) == (retry_cut is None)
    assert step.warning({"not answered": 5}) is None


def test_without_room_or_with_a_failure_the_first_one_stays() -> None:
    rows = base_rows(0, 1, instruction=["a?"])
    engine = _Cutting(fails=True)
    (row,) = run(RespondStep(Respond(**CUT), 42, SCRIPTED), rows, engine).to_pylist()
    assert (row["response"], row["response_finish_reason"], row["response_retries"]) == (
        "It goes",
        "length",
        1,
    )
    plain = run(RespondStep(Respond(max_tokens=20), 42, SCRIPTED), rows, _Cutting())
    assert plain["response"].to_pylist() == ["It goes"] and "response_retries" not in plain.column_names


STEER = Steer(
    prompts=(SteerText(id="user", text="You write to {persona} about {topic}."),),
    variables={
        "persona": (SteerText(id="child", text="a child"), SteerText(id="cook", text="a cook")),
        "topic": (SteerText(id="tea", text="tea"),),
    },
)


def steered_recipe(system_prompt: str, **respond: Any) -> Recipe:
    part = {"system_prompt": system_prompt, **respond}
    return small_recipe(rows=32, respond=part, steer=STEER.model_dump(mode="json"), filter=None)


def test_the_system_prompt_of_a_row_has_the_values_it_was_steered_by() -> None:
    recipe = steered_recipe("You talk to {persona}. Keep the {{braces}}.")
    (step,) = RespondStep.plan(recipe, pa.schema([]))
    rows = base_rows(
        0,
        2,
        instruction=["a?", "b?"],
        steer_id=[f"user;persona={who};topic=tea" for who in ("child", "cook")],
    )
    recorder = Recorder()
    run(step, rows, recorder)
    asked = [prompt for prompt, _ in recorder.asked]
    assert "You talk to a child. Keep the {braces}." in asked[0] and "You talk to a cook." in asked[1]
    assert step.settings["variables"] == {"persona": {"child": "a child", "cook": "a cook"}}


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("To {persna}.", r"`\{persna\}`, which is no variable of `steer`; write `\{persona\}`"),
        ("To {who}.", r"add it to `steer.variables`"),
    ],
)
def test_a_variable_that_there_is_not_is_refused(prompt: str, why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        steered_recipe(prompt)
    with pytest.raises(RecipeError, match="no variable of `steer`"):
        small_recipe(respond={"system_prompt": "To {persona}."})
    other = {"id": "other", "text": "You write about {topic}."}
    steer = STEER.model_dump(mode="json")
    with pytest.raises(RecipeError, match="rows steered by the prompt 'other' do not have"):
        small_recipe(
            respond={"system_prompt": "To {persona}."}, steer={**steer, "prompts": [*steer["prompts"], other]}
        )


def test_a_system_prompt_that_is_kept_is_a_turn_of_the_dataset(tmp_path: Path) -> None:
    kept = build(steered_recipe("You talk to {persona}.", keep_system_prompt=True), tmp_path / "kept")
    plain = build(steered_recipe("You talk to {persona}."), tmp_path / "plain")
    rows = kept.dataset().to_list()
    assert rows
    for row in rows:
        system = row["messages"][0]
        assert system == {"role": "system", "content": row["response_system_prompt"]}
        who = "a child" if "persona=child" in row["steer_id"] else "a cook"
        assert system["content"] == f"You talk to {who}."
        assert [turn["role"] for turn in row["messages"][1:3]] == ["user", "assistant"]
    assert {row["messages"][0]["role"] for row in plain.dataset().to_list()} == {"user"}
    export(kept, "alpaca", tmp_path / "rows.jsonl")
    first = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
    assert first["system"].startswith("You talk to")


def test_a_recipe_without_the_new_settings_has_the_fingerprint_it_had() -> None:
    settings = RespondStep(Respond(), 42, SCRIPTED).settings
    assert not {"retry_cut", "keep_system_prompt", "variables"} & set(settings)
    with pytest.raises(RecipeError, match="must be more than `max_tokens`"):
        Respond(max_tokens=30, retry_cut=30)
    with pytest.raises(RecipeError, match="which is not there; write one"):
        Respond(keep_system_prompt=True)

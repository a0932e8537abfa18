"""Responses: only rows that are in are answered, reasoning is kept apart, and trouble is recorded."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from recording import SCRIPTED, Recorder, Thinker, base_rows, run

from magpie.engines.base import CONTROLS, Completion, ModelInfo, Sampling
from magpie.recipe import Respond
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

"""The steps that write: positions decide the sampling, conversations grow by themselves, and trouble is recorded."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from recording import CHAT, SCRIPTED, Recorder, Speaking, base_rows, run

from magpie.chat import ChatFormat
from magpie.engines.base import CONTROLS, Completion, FinishReason, Sampling
from magpie.engines.scripted import ScriptedTokenizer
from magpie.errors import ChatFormatError
from magpie.recipe import Draw, Extend, Instruct, Respond
from magpie.steps.extend import ExtendStep
from magpie.steps.instruct import InstructStep, mix_entries
from magpie.steps.respond import RespondStep


@pytest.mark.parametrize("shares", [[1.0], [1, 1], [3, 1], [300] * 9 + [100] * 3, [0.01, 0.99]])
@pytest.mark.parametrize("start", [0, 5000])
def test_a_mix_holds_its_shares_over_every_stretch(shares: list[float], start: int) -> None:
    entries = Counter(mix_entries(shares, np.arange(start, start + 1000)))
    for entry, share in enumerate(shares):
        assert entries[entry] == pytest.approx(1000 * share / sum(shares), abs=4)


def test_instructions_are_drawn_from_the_pre_query_template_alone() -> None:
    recorder = Recorder()
    part = Instruct(mix=(Draw(temperature=1.0), Draw(temperature=0.5, top_p=0.9)))
    table = run(InstructStep(part, 42, SCRIPTED), base_rows(100, 30), recorder)
    assert {prompt for prompt, _ in recorder.asked} == {CHAT.pre_query}
    assert len({sampling.seed for _, sampling in recorder.asked}) == 30
    assert {sampling.stop for _, sampling in recorder.asked} == {("\n",)}
    assert table["instruct_seed"].to_pylist() == [sampling.seed for _, sampling in recorder.asked]
    assert set(table["temperature"].to_pylist()) == {1.0, 0.5}


def test_a_row_is_the_same_in_whichever_shard_it_lies() -> None:
    step = InstructStep(Instruct(), 42, SCRIPTED)
    whole = run(step, base_rows(0, 40), Recorder())
    tail = run(step, base_rows(25, 15), Recorder())
    assert whole.slice(25).to_pylist() == tail.to_pylist()


def test_a_system_prompt_for_the_user_is_in_the_prompt() -> None:
    recorder = Recorder()
    run(InstructStep(Instruct(system_prompt="You help with sums."), 1, SCRIPTED), base_rows(0, 1), recorder)
    assert recorder.asked[0][0].startswith("<|im_start|>system\nYou help with sums.<|im_end|>")


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


def extended(turns: int, **script: float) -> tuple[list[dict[str, object]], Recorder]:
    recorder = Recorder(**script)
    rows = base_rows(
        0,
        20,
        instruction=["a?"] * 20,
        response=["b."] * 20,
        response_finish_reason=["stop"] * 19 + ["length"],
    )
    return run(ExtendStep(Extend(turns=turns), 42, SCRIPTED), rows, recorder).to_pylist(), recorder


def test_conversations_grow_to_the_turns_asked_for() -> None:
    rows, recorder = extended(4)
    for row in rows[:19]:
        assert row["turns"] == 4
        assert row["extend_ended"] == "turns"
        assert [turn["role"] for turn in row["later_turns"]] == ["user", "assistant"] * 3  # type: ignore[attr-defined]
    users = [prompt for prompt, _ in recorder.asked if prompt.endswith("user\n")]
    assert all("many turns" in prompt for prompt in users)
    assert not any("many turns" in prompt for prompt, _ in recorder.asked if prompt.endswith("assistant\n"))
    assert len({sampling.seed for _, sampling in recorder.asked}) == len(recorder.asked)


class NoSystemRole(ScriptedTokenizer):
    """A family that takes no system prompt."""

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        if messages[0]["role"] == "system":
            raise ChatFormatError("no system role here; leave it out")
        return super().render(messages, add_generation_prompt=add_generation_prompt)


def test_a_family_without_a_system_role_is_extended_without_one() -> None:
    chat, recorder = ChatFormat.derive(NoSystemRole()), Recorder()
    rows = base_rows(0, 2, instruction=["a?"] * 2, response=["b."] * 2, response_finish_reason=["stop"] * 2)
    grown = run(ExtendStep(Extend(), 42, SCRIPTED), rows, recorder, tools=Speaking(chat))
    assert grown["turns"].to_pylist() == [2, 2]
    assert not any("many turns" in prompt for prompt, _ in recorder.asked)


def test_a_conversation_whose_answer_was_cut_is_not_continued() -> None:
    rows, _ = extended(2)
    assert rows[19]["turns"] == 1
    assert rows[19]["later_turns"] == []
    assert rows[19]["extend_ended"] == "response 1: cut by length"


def test_a_conversation_that_fails_keeps_the_turns_it_has() -> None:
    rows, _ = extended(3, failure_rate=0.5)
    ends = Counter(str(row["extend_ended"]) for row in rows)
    assert {"instruction 2: engine error", "response 2: engine error"} <= set(ends)
    for row in rows:
        assert len(row["later_turns"]) == 2 * (row["turns"] - 1)  # type: ignore[arg-type, operator]


class Thinker(Recorder):
    """Writes as the scripted engine does, and reasons before each answer; it never ends when told to go on and on."""

    def __init__(self, *, closes: bool = True, finish_reason: FinishReason = "stop") -> None:
        super().__init__()
        self.closes, self.finish_reason = closes, finish_reason

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        done = await super().complete(prompt, sampling)
        if not self.asked[-1][0].endswith("assistant\n"):
            return done
        text = f"<think>\nLet me see.\n</think>\n\n{done.text}" if self.closes else "<think>\nLet me see"
        return replace(done, text=text, finish_reason=self.finish_reason)


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


def test_later_answers_reason_too_and_are_not_shown_it_again() -> None:
    engine = Thinker()
    rows = base_rows(0, 4, instruction=["a?"] * 4, response=["b."] * 4, response_finish_reason=["stop"] * 4)
    for row in run(ExtendStep(Extend(turns=3), 42, SCRIPTED), rows, engine).to_pylist():
        assert row["later_reasoning"] == ["Let me see."] * 2
        assert not any("think" in turn["content"] for turn in row["later_turns"])
    assert not any("Let me see" in prompt for prompt, _ in engine.asked)

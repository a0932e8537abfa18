"""Further turns: conversations grow by themselves, and keep what they have when something goes wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence

from recording import SCRIPTED, Recorder, Speaking, Thinker, base_rows, run

from magpie.chat import ChatFormat
from magpie.engines.scripted import ScriptedTokenizer
from magpie.errors import ChatFormatError
from magpie.recipe import Extend
from magpie.steps.extend import ExtendStep


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


def test_later_answers_reason_too_and_are_not_shown_it_again() -> None:
    engine = Thinker()
    rows = base_rows(0, 4, instruction=["a?"] * 4, response=["b."] * 4, response_finish_reason=["stop"] * 4)
    for row in run(ExtendStep(Extend(turns=3), 42, SCRIPTED), rows, engine).to_pylist():
        assert row["later_reasoning"] == ["Let me see."] * 2
        assert not any("think" in turn["content"] for turn in row["later_turns"])
    assert not any("Let me see" in prompt for prompt, _ in engine.asked)

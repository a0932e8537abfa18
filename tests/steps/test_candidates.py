"""Several answers to one instruction: seeds of their own, and nothing among them that is no answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from recording import SCRIPTED, Recorder, base_rows, run

from magpie.engines.base import CONTROLS, Completion, FinishReason, Sampling
from magpie.recipe import Prefer
from magpie.steps.base import seeds
from magpie.steps.candidates import CandidatesStep, candidate_seeds

ASKED = ["a?", "b?", "c?", "d?"]


class Ending(Recorder):
    """Answers in turn with these texts, each ended in its own way."""

    def __init__(self, *endings: tuple[str, FinishReason]) -> None:
        super().__init__()
        self.endings = endings

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        done = await super().complete(prompt, sampling)
        text, reason = self.endings[(len(self.asked) - 1) % len(self.endings)]
        return replace(done, text=text, token_count=len(self.asked), finish_reason=reason)


def test_every_answer_has_a_seed_that_follows_from_its_place() -> None:
    recorder, step = Recorder(), CandidatesStep(Prefer(responses=3), 42, SCRIPTED)
    table = run(step, base_rows(10, 4, instruction=ASKED), recorder)
    asked = [sampling.seed for _, sampling in recorder.asked]
    assert len(set(asked)) == 12
    assert table["candidate_seeds"].to_pylist() == [asked[first : first + 3] for first in range(0, 12, 3)]
    by_hand = [[int(seeds(42, f"prefer/{k}", np.array([at]))[0]) for k in range(3)] for at in range(10, 14)]
    assert table["candidate_seeds"].to_pylist() == by_hand
    assert all(len(set(texts)) == 3 for texts in table["candidates"].to_pylist())
    assert run(step, base_rows(12, 2, instruction=ASKED[2:]), Recorder()).equals(table.slice(2))


def test_one_answer_more_leaves_the_others_as_they_are() -> None:
    at = np.arange(50)
    assert (candidate_seeds(1, 4, at) == candidate_seeds(1, 5, at)[:, :4]).all()
    assert not (candidate_seeds(1, 4, at) == candidate_seeds(2, 4, at)).any()


def test_the_answers_to_a_row_are_asked_for_together_and_as_the_recipe_says() -> None:
    recorder = Recorder()
    part = Prefer(responses=2, temperature=0.6, top_p=0.9, max_tokens=33, system_prompt="Be brief.")
    table = run(CandidatesStep(part, 42, SCRIPTED), base_rows(0, 4, out=[1], instruction=ASKED), recorder)
    assert table["candidates"].is_null().to_pylist() == [False, True, False, False]
    ends = [
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        for text in ("a?", "c?", "d?")
        for _ in range(2)
    ]
    assert [prompt.endswith(end) for (prompt, _), end in zip(recorder.asked, ends, strict=True)] == [True] * 6
    assert all(prompt.startswith("<|im_start|>system\nBe brief.") for prompt, _ in recorder.asked)
    drawn = {(one.temperature, one.top_p, one.max_tokens, one.stop_repetition) for _, one in recorder.asked}
    assert drawn == {(0.6, 0.9, 33, True)}


@pytest.mark.parametrize(("asked", "controls"), [(False, CONTROLS), (None, frozenset())])
def test_repetition_is_left_alone_where_it_should_or_must_be(asked: bool | None, controls: frozenset) -> None:
    recorder = Recorder()
    recorder.model = replace(recorder.model, controls=controls)
    step = CandidatesStep(Prefer(stop_repetition=asked), 42, SCRIPTED)
    run(step, base_rows(0, 1, instruction=["a?"]), recorder)
    assert not any(sampling.stop_repetition for _, sampling in recorder.asked)


def test_what_is_no_answer_is_null_and_says_why() -> None:
    engine = Ending(
        ("Whole. ", "stop"), ("Cut of", "length"), ("", "error"), ("la la", "repetition"), (" ", "stop")
    )
    (row,) = run(
        CandidatesStep(Prefer(), 42, SCRIPTED), base_rows(0, 1, instruction=["a?"]), engine
    ).to_pylist()
    assert row["candidates"] == ["Whole.", "Cut of", None, None, None]
    assert row["candidate_finish_reasons"] == ["stop", "length", "error", "repetition", "stop"]
    assert row["candidate_tokens"] == [1, 2, 3, 4, 5]
    assert row["candidate_reasoning"] == [None] * 5


def test_reasoning_is_kept_apart_from_the_answer() -> None:
    engine = Ending(
        ("<think>\nHm.\n</think>\n\nYes.", "stop"), ("<think>\nHm, and", "length"), ("No.", "stop")
    )
    part = Prefer(responses=3)
    (row,) = run(CandidatesStep(part, 42, SCRIPTED), base_rows(0, 1, instruction=["a?"]), engine).to_pylist()
    assert row["candidates"] == ["Yes.", None, "No."]
    assert row["candidate_reasoning"] == ["Hm.", "Hm, and", None]

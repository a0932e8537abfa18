"""An answer cut by length: it is asked for again in a form that must fit, and both are paid for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recording import SCRIPTED, run

from magpie.engines.base import Completion, ModelInfo, Sampling
from magpie.recipe import Tag, TagName
from magpie.steps.tag import QUESTIONS, TagStep

CUT = Completion('{"quality_explanation": "It is', 64, "length")
WHOLE = Completion('{"quality_explanation": "Vague.", "input_quality": "poor"}', 9, "stop")
LOST = Completion("", 0, "error", "the engine lost it")


@dataclass
class InTurn:
    """An engine that gives these completions in turn, and remembers how it was asked."""

    completions: list[Completion]
    asked: list[tuple[list[int], Sampling]] = field(default_factory=list)

    @property
    def model(self) -> ModelInfo:
        return ModelInfo("in turn", "1", "test", 4096, 8)

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        self.asked.append((list(prompt), sampling))
        return self.completions[len(self.asked) - 1]

    async def close(self) -> None: ...


def judged(engine: InTurn, **settings: Any) -> dict[str, Any]:
    """The row of one instruction, judged for its quality."""
    rows = pa.table(
        {
            "id": ["row-0"],
            "index": pa.array([0], pa.int64()),
            "rejected": pa.array([None], pa.string()),
            "instruction": ["How do I plan a trip?"],
        }
    )
    part = Tag(tags=("quality",), max_tokens=64, **settings)
    (row,) = run(TagStep(part, 1, "judge", SCRIPTED), rows, engine).to_pylist()
    return dict(row)


def test_a_cut_answer_is_asked_for_again_with_shorter_texts() -> None:
    engine = InTurn([CUT, WHOLE])
    row = judged(engine)
    assert (row["input_quality"], row["quality_explanation"]) == ("poor", "Vague.")
    assert (row["tag_error"], row["tag_tokens"], row["tag_retries"]) == (None, 73, 1)
    (prompt, first), (again, second) = engine.asked
    assert prompt == again and first.seed != second.seed and first.max_tokens == second.max_tokens == 64
    lengths = [
        json.loads(one.schema or "")["properties"]["quality_explanation"]["maxLength"]
        for one in (first, second)
    ]
    assert lengths[0] == 400 and lengths[1] < 64 // 6


@pytest.mark.parametrize(
    ("second", "why", "tokens"),
    [(CUT, "cut by length twice", 128), (LOST, "the engine lost it", 64)],
)
def test_an_answer_that_is_not_there_the_second_time_either_says_so(
    second: Completion, why: str, tokens: int
) -> None:
    row = judged(InTurn([CUT, second]))
    assert row["tag_error"] == f"quality: {why}" and row["input_quality"] is None
    assert (row["tag_tokens"], row["tag_retries"]) == (tokens, 1)


@pytest.mark.parametrize(
    "only", [WHOLE, LOST, Completion("No.", 2, "stop"), Completion(WHOLE.text, 64, "length")]
)
def test_nothing_else_is_asked_for_again(only: Completion) -> None:
    row = judged(InTurn([only]))
    assert row["tag_retries"] == 0 and row["tag_tokens"] == only.token_count
    assert (row["tag_error"] is None) == ("{" in only.text)


def test_each_vote_has_its_own_second_try() -> None:
    engine = InTurn([CUT, WHOLE, WHOLE, CUT, LOST])
    row = judged(engine, times=3, temperature=0.7)
    assert row["tag_retries"] == 2 and row["tag_tokens"] == 64 + 9 + 9 + 64
    assert len({sampling.seed for _, sampling in engine.asked}) == 5
    assert sorted(row["input_quality_votes"], key=str) == [None, "poor", "poor"]


@given(
    name=st.sampled_from(sorted(QUESTIONS)),
    max_tokens=st.integers(16, 700),
    max_text_length=st.integers(16, 500),
)
def test_the_second_form_fits_whatever_a_character_takes(
    name: TagName, max_tokens: int, max_text_length: int
) -> None:
    """Its longest answer, a token for each byte and every character escaped, and a token to stop with."""
    question = QUESTIONS[name]
    schema = json.loads(question.fitting_schema(max_tokens=max_tokens, max_text_length=max_text_length))
    wanted = json.loads(question.schema(max_text_length=max_text_length))
    assert list(schema["properties"]) == list(wanted["properties"]) == schema["required"]
    label = max(question.labels, key=len)
    answer: dict[str, Any] = {}
    for key, value in schema["properties"].items():
        if "maxLength" in value:
            assert value["maxLength"] <= max_text_length
            answer[key] = "\u00e9" * value["maxLength"]
        else:
            answer[key] = [label] * value["maxItems"] if value["type"] == "array" else label
    most = len(json.dumps(answer, ensure_ascii=True)) + 1
    bare = all(
        not value.get("maxLength", 0) and not value.get("maxItems", 0)
        for value in schema["properties"].values()
    )
    assert most <= max_tokens or bare
    if max_tokens >= 160:
        assert most <= max_tokens and all(
            value.get("maxLength", 1) for value in schema["properties"].values()
        )

"""What every step that asks a model once about each row does alike: which rows, which seeds, and where answers go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from recording import SCRIPTED, Recorder, base_rows, run

from magpie.engines.base import Completion, Engine, Sampling
from magpie.engines.scripted import ScriptedTokenizer
from magpie.recipe import Baseline, Bootstrap, Identify, Instances, Refine, Review
from magpie.recipe.base import Part
from magpie.recipe.instruct import Draw
from magpie.steps.base import REJECTED, AskingWork, ModelUse, Row, RowStep, Tools, drawn_by, live, seeds


@dataclass(frozen=True)
class EchoStep(RowStep):
    """Has each task, whose answer is rewritten where it is longer than the row's own, asked about once."""

    seed: int = 7

    name = "echo"
    reads = ("task", "answer")
    rewrites = ("answer",)
    settings = {}  # noqa: RUF012
    adds = pa.schema(
        [
            pa.field("answer", pa.string()),
            pa.field("echo_seed", pa.int64()),
            pa.field("echo_tokens", pa.int32()),
            REJECTED,
        ]
    )

    @property
    def uses(self) -> ModelUse:
        return ModelUse("generator", SCRIPTED, "write", "plain")

    def bind(self, tools: Tools) -> EchoWork:
        return EchoWork(self)


@dataclass(frozen=True)
class EchoWork(AskingWork):
    step: EchoStep

    def prompt_for(self, row: Row, engine: Engine) -> list[int]:
        return ScriptedTokenizer().encode(f"{row['task']}|{row['answer']}")

    def sampling_for(self, row: Row, seed: int, engine: Engine) -> Sampling:
        return Sampling(max_tokens=64, seed=seed)

    def columns_from(self, row: Row, seed: int, completion: Completion) -> dict[str, Any]:
        failed = completion.finish_reason == "error"
        return {
            "echo_seed": seed,
            "echo_tokens": completion.token_count,
            **({REJECTED.name: "no answer"} if failed else {"answer": completion.text}),
        }


class OddWork(EchoWork):
    """Asks about rows at odd places alone."""

    def asked(self, rows: pa.Table) -> list[int]:
        return [place for place in live(rows) if place % 2]


class OddStep(EchoStep):
    def bind(self, tools: Tools) -> OddWork:
        return OddWork(self)


def given(count: int, *, out: tuple[int, ...] = ()) -> pa.Table:
    texts = {name: [f"{name} {at}" for at in range(count)] for name in ("task", "answer")}
    return base_rows(100, count, out=out, **texts)


def test_each_row_that_is_in_is_asked_about_once_with_a_seed_of_its_own() -> None:
    recorder = Recorder()
    rows = run(EchoStep(), given(4, out=(1,)), recorder).to_pylist()
    assert [text for text, _ in recorder.asked] == [f"task {at}|answer {at}" for at in (0, 2, 3)]
    drawn = seeds(7, "echo", np.array([100, 102, 103])).tolist()
    assert [sampling.seed for _, sampling in recorder.asked] == drawn
    assert [row["echo_seed"] for row in rows] == [drawn[0], None, *drawn[1:]]
    assert rows[1]["answer"] == "answer 1" and rows[1]["echo_tokens"] is None
    assert all(row["answer"] not in {f"answer {at}" for at in range(4)} for row in rows if row["echo_seed"])


def test_a_reason_has_the_step_s_name_and_the_row_keeps_what_it_had() -> None:
    rows = run(EchoStep(), given(2), Recorder(failure_rate=1.0)).to_pylist()
    assert [row["rejected"] for row in rows] == ["echo: no answer"] * 2
    assert [row["answer"] for row in rows] == ["answer 0", "answer 1"]


def test_a_step_may_ask_about_some_rows_alone() -> None:
    recorder = Recorder()
    rows = run(OddStep(), given(5, out=(3,)), recorder).to_pylist()
    assert [row["echo_seed"] is not None for row in rows] == [False, True, False, False, False]
    assert len(recorder.asked) == 1


@pytest.mark.parametrize("count", [0, 3])
def test_a_shard_without_a_row_that_is_in_asks_nothing(count: int) -> None:
    recorder = Recorder()
    assert run(EchoStep(), given(count, out=tuple(range(count))), recorder).num_rows == count
    assert recorder.asked == []


def test_a_text_is_drawn_by_the_settings_that_its_part_of_the_recipe_has() -> None:
    cases: list[tuple[Part, dict[str, Any]]] = [
        (Draw(temperature=0.3, top_k=5, min_p=0.1), {"temperature": 0.3, "top_k": 5, "min_p": 0.1}),
        (Identify(temperature=0.2), {"temperature": 0.2}),
        (Review(), {"temperature": 0.0, "max_tokens": 512}),
        (Baseline(max_tokens=9), {"temperature": 0.0, "max_tokens": 9}),
        (Refine(top_p=0.5), {"temperature": 0.7, "top_p": 0.5, "max_tokens": 1024, "stop_repetition": True}),
        (Refine(stop_repetition=False), {"temperature": 0.7, "max_tokens": 1024}),
        (Instances(top_p=0.9), {"temperature": 0.0, "top_p": 0.9, "presence_penalty": 1.5, "max_tokens": 350}
         | {"stop_repetition": True}),
        (Bootstrap(), {"temperature": 0.7, "top_p": 0.5, "presence_penalty": 2.0, "max_tokens": 1024}
         | {"stop_repetition": True}),
    ]  # fmt: skip
    for part, settings in cases:
        own = {} if "max_tokens" in settings else {"max_tokens": 3}
        drawn = drawn_by(part, 8, Recorder(), **own, stop=("\n",))
        assert drawn == Sampling(seed=8, stop=("\n",), **(settings | own)), part


def test_what_a_step_says_of_a_text_stands_before_the_settings() -> None:
    drawn = drawn_by(Review(), 8, Recorder(), max_tokens=3, stop_repetition=True)
    assert drawn == Sampling(max_tokens=3, seed=8, temperature=0.0, stop_repetition=True)

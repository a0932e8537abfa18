"""The filters that ship, on 30 rows written by hand: each keeps exactly the rows that a person would.

Row 0 passes every rule, most of them narrowly; every other row differs from it in what it says, so that each rule has
rows just inside and just outside.
"""

from __future__ import annotations

from hashlib import md5
from typing import Any

import pyarrow as pa
import pytest
from recording import run

from magpie import shipped
from magpie.recipe.loading import load_filter
from magpie.steps.filter import FilterStep, applicable, check, funnel
from magpie.text import COLONS

FILTERS = {
    "A": "air-300k", "P": "pro-300k", "a": "air-mt-300k", "p": "pro-mt-300k", "z": "qwen2-zh-200k",
    "r": "reasoning-v2", "d": "dpo-100k", "b": "balanced", "s": "strict",
}  # fmt: skip

ROW: dict[str, Any] = {
    "input_quality": "good",
    "difficulty": "medium",
    "task_category": "Math",
    "language": "zh",
    "instruction": "Tell me: why?",
    "raw_instruction": "Tell me: why?\n\n## Step 1: Ask",
    "response": "## Step 1: Because",
    "response_finish_reason": "stop",
    "instruct_reward": 0.0,
    "chosen_reward": 0.0,
    "reward_difference": 0.001,
    "min_similar_uuid": None,
    "repeat_count": 0,
    "llama_guard": "safe",
    "turns": 2,
}

# What differs from ROW, and the filters that keep the row, told by a person from the published rules.
ROWS: list[tuple[dict[str, Any], str]] = [
    ({}, "APapzrdbs"),
    ({"input_quality": "excellent", "difficulty": "very hard"}, "APapzrdbs"),
    ({"input_quality": "average"}, "Pzb"),
    ({"input_quality": "poor"}, ""),
    ({"input_quality": "very poor"}, ""),
    ({"input_quality": None}, ""),
    ({"difficulty": "hard", "chosen_reward": -5.0}, "APapzrdbs"),
    ({"difficulty": "easy"}, "Papzrb"),
    ({"difficulty": "very easy"}, "Pzrb"),
    ({"difficulty": None}, "Pzr"),
    ({"reward_difference": 0.0}, "Ppzrdb"),
    ({"reward_difference": None}, "Ppzrdb"),
    ({"instruct_reward": -5.0}, "APapzrdbs"),
    ({"instruct_reward": -5.01}, "APapzrb"),
    ({"instruct_reward": -9.99}, "APapzrb"),
    ({"instruct_reward": -10.0}, "APapzb"),
    ({"instruct_reward": -10.01}, "Aab"),
    ({"instruct_reward": None}, "Aab"),
    ({"instruction": "Tell me:"}, "Aazd"),
    ({"instruction": "Tell me： \n"}, "Aazd"),
    ({"min_similar_uuid": "uuid-0", "repeat_count": 1}, "zrdb"),
    ({"min_similar_uuid": "uuid-21", "repeat_count": 1}, "APapzrdb"),
    ({"language": "en", "chosen_reward": -5.01}, "APaprbs"),
    ({"language": "ZH"}, "APapzrdbs"),
    ({"turns": 1}, "APzrdbs"),
    ({"raw_instruction": "Tell me: why?\n\n## Step 2: Ask"}, "APapzdbs"),
    ({"response": "# Step 1: Because"}, "APapzdbs"),
    ({"task_category": None}, "APapzrs"),
    ({"llama_guard": "unsafe"}, "APapzrdb"),
    ({"response_finish_reason": "length"}, "APapzrdb"),
]
SCORES = (
    "instruct_reward", "chosen_reward", "reward_difference", "llama_guard", "min_similar_uuid", "repeat_count",
)  # fmt: skip


def table(*, without: tuple[str, ...] = ()) -> pa.Table:
    """The rows as a step is given them; the later a row, the longer its response."""
    rows = [ROW | changes for changes, _ in ROWS]
    columns: dict[str, Any] = {
        "id": [f"row-{at}" for at in range(len(rows))],
        "uuid": [f"uuid-{at}" for at in range(len(rows))],
        "index": pa.array(range(len(rows)), pa.int64()),
        "rejected": pa.nulls(len(rows), pa.string()),
        "response_length": pa.array(range(len(rows)), pa.int32()),
    }
    columns |= {name: [row[name] for row in rows] for name in ROW}
    return pa.table(columns).drop_columns([name for name in without if name in columns])


def kept(name: str, rows: pa.Table, **changes: Any) -> list[int]:
    filter, _ = applicable(load_filter(name), rows.schema)
    filter = filter.model_copy(update=changes)
    check(filter, rows.schema)
    decided = run(FilterStep(filter, filter.rules), rows)
    lines = funnel(filter, decided, rows.schema.names)
    left = [at for at, reason in enumerate(decided["rejected"].to_pylist()) if reason is None]
    assert [line.rows_in for line in lines] == [len(ROWS), *(line.left for line in lines[:-1])]
    assert all(line.rows_in == line.lost + line.left for line in lines) and lines[-1].left == len(left)
    return left


def told(letter: str) -> list[int]:
    return [at for at, (_, letters) in enumerate(ROWS) if letter in letters]


def test_there_are_thirty_rows_and_every_published_filter_is_among_them() -> None:
    assert len(ROWS) == 30
    assert {*FILTERS.values(), "demo", "random-300k"} == set(shipped.names("filters"))


@pytest.mark.parametrize("letter", FILTERS)
def test_a_filter_keeps_the_rows_that_a_person_would(letter: str) -> None:
    rows = table()
    assert applicable(load_filter(FILTERS[letter]), rows.schema)[1] == ()
    assert kept(FILTERS[letter], rows) == told(letter)


@pytest.mark.parametrize("letter", "Pprbs")
def test_a_colon_is_one_in_any_script_and_before_any_space(letter: str) -> None:
    colons = [
        f"Tell me{colon}{after}" for colon in COLONS for after in ("", " ", "\u3000", "\n", "**", "\u200b ")
    ]
    others = ["Tell me: why?", "", "Ասա ինձ:", "Ասա ինձ։", "Tell me;", "Tell me: 1", "10:30"]
    texts = [*colons, *others]
    rows = table().slice(0, 1)
    rows = pa.concat_tables([rows] * len(texts)).set_column(
        rows.column_names.index("instruction"), "instruction", pa.array(texts)
    )
    filter, _ = applicable(load_filter(FILTERS[letter]), rows.schema)
    (rule,) = [rule for rule in filter.rules if rule.name == "does not end in a colon"]
    alone = filter.model_copy(update={"rules": (rule,), "top": None, "quotas": None})
    decided = run(FilterStep(alone, alone.rules), rows)
    left = [text for text, why in zip(texts, decided["rejected"].to_pylist(), strict=True) if why is None]
    assert left == others


@pytest.mark.parametrize(
    ("letter", "more"),
    [
        ("A", [10, 11, 20]),
        ("P", [16, 17, 20]),
        ("a", [10, 11, 20]),
        ("p", [16, 17, 20]),
        ("z", [16, 17]),
        ("r", [15, 16, 17]),
        ("d", [13, 14, 15, 16, 17, 22]),
        ("b", []),
        ("s", [10, 11, 13, 14, 15, 16, 17, 20, 21, 28]),
    ],
)
def test_rows_without_scores_are_filtered_by_the_other_rules(letter: str, more: list[int]) -> None:
    assert kept(FILTERS[letter], table(without=SCORES)) == sorted([*told(letter), *more])


def test_the_top_is_the_longest_responses() -> None:
    for name, n, longest in (("air-300k", 4, [26, 27, 28, 29]), ("pro-mt-300k", 3, [27, 28, 29])):
        top = load_filter(name).top
        assert top is not None and top.by == "response_length" and top.n == 300_000
        assert kept(name, table(), top=top.model_copy(update={"n": n})) == longest
    assert load_filter("qwen2-zh-200k").top == top.model_copy(update={"n": 200_000})


def test_quotas_follow_the_order_of_the_rows() -> None:
    quotas = load_filter("dpo-100k").quotas
    assert quotas is not None and sum(quotas.counts.values()) == 100_000
    few = quotas.model_copy(update={"counts": {"Math": 3}})
    assert kept("dpo-100k", table(), quotas=few) == [0, 1, 6]
    balanced = load_filter("balanced").quotas
    assert balanced is not None
    one = balanced.model_copy(update={"each": 1})
    assert kept("balanced", table(), quotas=one) == [0, 1, 6, 7, 8]


def test_the_control_draws_the_same_rows_everywhere_whatever_they_are_like() -> None:
    control = load_filter("random-300k")
    assert control.top is not None and control.top.n == 300_000
    assert kept("random-300k", table()) == list(range(len(ROWS)))
    drawn = kept("random-300k", table(), top=control.top.model_copy(update={"n": 10}))
    largest = sorted(range(len(ROWS)), key=lambda at: md5(f"row-{at} 42".encode()).hexdigest())[-10:]
    assert drawn == sorted(largest)

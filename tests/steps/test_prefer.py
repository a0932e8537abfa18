"""Which candidates become a pair, told by a person from a table, and what is out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from recording import SCRIPTED, TRANSCRIPT, base_rows, run

from magpie.engines.base import ModelInfo, Score
from magpie.engines.scripted import ScriptedScorer
from magpie.recipe import Prefer, Script
from magpie.steps.base import RowStep
from magpie.steps.prefer import PreferStep

LISTS = pa.list_(pa.string())


class Table:
    """Scores what it was told, by text; None and texts it does not know are errors. Counts what it is asked."""

    model: ModelInfo = ScriptedScorer().model

    def __init__(self, rewards: dict[str, float | None]) -> None:
        self.rewards = {tuple(TRANSCRIPT.ids(["q?", text])): one for text, one in rewards.items()}
        self.asked = 0

    async def score(self, conversation: Sequence[int]) -> Score:
        self.asked += 1
        value = self.rewards.get(tuple(conversation))
        return Score(value) if value is not None else Score(None, "cannot be scored")

    async def close(self) -> None: ...


def rows_of(*rows: Sequence[str | None], cut: Sequence[str] = (), out: Sequence[int] = ()) -> pa.Table:
    """A row for each list of candidates; what is null failed, what is in `cut` was cut by length."""
    table = base_rows(0, len(rows), out=out, instruction=["q?"] * len(rows))
    ends = [["error" if one is None else "length" if one in cut else "stop" for one in row] for row in rows]
    table = table.append_column("candidates", pa.array([list(row) for row in rows], LISTS))
    thoughts = [[one and f"about {one}" for one in row] for row in rows]
    table = table.append_column("candidate_reasoning", pa.array(thoughts, LISTS))
    return table.append_column("candidate_finish_reasons", pa.array(ends, LISTS))


def preferred(rows: pa.Table, scorer: Any, margin: float = 0.0) -> list[dict[str, Any]]:
    step = PreferStep(Prefer(margin=margin), SCRIPTED)
    assert isinstance(step, RowStep)
    return run(step, rows, scorer).to_pylist()


REWARDS = {
    "best": 4.0, "also best": 4.0, "good": 3.5, "middle": 1.0, "bad": -2.0, "also bad": -2.0, "close": 3.75,
    "cut high": 9.0, "cut low": -9.0, "lost": None,
}  # fmt: skip
CUT = ("cut high", "cut low")

# Candidates, the margin, and the pair or the reason that a person would give.
TOLD: list[tuple[list[str | None], float, tuple[str, str] | str]] = [
    (["middle", "best", "bad", "good"], 0.0, ("best", "bad")),
    (["bad", "best"], 0.0, ("best", "bad")),
    (["best", "bad"], 5.999, ("best", "bad")),
    (["best", "bad"], 6.0, "prefer: near tie"),
    (["best", "close", "good"], 0.5, "prefer: near tie"),
    (["best", "close", "good"], 0.25, ("best", "good")),
    (["best", "also best"], 0.0, "prefer: near tie"),
    (["also best", "best", "also bad", "bad"], 0.0, ("also best", "also bad")),
    (["best", "best", "best"], 0.0, "prefer: fewer than two answers"),
    (["best", "best", "bad"], 0.0, ("best", "bad")),
    ([None, "good", None, "middle"], 0.0, ("good", "middle")),
    ([None, None, "good"], 0.0, "prefer: fewer than two answers"),
    ([None, None, None], 0.0, "prefer: fewer than two answers"),
    (["cut high", "good", "middle"], 0.0, ("good", "middle")),
    (["cut low", "good", "middle"], 0.0, ("good", "cut low")),
    (["cut high", "good"], 0.0, "prefer: only cut answers are better"),
    (["cut high", "good", "close"], 0.25, "prefer: only cut answers are better"),
    (["cut low", "bad"], 7.0, "prefer: near tie"),
    (["cut high", "cut low"], 0.0, "prefer: no whole answer"),
    (["lost", "good", "bad"], 0.0, ("good", "bad")),
    (["lost", "good", "good"], 0.0, "prefer: not scored"),
    (["lost", "cut high", "cut low"], 0.0, "prefer: not scored"),
]


@pytest.mark.parametrize(("candidates", "margin", "told"), TOLD)
def test_a_pair_is_what_a_person_would_choose(
    candidates: list[str | None], margin: float, told: tuple[str, str] | str
) -> None:
    (row,) = preferred(rows_of(candidates, cut=CUT), Table(REWARDS), margin)
    if isinstance(told, str):
        assert row["rejected"] == told
        assert [
            row[f"{side}_{what}"] for side in ("chosen", "rejected") for what in ("response", "reward")
        ] == [None] * 4
        return
    assert row["rejected"] is None
    assert (row["chosen_response"], row["rejected_response"]) == told
    assert (row["chosen_reward"], row["rejected_reward"]) == tuple(REWARDS[text] for text in told)
    assert (row["chosen_reasoning"], row["rejected_reasoning"]) == tuple(f"about {text}" for text in told)
    assert row["rejected_finish_reason"] == ("length" if told[1] in CUT else "stop")
    assert row["candidate_rewards"] == [None if text is None else REWARDS[text] for text in candidates]


def test_why_a_candidate_has_no_reward_is_said_whether_or_not_the_row_is_out() -> None:
    first, second = preferred(rows_of(["lost", "good", "bad"], ["lost", "good"]), Table(REWARDS))
    assert first["rejected"] is None and second["rejected"] == "prefer: not scored"
    assert first["prefer_error"] == second["prefer_error"] == "cannot be scored"
    assert second["candidate_rewards"] == [None, 3.5]
    (gone,) = preferred(rows_of(["x", "y"]), ScriptedScorer(Script(failure_rate=1.0)))
    assert (gone["rejected"], gone["prefer_error"]) == ("prefer: not scored", "scripted failure")


def test_a_text_is_scored_once_and_what_cannot_be_a_pair_never() -> None:
    scorer = Table(REWARDS)
    rows = rows_of(["best", "best", None, "bad"], ["best", "best"], ["good", "bad"], ["cut high", "cut low"],
                   cut=CUT, out=[2])  # fmt: skip
    table = preferred(rows, scorer)
    assert scorer.asked == 2
    assert table[0]["candidate_rewards"] == [4.0, 4.0, None, -2.0]
    assert table[2]["rejected"] is None and table[2]["candidate_rewards"] is None


def test_rewards_that_are_stored_as_equal_are_a_tie() -> None:
    (row,) = preferred(rows_of(["x", "y"]), Table({"x": 1.0, "y": 1.0 + 1e-12}))
    assert row["rejected"] == "prefer: near tie"
    (row,) = preferred(rows_of(["x", "y", "z"]), Table({"x": 1.0, "y": float("nan"), "z": 0.5}))
    assert (row["chosen_response"], row["rejected_response"]) == ("x", "z")
    assert row["prefer_error"] == "the reward is nan"

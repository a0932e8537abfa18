from __future__ import annotations

import asyncio
import json

import pytest
from samples import rates, recipe_for, scripted

from magpie.doctor.measures import Sample, measure
from magpie.doctor.sampling import Sampler
from magpie.doctor.trials import Trial, best, differing, judge_trials, try_out, with_neighbors

WIDE, USELESS = "clean.max_length: 8192", "clean.min_length: 2"
REFUSED = "instruct.max_token: 3"


def tried(*lines: str, **changes: object) -> tuple[Sample, tuple[Trial, ...]]:
    """A first sample of instructions of which most are too long, and what comes of the lines."""

    async def both() -> tuple[Sample, tuple[Trial, ...]]:
        recipe = recipe_for(scripted(repeat_rate=0), **{"clean.max_length": 120, **changes})
        async with Sampler(lambda *_: None) as sampler:
            written = await sampler.write(recipe, 48)
            before = measure(written)
            return before, await try_out(sampler, recipe, before, lines)

    return asyncio.run(both())


def test_a_line_is_kept_that_helped_and_no_other() -> None:
    before, trials = tried(WIDE, USELESS)
    assert before.rates["other"] > 0.4
    assert [(trial.changes, trial.helped) for trial in trials] == [
        ((WIDE,), True),
        ((USELESS,), False),
        ((WIDE, USELESS), True),
    ]
    verdict, kept = judge_trials(before, trials, ())
    assert kept == (WIDE,)
    assert verdict.startswith(f"usable with: {WIDE} (") and "100% with" in verdict
    assert verdict.endswith(f"tried without help: {USELESS}")
    json.dumps([trial.to_json() for trial in with_neighbors(trials, ())])


def test_a_line_that_no_recipe_takes_is_refused_and_said() -> None:
    before, trials = tried(REFUSED)
    assert trials[0].sample is None and "max_token" in str(trials[0].problem)
    verdict, kept = judge_trials(before, trials, ("another template",))
    assert kept == () and verdict.endswith(f"refused: {REFUSED}; not tried: another template")


def test_lines_that_helped_are_tried_together_without_the_rest() -> None:
    shorter = "clean.min_length: 4"
    bounds = {"clean.max_length": 190, "clean.min_length": 90}
    _, trials = tried(WIDE, shorter, "clean.cut_at: []", **bounds)
    assert [trial.helped for trial in trials] == [True, True, False, True, True]
    assert trials[-1].changes == (WIDE, shorter) == best(trials).changes  # type: ignore[union-attr]


def test_what_helps_only_together_is_kept_together() -> None:
    none = Trial(("a",), rates(cut=0.5))
    both = Trial(("a", "b"), rates(), helped=True)
    assert best([none, Trial(("b",), rates(cut=0.5)), both]) is both
    alone = Trial(("a",), rates(cut=0.1), helped=True)
    assert best([alone, Trial(("b",), rates(cut=0.5)), both]) is alone
    assert best([none]) is None


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (
            rates(cut=0.1),
            None,
            "ready: 90% of 64 instructions are whole; how good they are, only reading",
        ),
        (rates(cut=0.15), rates(), "ready: 85% of 64 instructions are whole, 100% with a: 1; how good"),
        (rates(cut=0.5), rates(), "usable with: a: 1 (50% of 64 whole before, 100% with)"),
        (rates(cut=0.5), None, "usable with: what was sampled (50% of 64 instructions are whole: 50% cut)"),
        (rates(cut=0.9), rates(cut=0.7), "not usable: only 10% of 64 instructions are whole, 30% with a: 1"),
        (rates(cut=0.9), None, "not usable: only 10% of 64 instructions are whole (90% cut); take another"),
    ],
)
def test_verdicts_after_a_trial(before: Sample, after: Sample | None, verdict: str) -> None:
    trial = Trial(("a: 1",), after or before, helped=after is not None)
    said, kept = judge_trials(before, [trial], ())
    assert said.startswith(verdict)
    assert kept == (("a: 1",) if after else ())


def test_advice_that_is_followed_already_is_none() -> None:
    recipe = recipe_for(scripted())
    assert differing(recipe, ["instruct.stop_at_newline: true", "instruct.max_tokens: 1024"]) == (
        "instruct.max_tokens: 1024",
    )

"""Sense and noise: texts of known kind read by the small model, and what follows from it for the verdict."""

from __future__ import annotations

import pyarrow as pa
import pytest
from samples import rates

from magpie.doctor.measures import Mean
from magpie.doctor.reference import Read
from magpie.doctor.sense import (
    ORDER,
    READY,
    SPEAKER,
    USABLE,
    Sense,
    ended_share,
    makes_sense,
    read_sense,
    texts_to_read,
)
from magpie.doctor.trials import ASK, Trial, judge_by_sense


def sense(share: float) -> Sense:
    return Sense(Mean.share(round(100 * share), 100), 3.0, 1.0)


def test_a_text_must_be_in_order_and_from_a_user() -> None:
    assert makes_sense(Read(-3.0, -3.01 - ORDER, -3.01 - SPEAKER))
    assert not makes_sense(Read(-3.0, -3.0 - ORDER + 0.01, -5.0))
    assert not makes_sense(Read(-3.0, -6.0, -3.0 - SPEAKER + 0.01))


READY_BY_FORM = ("ready: 100% of 100 instructions are whole", ())


def test_noise_is_not_ready_and_asking_is_the_fallback_where_it_helps() -> None:
    sample = rates()
    good = Trial(ASK, sample, sense=sense(0.6))
    verdict, lines = judge_by_sense(*READY_BY_FORM, sample, sense(0.1), good)
    assert verdict.startswith("usable with: instruct.mode: ask: only 10% of 100 texts read") and lines == ASK
    assert "another method" in verdict and "60% of those it writes when asked" in verdict
    for asked in (Trial(ASK, sample, sense=sense(0.2)), Trial(ASK, problem="refused"), Trial(ASK, sample)):
        verdict, lines = judge_by_sense(*READY_BY_FORM, sample, sense(0.1), asked)
        assert verdict.startswith("not usable: only 10%") and lines == ()


def test_a_sample_of_which_a_part_makes_no_sense_is_usable_and_not_ready() -> None:
    """As under another family's template that is near the model's own: Vicuna's with SmolLM2, 62 %."""
    between = sense(0.62)
    assert between.is_usable and not between.is_ready
    for asked in (Trial(ASK, rates(), sense=sense(0.7)), Trial(ASK, problem="refused")):
        verdict, lines = judge_by_sense(*READY_BY_FORM, rates(), between, asked)
        assert verdict.startswith("usable with: what was sampled: only 62% of 100 texts read"), verdict
        assert (
            "a ready model has 75%" in verdict and "the template it was tuned with" in verdict and lines == ()
        )
    by_form = ("usable with: instruct.max_tokens: 1024 (30% cut)", ("instruct.max_tokens: 1024",))
    verdict, lines = judge_by_sense(*by_form, rates(), between, Trial(ASK, problem="refused"))
    assert verdict.startswith("usable with: instruct.max_tokens: 1024: only 62%") and lines == by_form[1]
    asked = Trial(ASK, rates(), sense=sense(0.9))
    assert judge_by_sense(*READY_BY_FORM, rates(), between, asked)[1] == ASK


def test_sense_does_not_make_up_for_form() -> None:
    by_form = ("not usable: only 20% of 100 instructions are whole", ())
    bad = rates(cut=0.8)
    assert judge_by_sense(*by_form, bad, sense(0.62), Trial(ASK, problem="refused")) == by_form


def test_what_cannot_be_told_is_no_fault() -> None:
    rows = pa.table({"instruction": ["a"] * 20, "rejected": [None] * 20, "language": ["de"] * 20})
    found = read_sense(rows)
    assert found.is_ready and found.why_not is not None and "English" in found.why_not
    assert found.to_json() == {"sense": None, "no_sense": found.why_not}


def test_only_whole_texts_in_english_are_read() -> None:
    rows = pa.table(
        {
            "instruction": ["yes", None, "no", "unknown"],
            "rejected": [None, "clean: empty", None, None],
            "language": ["en", None, "fr", None],
        }
    )
    assert texts_to_read(rows) == ["yes", "unknown"]
    assert ended_share(["stop", "length", "stop", "repetition"]).value == 0.5


@pytest.mark.slow
def test_texts_of_known_kind_are_told_apart() -> None:
    """By the model that ships; `python -m benchmarks.sense` prints the whole table."""
    from benchmarks.sense import measured, still_sets
    from magpie.doctor.judge_check import shuffle_words
    from magpie.doctor.reference import Reference

    reference, sets = Reference(), still_sets(16)
    people = sets.pop("questions of people")
    assert measured(reference, people)["sense"] >= READY
    sets["shuffled"] = [shuffle_words(text, at) for at, text in enumerate(people)]
    for name, texts in sets.items():
        assert measured(reference, texts)["sense"] < USABLE, name

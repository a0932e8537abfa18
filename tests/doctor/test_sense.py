"""Sense and noise: texts of known kind read by the small model, and what follows from it for the verdict."""

from __future__ import annotations

import pyarrow as pa
import pytest
from samples import rates

from magpie.doctor.measures import Mean
from magpie.doctor.reference import Read
from magpie.doctor.sense import (
    ORDER,
    SENSIBLE,
    SPEAKER,
    Sense,
    ended_share,
    makes_sense,
    read_sense,
    texts_to_read,
)
from magpie.doctor.trials import ASK, Trial, judge_fallback


def sense(share: float) -> Sense:
    return Sense(Mean.share(round(100 * share), 100), 3.0, 1.0)


def test_a_text_must_be_in_order_and_from_a_user() -> None:
    assert makes_sense(Read(-3.0, -3.01 - ORDER, -3.01 - SPEAKER))
    assert not makes_sense(Read(-3.0, -3.0 - ORDER + 0.01, -5.0))
    assert not makes_sense(Read(-3.0, -6.0, -3.0 - SPEAKER + 0.01))


def test_noise_is_not_ready_and_asking_is_the_fallback_where_it_helps() -> None:
    sample = rates()
    good = Trial(ASK, sample, sense=sense(0.9))
    verdict, lines = judge_fallback(sample, sense(0.1), good)
    assert verdict.startswith("usable with: instruct.mode: ask: only 10% of 100 texts read") and lines == ASK
    assert "another method" in verdict and "90% of those it writes when asked" in verdict
    for asked in (Trial(ASK, sample, sense=sense(0.2)), Trial(ASK, problem="refused"), Trial(ASK, sample)):
        verdict, lines = judge_fallback(sample, sense(0.1), asked)
        assert verdict.startswith("not usable: only 10%") and lines == ()


def test_what_cannot_be_told_is_no_fault() -> None:
    rows = pa.table({"instruction": ["a"] * 20, "rejected": [None] * 20, "language": ["de"] * 20})
    found = read_sense(rows)
    assert found.is_sensible and found.why_not is not None and "English" in found.why_not
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
    assert measured(reference, people)["sense"] >= SENSIBLE
    sets["shuffled"] = [shuffle_words(text, at) for at, text in enumerate(people)]
    for name, texts in sets.items():
        assert measured(reference, texts)["sense"] < SENSIBLE, name

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from samples import cleaned, written

from magpie.doctor.measures import PROBLEMS, Mean, diversity, measure

LOOP = "and so on " * 40


def test_each_row_is_counted_under_one_problem() -> None:
    rows = cleaned(
        ("How do I plant a tree?", "stop"),
        ("how do i plant a tree?", "stop"),
        ("What?<|im_start|>assistant\nA tree.", "stop"),
        ("What?<|im_start|>assistant\nA tree " + LOOP, "length"),
        ("", "stop"),
        ("...", "stop"),
        (LOOP, "stop"),
        (LOOP, "length"),
        ("Tell me about the long history of the oak, the ash and", "length"),
        ("", "error"),
    )
    sample = measure(written(rows, seconds=2.0))
    assert sample.rates == {
        "valid": 0.1, "leaked": 0.2, "empty": 0.2, "looping": 0.2, "repeated": 0.1, "cut": 0.1, "language": 0,
        "other": 0.1,
    }  # fmt: skip
    assert sum(sample.rates.values()) == pytest.approx(1)
    assert sample.valid_rows == (True, *[False] * 9)
    assert sample.examples["other"] == ("(lost) (nothing)",)
    assert (sample.median_tokens, sample.tokens_per_second) == (10, 50.0)
    assert sample.expected == () and sample.expected_from == "not looked at"


def test_a_generation_that_the_engine_ended_for_repeating_itself_is_looping() -> None:
    sample = measure(written(cleaned((LOOP, "repetition"), ("Why does it rain?", "stop"))))
    assert sample.rates["looping"] == 0.5


TEXTS = (
    ("Why does it rain?", "stop"),
    ("Where are my keys?", "stop"),
    ("3 + 4 = ?", "stop"),
    ("Pourquoi?", "stop"),
)


def test_without_a_wish_the_most_common_language_is_expected() -> None:
    sample = measure(written(cleaned(*TEXTS, language=["en", "en", None, "fr"])))
    assert (sample.expected, sample.expected_from) == (("en",), "most common in the sample")
    assert sample.rates["language"] == 0.25 and sample.rates["valid"] == 0.75
    assert sample.examples["language"] == ("(fr) Pourquoi?",)
    assert dict(sample.languages) == pytest.approx({"en": 2 / 3, "fr": 1 / 3})


def test_with_languages_to_keep_a_row_is_wrong_where_a_build_rejects_it() -> None:
    rows = cleaned(*TEXTS, language=["en", "en", None, "fr"])
    rejected = rows.drop(["rejected"]).append_column("rejected", [[None, None, "language: unknown", None]])
    sample = measure(written(rejected, keep=("en", "fr")))
    assert (sample.expected, sample.expected_from) == (("en", "fr"), "language.keep")
    assert sample.rates["language"] == 0.25
    assert sample.examples["language"] == ("(unknown) 3 + 4 = ?",)


def test_a_row_that_was_steered_to_a_language_is_held_to_it() -> None:
    rows = cleaned(*TEXTS, language=["en", "en", None, "fr"], steer_language=["en", "fr", "fr", "fr"])
    sample = measure(written(rows))
    assert (sample.expected, sample.expected_from) == (("en", "fr"), "steer")
    assert sample.valid_rows == (True, False, True, True)


def test_distinct_words_by_hand() -> None:
    found = diversity(["How do I cook?", "how do I sing", "Why?"])
    assert found["distinct_first_words"] == pytest.approx(2 / 3)
    assert found["distinct_1"] == pytest.approx(6 / 9)  # how do i cook sing why
    assert found["distinct_2"] == pytest.approx(4 / 6)  # how-do do-i i-cook i-sing
    assert diversity([]) == {"distinct_first_words": 0, "distinct_1": 0, "distinct_2": 0}


def test_a_mean_and_its_error() -> None:
    mean = Mean.of([1, 2, 3, 4])
    assert mean.value == 2.5 and mean.rows == 4
    assert mean.error == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2)
    assert math.isnan(Mean.of([]).value) and Mean.of([3]).error == math.inf
    assert Mean.of([]).to_json() == {"mean": None, "standard_error": None, "rows": 0}


def test_a_share_of_all_is_no_certainty() -> None:
    assert Mean.share(64, 64).value == 1 and 0.005 < Mean.share(64, 64).error < 0.05
    assert Mean.share(32, 64).error == pytest.approx(math.sqrt(0.25 / 64), rel=0.02)
    assert math.isnan(Mean.share(0, 0).value)


def test_a_sample_is_json() -> None:
    found = json.loads(json.dumps(measure(written(cleaned(*TEXTS))).to_json()))
    assert found["sampled"] == 4 and set(found["rates"]) == {"valid", *PROBLEMS}
    assert "valid_rows" not in found

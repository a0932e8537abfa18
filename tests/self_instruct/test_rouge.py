"""The ROUGE-L filter decides as the original's loop over `rouge_score` does, and finds the same most similar texts."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import magpie
from magpie.errors import MagpieError, RecipeError
from magpie.self_instruct import overlap, rouge
from magpie.self_instruct.overlap import nearest_f1, tokens
from magpie.self_instruct.rouge import RougeFilter

rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")

VERBS = ("Write", "List", "Explain", "Compare", "Summarise", "Translate", "Find", "Describe")
THINGS = (
    "a poem",
    "three recipes",
    "the theory",
    "two phones",
    "this article",
    "the sentence",
    "an error",
    "a city",
)
DETAILS = (
    "for a child", "in one line", "with examples", "in French", "step by step", "without jargon", "by price", "briefly",
)  # fmt: skip


def original(texts: Sequence[str], threshold: float = 0.7) -> list[tuple[bool, list[float]]]:
    """The loop of the original: whether each text is kept, and its F1 with every text kept before."""
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    kept: list[str] = []
    decisions = []
    for text in texts:
        scores = [scorer.score(other, text)["rougeL"].fmeasure for other in kept]
        is_kept = not scores or max(scores) <= threshold
        decisions.append((is_kept, scores))
        if is_kept:
            kept.append(text)
    return decisions


def drawn(count: int, seed: int = 0) -> list[str]:
    """Texts of which many are near to another, some empty, some of other scripts."""
    draw = random.Random(seed)
    texts = ["", "日本語で答えてください。", "!!!", "Ünïcode and ASCII"]
    while len(texts) < count:
        words = f"{draw.choice(VERBS)} {draw.choice(THINGS)} {draw.choice(DETAILS)} {draw.choice(DETAILS)}".split()
        if draw.random() < 0.5:
            words += [f"x{draw.randrange(40)}" for _ in range(draw.randrange(1, 12))]
        texts.append(" ".join(words))
    draw.shuffle(texts)
    return texts


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return drawn(400)


def test_it_decides_as_the_original_does(texts: list[str]) -> None:
    expected = original(texts)
    assert 20 < sum(kept for kept, _ in expected) < len(texts) - 20
    quick = RougeFilter().screen(texts)
    assert [decision.accepted for decision in quick] == [kept for kept, _ in expected]
    for decision, (_, scores) in zip(quick, expected, strict=True):
        for number, score in decision.most_similar:
            assert score == scores[number] == max(scores) > 0.7


def test_the_most_similar_and_the_mean_are_those_of_the_original(texts: list[str]) -> None:
    expected = original(texts)
    for decision, (kept, scores) in zip(RougeFilter(averages=True).screen(texts), expected, strict=True):
        assert decision.accepted == kept
        best = sorted(range(len(scores)), key=lambda number: (-scores[number], number))[:10]
        assert [number for number, _ in decision.most_similar] == best
        assert [score for _, score in decision.most_similar] == [scores[number] for number in best]
        if scores:
            assert decision.average == pytest.approx(sum(scores) / len(scores), abs=1e-12)
        else:
            assert decision.average is None


def test_a_pool_that_grows_in_rounds_is_the_pool_at_once(texts: list[str]) -> None:
    for averages in (False, True):
        rounds = RougeFilter(averages=averages)
        parts = [rounds.screen(texts[start : start + 37]) for start in range(0, len(texts), 37)]
        found, at_once = [one for part in parts for one in part], RougeFilter(averages=averages).screen(texts)
        for one, other in zip(found, at_once, strict=True):
            assert (one.accepted, one.most_similar) == (other.accepted, other.most_similar)
            assert one.average == pytest.approx(other.average, abs=1e-12)


def test_a_pool_that_is_rewound_is_what_it_was(texts: list[str]) -> None:
    for averages in (False, True):
        pool = RougeFilter(averages=averages)
        pool.add(texts[:100])
        first = pool.screen(texts[100:])
        assert len(pool) > 100
        pool.rewind(100)
        assert (len(pool), pool.screen(texts[100:])) == (100, first)


def test_a_pool_that_is_ordered_anew_decides_the_same(
    texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every few texts, with a rewind behind it: the index is of the order that there is then."""
    expected = RougeFilter().screen(texts)
    monkeypatch.setattr(rouge, "_BLOCK", 16)
    monkeypatch.setattr(rouge, "_REORDERED", 1.1)
    assert RougeFilter().screen(texts) == expected
    pool = RougeFilter()
    found = []
    for start in range(0, len(texts), 50):
        part = texts[start : start + 50]
        count = len(pool)
        again = pool.screen(part)
        pool.rewind(count)
        assert pool.screen(part) == again
        found += again
    assert found == expected


def test_more_tokens_than_code_points_decide_the_same(
    texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for averages in (False, True):
        expected = RougeFilter(averages=averages).screen(texts)
        with monkeypatch.context() as patch:
            # As if there were 30: texts from some point on are lists of numbers.
            patch.setattr(overlap, "sys", SimpleNamespace(maxunicode=30))
            patch.setattr(rouge, "_BLOCK", 64)
            found = RougeFilter(averages=averages).screen(texts)
        assert [one.accepted for one in found] == [one.accepted for one in expected]
        assert [one.most_similar for one in found] == [one.most_similar for one in expected]


def test_the_nearest_of_others_is_that_of_the_original(texts: list[str]) -> None:
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    for text, found in zip(texts[:40], nearest_f1(texts[:40], texts[100:140]), strict=True):
        assert found == max(scorer.score(other, text)["rougeL"].fmeasure for other in texts[100:140])
    assert nearest_f1(texts[:3], []).tolist() == [0, 0, 0] and len(nearest_f1([], texts)) == 0


def test_what_is_added_counts_and_is_not_judged() -> None:
    pool = RougeFilter()
    pool.add(["Write a poem about the sea.", "Write a poem about the sea."])
    (decision,) = pool.screen(["write a poem, about the Sea"])
    assert (decision.accepted, decision.most_similar, len(pool)) == (False, ((0, 1.0),), 2)


def test_a_text_just_at_the_threshold_stays() -> None:
    # 7 of 10 and 10 tokens in common: F1 is 0.7, which is not above it.
    pool = RougeFilter()
    pool.add(["a b c d e f g h i j"])
    first, second = pool.screen(["a b c d e f g x y z", "a b c d e f g h y z"])
    assert (first.accepted, second.accepted) == (True, False)


@given(
    st.lists(st.text(st.sampled_from("ab c1ä"), max_size=14), max_size=30),
    st.sampled_from([0.1, 0.34, 0.5, 0.7, 0.95, 1.0]),
)
def test_any_texts_and_any_threshold(texts: list[str], threshold: float) -> None:
    expected = [kept for kept, _ in original(texts, threshold)]
    assert [one.accepted for one in RougeFilter(threshold).screen(texts)] == expected
    assert [one.accepted for one in RougeFilter(threshold, averages=True).screen(texts)] == expected


def test_tokens_are_those_of_rouge_score() -> None:
    from rouge_score.tokenize import tokenize

    for text in ("Don't STOP-now, 3.5%!", "naïve café", "", "Straße ＡＢＣ ١٢", "a_b İstanbul"):
        assert tokens(text) == tokenize(text, None)


def test_a_file_is_screened(tmp_path: Path) -> None:
    seeds, file, out = tmp_path / "seeds.jsonl", tmp_path / "file.jsonl", tmp_path / "out.jsonl"
    seeds.write_text('{"instruction": "Name three birds that sing at night."}\n')
    asked = ["Name three birds that sing at night!", "What is a wren?", "what is a WREN", "Draw up a budget."]
    file.write_text("".join(json.dumps({"instruction": text}) + "\n" for text in asked))
    result = magpie.rouge(file, against=[seeds], out=out, averages=True)
    assert [one.accepted for one in result.decisions] == [False, True, False, True]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0]["most_similar"] == [[f"{seeds}:1", 1.0]] and rows[2]["most_similar"][0] == [
        f"{file}:2",
        1.0,
    ]
    assert [row["accepted"] for row in rows] == [False, True, False, True]
    assert rows[3]["avg_similarity_score"] == pytest.approx((0 + 1 / 4) / 2)  # "a"
    with pytest.raises(MagpieError, match="--overwrite"):
        magpie.rouge(file, out=out)
    with pytest.raises(RecipeError, match="above 0 and at most 1"):
        magpie.rouge(file, threshold=0)
    with pytest.raises(RecipeError, match="there is no"):
        magpie.rouge(tmp_path / "nothing.jsonl")

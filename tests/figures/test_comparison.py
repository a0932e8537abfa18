"""Datasets compared: what is noise and what is none, what they share, and what is printed of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typed import typed

import magpie
from magpie.data import vectors
from magpie.errors import RunError
from magpie.figures.comparison import Across, Comparison, Figure, compare_sets
from magpie.figures.verbs import parser_here
from magpie.recipe import Model

HALVES = 20
# What the comparison does not look at is not made: a build then takes a fraction of the time.
CHANGES = {"filter": None, "extend": None, "language": None}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> magpie.Run:
    out = tmp_path_factory.mktemp("runs") / "demo"
    return magpie.build("demo", out, engine="scripted", rows=320, overrides=CHANGES)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> magpie.Run:
    out = tmp_path_factory.mktemp("runs") / "code"
    return magpie.build("code", out, engine="scripted", rows=160, overrides=CHANGES)


def rows_of(run: magpie.Run) -> pa.Table:
    return pq.read_table(run.folder / "dataset")


def written(rows: pa.Table, place: Path) -> Path:
    pq.write_table(rows, place)
    return place


def figure(comparison: Comparison, name: str) -> Figure:
    return next(each for each in comparison.figures if each.name == name)


def compared(*sources: Any, **options: Any) -> Comparison:
    # Parsing takes seconds: one test does it.
    options = {"embedder": "scripted", "verbs": False} | options
    result = magpie.compare(*sources, **options)
    assert isinstance(result, Comparison)
    return result


def test_a_random_half_of_a_set_is_no_other_set(demo: magpie.Run, tmp_path: Path) -> None:
    rows = rows_of(demo)
    clean = 0
    for seed in range(HALVES):
        at = np.sort(np.random.default_rng(seed).permutation(rows.num_rows)[: rows.num_rows // 2])
        half = written(rows.take(pa.array(at)), tmp_path / f"half-{seed}.parquet")
        result = compared(demo, half, sample=160, seed=seed)
        assert len(result.figures) > 30
        clean += not result.findings
        inside = next(each for each in result.across if each.of.startswith("half"))
        assert inside.same == inside.near == inside.covered == 1
    assert clean >= 18


def test_two_builds_that_differ_in_their_seed_do_not_differ(demo: magpie.Run, tmp_path: Path) -> None:
    other = magpie.build("demo", tmp_path / "other", engine="scripted", rows=200, seed=7, overrides=CHANGES)
    assert not compared(demo, other, sample=160).findings


def as_the_recipe_steers(rows: pa.Table, category: str, share: float) -> pa.Table:
    """The rows, with so many of them in a category: the scripted judge draws each at random, whatever it reads."""
    rng = np.random.default_rng(1)
    held = rows["task_category"].to_pylist()
    values = [category if rng.random() < share else value for value in held]
    at = rows.schema.get_field_index("task_category")
    return rows.set_column(at, "task_category", pa.array(values, pa.string()))


def test_code_and_demo_have_other_categories(demo: magpie.Run, code: magpie.Run, tmp_path: Path) -> None:
    coded = written(as_the_recipe_steers(rows_of(code), "Coding & Debugging", 0.7), tmp_path / "code.parquet")
    result = compared(demo, coded, sample=160)
    found = {each.name for each in result.findings}
    assert {"task_category: Coding & Debugging", "entropy of task_category"} <= found
    assert not any(name.startswith(("difficulty", "language")) for name in found)
    coding = figure(result, "task_category: Coding & Debugging")
    assert coding.is_share and coding.differences[0] is not None and coding.differences[0].low is not None
    assert 0.4 < coding.differences[0].low < coding.differences[0].value < 0.75
    kept = rows_of(demo)["task_category"].to_pylist()
    assert coding.sides[0] is not None and coding.sides[0].value == pytest.approx(
        kept.count("Coding & Debugging") / len([each for each in kept if each is not None])
    )


def talk(question: str, answer: str = "Yes, of course.") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def lines(rows: list[dict[str, Any]], place: Path) -> Path:
    place.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return place


def test_shares_across_are_counted_and_near_ones_need_not_be_the_same(tmp_path: Path) -> None:
    questions = [f"How do I paint number {number} of the old doors" for number in range(40)]
    a = lines([talk(text) for text in questions], tmp_path / "a.jsonl")
    b = lines(
        [talk(text.upper()) for text in questions[:10]] + [talk(f"why {n} birds") for n in range(30)],
        tmp_path / "b.jsonl",
    )
    result = compared(a, b, covers=2)
    assert result.across[0] == Across("a", "b", 40, 0.25, result.across[0].near, result.across[0].covered)
    assert result.across[0].near is not None and result.across[0].near >= 0.25  # capitals are no other text
    assert result.across[0].covered == 1
    assert [each.rows for each in result.sets] == [40, 40]
    assert figure(result, "valid").sides[0].value == 1  # type: ignore[union-attr]
    assert figure(result, "turns").differences[0].value == 0  # type: ignore[union-attr]


def test_rows_that_are_no_whole_conversation_are_not_valid(tmp_path: Path) -> None:
    whole = [talk(f"Question {number}") for number in range(60)]
    broken = [talk(f"Question {number}", "") for number in range(30)]
    result = compared(lines(whole, tmp_path / "a.jsonl"), lines(whole[:30] + broken, tmp_path / "b.jsonl"))
    valid = figure(result, "valid")
    assert [side.value for side in valid.sides if side] == [1, 0.5]
    assert valid.differences[0] is not None and valid.differences[0].differs


def test_a_run_is_known_with_its_tokens_hours_and_cost(demo: magpie.Run, code: magpie.Run) -> None:
    result = compared(demo, code, sample=100, price=2.0)
    first = result.sets[0]
    status = magpie.status(demo)
    assert (first.rows, first.made) == (status.kept, 320)
    assert first.tokens == sum(step.tokens or 0 for step in status.steps)
    assert first.hours is not None and first.hours * 3600 == pytest.approx(status.seconds)
    assert first.cost == pytest.approx(2.0 * first.hours)  # no GPU was at work: the machine's own hours
    assert result.embedder == "scripted"


def test_runs_with_vectors_of_one_model_are_compared_by_these(demo: magpie.Run, code: magpie.Run) -> None:
    own, given = (
        compare_sets([demo, code], sample=150, with_verbs=False, **options)
        for options in ({}, {"embedder": "scripted"})
    )
    assert own.figures == given.figures and own.across == given.across


def test_the_command_prints_tables_json_and_figures(
    demo: magpie.Run, code: magpie.Run, tmp_path: Path
) -> None:
    words = ("compare", demo.folder, code.folder, "--sample", "60", "--embedder", "scripted", "--no-verbs")
    printed = typed(*words, "--figures", tmp_path / "figures")
    assert "NovelSum" in printed and "near copies within" in printed and "the same" in printed
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"differences.png", "differences.svg", "task_category.png", "difficulty.svg"} <= names
    content = json.loads(typed(*words, "--json"))
    assert [each["name"] for each in content["sets"]] == ["demo", "code"]
    assert content["figures"][0]["differences"][0]["differs"] in {True, False}
    assert content == json.loads(json.dumps(compared(demo, code, sample=60).to_json()))


def test_sets_of_one_name_are_told_apart(demo: magpie.Run) -> None:
    result = compared(demo, demo.folder, sample=50)
    assert [each.name for each in result.sets] == ["demo (1)", "demo (2)"]
    assert result.across[0].same == 1 and not result.findings


def test_one_set_and_an_empty_one_are_refused(demo: magpie.Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="give two sets or more"):
        magpie.compare(demo)
    with pytest.raises(RunError, match="holds no row"):
        compared(demo, written(rows_of(demo).slice(0, 0), tmp_path / "none.parquet"))


def test_without_an_embedder_what_needs_none_is_compared(tmp_path: Path) -> None:
    a = lines([talk(f"Question {number}") for number in range(30)], tmp_path / "a.jsonl")
    result = compared(a, a, embedder="none")
    assert result.embedder is None and result.across[0].near is None and result.across[0].same == 1
    assert "NovelSum" not in {each.name for each in result.figures}


def test_what_instructions_ask_for_is_compared_by_verbs_and_nouns(tmp_path: Path) -> None:
    if parser_here() is None:
        pytest.skip("spaCy and its English pipeline are not installed")
    nouns = ("poem", "letter", "story", "song", "plan", "report", "list", "recipe")
    verbs = ("Write", "Explain", "Describe", "Compare", "Draw", "Read", "Find", "Make")
    one = [talk(f"Write a {nouns[at % 2]} about number {at}.") for at in range(40)]
    many = [talk(f"{verbs[at % 8]} the {nouns[at // 8]} about number {at}.") for at in range(40)]
    result = compared(
        lines(one, tmp_path / "a.jsonl"), lines(many, tmp_path / "b.jsonl"), verbs=True, embedder="none"
    )
    entropy, pairs = figure(result, "entropy of verb-noun"), figure(result, "distinct verb-noun pairs")
    assert result.parsed == 40 and entropy.sized and pairs.sized
    assert (
        pairs.sides[0] is not None and pairs.sides[0].value == 2 / pairs.sides[0].rows
    )  # a poem or a letter
    assert entropy.sides[0] is not None and entropy.sides[0].value == pytest.approx(1, abs=0.1)
    assert {"entropy of verb-noun", "distinct verb-noun pairs"} <= {each.name for each in result.findings}


def test_vectors_are_kept_by_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGPIE_CACHE", str(tmp_path))
    model = Model(model="some-embedder", engine="transformers")
    read: list[list[str]] = []

    def computed(texts: list[str], *_: Any) -> Any:
        read.append(list(texts))
        return np.ones((len(texts), 3), np.float16)

    monkeypatch.setattr(vectors, "_computed", computed)  # no model is loaded for this
    first = vectors.vectors_of(["a", "b"], model)
    assert np.array_equal(vectors.vectors_of(["a", "b"], model), first) and len(read) == 1
    vectors.vectors_of(["a", "c"], model)
    vectors.vectors_of(["a", "b"], model.model_copy(update={"context_length": 64}))
    assert read == [["a", "b"], ["a", "c"], ["a", "b"]]
    for kept in (tmp_path / "vectors").iterdir():
        kept.write_bytes(kept.read_bytes()[:-4])  # cut
    assert np.array_equal(vectors.vectors_of(["a", "b"], model), first) and len(read) == 4

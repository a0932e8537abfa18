"""Topics, the map, distances and collapse: on planted groups, against numpy."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from builds import small_recipe
from rich.console import Console

import magpie
from magpie.build import build
from magpie.figures.collapse import collapse
from magpie.figures.counts import commonest_word, entropy
from magpie.figures.diversity import nearest_distances
from magpie.figures.report_rows import report_rows
from magpie.figures.spoken import languages
from magpie.figures.topics import topics
from magpie.figures.vectors import Sampled, sampled
from magpie.figures.verbs import pair_of, pairs_of, parser_here
from magpie.report.run_table import print_status


def planted(share: float, rows: int = 900) -> Sampled:
    """Rows of which a share lies around one direction, the rest around ten others; each group has words of its own."""
    rng = np.random.default_rng(3)
    directions = np.linalg.qr(rng.normal(size=(64, 11)))[0].T
    large = round(share * rows)
    which = np.array([0] * large + [1 + at % 10 for at in range(rows - large)])
    vectors = directions[which] + 0.12 * rng.normal(size=(rows, 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = tuple(f"the about group{number} number{at}" for at, number in enumerate(which))
    return Sampled(np.arange(rows), texts, vectors.astype(np.float32), rows, "stored")


@pytest.mark.parametrize("share", [0.34, 0.57])
def test_a_topic_that_takes_a_third_or_more_is_one_topic_with_its_own_word(share: float) -> None:
    sample = planted(share)
    found = topics(sample)
    assert found is not None
    assert found.largest.share == pytest.approx(share, abs=0.03)
    assert found.largest.words[0] == "group0"
    assert found.collapsed
    assert sum(topic.rows for topic in found.topics) == len(sample.positions)
    counts = np.unique(found.labels, return_counts=True)[1]
    assert found.entropy == pytest.approx(-sum(p * np.log2(p) for p in counts / counts.sum()))


def test_even_groups_are_no_collapse_and_few_rows_have_no_topics() -> None:
    found = topics(planted(1 / 11))
    assert found is not None and not found.collapsed
    assert topics(planted(0.5, rows=60)) is None


def test_rows_of_which_no_two_are_alike_have_not_collapsed() -> None:
    vectors = np.random.default_rng(1).normal(size=(600, 64)) + 0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = tuple(f"word{number}" for number in range(600))
    found = topics(Sampled(np.arange(600), texts, vectors.astype(np.float32), 600, "stored"))
    assert found is not None and not found.collapsed


def test_distances_to_another_set_are_those_of_all_pairs() -> None:
    one, other = planted(0.3, rows=120).vectors, planted(0.5, rows=90).vectors
    brute = ((one[:, None, :].astype(np.float64) - other[None, :, :]) ** 2).sum(axis=2).min(axis=1)
    assert nearest_distances(one, other) == pytest.approx(brute, abs=1e-5)


def test_entropy_is_that_of_its_formula() -> None:
    assert entropy([1, 1, 1, 1]) == 2.0
    assert entropy([]) == entropy([7]) == 0.0


def test_the_commonest_word_is_none_of_grammar_or_of_any_task() -> None:
    texts = ["Write about the travel", "write the travel of the day", "Explain the sea"]
    assert commonest_word(texts) == ("travel", 2 / 3)
    assert commonest_word(["the of"]) is None


def test_status_names_a_collapse_and_a_build_s_summary_does_not(tmp_path: Path) -> None:
    run = build(small_recipe(rows=120, shard_rows=40, filter=None), tmp_path / "run")
    rows = report_rows(run)
    sample = sampled(rows)
    assert sample is not None
    # Half of the rows are made the same topic: what a generator does that has collapsed.
    vectors = sample.vectors.copy()
    vectors[: len(vectors) // 2] = vectors[0]
    fallen = collapse(topics(replace(sample, vectors=vectors)), rows)
    assert fallen is not None and fallen.lines()
    said = StringIO()
    status = magpie.status(run)
    print_status(replace(status, collapse=fallen), Console(file=said, width=200))
    for line in fallen.lines():
        assert line in said.getvalue()
    assert '"collapse"' not in (run.folder / "report.json").read_text()


def test_languages_of_responses_are_counted_beside_those_of_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Lingua takes a gigabyte and seconds to load: its own tests do that.
    monkeypatch.setattr("magpie.steps.language._load", lambda: None)
    monkeypatch.setattr(
        "magpie.steps.language.detect", lambda texts: iter((["en", None] * len(texts))[: len(texts)])
    )
    run = build(small_recipe(language={}), tmp_path / "run")
    rows = report_rows(run)
    found = languages(rows, lambda texts: iter(["fr" if "a" in text[:12] else "en" for text in texts]))
    kept = [
        row for row in run.table().to_pylist()
        if row["rejected"] is None and row["language"] is not None and len(row["response"] or "") >= 20
    ]  # fmt: skip
    told = ["fr" if "a" in row["response"][:12] else "en" for row in kept]
    assert found is not None and found.rows == len(kept)
    assert found.differ == sum(a["language"] != b for a, b in zip(kept, told, strict=True)) / len(kept)


def test_verbs_and_their_objects_are_those_that_spacy_parses() -> None:
    name = parser_here()
    if name is None:
        pytest.skip("spaCy and its English pipeline are not installed")
    import warnings
    from importlib import import_module

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parser = import_module(name).load(exclude=["ner"])
        found = pairs_of(
            ["Write a poem about the sea.", "Is it late?", "Could you explain the rules?"], parser
        )
    assert found == [("write", "poem"), None, ("explain", "rule")]


def test_a_verb_is_looked_for_in_every_branch_and_not_in_the_first_alone() -> None:
    """The original's walk goes down the first child of each word, and gives up where that one ends."""
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed")
    from spacy.tokens import Doc

    # "Please kindly, write a long poem": the root is no verb, and its first child leads nowhere.
    words = ["Please", "kindly", "write", "a", "long", "poem"]
    document = Doc(
        spacy.blank("en").vocab,
        words=words,
        heads=[0, 0, 0, 5, 5, 2],
        deps=["ROOT", "advmod", "xcomp", "det", "amod", "dobj"],
        pos=["INTJ", "ADV", "VERB", "DET", "ADJ", "NOUN"],
        lemmas=words,
    )
    assert pair_of(document) == ("write", "poem")
    # A verb without an object is passed by, where another one has one: the original takes it with no noun.
    words = ["Try", "to", "find", "mistakes"]
    document = Doc(
        spacy.blank("en").vocab,
        words=words,
        heads=[0, 2, 0, 2],
        deps=["ROOT", "aux", "xcomp", "dobj"],
        pos=["VERB", "PART", "VERB", "NOUN"],
        lemmas=words,
    )
    assert pair_of(document) == ("find", "mistakes")

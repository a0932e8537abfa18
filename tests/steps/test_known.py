"""Near copies of known datasets: marked and shown, and dropped only if told; evaluation questions in other words."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from builds import small_recipe

from magpie.build import build
from magpie.errors import RecipeError
from magpie.figures.known import near_copies
from magpie.figures.report_figures import ReportFigures
from magpie.figures.report_rows import report_rows
from magpie.publish.card.making import make_card
from magpie.publish.source import open_source
from magpie.recipe.decontaminate import PARAPHRASE
from magpie.report.page.known import copies
from magpie.runs.run import Run


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with three instructions that the scripted engine writes too, and one that it does not."""
    folder = tmp_path_factory.mktemp("earlier")
    run = build(plain_recipe(), folder / "run")
    texts = [row["instruction"] for row in run.dataset().to_list()[:3]]
    path = folder / "earlier.jsonl"
    lines = [{"instruction": text} for text in (*texts, "Nothing like it")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def plain_recipe(**changes: Any) -> Any:
    return small_recipe(**({"filter": None, "extend": None, "tag": None} | changes))


def known(path: Path, **settings: Any) -> dict[str, Any]:
    return {"datasets": str(path), "distance": 0.01, **settings}


def test_near_copies_stay_and_are_shown_in_report_and_card(tmp_path: Path, earlier: Path) -> None:
    run = build(plain_recipe(known=known(earlier)), tmp_path / "run")
    rows = run.dataset().to_list()
    near = [row for row in rows if row["known_as"] is not None]
    assert len(near) == 3 and len(rows) == run.table(rejected=False).num_rows
    for row in near:
        assert row["known_distance"] < 1e-3 and row["instruction"][:150] in row["known_as"]
        assert row["known_as"].startswith("earlier.jsonl:"), "no path of this machine goes into a dataset"
    assert all(row["known_distance"] >= 0.01 for row in rows if row["known_as"] is None)
    found = near_copies(report_rows(run))
    assert found is not None and (found.near, found.rows, len(found.nearest)) == (3, len(rows), 3)
    (figure,) = copies(cast(ReportFigures, SimpleNamespace(near_copies=found, rows=report_rows(run))))
    assert "3 of" in figure.says and "are in the dataset all the same" in figure.says
    assert figure.table is not None and len(figure.table.rows) == 3
    text = make_card(open_source(run), license="mit", with_figures=False).text
    assert "3 of" in text and "near copies of a row of earlier" in text and str(earlier.parent) not in text


def test_they_are_dropped_if_told(tmp_path: Path, earlier: Path) -> None:
    run = build(plain_recipe(known=known(earlier, drop=True)), tmp_path / "run")
    assert run.table()["rejected"].to_pylist().count("known: near copy") >= 3
    assert all(row["known_as"] is None for row in run.dataset().to_list())


def test_other_rows_of_the_dataset_are_another_run(tmp_path: Path, earlier: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_bytes(earlier.read_bytes())
    recipe = plain_recipe(known=known(own))
    run = build(recipe, tmp_path / "run")
    own.write_text('{"instruction": "another"}\n')
    with pytest.raises(Exception, match=r"`known\.settings\.datasets"):
        build(recipe, run.folder)
    assert Run.open(run.folder).table().num_rows == 96


def test_a_word_stands_for_the_measured_distance_and_vectors_are_needed(earlier: Path) -> None:
    recipe = plain_recipe(decontaminate={"files": str(earlier), "distance": "paraphrase"})
    assert recipe.decontaminate is not None and recipe.decontaminate.distance == PARAPHRASE
    with pytest.raises(RecipeError, match="`known` needs `embed`"):
        plain_recipe(known=known(earlier), embed=None, dedup=None)


@pytest.mark.slow
def test_paraphrases_are_found_within_the_bound_and_other_questions_are_not() -> None:
    """With the embedder that ships; `python -m benchmarks.paraphrases` prints the whole table."""
    from benchmarks.paraphrases import distances, pairs, shares
    from magpie.steps.decontaminate.sets import NGrams

    assert len(pairs()) == 40
    grams = NGrams([pair["question"] for pair in pairs()], 13)
    assert not any(grams.first_in(pair["paraphrase"]) for pair in pairs()), "words alone find none"
    found = shares(distances(), PARAPHRASE)
    assert found["paraphrase"] >= 0.85 and found["sibling"] <= 0.05

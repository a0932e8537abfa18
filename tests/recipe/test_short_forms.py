"""Datasets that a recipe names by a relative path: in the working directory, or beside the recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from builds import small_recipe

from magpie.build import build
from magpie.recipe.loading import load_recipe, parse_recipe
from magpie.runs.run import RECIPE


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe in a folder of its own with an evaluation set beside it; the working directory is another one."""
    written = small_recipe().model_dump(mode="json")
    written |= {
        "decontaminate": {"files": "exam.jsonl"},
        "dedup": {"against": ["exam.jsonl", "org/name:test"]},
    }
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.yaml").write_text(yaml.safe_dump(written))
    question = "How many words does a question need before it counts as one of an exam, and why so many?"
    (tmp_path / "mine" / "exam.jsonl").write_text(json.dumps({"question": question}) + "\n")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "mine" / "recipe.yaml"


def named(source: Path, **overrides: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    loaded = load_recipe(source, overrides=dict(overrides))
    assert loaded.decontaminate is not None and loaded.dedup is not None
    return loaded.decontaminate.files, loaded.dedup.against


def test_a_dataset_beside_the_recipe_is_found_from_any_directory(recipe: Path) -> None:
    beside = str(recipe.parent.resolve() / "exam.jsonl")
    assert named(recipe) == ((beside,), (beside, "org/name:test"))
    assert named(Path("../mine/recipe.yaml")) == named(recipe)
    assert named(recipe, **{"instruct.max_tokens": 9}) == named(recipe)
    assert load_recipe(recipe).dedup != small_recipe().dedup


def test_the_working_directory_comes_first_and_what_is_nowhere_stays_as_it_is(recipe: Path) -> None:
    Path("exam.jsonl").write_text("")
    assert named(recipe) == (("exam.jsonl",), ("exam.jsonl", "org/name:test"))
    Path("exam.jsonl").unlink()
    (recipe.parent / "exam.jsonl").unlink()
    assert named(recipe) == (("exam.jsonl",), ("exam.jsonl", "org/name:test"))


def test_what_the_command_line_names_is_not_looked_for_beside_the_recipe(recipe: Path) -> None:
    assert named(recipe, **{"decontaminate.files": "exam.jsonl"})[0] == ("exam.jsonl",)


def test_a_run_is_gone_on_with_from_another_directory(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = recipe.parent / "run"
    run = build(recipe, out, overrides={"dedup.against": []}, stop_after="dedup")
    assert run.has_shards
    monkeypatch.chdir(recipe.parent.parent)
    again = build("mine/recipe.yaml", out, overrides={"dedup.against": []})
    written = yaml.safe_load((out / RECIPE).read_text())
    assert written["decontaminate"]["files"] == [str(recipe.parent.resolve() / "exam.jsonl")]
    assert parse_recipe(written) == again.recipe
    assert len(again.dataset()) > 0

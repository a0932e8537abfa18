"""Steps and questions of the user's own: the example of docs/custom.md is built, and what else may go wrong."""

from __future__ import annotations

import re
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from builds import shard_path, small_recipe, tree
from rich.console import Console

from magpie import api
from magpie.build import build
from magpie.errors import RecipeChangedError, RecipeError, RunError
from magpie.recipe.loading import load_recipe
from magpie.report.show import show_rows
from magpie.runs.run import Run
from magpie.user_code import load, with_code

PAGE = Path(__file__).parent.parent.parent / "docs" / "custom.md"
STEP = """
import magpie

@magpie.step(reads=["instruction"], adds={"words": "whole"}, rejects=True)
def count_words(row, *, least=3):
    words = len(row["instruction"].split())
    return {"words": words, "rejected": "too few words" if words < least else None}
"""
OWN = [{"use": "my_steps.py:count_words", "after": "clean", "settings": {"least": 16}}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a step in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_steps.py").write_text(STEP)
    return tmp_path


def recipe_with(steps: Any = OWN, **changes: Any) -> Any:
    return small_recipe(steps=steps, **changes)


def test_the_example_of_the_page_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r'```\w+ title="(\S+)"\n(.*?)```', PAGE.read_text("utf-8"), re.DOTALL)
    assert [name for name, _ in blocks] == ["questions.yaml", "my_steps.py", "polite.yaml", "pyproject.toml"]
    for name, text in blocks[:3]:
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path.parent)  # the files of a recipe lie beside it, wherever the command is given
    recipe = load_recipe(tmp_path / "polite.yaml", engine="scripted", overrides={"language": None})
    with pytest.raises(RecipeError, match=r"Python code that is not magpie's.*--allow-code"):
        build(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run = build(recipe, tmp_path / "run", allow_code=True)
    names = [step.name for step in run.steps]
    assert names[names.index("clean") + 1] == "count_words"
    rows = run.table().to_pylist()
    short = [row for row in rows if row["rejected"] == "count_words: too few words"]
    assert all(row["words"] < 4 for row in short)
    judged = [row for row in rows if row["tag_tokens"] is not None]
    assert judged and {row["politeness"] for row in judged} == {"rude", "plain", "polite"}
    assert all(0 <= row["minutes"] <= 600 and row["politeness_reason"] for row in judged)
    dataset = run.dataset()
    assert dataset.num_rows and set(dataset["politeness"]) == {"plain", "polite"}
    assert set(dataset.column_names) >= {"words", "minutes", "politeness", "politeness_reason"}
    said = StringIO()
    show_rows(run, Console(file=said, width=100), n=1)
    assert " · politeness p" in said.getvalue()  # plain or polite, beside the published labels
    # Looking at it, and filtering it, reads no code.
    for name in ("questions.yaml", "my_steps.py", "polite.yaml"):
        (tmp_path / name).unlink()
    opened = Run.open(tmp_path / "run")
    assert api.verify(opened) == [] and opened.table().equals(run.table())


def test_other_code_is_another_run(folder: Path) -> None:
    recipe = recipe_with()
    run = build(recipe, folder / "run", allow_code=True)
    before = tree(run.folder)
    shard_path(run, "count_words", 2).unlink()
    assert tree(build(recipe, folder / "run", allow_code=True).folder) == before
    assert sum(reason == "count_words: too few words" for reason in run.table()["rejected"].to_pylist())
    (folder / "my_steps.py").write_text(STEP + "\n# one more line\n")
    with pytest.raises(RecipeChangedError, match=r"`steps\.0\.facts\.source` was"):
        build(recipe, folder / "run", allow_code=True)
    (folder / "my_steps.py").write_text(STEP)
    assert tree(build(recipe, folder / "run", allow_code=True).folder) == before


def test_a_recipe_of_a_run_runs_no_code_unasked(folder: Path) -> None:
    run = build(recipe_with(), folder / "run", allow_code=True)
    (folder / "my_steps.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(RecipeError, match="--allow-code"):
        build(str(run.folder / "recipe.yaml"), run.folder)
    with pytest.raises(RecipeError, match="--allow-code"):
        api.plan(recipe_with())
    assert api.status(run.folder).finished


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("def count_words(row): return {}", r"is no step; mark the function with @magpie\.step"),
        (STEP.replace("'''", "").replace("least=3", "most=3"), r"does not take its `settings`"),
        ("import no_such_module_anywhere", r"cannot be imported \(ModuleNotFoundError"),
        (STEP.replace('"whole"', '"integer"'), r"marked wrongly: .*`adds\.words\.type`: must be"),
        (STEP.replace("count_words", "another"), r"has no 'count_words'"),
    ],
)
def test_what_is_no_step_is_refused_before_anything_is_made(folder: Path, source: str, why: str) -> None:
    (folder / "my_steps.py").write_text(source)
    with pytest.raises(RecipeError, match=why):
        build(recipe_with(), folder / "run", allow_code=True)
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ({"after": "cleen"}, r"comes after 'cleen', and the steps are instruct, clean"),
        ({"after": "instruct"}, r"reads the column `instruction`, which there is not after instruct"),
        ({"use": "no_such.py:count_words"}, r"cannot read no_such\.py"),
        ({"use": "no_such_entry"}, r"no installed package announces a step 'no_such_entry'"),
    ],
)
def test_a_step_out_of_place_is_refused(folder: Path, step: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        build(recipe_with([OWN[0] | step]), folder / "run", allow_code=True)


def test_two_steps_of_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match="two steps 'count_words'"):
        build(recipe_with([*OWN, *OWN]), folder / "run", allow_code=True)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("return 1 / 0", r"count_words failed on row small-\w+-\d+ \(ZeroDivisionError"),
        ("return {'wrods': 3}", r"must return a dict with rejected, words"),
        ("return {'words': 'three'}", r"another type than it says"),
    ],
)
def test_a_step_that_fails_ends_the_build_with_one_line(folder: Path, body: str, why: str) -> None:
    head = STEP.partition("    words =")[0]
    (folder / "my_steps.py").write_text(f"{head}    {body}\n")
    with pytest.raises(RunError, match=why):
        build(recipe_with(), folder / "run", allow_code=True)
    (folder / "my_steps.py").write_text(STEP)
    # What it made before has no shard of the step, so other code may go on.
    assert build(recipe_with(), folder / "again", allow_code=True).dataset_files.names()


def test_a_package_announces_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "polite_steps"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "words.py").write_text("LEAST = 6\n")
    (package / "steps.py").write_text(
        STEP.replace("import magpie", "import magpie\nfrom polite_steps.words import LEAST").replace(
            "=3", "=LEAST"
        )
    )
    about = tmp_path / "polite_steps-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: polite-steps\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[magpie.steps]\ncounted = polite_steps.steps:count_words\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = recipe_with([{"use": "counted", "after": "clean"}])
    (step,) = with_code(recipe, allowed=True).steps
    assert step.facts is not None and (step.facts.name, step.facts.rejects) == ("count_words", True)
    assert load("polite_steps.steps:count_words") is load("counted")
    (package / "words.py").write_text("LEAST = 7\n")  # it is called by the step, so it counts
    (changed,) = with_code(recipe, allowed=True).steps
    assert changed.facts is not None and changed.facts.source != step.facts.source
    for name in [name for name in sys.modules if name.startswith("polite_steps")]:
        del sys.modules[name]


def test_a_step_may_come_after_the_answers_and_the_filter_waits_for_it(folder: Path) -> None:
    (folder / "my_steps.py").write_text(STEP.replace("instruction", "response"))
    rules = [{"name": "wordy", "where": "words > 5"}, {"name": "asked", "where": "length(instruction) > 3"}]
    step = {"use": "my_steps.py:count_words", "after": "respond"}
    run = build(recipe_with([step], filter=rules, extend=None), folder / "run", allow_code=True)
    names = [one.name for one in run.steps]
    assert names[names.index("respond") + 1] == "count_words"
    assert [rule.name for rule in run.step("prefilter").step.rules] == ["asked"]
    assert min(run.dataset()["words"]) > 5

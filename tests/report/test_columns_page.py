"""`magpie columns` and `docs/columns.md`: every column explained, from the steps' own descriptions."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import dataset_paths, small_recipe
from rich.console import Console
from typed import typed

import magpie
from magpie.build import build
from magpie.recipe.loading import load_recipe
from magpie.report.columns import page, print_columns
from magpie.runs.run import Run
from magpie.steps import every_step, steps_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(
        load_recipe("demo-full", rows=16, engine="scripted"), tmp_path_factory.mktemp("runs") / "run"
    )


def test_the_page_is_current() -> None:
    assert (ROOT / "docs" / "columns.md").read_text(encoding="utf-8") == page(), (
        "renew it: python -m magpie.report.columns > docs/columns.md"
    )


def test_every_step_of_the_shipped_recipes_is_in_the_whole_one() -> None:
    whole = {step.name: set(step.adds.names) for step in every_step()}
    for name in ("demo", "demo-full", "demo-dpo", "code", "pro", "air-dpo", "self-instruct"):
        for step in steps_of(load_recipe(name)):
            assert set(step.adds.names) <= whole[step.name]


def test_every_column_of_a_dataset_and_of_its_run_is_explained(run: Run) -> None:
    explained = magpie.columns(run)
    assert all(column.meaning and column.step for column in explained)
    here = [column for column in explained if column.in_dataset]
    schema = pq.read_schema(dataset_paths(run)[0])
    assert {column.name for column in here} == set(schema.names)
    assert set(run.table().column_names) <= {column.name for column in explained}
    types = {column.name: column.type for column in here}
    assert types["rejected"] == "list of {role: string, content: string}"
    assert types["other_task_categories"] == "list of string"
    published = {column.name: column.published for column in here}
    assert published["id"] == "uuid" and published["llama_guard"] == "llama_guard_2"
    assert published["base_reward"] is None


def test_a_foreign_set_is_explained_as_far_as_its_names_are_known(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uuid": ["a"], "difficulty": ["easy"], "mine": [1]}), tmp_path / "a.parquet")
    uuid, difficulty, mine = magpie.columns(tmp_path / "a.parquet")
    assert uuid.published == "uuid" and "name" in uuid.meaning
    assert difficulty.meaning.startswith("How hard") and difficulty.step == "tag"
    assert (mine.name, mine.type, mine.meaning) == ("mine", "int64", "")


def test_an_unfinished_run_has_the_columns_of_its_recipe(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run", stop_after="clean")
    assert "difficulty" in {column.name for column in magpie.columns(run.folder)}


def test_the_table_fits_a_narrow_terminal_and_names_every_column(run: Run) -> None:
    console = Console(file=StringIO(), width=80, color_system=None)
    print_columns(magpie.columns(run), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, printed.splitlines())) <= 80
    assert all(column.name in printed for column in magpie.columns(run))
    assert "not in the dataset:" in printed and "Published as" in printed


def test_the_command_says_the_same_to_programs(run: Run) -> None:
    listed = json.loads(typed("columns", run.folder, "--json"))["columns"]
    assert listed == [column.to_json() for column in magpie.columns(run)]
    every = json.loads(typed("columns", "--json"))["columns"]
    assert {column["name"] for column in listed} <= {column["name"] for column in every}

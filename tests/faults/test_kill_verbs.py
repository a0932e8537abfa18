"""`kill -9` of `filter` and of `export` while they replace an earlier result; and a build at work beside them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from builds import small_recipe
from dying import dying

from magpie.api import export
from magpie.api import filter as filter_run
from magpie.build import build
from magpie.data.dataset import DatasetFiles
from magpie.recipe.loading import load_filter
from magpie.runs.opened import open_dataset
from magpie.runs.run import Run
from magpie.runs.verify import verify
from magpie.storage import LocalStorage

KILLS = 12
RECIPE = small_recipe(rows=32, extend=None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(RECIPE, tmp_path_factory.mktemp("run") / "run")


def write_filter(path: Path, where: str) -> Path:
    path.write_text(yaml.safe_dump({"name": "f", "rules": [{"name": "rule", "where": where}]}))
    return path


def moments(kills: int, number: int, seed: int) -> Iterator[int]:
    """One in each of `kills` equal parts of a life with so many moments."""
    draw = random.Random(seed)
    for part in range(kills):
        yield 1 + int((part + draw.random()) * number / kills)


def rows_of(folder: Path) -> list[str]:
    """The ids in a dataset, every byte of which is checked."""
    return [row_id for table in open_dataset(folder).tables() for row_id in table["id"].to_pylist()]


def test_a_filter_that_is_killed_leaves_the_earlier_result_or_the_new_one(run: Run, tmp_path: Path) -> None:
    earlier = load_filter(write_filter(tmp_path / "earlier.yaml", "index < 20"))
    later = write_filter(tmp_path / "later.yaml", "index >= 5")
    out, seen = tmp_path / "out", list[list[str]]()
    with dying("filter", run.folder, later, "--out", out) as command:
        command.run()  # which compiles modules, and so changes more files than the next
        new, number = rows_of(out), command.run()
        for moment in moments(KILLS, number, seed=1):
            filter_run(run, earlier, out)
            old = rows_of(out)
            command.kill(moment)
            seen.append(rows_of(out))
            assert old and new and seen[-1] in (old, new), moment
            filter_run(run, load_filter(later), out)
            assert rows_of(out) == new, moment
            assert DatasetFiles(LocalStorage(out)).strays() == [] and not list(out.glob(".*.tmp")), moment
    assert new in seen and any(rows != new for rows in seen)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_an_export_that_is_killed_leaves_the_earlier_file_or_the_new_one(
    run: Run, tmp_path: Path, ending: str
) -> None:
    out, seen = tmp_path / "out" / f"rows.{ending}", list[bytes]()
    with dying("export", run.folder, "--format", "messages", "--out", out, "--overwrite") as command:
        command.run()
        new, number = out.read_bytes(), command.run()
        for moment in moments(KILLS // 2, number, seed=2):
            export(run, "sharegpt", out, overwrite=True)
            old = out.read_bytes()
            command.kill(moment)
            seen.append(out.read_bytes())
            assert old != new and seen[-1] in (old, new), moment
            export(run, "messages", out, overwrite=True)
            assert out.read_bytes() == new, moment
            assert not list(out.parent.glob(".*.tmp")), moment
    assert new in seen and any(data != new for data in seen)


def test_a_build_beside_them_leaves_alone_what_they_are_writing(run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    keep = write_filter(tmp_path / "keep.yaml", "index < 20")
    with dying("filter", folder, keep) as filtering:
        out = folder / "filtered" / "f"
        filtering.run()
        moment = filtering.run() // 2
        with filtering.held(moment):
            assert list(out.glob(".*.tmp"))
            build(RECIPE, folder)
            assert list(out.glob(".*.tmp"))
        assert rows_of(out) and not list(out.glob(".*.tmp"))
    out = folder / "rows.parquet"
    with dying("export", folder, "--format", "messages", "--out", out, "--overwrite") as exporting:
        exporting.run()
        with exporting.held(2):  # it is written, and has not its name yet
            assert list(folder.glob(".rows*.tmp"))
            build(RECIPE, folder)
        assert pq.read_table(out).num_rows and not list(folder.glob(".*.tmp"))
    assert verify(Run.open(folder)) == []

"""Runs of another user, and paths that are no text: said in one line, and nothing is moved away."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from builds import small_recipe, tree
from command import ENVIRONMENT
from no_rights import NOBODY

from magpie import api
from magpie.build import build
from magpie.errors import RecipeChangedError
from magpie.recipe import Filter
from magpie.runs.record import recipe_text
from magpie.runs.run import Run
from magpie.runs.verify import quarantined, verify
from magpie.terminal import new_console

RECIPE = small_recipe(rows=16, extend=None)
# What may not be read; the rest of the run is the user's own. The last may be read, and not written to.
CLOSED = ("steps/01-instruct/00000.parquet", "steps", "recipe.yaml", "dataset", "dataset/.manifest.json", "")
READ_ONLY = "read only"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(RECIPE, tmp_path_factory.mktemp("whole") / "run").folder


@pytest.fixture(scope="module")
def folder(whole: Path) -> Iterator[Path]:
    """Runs with something closed to us; outside pytest's own folders, which are closed to others altogether."""
    with tempfile.TemporaryDirectory(prefix="rights-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(whole, folder / "whole")
        (folder / "recipe.yaml").write_text(recipe_text(RECIPE))
        for at, closed in enumerate((*CLOSED, READ_ONLY)):
            run = Path(shutil.copytree(whole, folder / str(at)))
            if os.geteuid() == 0 and closed != READ_ONLY:
                for path in (run, *run.rglob("*")):
                    os.chown(path, NOBODY, NOBODY)
            shut = (
                [run / closed] if closed != READ_ONLY else [run, *(p for p in run.rglob("*") if p.is_dir())]
            )
            for path in shut:
                if os.geteuid() == 0:
                    os.chown(path, 0, 0)
                path.chmod(0o555 if closed == READ_ONLY else 0)
        yield folder
        for path in folder.iterdir():
            path.chmod(0o755)
            for inner in path.rglob("*"):
                inner.chmod(0o755)


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, dict[str, str]]:
    script = Path(__file__).with_name("no_rights.py")
    done = subprocess.run(
        [sys.executable, script, folder], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("number", range(len(CLOSED)), ids=[name or "all of it" for name in CLOSED])
def test_what_may_not_be_read_is_said_and_left_where_it_is(
    said: dict[str, dict[str, str]], folder: Path, number: int
) -> None:
    lines = said[str(number)]
    without = {"show", "filter"} if CLOSED[number].startswith("dataset") else set()  # which read no dataset
    without |= {"export"} if CLOSED[number].startswith("steps") else set()  # which reads no shard
    for verb, line in lines.items():
        if verb in without:
            assert line == ""
        else:
            place = re.escape(str(folder / str(number) / CLOSED[number]).rstrip("/"))
            assert re.fullmatch(
                f"cannot read {place}[^ ]*: Permission denied; ask its owner for the right to read it, "
                "or run this as that user",
                line,
            ), (verb, line)


def test_a_run_that_may_be_read_and_not_written_to(said: dict[str, dict[str, str]], folder: Path) -> None:
    lines = said[str(len(CLOSED))]
    place = folder / str(len(CLOSED)) / "run.lock"
    assert lines.pop("build") == f"cannot write {place}: Permission denied; choose another folder with --out"
    assert set(lines.values()) == {""}


def test_nothing_is_moved_away_for_want_of_rights(
    folder: Path, said: dict[str, dict[str, str]], whole: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may look everywhere")
    for number in range(len(said)):
        run = folder / str(number)
        assert tree(run) == tree(whole)
        assert quarantined(Run.open(run)) == verify(Run.open(run)) == []


def test_a_path_that_is_no_text(tmp_path: Path, whole: Path) -> None:
    """Systems take any bytes for a name."""
    odd = tmp_path / os.fsdecode(b"r\xffn")
    console = new_console(file=io.StringIO())
    try:
        run = build(RECIPE, odd / "run")
    except OSError:
        pytest.skip("this file system takes no such names")
    assert tree(run.folder) == tree(whole)
    shutil.copytree(whole, odd / "other")
    for folder in (odd / "run", odd / "other"):
        api.status(folder)
        assert api.verify(folder) == []
        api.show(folder, console=console)
        keep = Filter.model_validate({"name": "keep", "rules": [{"name": "rule", "where": "index < 9"}]})
        kept = api.filter(Run.open(folder), keep, folder / "filtered").kept
        assert api.export(folder / "filtered", "messages", folder / "x.jsonl").rows == kept > 0
        assert api.export(folder, "messages", folder / "x.parquet").rows > 0
        assert api.filter(folder / "x.jsonl", keep, folder / "again").kept == kept
        (folder / "steps" / os.fsdecode(b"\xfe")).write_bytes(b"mine")
        (line,) = api.verify(folder)
        assert "\\xff" in line and "\\xfe: not a file of this run" in line
        line.encode("utf-8")
        (folder / "steps" / "01-instruct" / "00000.parquet").write_bytes(b"damaged")
        build(RECIPE, folder)
        assert len(quarantined(Run.open(folder))) == 1
    other = small_recipe(rows=16, extend=None, dedup={"threshold": 0.5})
    build(other, odd / "third", reuse=odd / "run")
    with pytest.raises(RecipeChangedError, match=r"dedup\.threshold"):
        build(other, odd / "run")

"""Pipes, sockets, devices, folders and links where a run has its files: every verb ends, with one clear line."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from builds import small_recipe, tree
from fuzzing import limited

from magpie import api
from magpie.build import build
from magpie.errors import MagpieError
from magpie.recipe import Filter
from magpie.runs.run import Run
from magpie.runs.verify import verify
from magpie.terminal import new_console

RECIPE = small_recipe(rows=16, extend=None)
KEEP = Filter.model_validate({"name": "keep", "rules": [{"name": "rule", "where": "index < 20"}]})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(RECIPE, tmp_path_factory.mktemp("whole") / "run").folder


def pipe(path: Path) -> None:
    os.mkfifo(path)


def socket_(path: Path) -> None:
    with chdir(path.parent), socket.socket(socket.AF_UNIX) as end:  # its name may not be long
        end.bind(path.name)


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero, which never ends
    except PermissionError:
        pytest.skip("this user may make no device")


def folder(path: Path) -> None:
    path.mkdir()
    (path / "mine.txt").write_text("mine")


def link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere/at/all")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


KINDS = (pipe, socket_, device, folder, link_to_nothing, link_to_itself)
PLACES = {
    "steps/01-instruct/00000.parquet": KINDS,
    "steps/08-filter/00000.parquet": (device,),
    "steps/02-clean": (pipe, link_to_itself),
    "recipe.yaml": (pipe, folder, link_to_itself),
    "fingerprints.json": (folder,),
    "manifest.json": (pipe,),
    "report.json": (socket_,),
    "reused.json": (pipe,),
    "progress.json": (device,),
    "log.jsonl": (pipe, folder, link_to_nothing),
    "run.lock": (pipe, socket_, folder, link_to_nothing),
    "dataset": (pipe, link_to_nothing, link_to_itself),
    "dataset/train-00000.parquet": (device, folder, link_to_itself),
    "dataset/.manifest.json": (socket_, folder, link_to_nothing),
}


def put(run: Path, name: str, kind: Callable[[Path], None]) -> None:
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    kind(path)


def verbs(run: Path, aside: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    console = new_console(file=io.StringIO())
    yield "status", lambda: api.status(run)
    yield "verify", lambda: api.verify(run)
    yield "show", lambda: api.show(run, console=console)
    yield "rejected", lambda: api.show(run, rejected=True, console=console)
    yield "filter", lambda: api.filter(Run.open(run), KEEP, aside / "kept")
    yield "export", lambda: api.export(run, "messages", aside / "rows.jsonl", overwrite=True)


def outcome(work: Callable[[], Any]) -> str:
    """The one line of an error; nothing where it went well."""
    try:
        with limited():
            work()
    except MagpieError as error:
        assert str(error) and "\n" not in str(error)
        return str(error)
    return ""


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in PLACES.items() for kind in kinds])
def test_every_verb_ends(tmp_path: Path, whole: Path, name: str, kind: Callable[[Path], None]) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    put(run, name, kind)
    for verb, work in verbs(run, tmp_path):
        said = outcome(work)
        assert not said or (name in said and "move it away" in said) or "run the build again" in said, verb
    said = outcome(lambda: build(RECIPE, run))
    if said:  # it is not the build's to take away
        assert name.partition("/")[0] in said and "move" in said
        put(run, name, lambda path: None)
        build(RECIPE, run)
    assert verify(Run.open(run)) == [] and tree(run) == tree(whole)
    assert not (run / "mine.txt").exists()


def test_a_folder_in_place_of_a_shard_keeps_what_is_in_it(tmp_path: Path, whole: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    put(run, "steps/01-instruct/00000.parquet", folder)
    build(RECIPE, run)
    assert (run / "quarantine/steps/01-instruct/00000.parquet/mine.txt").read_text() == "mine"


def test_a_stray_file_is_named_by_verify_and_by_build_alike(tmp_path: Path, whole: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.copy(run / "steps/02-clean/00000.parquet", run / "steps/02-clean/00009.parquet")
    os.mkfifo(run / "steps/mine")
    said = api.verify(run)
    assert len(said) == 2 and all("not a file of this run" in line for line in said)
    build(RECIPE, run)
    noted = [json.loads(line).get("text") for line in (run / "log.jsonl").read_text().splitlines()]
    assert set(said) <= set(noted) and api.verify(run) == said


def test_a_card_beside_the_rows_is_expected_and_stays(tmp_path: Path, whole: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "dataset/README.md").write_text("# mine")
    assert api.verify(run) == []
    (run / "steps/07-respond/00000.parquet").unlink()  # the dataset is written again
    build(RECIPE, run)
    assert (run / "dataset/README.md").read_text() == "# mine" and api.verify(run) == []
    (run / "dataset/rows.jsonl").write_text("{}")
    (said,) = api.verify(run)
    assert "dataset/rows.jsonl: not a file of this dataset" in said


def test_a_dataset_that_is_a_link_elsewhere_leaves_what_is_there(tmp_path: Path, whole: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "dataset").rename(tmp_path / "theirs")
    (run / "dataset").symlink_to(tmp_path / "theirs")
    before = sorted((tmp_path / "theirs").iterdir())
    (run / "steps/07-respond/00000.parquet").unlink()
    build(RECIPE, run)
    assert not (run / "dataset").is_symlink() and api.verify(run) == []
    assert sorted((tmp_path / "theirs").iterdir()) == before


def test_a_link_of_the_name_of_a_temporary_file_is_swept_and_not_followed(
    tmp_path: Path, whole: Path
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    (run / "steps" / ".x.0a1b2c3d.tmp").symlink_to(tmp_path / "mine")
    build(RECIPE, run)
    assert not list(run.rglob("*.tmp")) and (tmp_path / "mine" / "a.txt").read_text() == "mine"

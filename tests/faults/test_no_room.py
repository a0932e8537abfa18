"""A disk without room while a result is replaced: one line, the earlier result is whole, nothing half-written stays."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from builds import small_recipe
from command import magpie, refusal

from magpie import api
from magpie.build import build
from magpie.errors import StorageError
from magpie.recipe import Filter
from magpie.runs.run import Run
from magpie.runs.verify import verify

RECIPE = small_recipe(rows=32, extend=None)
WAYS = ("full when it is written", "full when it is made durable", "a limit on files")


def keep(where: str) -> Filter:
    return Filter.model_validate({"name": "f", "rules": [{"name": "rule", "where": where}]})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(RECIPE, tmp_path_factory.mktemp("run") / "run")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@contextmanager
def no_room(way: str, below: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is written below a folder while the block lasts finds no room."""
    if way == "a limit on files":
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        return
    sync = os.fsync

    def full(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").readlink().is_relative_to(below):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    with monkeypatch.context() as patch:
        if way == "full when it is made durable":
            patch.setattr(os, "fsync", full)
        else:
            for module in ("writing", "local"):
                patch.setattr(f"magpie.storage.{module}.temporary", on_a_full_disk)
            patch.setattr("magpie.storage.local._write", lambda path, data: path.write_bytes(data))
        yield


def on_a_full_disk(path: Path) -> Path:
    """A name for what is to be `path`; what is written there goes to a device that has never any room."""
    link = path.with_name(f".{path.name}.full.tmp")
    link.symlink_to("/dev/full")
    return link


def filters(run: Run, folder: Path) -> Callable[[str], object]:
    return lambda where: api.filter(run, keep(where), folder)


def exports(run: Run, folder: Path, ending: str) -> Callable[[str], object]:
    def export(where: str) -> object:
        format = "messages" if where == "index < 20" else "sharegpt"
        return api.export(run, format, folder / f"rows.{ending}", overwrite=True)

    return export


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ["filter", "jsonl", "json.gz", "parquet"])
def test_the_earlier_result_stays_whole(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, way: str
) -> None:
    if not Path("/dev/full").exists() or not Path("/proc/self/fd").exists():
        pytest.skip("there is no /dev/full, or no /proc")
    out = tmp_path / "out"
    work = filters(run, out) if what == "filter" else exports(run, out, what)
    work("index < 20")
    before = files(out)
    with no_room(way, tmp_path, monkeypatch), pytest.raises(StorageError) as caught:
        work("index >= 5")
    said = str(caught.value)
    assert "\n" not in said and str(out) in said and "run the same command again: nothing is lost" in said
    assert said.startswith(f"no space left for {out}" if way != "a limit on files" else f"cannot write {out}")
    assert files(out) == before
    work("index >= 5")
    assert files(out) != before and not list(out.glob(".*.tmp"))


@pytest.mark.parametrize("way", WAYS[1:])
def test_a_build_that_has_no_room_for_its_dataset_goes_on_when_there_is_some(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    folder = build(RECIPE, tmp_path / "run").folder
    before = files(folder / "dataset")
    (folder / "dataset" / ".manifest.json").unlink()  # so that it is written again
    with (
        no_room(way, folder / "dataset", monkeypatch),
        pytest.raises(StorageError, match=r"dataset.*nothing is lost"),
    ):
        build(RECIPE, folder)
    build(RECIPE, folder)
    assert files(folder / "dataset") == before and verify(Run.open(folder)) == []
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("megabytes", [100, 700, 2500])
def test_too_little_address_space_is_said_before_a_library_stumbles(run: Run, megabytes: int) -> None:
    limit = ["sh", "-c", f'ulimit -v {megabytes * 1000}; exec "$@"', "sh"]
    said = refusal(magpie("status", run.folder, before=limit))
    assert "address space (`ulimit -v`)" in said and said.endswith("raise the limit")

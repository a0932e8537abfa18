"""A disk that fails for a moment costs nothing, and one that goes on failing is one line: no shard is thrown away."""

from __future__ import annotations

import errno
import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from builds import small_recipe, tree

from magpie.build import build
from magpie.data.dataset import DatasetFiles
from magpie.data.published import Published
from magpie.errors import DamagedShardError, RecipeError, StorageError
from magpie.runs.opened import open_dataset
from magpie.runs.record import recorded_ingredients
from magpie.runs.run import Run
from magpie.runs.sealing import read_run_manifest
from magpie.runs.verify import quarantined, verify
from magpie.storage import LocalStorage, Storage
from magpie.storage.owner import Owner, this_machine
from magpie.storage.reading import WAITS
from magpie.storage.sealed import (
    about_shard,
    count_rows,
    inspect_shard,
    open_sealed,
    read_schema,
    read_shard,
)
from magpie.storage.temporary import temporary_folder

PASSING = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ENOMEM)
RECIPE = small_recipe(rows=32, extend=None)
SHARD = "steps/01-instruct/00001.parquet"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(RECIPE, tmp_path_factory.mktemp("run") / "run")


class Disk:
    """Fails with `number` when the file that ends in `name` is opened, or read from, for `times` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name, self.number, self.times, self.asked = "nothing", 0, 0, 0
        opened, arrow = os.open, pa.OSFile

        def open_by_number(path: Any, *arguments: Any, **settings: Any) -> int:
            self._fail(path)
            return opened(path, *arguments, **settings)

        def open_by_arrow(path: Any, *arguments: Any) -> Any:
            self._fail(path)
            return arrow(path, *arguments)

        monkeypatch.setattr(os, "open", open_by_number)
        monkeypatch.setattr(pa, "OSFile", open_by_arrow)
        monkeypatch.setattr("magpie.storage.reading.WAITS", (0.0,) * len(WAITS))

    def fails(self, name: str, number: int, times: int = 1000) -> None:
        self.name, self.number, self.times, self.asked = name, number, times, 0

    def _fail(self, path: Any) -> None:
        if isinstance(path, str | bytes | Path) and os.fsencode(path).endswith(self.name.encode()):
            self.asked += 1
            if self.asked <= self.times:
                raise OSError(self.number, os.strerror(self.number), path)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


READS: dict[str, Callable[[Storage], object]] = {
    "whole": lambda storage: read_shard(storage, SHARD),
    "unchecked": lambda storage: read_shard(storage, SHARD, ["id"], check=False),
    "inspect": lambda storage: inspect_shard(storage, SHARD),
    "about": lambda storage: about_shard(storage, SHARD),
    "count": lambda storage: count_rows(storage, SHARD),
    "schema": lambda storage: read_schema(storage, SHARD),
    "parts": lambda storage: open_sealed(storage, SHARD).read(),
    "bytes": lambda storage: storage.read(SHARD),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("number", PASSING, ids=lambda number: errno.errorcode[number])
def test_a_shard_is_read_again_and_then_it_is_the_disk(run: Run, disk: Disk, read: str, number: int) -> None:
    whole = READS[read](run.storage)
    disk.fails(SHARD, number, times=len(WAITS))
    assert READS[read](run.storage) == whole and disk.asked == len(WAITS) + 1
    disk.fails(SHARD, number)
    with pytest.raises(StorageError, match=r"cannot read .*00001\.parquet: .*; ") as caught:
        READS[read](run.storage)
    assert "\n" not in str(caught.value) and disk.asked == len(WAITS) + 1


class Torn(io.FileIO):
    """A file whose first reads fail."""

    left = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if Torn.left:
            Torn.left -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(-1 if size is None else size)


@pytest.mark.parametrize("read", ["unchecked", "about", "count", "schema"])
def test_what_fails_while_arrow_reads_is_read_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, disk: Disk, read: str
) -> None:
    whole = READS[read](run.storage)
    monkeypatch.setattr(
        LocalStorage, "open", lambda self, name: pa.PythonFile(Torn(self.folder / name), mode="r")
    )
    Torn.left = len(WAITS)
    assert READS[read](run.storage) == whole and Torn.left == 0
    Torn.left = 1000
    with pytest.raises(StorageError, match="Input/output error; check the disk"):
        READS[read](run.storage)


@pytest.mark.parametrize("read", [name for name in READS if name != "bytes"])
def test_bytes_that_were_read_and_are_wrong_are_read_once(
    run: Run, tmp_path: Path, disk: Disk, read: str
) -> None:
    data = (run.folder / SHARD).read_bytes()
    storage = LocalStorage(tmp_path)
    storage.create(SHARD, data[: len(data) // 2])
    disk.fails(SHARD, 0, times=0)
    with pytest.raises(DamagedShardError, match="run the build again"):
        READS[read](storage)
    assert disk.asked == 1


ABOUT: dict[str, Callable[[Run], object]] = {
    "recipe.yaml": lambda run: Run.open(run.folder).recipe,
    "manifest.json": lambda run: read_run_manifest(run.storage),
    "fingerprints.json": lambda run: recorded_ingredients(run.storage),
    "dataset/.manifest.json": lambda run: DatasetFiles(run.storage, "dataset/").manifest(),
    "dataset/train-00000.parquet": lambda run: list(open_dataset(run).tables()),
}


@pytest.mark.parametrize("name", ABOUT)
def test_what_a_run_says_about_itself_is_not_taken_for_lost(run: Run, disk: Disk, name: str) -> None:
    whole = ABOUT[name](run)
    disk.fails(name, errno.ESTALE, times=2)
    assert ABOUT[name](run) == whole
    disk.fails(name, errno.ESTALE)
    with pytest.raises(StorageError, match=r"cannot read .*check the disk"):
        ABOUT[name](run)


@pytest.mark.parametrize("name", [SHARD, *ABOUT])
def test_a_build_waits_or_stops_and_throws_nothing_away(tmp_path: Path, disk: Disk, name: str) -> None:
    run = build(RECIPE, tmp_path / "run")
    before = tree(run.folder)
    disk.fails(name, errno.EIO)
    with pytest.raises(StorageError, match="nothing is lost"):
        build(RECIPE, run.folder)
    disk.fails(name, errno.EIO, times=3)
    build(RECIPE, run.folder)
    assert quarantined(run) == verify(run) == []
    assert tree(run.folder) == before


def test_a_persons_file_that_the_disk_does_not_give_is_not_called_damaged(tmp_path: Path) -> None:
    memory = Path("/proc/self/mem")
    if not memory.exists():
        pytest.skip("a file that cannot be read is looked for in /proc")
    for name in ("rows.jsonl", "rows.parquet"):
        (tmp_path / name).symlink_to(memory)  # at its start there is nothing that can be read: EIO
        with pytest.raises(RecipeError, match=r"cannot read .*Input/output error; check the disk"):
            Published(tmp_path / name)


def test_no_room_for_a_copy_of_a_persons_file_says_where_it_was_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.parquet.gz").write_bytes(gzip.compress(b"PAR1" + bytes(200_000)))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("magpie.records.as_parquet.copyfileobj", no_space)
    with pytest.raises(RecipeError, match=r"no space left for a copy of .*rows\.parquet\.gz.*set TMPDIR"):
        Published(tmp_path / "rows.parquet.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet.gz"]


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_copies_of_a_persons_file_go_with_their_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = Owner(this_machine(), 2**22, 1)
    left = tmp_path / f".magpie.{dead.machine}-{dead.pid}-{dead.began}-00000000.tmp"
    left.mkdir()
    (left / "00000.parquet").write_bytes(b"half")
    (tmp_path / "magpie-mine").mkdir()
    live = temporary_folder()
    assert sorted(tmp_path.iterdir()) == sorted([live, tmp_path / "magpie-mine"])
    (tmp_path / "rows.jsonl").write_text('{"instruction": "Why?", "response": "So."}\n')
    before = set(tmp_path.iterdir())
    published = Published(tmp_path / "rows.jsonl")
    assert len(set(tmp_path.iterdir()) - before) == 1
    del published
    assert set(tmp_path.iterdir()) == before

"""A dataset's files: of bounded size, named by a manifest that is written last, in the place of nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magpie.data import dataset
from magpie.data.dataset import MANIFEST, DatasetFiles, DatasetManifest
from magpie.errors import DamagedShardError, RunError
from magpie.storage import LocalStorage, MemoryStorage, Storage
from magpie.storage.sealed import inspect_shard


def tables(rows: int, *, each: int = 7, first: int = 0) -> Iterator[pa.Table]:
    """Rows in tables of `each`, with ids from `first` on."""
    for start in range(0, rows, each):
        yield pa.table({"id": [f"r-{first + at}" for at in range(start, min(start + each, rows))]})


def ids(files: DatasetFiles) -> list[str]:
    """The ids of the dataset that the manifest names."""
    return [
        row_id
        for name in files.names()
        for row_id in pq.read_table(files.storage.open(name))["id"].to_pylist()
    ]


def write(files: DatasetFiles, rows: int, *, first: int = 0, made_from: str = "y") -> None:
    files.write(tables(rows, first=first), rows, name="x", made_from=made_from)


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return MemoryStorage() if request.param == "memory" else LocalStorage(tmp_path / "out")


@pytest.fixture(params=["", "dataset/"])
def files(request: pytest.FixtureRequest, storage: Storage) -> DatasetFiles:
    storage.prepare()
    return DatasetFiles(storage, request.param)


def test_many_rows_become_many_files_in_order(files: DatasetFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "ROWS_PER_FILE", 10)
    assert (files.names(), files.manifest()) == ([], None)
    write(files, 35)
    assert files.names() == [f"{files.prefix}train-0000{number}.parquet" for number in range(4)]
    sizes = [pq.read_metadata(files.storage.open(name)).num_rows for name in files.names()]
    assert sizes == [10, 10, 10, 5]
    assert ids(files) == [f"r-{at}" for at in range(35)]
    stamps = [inspect_shard(files.storage, name).stamp for name in files.names()]
    assert [(one.step, one.shard, one.first, one.rows, one.total, one.made_from) for one in stamps] == [
        ("dataset", number, 10 * number, size, 35, "y") for number, size in enumerate(sizes)
    ]


def test_the_manifest_names_every_file_with_its_rows_and_content(files: DatasetFiles) -> None:
    write(files, 20)
    manifest = files.manifest()
    assert manifest is not None
    written = json.loads(files.storage.read(f"{files.prefix}{MANIFEST}"))
    content = inspect_shard(files.storage, f"{files.prefix}train-00000.parquet").content
    assert written == {
        "format": 1,
        "made_from": "y",
        "rows": 20,
        "files": [{"name": "train-00000.parquet", "rows": 20, "content": content}],
    }
    assert DatasetManifest.parse(manifest.to_json().encode()) == manifest


def test_a_dataset_takes_the_place_of_an_earlier_one(
    files: DatasetFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "ROWS_PER_FILE", 10)
    write(files, 35)
    before = set(files.names())
    write(files, 12, first=100)
    assert ids(files) == [f"r-{at}" for at in range(100, 112)]
    assert len(files.names()) == 2 and not before & set(files.names())
    assert sorted(files.storage.names(files.prefix)) == sorted([*files.names(), f"{files.prefix}{MANIFEST}"])
    assert files.strays() == []


class Killed(BaseException):
    """The process is gone."""


MOMENTS = ("first file", "second file", "first name", "second name", "manifest", "clearing up")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("has_manifest", [True, False])
def test_killed_on_the_way_one_whole_dataset_or_the_other_is_there(
    files: DatasetFiles, monkeypatch: pytest.MonkeyPatch, moment: str, has_manifest: bool
) -> None:
    """Before the manifest it is the old one, whether that has a manifest or was written by an earlier version."""
    monkeypatch.setattr(dataset, "ROWS_PER_FILE", 10)
    write(files, 15)
    if not has_manifest:
        files.storage.delete(f"{files.prefix}{MANIFEST}")
    storage = files.storage
    stage, staged = storage.stage, list[str]()
    move, moved = storage.move, list[str]()

    def staging(name: str, data: bytes) -> str:
        if len(staged) == {"first file": 0, "second file": 1}.get(moment):
            raise Killed
        staged.append(name)
        return stage(name, data)

    def moving(name: str, to: str) -> None:
        if len(moved) == {"first name": 0, "second name": 1}.get(moment):
            raise Killed
        moved.append(to)
        move(name, to)

    def dying(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as killing:
        killing.setattr(storage, "stage", staging)
        killing.setattr(storage, "move", moving)
        if moment == "manifest":
            killing.setattr(storage, "replace", dying)
        if moment == "clearing up":
            killing.setattr(storage, "delete", dying)
        with pytest.raises(Killed):
            write(files, 18, first=100, made_from="z")
    is_new = moment == "clearing up"
    assert ids(files) == [f"r-{at}" for at in (range(100, 118) if is_new else range(15))]
    assert not files.is_made_from("z", 18), "files that no manifest names are not left lying"
    assert bool(files.strays()) == (moment in {"second name", "manifest", "clearing up"})
    write(files, 18, first=100, made_from="z")
    assert ids(files) == [f"r-{at}" for at in range(100, 118)]
    assert files.strays() == [] and files.is_made_from("z", 18)


def test_what_is_not_whole_or_of_other_rows_is_not_made_from_them(
    files: DatasetFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "ROWS_PER_FILE", 10)
    assert not files.is_made_from("y", 15)
    write(files, 15)
    assert files.is_made_from("y", 15)
    assert not files.is_made_from("z", 15) and not files.is_made_from("y", 14)
    first, second = files.names()
    whole = {name: files.storage.read(name) for name in files.storage.names(files.prefix)}

    def spoilt(name: str, data: bytes | None) -> bool:
        for earlier, bytes_then in whole.items():
            files.storage.replace(earlier, bytes_then)
        if data is None:
            files.storage.delete(name)
        else:
            files.storage.replace(name, data)
        found = not files.is_made_from("y", 15)
        if name not in whole:
            files.storage.delete(name)
        return found

    for name in (first, second, f"{files.prefix}{MANIFEST}"):
        assert spoilt(name, None)
        assert spoilt(name, whole[name][:-5])
    assert spoilt(second, whole[first])  # sealed and whole, and not the file that the manifest names
    assert spoilt(f"{files.prefix}train-00002.parquet", whole[second])
    for earlier, data in whole.items():
        files.storage.replace(earlier, data)
    assert files.is_made_from("y", 15)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"made_from": "y", "rows": 1e999, "files": []}',
        b'{"made_from": "y", "rows": 1, "files": [{}]}',
        b'{"made_from": "y", "rows": 1, "files": [{"name": "../train-00000.parquet", "rows": 1, "content": "a"}]}',
        b'{"made_from": "y", "rows": 1, "files": [{"name": "/etc/passwd", "rows": 1, "content": "a"}]}',
        b'{"made_from": "y", "rows": 1, "files": [{"name": 7, "rows": 1, "content": "a"}]}',
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_read_is_an_error_that_says_what_to_do(
    files: DatasetFiles, data: bytes
) -> None:
    write(files, 5)
    files.storage.replace(f"{files.prefix}{MANIFEST}", data)
    with pytest.raises(DamagedShardError, match=r"\.manifest\.json cannot be read .*; run the build again"):
        files.names()
    write(files, 6)
    assert len(ids(files)) == 6


def test_a_dataset_of_an_earlier_version_is_told_from_its_stamps(
    files: DatasetFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "ROWS_PER_FILE", 10)
    write(files, 25)
    manifest = files.manifest()
    files.storage.delete(f"{files.prefix}{MANIFEST}")
    assert files.manifest() == manifest
    assert not files.is_made_from("y", 25), "it is to be given a manifest"
    last = files.names()[-1]
    for name in files.names():
        data = files.storage.read(name)
        files.storage.delete(name)
        assert files.names() == [], "a dataset that lacks a file is none"
        files.storage.create(name, data[:-1])
        assert files.names() == [], "nor is one with a damaged file"
        files.storage.replace(name, data)
    assert files.names()[-1] == last


def test_it_is_taken_away_whole(files: DatasetFiles) -> None:
    files.discard()
    write(files, 5)
    files.discard()
    assert files.storage.names(files.prefix) == []


@pytest.mark.parametrize("other", ["users.parquet", "train-00000.csv", "notes/mine.txt", "manifest.json"])
def test_it_takes_the_place_of_nothing_else(files: DatasetFiles, other: str) -> None:
    files.storage.create(f"{files.prefix}{other}", b"mine")
    for attempt in (lambda: write(files, 5), files.refuse_other_things):
        with pytest.raises(RunError, match=f"holds other things .{other}.; choose an empty folder"):
            attempt()
    assert files.storage.names(files.prefix) == [f"{files.prefix}{other}"]
    files.storage.create(f"{files.prefix}train-00000.parquet", b"mine")
    with pytest.raises(RunError, match="holds other things"):
        files.discard()
    assert len(files.storage.names(files.prefix)) == 2


@pytest.mark.parametrize(
    "beside", ["README.md", ".gitattributes", "LICENSE", "figures/funnel.png", "cover.png"]
)
def test_a_card_and_its_like_are_expected_and_survive(files: DatasetFiles, beside: str) -> None:
    files.storage.create(f"{files.prefix}{beside}", b"mine")
    for made_from in ("y", "z"):
        write(files, 5, made_from=made_from)
        assert files.is_made_from(made_from, 5) and files.strays() == []
    files.discard()
    assert files.storage.names(files.prefix) == [f"{files.prefix}{beside}"]
    assert files.storage.read(f"{files.prefix}{beside}") == b"mine"


def test_a_dataset_that_is_a_link_is_unlinked_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    elsewhere = DatasetFiles(LocalStorage(tmp_path / "elsewhere"))
    write(elsewhere, 5)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "dataset").symlink_to(tmp_path / "elsewhere")
    files = DatasetFiles(LocalStorage(tmp_path / "run"), "dataset/")
    assert files.is_made_from("y", 5)
    write(files, 7, made_from="z")
    assert not (tmp_path / "run" / "dataset").is_symlink()
    assert files.is_made_from("z", 7) and elsewhere.is_made_from("y", 5)


def test_fewer_rows_than_were_announced_are_no_dataset(files: DatasetFiles) -> None:
    with pytest.raises(RunError, match="5 rows came where 6 were announced"):
        files.write(tables(5), 6, name="x", made_from="y")
    assert files.names() == []


def test_an_empty_dataset_has_a_file_with_its_columns(files: DatasetFiles) -> None:
    nothing = pa.table({"id": pa.array([], pa.string())})
    files.write(iter([nothing]), 0, name="x", made_from="y")
    (name,) = files.names()
    assert pq.read_table(files.storage.open(name)).column_names == ["id"]
    assert files.is_made_from("y", 0)


def test_the_manifest_is_hidden_from_who_reads_the_folder(tmp_path: Path) -> None:
    import datasets

    write(DatasetFiles(LocalStorage(tmp_path / "out")), 5)
    assert pq.read_table(tmp_path / "out").num_rows == 5
    found = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert found["id"][:] == [f"r-{at}" for at in range(5)]

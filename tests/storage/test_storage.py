"""What a run asks of a storage: the same of a folder and of memory, and what only a folder has to do."""

from __future__ import annotations

import gc
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from magpie.errors import RunError, StorageError
from magpie.storage import LocalStorage, MemoryStorage, Storage, open_storage
from magpie.storage.writing import replacing, storage_errors

NAME = "steps/01-instruct/00000.parquet"


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return MemoryStorage() if request.param == "memory" else LocalStorage(tmp_path / "run")


def test_a_file_is_created_once(storage: Storage) -> None:
    storage.prepare()
    assert not storage.exists(NAME)
    storage.create(NAME, b"one")
    assert storage.exists(NAME)
    with pytest.raises(FileExistsError):
        storage.create(NAME, b"other")
    assert storage.read(NAME) == b"one"
    assert storage.names() == [NAME]


def test_of_many_who_create_a_file_one_wins(storage: Storage) -> None:
    storage.prepare()
    ready, outcomes = threading.Barrier(8), dict[int, str]()

    def create(number: int) -> None:
        ready.wait()
        for attempt in range(20):
            try:
                storage.create(f"{attempt}/{NAME}", bytes([number]) * 10_000)
                outcomes[number] = outcomes.get(number, "") + f"{attempt},"
            except FileExistsError:
                continue

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = {number: [int(one) for one in text.split(",") if one] for number, text in outcomes.items()}
    assert sorted(attempt for attempts in won.values() for attempt in attempts) == list(range(20))
    for number, attempts in won.items():
        for attempt in attempts:
            assert storage.read(f"{attempt}/{NAME}") == bytes([number]) * 10_000
    assert len(storage.names()) == 20


def test_a_file_is_replaced_whether_it_is_there_or_not(storage: Storage) -> None:
    storage.prepare()
    for data in (b"one", bytearray(b"other")):
        storage.replace(NAME, data)
        assert storage.read(NAME) == data
    assert storage.names() == [NAME]


def test_of_two_who_supersede_one_file_the_second_undoes_nothing(storage: Storage) -> None:
    storage.prepare()
    storage.supersede(NAME, b"one", lambda there: False)  # nothing is there
    storage.supersede(NAME, b"two", lambda there: there == b"one")
    with pytest.raises(FileExistsError):
        storage.supersede(NAME, b"three", lambda there: there == b"one")
    assert storage.read(NAME) == b"two" and storage.names() == [NAME]


def test_what_was_given_may_change_afterwards(storage: Storage) -> None:
    storage.prepare()
    data = bytearray(b"one")
    storage.create("a", data)
    storage.replace("b", data)
    data[:] = b"two"
    assert (storage.read("a"), storage.read("b")) == (b"one", b"one")


def test_names_are_sorted_and_begin_with_the_prefix(storage: Storage) -> None:
    storage.prepare()
    for name in (
        "steps/02-tag/00001",
        "steps/02-tag/00000",
        "steps/02-target/00000",
        "dataset/.m.json",
        "log",
    ):
        storage.create(name, b"")
    assert storage.names() == sorted(
        ["log", "dataset/.m.json", "steps/02-tag/00000", "steps/02-tag/00001", "steps/02-target/00000"]
    )
    assert storage.names("steps/02-tag/") == ["steps/02-tag/00000", "steps/02-tag/00001"]
    assert storage.names("steps/02-ta") == [
        "steps/02-tag/00000",
        "steps/02-tag/00001",
        "steps/02-target/00000",
    ]
    assert storage.names("dataset/") == ["dataset/.m.json"]
    assert storage.names("nothing/") == []


def test_a_file_is_moved_over_what_was_there(storage: Storage) -> None:
    storage.prepare()
    storage.create(NAME, b"one")
    storage.create("quarantine/old", b"old")
    storage.move(NAME, f"quarantine/{NAME}")
    storage.move("quarantine/old", f"quarantine/{NAME}")
    assert storage.names() == [f"quarantine/{NAME}"]
    assert storage.read(f"quarantine/{NAME}") == b"old"
    assert not storage.exists(NAME)


def test_a_file_that_is_not_there_is_not_moved(storage: Storage) -> None:
    storage.prepare()
    with pytest.raises(StorageError, match="nowhere"):
        storage.move("nowhere", "there")


def test_a_file_is_deleted_once_or_twice(storage: Storage) -> None:
    storage.prepare()
    storage.create(NAME, b"one")
    storage.delete(NAME)
    storage.delete(NAME)
    storage.delete("nowhere/at/all")
    assert storage.names() == [] and not storage.exists(NAME)
    with pytest.raises(FileNotFoundError):
        storage.read(NAME)
    with pytest.raises(FileNotFoundError):
        storage.open(NAME)
    storage.create(NAME, b"two")
    assert storage.read(NAME) == b"two"


def test_text_is_added_at_the_end(storage: Storage) -> None:
    storage.prepare()
    for text in ("one\n", "ñ 鳥\n"):
        storage.append("log.jsonl", text)
    assert storage.read("log.jsonl").decode() == "one\nñ 鳥\n"


def test_parts_of_a_file_are_read(storage: Storage) -> None:
    storage.prepare()
    storage.create(NAME, b"0123456789")
    with storage.open(NAME) as file:
        file.seek(4)
        assert file.read(3) == b"456"


@pytest.mark.parametrize("source", ["local", "memory"])
def test_a_file_of_another_storage_is_taken_over(storage: Storage, source: str, tmp_path: Path) -> None:
    other: Storage = MemoryStorage() if source == "memory" else LocalStorage(tmp_path / "other")
    other.prepare()
    other.create("theirs", b"one")
    storage.prepare()
    storage.create(NAME, b"mine")
    storage.take_over(other, "theirs", NAME)
    storage.take_over(other, "theirs", "steps/02-clean/00000.parquet")
    assert storage.read(NAME) == storage.read("steps/02-clean/00000.parquet") == b"one"
    other.delete("theirs")
    assert storage.read(NAME) == b"one"
    assert len(storage.names()) == 2


def test_what_else_is_there_is_named(storage: Storage) -> None:
    assert storage.unrelated(frozenset()) is None
    storage.prepare()
    with storage.lock():
        pass
    storage.create("log.jsonl", b"")
    storage.create("steps/one", b"")
    assert storage.unrelated(frozenset({"log.jsonl", "steps"})) is None
    storage.create("notes/mine.txt", b"")
    assert storage.unrelated(frozenset({"log.jsonl", "steps"})) == "notes"


def test_a_lock_is_held_again_after_it_was_let_go(storage: Storage) -> None:
    storage.prepare()
    for _ in range(2):
        with storage.lock():
            storage.sweep()
    assert storage.names() in ([], ["run.lock"])


# A folder on a local disk


def test_the_storage_a_person_names_is_a_folder(tmp_path: Path) -> None:
    named = open_storage(tmp_path / "run")
    assert isinstance(named, LocalStorage)
    assert named.place("a/b") == str(tmp_path / "run" / "a" / "b")
    assert named.local_path("a/b") == tmp_path / "run" / "a" / "b"
    # Elsewhere it is a copy, wherever the name points, and it goes with the storage.
    elsewhere = MemoryStorage()
    elsewhere.create("../a.parquet", b"rows")
    copy = elsewhere.local_path("../a.parquet")
    assert (
        copy.read_bytes() == b"rows"
        and copy.suffix == ".parquet"
        and copy == elsewhere.local_path("../a.parquet")
    )
    del elsewhere
    gc.collect()
    assert not copy.parent.exists()


def test_files_that_one_disk_holds_are_shared_and_not_copied(tmp_path: Path) -> None:
    one, other = LocalStorage(tmp_path / "one"), LocalStorage(tmp_path / "other")
    one.create("a", b"data")
    other.take_over(one, "a", "b")
    assert (tmp_path / "one" / "a").samefile(tmp_path / "other" / "b")


def test_where_links_are_not_to_be_had_files_are_copied_and_still_created_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    one, other = LocalStorage(tmp_path / "one"), LocalStorage(tmp_path / "other")
    one.create("a", b"data")
    with pytest.raises(FileExistsError):
        one.create("a", b"other")
    other.take_over(one, "a", "b")
    assert other.read("b") == b"data" and not (tmp_path / "one" / "a").samefile(tmp_path / "other" / "b")
    assert (one.names(), other.names()) == (["a"], ["b"])
    assert not list(tmp_path.rglob("*.tmp"))


def test_one_build_at_a_time(tmp_path: Path) -> None:
    with LocalStorage(tmp_path).lock():
        with pytest.raises(RunError, match="another build"), LocalStorage(tmp_path).lock():
            pass
    with LocalStorage(tmp_path).lock():
        pass


def test_what_interrupted_writers_left_behind_is_no_file_and_is_swept(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.create("steps/00000.parquet", b"whole")
    (tmp_path / "steps" / ".00000.parquet.1234abcd.tmp").write_bytes(b"half")
    (tmp_path / ".dataset.1234abcd.tmp").mkdir()
    (tmp_path / ".dataset.1234abcd.tmp" / "train-00000.parquet").write_bytes(b"half")
    assert storage.names() == ["steps/00000.parquet"]
    assert storage.unrelated(frozenset({"steps"})) is None
    storage.sweep()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["00000.parquet", "steps"]


def test_a_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="is a file; choose another folder"):
        LocalStorage(tmp_path / "file").prepare()


def test_a_file_too_long_for_memory_is_there_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with pytest.raises(ValueError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ValueError
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert [one.read_text() for one in tmp_path.iterdir()] == ["new"]


WRITES: dict[str, Callable[[Storage], None]] = {
    "create": lambda storage: storage.create("x", b"x"),
    "create below": lambda storage: storage.create("deeper/x", b"x"),
    "replace": lambda storage: storage.replace("x", b"x"),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_read_only_folder_is_one_clear_error(tmp_path: Path, write: str) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere; the full-disk test covers the same path")
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(StorageError, match="--out"):
            WRITES[write](LocalStorage(tmp_path))
    finally:
        tmp_path.chmod(stat.S_IRWXU)


@pytest.mark.parametrize("write", WRITES)
def test_a_file_where_a_folder_is_to_be_is_one_clear_error(tmp_path: Path, write: str) -> None:
    for place in ("run", "run/below"):
        (tmp_path / place.partition("/")[0]).write_text("mine")
        with pytest.raises(StorageError, match="cannot write"):
            WRITES[write](LocalStorage(tmp_path / place))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_full_disk_is_one_clear_error() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(StorageError, match="no space left"), storage_errors(full), full.open("wb") as file:
        file.write(b"x" * 100_000)


@pytest.mark.parametrize("failing", ["fsync", "write"])
def test_what_could_not_be_written_whole_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """The disk fills up before the name is given: nothing is left, not even the temporary file."""
    storage = LocalStorage(tmp_path)
    storage.create("old", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr("magpie.storage.local._write", full)
    with pytest.raises(StorageError, match="no space left"):
        storage.create("new", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert storage.read("old") == b"old"

"""Files in a bucket, on a real S3 server."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from storage.buckets import bucket, s3_server  # noqa: F401

from magpie.errors import RunError, StorageError
from magpie.storage import lease
from magpie.storage.objects import ObjectStorage
from magpie.storage.owner import this_machine


def test_what_is_written_is_read_back(bucket: str) -> None:  # noqa: F811
    storage = ObjectStorage(bucket)
    storage.prepare()
    assert storage.names() == []
    storage.create("steps/01-instruct/00000.parquet", b"rows")
    storage.create("steps/01-instruct/00001.parquet", b"more")
    storage.replace("recipe.yaml", b"name: x")
    storage.replace("recipe.yaml", b"name: y")
    assert storage.names() == [
        "recipe.yaml",
        "steps/01-instruct/00000.parquet",
        "steps/01-instruct/00001.parquet",
    ]
    assert storage.names("steps/01-instruct/00001") == ["steps/01-instruct/00001.parquet"]
    assert storage.read("recipe.yaml") == b"name: y"
    assert storage.open("recipe.yaml").read() == b"name: y"
    assert storage.exists("recipe.yaml") and not storage.exists("recipe")
    assert storage.unrelated(frozenset({"recipe.yaml"})) == "steps"
    assert storage.unrelated(frozenset({"recipe.yaml", "steps"})) is None
    storage.move("recipe.yaml", "old/recipe.yaml")
    assert not storage.exists("recipe.yaml") and storage.read("old/recipe.yaml") == b"name: y"
    storage.delete("old/recipe.yaml")
    storage.delete("old/recipe.yaml")
    with pytest.raises(FileNotFoundError):
        storage.read("old/recipe.yaml")


def test_of_many_writers_of_one_name_one_gets_through(bucket: str) -> None:  # noqa: F811
    def write(writer: int) -> bool:
        storage = ObjectStorage(bucket)
        try:
            storage.create("steps/01-instruct/00000.parquet", b"%d" % writer)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as writers:
        won = [writer for writer, wins in enumerate(writers.map(write, range(8))) if wins]
    assert len(won) == 1
    assert ObjectStorage(bucket).read("steps/01-instruct/00000.parquet") == b"%d" % won[0]


def test_of_many_who_supersede_one_object_one_gets_through(bucket: str) -> None:  # noqa: F811
    """Even of those that have all seen it stale: whoever stood still meanwhile undoes nothing."""
    seen = threading.Barrier(8)

    def write(writer: int) -> bool:
        def is_stale(there: bytes) -> bool:
            seen.wait(30)
            return there == b"stale"

        try:
            ObjectStorage(bucket).supersede("steps/01-instruct/00000.parquet", b"%d" % writer, is_stale)
        except FileExistsError:
            return False
        return True

    ObjectStorage(bucket).create("steps/01-instruct/00000.parquet", b"stale")
    with ThreadPoolExecutor(8) as writers:
        won = [writer for writer, wins in enumerate(writers.map(write, range(8))) if wins]
    assert len(won) == 1
    assert ObjectStorage(bucket).read("steps/01-instruct/00000.parquet") == b"%d" % won[0]


def test_an_object_is_superseded_by_a_request_whose_answer_was_lost(
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = ObjectStorage(bucket)
    storage.create("a", b"1")
    whole = storage._write

    def twice(name: str, data: bytes, *, mode: Any) -> None:
        whole(name, data, mode=mode)
        whole(name, data, mode=mode)  # as obstore makes it again

    monkeypatch.setattr(storage, "_write", twice)
    storage.supersede("a", b"2", lambda there: there == b"1")
    assert storage.read("a") == b"2"


def test_it_travels_to_another_process(bucket: str) -> None:  # noqa: F811
    storage = ObjectStorage(bucket)
    storage.create("a", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("a") == b"1"


def test_a_log_is_added_to(bucket: str) -> None:  # noqa: F811
    for begin in range(2):
        storage = ObjectStorage(bucket)
        with storage.lock():
            for line in range(3):
                storage.append("log.jsonl", f"{begin}.{line}\n")
    assert storage.read("log.jsonl") == b"0.0\n0.1\n0.2\n1.0\n1.1\n1.2\n"


def test_one_build_at_a_time(bucket: str) -> None:  # noqa: F811
    with ObjectStorage(bucket).lock():
        with pytest.raises(RunError, match=r"another build is at work in s3://.*: process"):
            with ObjectStorage(bucket).lock():
                pass
    with ObjectStorage(bucket).lock():
        pass
    assert ObjectStorage(bucket).names() == []


def test_a_lease_that_is_not_renewed_runs_out(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(lease, "LASTS", 1.0)
    monkeypatch.setattr(lease, "_RENEW_EVERY", 60.0)
    dead = lease.Lease(ObjectStorage(bucket)._store, "run.lock", bucket)
    dead.__enter__()
    time.sleep(1.1)
    won = []

    def take() -> None:
        try:
            with ObjectStorage(bucket).lock():
                won.append(1)
                time.sleep(0.5)
        except RunError:
            pass

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def leave_a_lease(place: str, **facts: Any) -> None:
    """As a build leaves it that died: of another machine, unless `facts` say otherwise."""
    process = {"machine": "another", "pid": 7, "began": 7}
    holder = {"owner": "x", "host": "there", "pid": 7, "since": 0, "process": process} | facts
    ObjectStorage(place).replace("run.lock", json.dumps(holder).encode())


def test_the_lease_of_a_dead_process_of_this_machine_counts_no_longer(bucket: str) -> None:  # noqa: F811
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    process = {"machine": this_machine(), "pid": ended.pid, "began": 1}
    leave_a_lease(bucket, until=time.time() + 1000, process=process)
    assert ObjectStorage(bucket).holder() is None
    with ObjectStorage(bucket).lock():
        pass


def test_the_lease_of_a_dead_machine_is_waited_for(
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(lease, "_LOOK_EVERY", 0.05)
    leave_a_lease(bucket, until=time.time() + 0.5)
    with ObjectStorage(bucket).lock():
        pass
    assert "on there, did not let go of its lock" in caplog.text


def test_a_lease_that_is_renewed_is_respected(
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "_LOOK_EVERY", 0.05)
    leave_a_lease(bucket, until=time.time() + 1000)
    renewing = threading.Timer(0.2, leave_a_lease, (bucket,), {"until": time.time() + 2000})
    renewing.start()
    with pytest.raises(RunError, match=r"another build is at work in s3://.*: process 7 on there"):
        with ObjectStorage(bucket).lock():
            pass
    renewing.join()


def test_a_renewal_whose_answer_was_lost_is_renewed_again(
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "_RENEW_EVERY", 0.05)
    with lease.Lease(ObjectStorage(bucket)._store, "run.lock", bucket) as held:
        held._version = {"e_tag": "another", "version": None}  # what the store has is newer
        before = held._holder()[0]["until"]
        end = time.monotonic() + 30
        while held._holder()[0]["until"] == before and time.monotonic() < end:
            time.sleep(0.05)
        assert held._holder()[0]["until"] > before
    assert ObjectStorage(bucket).names() == []


def test_a_build_whose_lease_another_has_taken_changes_nothing_more(
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "_RENEW_EVERY", 0.05)
    storage = ObjectStorage(bucket)
    with storage.lock():
        storage.replace("a", b"1")
        leave_a_lease(bucket, until=time.time() + 1000)
        held = storage._lease
        assert held is not None
        end = time.monotonic() + 30
        while not held.is_lost and time.monotonic() < end:
            time.sleep(0.05)
        with pytest.raises(RunError, match="another build has taken its lock"):
            storage.replace("a", b"2")
    assert storage.read("a") == b"1"


def test_a_build_that_stood_still_asks_whether_its_lease_is_still_its_own(
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It wakes long after the lease has run out, and writes before its next renewal is due."""
    monkeypatch.setattr(lease, "_RENEW_EVERY", 3600.0)
    storage = ObjectStorage(bucket)
    with storage.lock():
        held = storage._lease
        assert held is not None
        held._until = time.time() - 1
        storage.replace("a", b"1")  # nobody has taken it
        assert held._until > time.time()
        leave_a_lease(bucket, until=time.time() + 1000)
        held._until = time.time() - 1
        with pytest.raises(RunError, match="another build has taken its lock"):
            storage.replace("a", b"2")
    assert storage.read("a") == b"1"


def test_the_probe_of_a_build_that_begins_is_not_swept(
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would take the store for one that lets two writers through."""
    storage, other = ObjectStorage(bucket), ObjectStorage(bucket)
    whole = storage.create

    def swept_meanwhile(name: str, data: bytes) -> None:
        other.sweep()
        whole(name, data)

    monkeypatch.setattr(storage, "create", swept_meanwhile)
    storage.prepare()
    storage._write(".probe-1", b"one", mode="create")
    monkeypatch.setattr("magpie.storage.objects._INNER_LASTS", -60.0)  # of one that died long ago
    other.sweep()
    assert not other.exists(".probe-1")


def test_a_part_of_an_object_is_read_without_the_rest(bucket: str) -> None:  # noqa: F811
    storage = ObjectStorage(bucket)
    table = pa.table({"text": ["words " * 1000 + str(number) for number in range(3000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression=None, use_dictionary=False)
    storage.replace("rows.parquet", sink.getvalue().to_pybytes())
    with storage.open("rows.parquet") as file:
        assert pq.read_metadata(file).num_rows == 3000
    with storage.open("rows.parquet") as file:
        assert pq.read_table(file).equals(table)


def test_which_of_many_names_are_there(bucket: str) -> None:  # noqa: F811
    storage = ObjectStorage(bucket)
    for name in ("steps/a/1", "steps/b/2", "top"):
        storage.replace(name, b"1")
    assert storage.which(["steps/a/1", "steps/a/2", "steps/b/2", "top"]) == {"steps/a/1", "steps/b/2", "top"}
    assert storage.which([]) == set()


def test_a_folder_that_a_console_has_made_is_empty(bucket: str) -> None:  # noqa: F811
    import httpx

    made = httpx.put(f"{os.environ['AWS_ENDPOINT_URL']}/{bucket.removeprefix('s3://')}/", trust_env=False)
    assert made.status_code == 200
    storage = ObjectStorage(bucket)
    assert storage.unrelated(frozenset()) is None
    assert storage.names() == []


def test_what_was_created_by_a_request_whose_answer_was_lost_is_ones_own(bucket: str) -> None:  # noqa: F811
    storage = ObjectStorage(bucket)
    storage.create("a", b"1")
    storage.create("a", b"1")  # as obstore makes it again
    with pytest.raises(FileExistsError):
        storage.create("a", b"2")


def test_a_store_that_lets_two_writers_through_is_refused(
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = ObjectStorage(bucket)
    whole = storage._write

    def careless(name: str, data: bytes, *, mode: Any) -> None:
        whole(name, data, mode="overwrite")

    monkeypatch.setattr(storage, "_write", careless)
    with pytest.raises(StorageError, match="lets two writers create the same object"):
        storage.prepare()


def test_a_bucket_that_is_not_there_is_one_line(bucket: str) -> None:  # noqa: F811
    nowhere = ObjectStorage("s3://no-such-bucket-here/run")
    with pytest.raises(StorageError, match="see that the bucket is there") as caught:
        nowhere.prepare()
    assert "\n" not in str(caught.value)

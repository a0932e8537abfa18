"""Shards: sealed whole, committed once, refused when a single bit is wrong."""

import os
import random
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magpie.errors import DamagedShardError, RunError, StorageError
from magpie.runs.shards import (
    Stamp,
    inspect_shard,
    quarantine,
    read_shard,
    run_lock,
    sweep,
    write_durably,
    write_shard,
)

STAMP = Stamp(step="clean", shard=3, first=192, rows=64, total=256, fingerprint="f" * 32, made_from="a" * 64)


def table(rows: int = 64) -> pa.Table:
    draw = random.Random(7)
    texts = [None if at % 5 == 0 else "".join(draw.choices("abc ñ鳥\n", k=40)) for at in range(rows)]
    return pa.table({"id": [f"demo-{at:08d}" for at in range(rows)], "instruction": texts})


def test_a_shard_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "00003.parquet"
    written = write_shard(path, table(), STAMP)
    assert inspect_shard(path) == written
    assert read_shard(path).equals(table())
    assert read_shard(path, ["id"]).column_names == ["id"]
    assert [left.name for left in tmp_path.iterdir()] == ["00003.parquet"]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    write_shard(one, table(), STAMP)
    write_shard(other, pa.concat_tables([table().slice(0, 10), table().slice(10)]).combine_chunks(), STAMP)
    assert one.read_bytes() == other.read_bytes()


def test_a_shard_is_plain_parquet_with_zstd_checksums_and_page_index(tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"
    write_shard(path, table(), STAMP)
    column = pq.read_metadata(path).row_group(0).column(1)
    assert column.compression == "ZSTD"
    assert column.has_column_index and column.has_offset_index
    assert pq.read_table(path, page_checksum_verification=True).equals(table())


def test_every_flipped_bit_and_every_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"
    write_shard(path, table(), STAMP)
    whole = path.read_bytes()
    draw = random.Random(1)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(DamagedShardError, match=r"shard\.parquet"):
            inspect_shard(path)
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedShardError, match=r"shard\.parquet"):
            read_shard(path)


def test_foreign_parquet_is_not_taken_for_a_shard(tmp_path: Path) -> None:
    path = tmp_path / "foreign.parquet"
    pq.write_table(table(), path)
    with pytest.raises(DamagedShardError):
        inspect_shard(path)


def test_a_read_only_folder_is_one_clear_error(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere; the full-disk test covers the same path")
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(StorageError, match="--out"):
            write_durably(tmp_path / "x", b"x")
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_a_full_disk_is_one_clear_error() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    from magpie.runs.shards import storage_errors

    with pytest.raises(StorageError, match="no space left"), storage_errors(full), full.open("wb") as file:
        file.write(b"x" * 100_000)


def test_quarantine_keeps_the_name_and_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "steps" / "02-clean" / "00000.parquet"
    for content in (b"one", b"two"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        quarantine(tmp_path, path)
    kept = sorted((tmp_path / "quarantine").rglob("*.parquet*"))
    assert [one.read_bytes() for one in kept] == [b"one", b"two"]
    assert not path.exists()


def test_sweep_removes_only_temporary_files(tmp_path: Path) -> None:
    (tmp_path / ".00000.parquet.1234abcd.tmp").write_bytes(b"half")
    (tmp_path / "00000.parquet").write_bytes(b"whole")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["00000.parquet"]


def test_one_build_at_a_time(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        with pytest.raises(RunError, match="another build"), run_lock(tmp_path):
            pass
    with run_lock(tmp_path):
        pass

"""Shards: sealed whole, committed once, refused when a single bit is wrong."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magpie.errors import DamagedShardError
from magpie.storage import LocalStorage, MemoryStorage
from magpie.storage.sealed import Stamp, count_rows, inspect_shard, read_shard, write_shard

STAMP = Stamp(step="clean", shard=3, first=192, rows=64, total=256, fingerprint="f" * 32, made_from="a" * 64)


def table(rows: int = 64) -> pa.Table:
    draw = random.Random(7)
    texts = [None if at % 5 == 0 else "".join(draw.choices("abc ñ鳥\n", k=40)) for at in range(rows)]
    return pa.table({"id": [f"demo-{at:08d}" for at in range(rows)], "instruction": texts})


def test_a_shard_comes_back_as_it_was(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    written = write_shard(storage, "00003.parquet", table(), STAMP)
    assert written.stamp == STAMP
    assert inspect_shard(storage, "00003.parquet") == written
    assert read_shard(storage, "00003.parquet").equals(table())
    assert read_shard(storage, "00003.parquet", ["id"]).column_names == ["id"]
    assert count_rows(storage, "00003.parquet") == 64
    assert [left.name for left in tmp_path.iterdir()] == ["00003.parquet"]


def test_a_shard_is_committed_once_unless_it_replaces_another() -> None:
    storage, other = MemoryStorage(), table().slice(0, 0).append_column("more", pa.array([], pa.int8()))
    write_shard(storage, "shard", table(), STAMP)
    with pytest.raises(FileExistsError):
        write_shard(storage, "shard", other, STAMP)
    assert read_shard(storage, "shard").equals(table())
    write_shard(storage, "shard", other, STAMP, replace=True)
    assert read_shard(storage, "shard").equals(other)


def test_the_same_rows_give_the_same_bytes_on_any_storage(tmp_path: Path) -> None:
    storages = (LocalStorage(tmp_path), MemoryStorage())
    in_two = pa.concat_tables([table().slice(0, 10), table().slice(10)]).combine_chunks()
    for storage in storages:
        write_shard(storage, "one", table(), STAMP)
        write_shard(storage, "other", in_two, STAMP)
    assert len({storage.read(name) for storage in storages for name in ("one", "other")}) == 1


def test_the_content_is_the_rows_and_not_the_stamp() -> None:
    storage = MemoryStorage()
    first = write_shard(storage, "a", table(), STAMP)
    elsewhere = write_shard(storage, "b", table(), Stamp("tag", 0, 0, 64, 64, "e" * 32, ""))
    other = write_shard(storage, "c", table().slice(0, 63), STAMP)
    assert first.content == elsewhere.content != other.content


def test_a_shard_that_holds_other_rows_than_its_stamp_says_is_refused() -> None:
    storage = MemoryStorage()
    write_shard(storage, "few", table(60), STAMP)
    with pytest.raises(DamagedShardError, match="holds 60 rows, its stamp says 64"):
        inspect_shard(storage, "few")


def test_a_shard_is_plain_parquet_with_zstd_checksums_and_page_index(tmp_path: Path) -> None:
    write_shard(LocalStorage(tmp_path), "shard.parquet", table(), STAMP)
    path = tmp_path / "shard.parquet"
    column = pq.read_metadata(path).row_group(0).column(1)
    assert column.compression == "ZSTD"
    assert column.has_column_index and column.has_offset_index
    assert pq.read_table(path, page_checksum_verification=True).equals(table())


def test_every_flipped_bit_and_every_cut_is_found() -> None:
    storage = MemoryStorage()
    write_shard(storage, "shard.parquet", table(), STAMP)
    whole = storage.read("shard.parquet")
    draw = random.Random(1)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << draw.randrange(8)
        storage.replace("shard.parquet", damaged)
        with pytest.raises(DamagedShardError, match=r"shard\.parquet"):
            inspect_shard(storage, "shard.parquet")
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        storage.replace("shard.parquet", whole[:length])
        with pytest.raises(DamagedShardError, match=r"shard\.parquet"):
            read_shard(storage, "shard.parquet")


@pytest.mark.parametrize("read", [inspect_shard, read_shard, count_rows])
def test_a_shard_that_is_not_there_cannot_be_read(tmp_path: Path, read: object) -> None:
    assert callable(read)
    for storage in (LocalStorage(tmp_path), MemoryStorage()):
        with pytest.raises(
            DamagedShardError, match=r"nowhere\.parquet .*; run the build again to make it anew"
        ):
            read(storage, "nowhere.parquet")


def test_foreign_parquet_is_not_taken_for_a_shard(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "foreign.parquet")
    with pytest.raises(DamagedShardError):
        inspect_shard(LocalStorage(tmp_path), "foreign.parquet")

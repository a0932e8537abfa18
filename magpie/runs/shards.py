"""Shards on disk: committed once, sealed whole, read back only when every byte is what was written.

A shard is a Parquet file (zstd, page checksums, page index) that holds `id` and the columns one step adds. Its
key-value metadata says what it is (`magpie`) and carries a seal (`magpie.seal`): BLAKE2b over the file's own bytes,
with the seal's place filled with zeros. Page checksums leave headers and footer unguarded; the seal leaves nothing.

Pages come before the footer, and the stamp is in the footer: so the digest of what comes before the footer is the
digest of the content, whatever the stamp says. See `standing.py` for what is made of it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from magpie.errors import DamagedShardError, RunError, StorageError

FORMAT = 1
_MARK = b"blake2b:"
_ZEROS = _MARK + b"0" * 64
_NOTE = b"magpie.note"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a shard says it is: `rows` of `total` rows, from position `first`, and the lineage it was `made_from`."""

    step: str
    shard: int
    first: int
    rows: int
    total: int
    fingerprint: str
    made_from: str
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Shard:
    """A committed shard: its stamp, and the digest of its content."""

    stamp: Stamp
    content: str


def write_shard(path: Path, table: pa.Table, stamp: Stamp) -> Shard:
    """Commit `table` at `path`: temporary file, fsync, rename, fsync of the folder. Raises StorageError."""
    data = _encode(table, stamp)
    write_durably(path, data)
    return Shard(stamp, _content(data))


def read_shard(path: Path, columns: Sequence[str] | None = None, *, check: bool = True) -> pa.Table:
    """The shard's columns (all, or those named). Raises DamagedShardError, naming the file, unless it is whole.

    `check=False` trusts the page checksums of the columns it reads: for a quick look at a large run.
    """
    try:
        source = pa.BufferReader(_sealed_bytes(path)) if check else path
        return pq.read_table(source, columns=columns, page_checksum_verification=True, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise DamagedShardError(
            f"{path} cannot be read ({error}); run the build again to make it anew"
        ) from error


def inspect_shard(path: Path) -> Shard:
    """The shard's stamp and content, after checking every byte. Raises DamagedShardError."""
    data = _sealed_bytes(path)
    try:
        footer = pq.read_metadata(pa.BufferReader(data))
        stamp = Stamp(**json.loads(footer.metadata[b"magpie"]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DamagedShardError(f"{path} is not a shard of magpie ({error}); move it away") from error
    if footer.num_rows != stamp.rows:
        raise DamagedShardError(f"{path} holds {footer.num_rows} rows, its stamp says {stamp.rows}")
    return Shard(stamp, _content(data))


def count_rows(path: Path) -> int:
    """How many rows the footer says there are. Raises DamagedShardError."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise DamagedShardError(
            f"{path} cannot be read ({error}); run the build again to make it anew"
        ) from error


def write_durably(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Put `data` at `path` so that a crash leaves the old file or the new one, never part of either."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write a file too long to hold in memory; when the block ends well it becomes `path`.

    A crash or an error leaves the old file or the new one, never part of either. Raises StorageError.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with storage_errors(path):
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def quarantine(run_folder: Path, path: Path) -> Path:
    """Move a damaged file to `quarantine/`, keeping its name and place; where it went."""
    place = run_folder / "quarantine" / path.relative_to(run_folder)
    with storage_errors(path):
        place.parent.mkdir(parents=True, exist_ok=True)
        while place.exists():
            place = place.with_name(f"{place.name}.again")
        path.replace(place)
    return place


def sweep(folder: Path) -> None:
    """Remove temporary files and folders that an interrupted build left behind."""
    with storage_errors(folder):
        for path in list(folder.rglob(".*.tmp")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the disk says into a StorageError that says what to do next."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageError(
                f"no space left for {path}; free some, then run the same command again: nothing is lost"
            ) from error
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise StorageError(
                f"cannot write {path}: {error.strerror}; choose another folder with --out"
            ) from error
        raise StorageError(f"cannot write {path}: {error.strerror or error}; check the disk") from error


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run folder: two builds of one folder at once are refused. A killed build lets go by itself."""
    import fcntl

    with storage_errors(folder):
        file = (folder / "run.lock").open("a+")
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another build is at work in {folder}; wait for it, or see `magpie status {folder}`"
            ) from None
        yield
    finally:
        file.close()


def digest(thing: Any) -> str:
    """A hex digest of anything JSON can hold, the same whatever the order of its keys."""
    text = json.dumps(thing, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _content(data: bytes | bytearray) -> str:
    """The digest of everything before the footer, whose length a Parquet file gives at its end."""
    footer = int.from_bytes(data[-8:-4], "little") + 8
    return hashlib.blake2b(memoryview(data)[:-footer], digest_size=16).hexdigest()


def _encode(table: pa.Table, stamp: Stamp) -> bytearray:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        pa.schema([field.remove_metadata() for field in table.schema]),
        compression="zstd",
        write_page_checksum=True,
        write_page_index=True,
    ) as writer:
        writer.write_table(table.replace_schema_metadata(None))
        note = (table.schema.metadata or {}).get(_NOTE)
        writer.add_key_value_metadata(
            {
                "magpie": json.dumps(asdict(stamp), sort_keys=True),
                **({_NOTE.decode(): note.decode()} if note else {}),
                "magpie.seal": _ZEROS.decode(),
            }
        )
    data = bytearray(sink.getvalue())
    seal = hashlib.blake2b(data, digest_size=32).hexdigest()
    at = data.rindex(_ZEROS)
    data[at + len(_MARK) : at + len(_ZEROS)] = seal.encode()
    return data


def _sealed_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedShardError(f"{path} cannot be read ({error.strerror}); check the disk") from error
    at = data.rfind(_MARK)
    if at >= 0:
        seal = data[at + len(_MARK) : at + len(_ZEROS)]
        hasher = hashlib.blake2b(data[: at + len(_MARK)], digest_size=32)
        hasher.update(b"0" * 64)
        hasher.update(data[at + len(_ZEROS) :])
        if hasher.hexdigest().encode() == seal:
            return data
    raise DamagedShardError(
        f"{path} is damaged: its bytes are not the ones that were written; run the build again to make it anew"
    )

"""Sealed Parquet files: written once, and read back only when every byte is what was written.

A shard is a Parquet file (zstd, page checksums, page index) that holds `id` and the columns one step adds; the files of
a dataset are sealed in the same way. The key-value metadata says what the file is (`magpie`) and carries a seal
(`magpie.seal`): BLAKE2b over the file's own bytes, with the seal's place filled with zeros. Page checksums leave
headers and footer unguarded; the seal leaves nothing.

Pages come before the footer, and the stamp is in the footer: so the digest of what comes before the footer is the
digest of the content, whatever the stamp says. See `runs/manifest.py` for what is made of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from magpie.errors import DamagedShardError
from magpie.storage.base import Storage, StrangeFileError
from magpie.storage.reading import persistently

Result = TypeVar("Result")

FORMAT = 1
_MARK = b"blake2b:"
_ZEROS = _MARK + b"0" * 64
_NOTE = b"magpie.note"
_FEATURES = (
    b"huggingface"  # what `datasets` notes of the columns, such as the names of labels; it reads the schema's
)
_ABOUT = b"magpie.about"


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
    """A committed shard: its stamp, the digest of its content, and its seal, which is that of the whole file."""

    stamp: Stamp
    content: str
    seal: str = ""


def write_shard(
    storage: Storage,
    name: str,
    table: pa.Table,
    stamp: Stamp,
    *,
    replace: Shard | bool = False,
    about: str = "",
) -> Shard:
    """Commit `table` under `name`, which must not be taken unless it is to `replace` what is there, or that one shard.

    `about`, what else the file is to say of itself, goes into its metadata: see `about_shard`. Raises StorageError, and
    FileExistsError when the name is taken.
    """
    data = _encode(table, stamp, about)
    if isinstance(replace, Shard):
        seal = _MARK + replace.seal.encode()
        storage.supersede(name, data, lambda there: seal in there)
    else:
        (storage.replace if replace else storage.create)(name, data)
    return Shard(stamp, _content(data), _seal(data))


def stage_shard(storage: Storage, name: str, table: pa.Table, stamp: Stamp) -> tuple[str, Shard]:
    """The same, out of sight: the name that `storage.move` takes when it is to be seen. Raises StorageError."""
    data = _encode(table, stamp, "")
    return storage.stage(name, data), Shard(stamp, _content(data), _seal(data))


def read_shard(
    storage: Storage, name: str, columns: Sequence[str] | None = None, *, check: bool = True
) -> pa.Table:
    """The shard's columns (all, or those named). Raises DamagedShardError, naming the file, unless it is whole.

    `check=False` trusts the page checksums of the columns it reads: for a quick look at a large run.
    """

    def read() -> pa.Table:
        # Not `pq.read_table`, which takes three times as long for a shard: it is made for many files.
        with (
            pa.BufferReader(_sealed_bytes(storage, name)) if check else storage.open(name) as source,
            pq.ParquetFile(source, page_checksum_verification=True) as file,
        ):
            table = file.read(columns=columns).replace_schema_metadata(None)
            missing = set(columns or ()) - set(table.column_names)
            if missing:
                raise pa.ArrowInvalid(f"it has no column {sorted(missing)[0]}")
            return table if columns is None else table.select(columns)

    return _decoded(storage, name, read)


def open_sealed(storage: Storage, name: str) -> pq.ParquetFile:
    """The file, to be read a part at a time, after checking every byte. Raises DamagedShardError."""
    data = _sealed_bytes(storage, name)
    # Of the bytes that were checked: the disk may fail between two reads, and a part is not read twice.
    return _decoded(
        storage, name, lambda: pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    )


def read_schema(storage: Storage, name: str) -> pa.Schema:
    """The file's columns and what is noted of them, unchecked. Raises DamagedShardError."""

    def read() -> pa.Schema:
        with storage.open(name) as file:
            return pq.read_schema(file)

    return _decoded(storage, name, read)


def inspect_shard(storage: Storage, name: str) -> Shard:
    """The shard's stamp and content, after checking every byte. Raises DamagedShardError."""
    data = _sealed_bytes(storage, name)
    place = storage.place(name)
    try:
        footer = pq.read_metadata(pa.BufferReader(data))
        stamp = Stamp(**json.loads(footer.metadata[b"magpie"]))
    except (MemoryError, pa.ArrowCancelled):
        raise  # which are ArrowExceptions, too
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DamagedShardError(f"{place} is not a shard of magpie ({error}); move it away") from error
    if footer.num_rows != stamp.rows:
        raise DamagedShardError(f"{place} holds {footer.num_rows} rows, its stamp says {stamp.rows}")
    return Shard(stamp, _content(data), _seal(data))


def about_shard(storage: Storage, name: str) -> str | None:
    """What the file's metadata says about how it was made; None in those of earlier versions.

    Raises DamagedShardError. Only the footer is read, and not checked against the seal.
    """

    def read() -> str | None:
        with storage.open(name) as file:
            text = (pq.read_metadata(file).metadata or {}).get(_ABOUT)
        return None if text is None else str(text.decode("utf-8", errors="replace"))

    return _decoded(storage, name, read)


def count_rows(storage: Storage, name: str) -> int:
    """How many rows the footer says there are. Raises DamagedShardError."""

    def read() -> int:
        with storage.open(name) as file:
            return int(pq.read_metadata(file).num_rows)

    return _decoded(storage, name, read)


def digest(thing: Any) -> str:
    """A hex digest of anything JSON can hold, the same whatever the order of its keys."""
    text = json.dumps(thing, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _content(data: bytes | bytearray) -> str:
    """The digest of everything before the footer, whose length a Parquet file gives at its end."""
    footer = int.from_bytes(data[-8:-4], "little") + 8
    return hashlib.blake2b(memoryview(data)[:-footer], digest_size=16).hexdigest()


def _encode(table: pa.Table, stamp: Stamp, about: str) -> bytearray:
    sink = pa.BufferOutputStream()
    metadata = table.schema.metadata or {}
    note, features = metadata.get(_NOTE), metadata.get(_FEATURES)
    fields = [field.remove_metadata() for field in table.schema]
    with pq.ParquetWriter(
        sink,
        pa.schema(fields, metadata={_FEATURES: features} if features else None),
        compression="zstd",
        write_page_checksum=True,
        write_page_index=True,
    ) as writer:
        writer.write_table(table.replace_schema_metadata(None))
        writer.add_key_value_metadata(
            {
                "magpie": json.dumps(asdict(stamp), sort_keys=True),
                **({_NOTE.decode(): note.decode()} if note else {}),
                **({_ABOUT.decode(): about} if about else {}),
                "magpie.seal": _ZEROS.decode(),
            }
        )
    data = bytearray(sink.getvalue())
    seal = hashlib.blake2b(data, digest_size=32).hexdigest()
    at = data.rindex(_ZEROS)
    data[at + len(_MARK) : at + len(_ZEROS)] = seal.encode()
    return data


def _seal(data: bytes | bytearray) -> str:
    at = data.rindex(_MARK) + len(_MARK)
    return data[at : at + 64].decode("ascii")


def _sealed_bytes(storage: Storage, name: str) -> bytes:
    try:
        data = storage.read(name)
    except FileNotFoundError as error:
        raise _not_there(storage, name) from error
    except StrangeFileError as error:
        raise _strange(storage, name, error) from error
    at = data.rfind(_MARK)
    if at >= 0:
        seal = data[at + len(_MARK) : at + len(_ZEROS)]
        # The seal was made while zeros stood in its own place.
        hasher = hashlib.blake2b(data[: at + len(_MARK)], digest_size=32)
        hasher.update(b"0" * 64)
        hasher.update(data[at + len(_ZEROS) :])
        if hasher.hexdigest().encode() == seal:
            return data
    raise DamagedShardError(
        f"{storage.place(name)} is damaged: its bytes are not the ones that were written; "
        "run the build again to make it anew"
    )


def _decoded(storage: Storage, name: str, read: Callable[[], Result]) -> Result:
    """What `read` makes of a file. Raises DamagedShardError for wrong bytes, StorageError where they cannot be had."""
    try:
        return persistently(Path(storage.place(name)), read)
    except FileNotFoundError as error:
        raise _not_there(storage, name) from error
    except StrangeFileError as error:
        raise _strange(storage, name, error) from error
    except (MemoryError, pa.ArrowCancelled):
        raise  # which are ArrowExceptions, too, and say nothing about the bytes
    except (pa.ArrowException, OSError) as error:
        place = storage.place(name)
        raise DamagedShardError(
            f"{place} cannot be read ({error}); run the build again to make it anew"
        ) from error


def _not_there(storage: Storage, name: str) -> DamagedShardError:
    return DamagedShardError(f"{storage.place(name)} is not there; run the build again to make it anew")


def _strange(storage: Storage, name: str, error: StrangeFileError) -> DamagedShardError:
    return DamagedShardError(
        f"{storage.place(name)} is {error}, not a file; move it away, or run the build again to make it anew"
    )

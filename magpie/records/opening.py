"""What a file is, told from its first bytes before its name, and its content without compression."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, cast

from magpie.errors import RecipeError

Kind = Literal["parquet", "arrow", "json", "csv", "text"]

ENDINGS: dict[str, Kind] = {
    ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow", ".jsonl": "json",
    ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".txt": "text",
}  # fmt: skip
COMPRESSED = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz")

_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\xfd7zXZ\0": "xz"}
_TABLES: dict[bytes, Kind] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
_OTHERS = {b"PK\x03\x04": "a zip archive (or a spreadsheet)", b"SQLite format 3": "an SQLite database"}
_START = 64

# What the libraries raise for content that is cut or damaged; Arrow's own errors are ValueErrors or OSErrors.
DAMAGE = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


def ending(name: str) -> str:
    """The ending of a file's name, in lower case, without that of a compression."""
    path = Path(name.lower())
    while path.suffix in COMPRESSED:
        path = path.with_suffix("")
    return path.suffix


def is_records(name: str) -> bool:
    """Whether a file of this name may hold records."""
    return ending(name) in ENDINGS


@contextmanager
def opened(path: Path) -> Iterator[tuple[Kind, bytes, IO[bytes]]]:
    """What the file is, its first bytes and its content, without compression. Raises RecipeError."""
    with opened_file(path) as file:
        try:
            content: Any = file
            start = _start(content)
            # A compressed file may have been compressed once more: browsers and mirrors do so.
            while compression := _of(start, _COMPRESSIONS):
                content = _decompressed(content, compression)
                start = _start(content)
        except DAMAGE as error:
            wrong = f"{path} is compressed and cannot be read ({one_line(error)}); fetch it anew"
            raise cannot_read(path, error, wrong) from error
        yield _kind(path, start), start, content


def opened_file(path: Path) -> IO[bytes]:
    """A person's file, opened. Raises RecipeError, also for what is no plain file: a pipe would be waited for."""
    what = "it is no file; write what comes from a pipe to a file, and give that"
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        mode = os.fstat(handle).st_mode
        if stat.S_ISREG(mode):
            return os.fdopen(handle, "rb")
        if stat.S_ISDIR(mode):
            what = "it is a folder; give a file"
        os.close(handle)
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}; check the path and its rights") from error
    raise RecipeError(f"cannot read {path}: {what}")


def cannot_read(path: Path, error: Exception, wrong: str) -> RecipeError:
    """The error to raise for a file: what the disk says, or `wrong` where the libraries do not like its bytes."""
    if not isinstance(error, OSError) or error.errno is None:
        return RecipeError(wrong)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return RecipeError(
            f"no space left for a copy of {path} among the temporary files; set TMPDIR to a folder with more"
        )
    what = os.strerror(error.errno)
    return RecipeError(f"cannot read {path}: {what}; check the disk, then run the same command again")


def one_line(error: Exception) -> str:
    """What a library says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _of(start: bytes, magic: dict[bytes, Any]) -> Any:
    return next((value for mark, value in magic.items() if start.startswith(mark)), None)


def _start(content: Any) -> bytes:
    peeked: bytes = content.peek(_START)
    return peeked[:_START]


def _decompressed(file: IO[bytes], compression: str) -> io.BufferedReader:
    if compression == "zstd":
        import pyarrow as pa

        return io.BufferedReader(cast(Any, pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")))
    if compression == "gzip":
        return io.BufferedReader(cast(Any, gzip.GzipFile(fileobj=file, mode="rb")))
    if compression == "bz2":
        return io.BufferedReader(cast(Any, bz2.BZ2File(file)))
    return io.BufferedReader(cast(Any, lzma.LZMAFile(file)))


def _kind(path: Path, start: bytes) -> Kind:
    """What the content is. A name may lie: the first bytes come first."""
    table = _of(start, _TABLES)
    if table is not None:
        return cast(Kind, table)
    other = _of(start, _OTHERS)
    if other is not None:
        raise RecipeError(f"{path} is {other}; save it as Parquet, JSON lines or CSV")
    named = ENDINGS.get(ending(path.name))
    first = start.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n\0")[:1]
    if named in {"parquet", "arrow"} or named is None:
        if first in {b"{", b"["}:
            return "json"
        if not start and named is not None:
            return "text"  # an empty file: it has no rows, whatever it is called
        endings = f"a file that ends in {', '.join(ENDINGS)}, or in these with .gz or .zst"
        if named is None:
            raise RecipeError(f"{path} is no dataset; give {endings}")
        raise RecipeError(
            f"{path} cannot be read as {named.capitalize()} (it begins with other bytes); check it, or give {endings}"
        )
    return named

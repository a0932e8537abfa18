"""Documents that people bring: text files as they are, and the rows of files of records, one document each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magpie.errors import RecipeError
from magpie.records.encoding import decoded
from magpie.records.folders import below
from magpie.records.opening import ENDINGS, ending
from magpie.records.rows import read_rows

_TEXTS = (".txt", ".md", ".markdown", ".rst")
_COLUMNS = ("text", "document", "content", "body", "article")
"""Where a record's text is looked for, in this order; else in the one column of texts that it has."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text and its name: the record's `id`, or the file's name, with the line where it has several."""

    id: str
    text: str


def read_documents(path: Path) -> tuple[Document, ...]:
    """The documents in a file, or in the files of a folder, those without text left out. Raises RecipeError."""
    found = [document for file in _files(path) for document in _documents(file, path)]
    if not found:
        raise RecipeError(
            f"{path} holds no document with a text; give texts, or records with a column `text`"
        )
    return tuple(found)


def digest_of(documents: Sequence[Document]) -> str:
    """Equal for equal ids and texts in the same order."""
    digest = hashlib.sha256()
    for document in documents:
        for part in (document.id, document.text):
            digest.update(hashlib.sha256(part.encode()).digest())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for file in below(path) if _is_text(file) or ending(file.name) in ENDINGS]
    if not path.is_file():
        raise RecipeError(f"cannot read {path}: no such file or folder; check the path")
    return [path]


def _is_text(path: Path) -> bool:
    return path.suffix.lower() in _TEXTS


def _documents(file: Path, root: Path) -> Iterator[Document]:
    name = file.name if file == root else file.relative_to(root).as_posix()
    if _is_text(file):
        try:
            text = decoded(file.read_bytes(), str(file)).strip()
        except OSError as error:
            raise RecipeError(f"cannot read {file} ({error.strerror}); check its rights") from error
        if text:
            yield Document(name, text)
        return
    for record in read_rows(file):
        text, own = _text_and_id(record.value, file)
        if text:
            yield Document(own or f"{name}:{record.place}", text)


def _text_and_id(value: Any, file: Path) -> tuple[str, str]:
    if isinstance(value, str):
        return value.strip(), ""
    if not isinstance(value, dict):
        raise RecipeError(f"{file} holds a row that is no record; give records with a column `text`")
    own = value.get("id")
    texts = {name: held for name, held in value.items() if isinstance(held, str) and name != "id"}
    column = next((name for name in _COLUMNS if name in value), None)
    if column is None:
        if len(texts) != 1:
            raise RecipeError(
                f"{file} has no column {', '.join(_COLUMNS[:-1])} or {_COLUMNS[-1]}; name that of the texts so"
            )
        (column,) = texts
    return texts.get(column, "").strip(), str(own) if isinstance(own, str | int) else ""

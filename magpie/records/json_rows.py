"""The values of a JSON file: an object a line, an array of objects, one object, or an object that holds the array."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any

from magpie.errors import RecipeError
from magpie.records.conversation import ANSWERS, COLUMNS, CONVERSATIONS, TEXTS, written_names
from magpie.records.encoding import MARK, unreadable

DATA_KEYS = ("data", "rows", "examples", "instances", "train", "questions", "items")
"""Where an object that is a whole file holds its rows."""

_CHUNK = 1 << 20
_LONGEST_WORD = 16  # characters: `-Infinity`, or two halves of a character as `\\uXXXX`
_SPACE = re.compile(r"[\s,\ufeff]*")
_SURROGATE = re.compile("[\ud800-\udfff]")


class JsonRows:
    """The rows of one file. `repeated` counts the keys that a row has twice: the last one is taken."""

    def __init__(self, file: IO[str], origin: str) -> None:
        self._file = file
        self._origin = origin
        self.repeated: Counter[str] = Counter()
        self.mended = 0
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """(line, value) of each row. Raises RecipeError, which names the line."""
        first, line = "", 1
        while not first.strip(MARK + " \t\r\n"):
            first = self._file.readline(_CHUNK)
            if not first:
                return
            line += 1
        if not first.endswith("\n"):
            if first.lstrip(MARK + " \t").startswith("["):  # perhaps a long array in one line: row by row
                yield from self._whole(first, line - 1)
                return
            first += self._file.readline()
        try:
            value = self._value(first, line - 1)
        except RecipeError:
            # No row in one line: the file is one array or object, over several lines.
            yield from self._whole(first, line - 1)
            return
        rest = self._lines(line)
        second = next(rest, None)
        if second is None:
            yield from _rows_in(line - 1, value)
            return
        yield line - 1, value
        yield second
        yield from rest

    def _lines(self, line: int) -> Iterator[tuple[int, Any]]:
        for number, text in enumerate(self._file, start=line):
            if text.strip(MARK + " \t\r\n"):
                yield number, self._value(text, number)

    def _value(self, text: str, line: int) -> Any:
        # A mark may stand where two files were joined, and a comma where an array was taken apart.
        text = text.strip(MARK + " \t\r\n")
        try:
            value, end = self._decode(text, 0)
        except ValueError as error:
            raise self._not_json(error, line) from error
        if text[end:].strip(", \t"):
            raise RecipeError(
                f"line {line} of {self._origin} is not JSON; mend that line (something follows its value)"
            )
        self._refuse_bytes(text[:end], value, line)
        return self._whole_characters(text[:end], value)

    def _whole(self, begun: str, line: int) -> Iterator[tuple[int, Any]]:
        """The rows of one array, or of objects over several lines. No more is held than a row, and what was read."""
        begun = begun.lstrip(MARK + " \t\r\n")
        in_array = begun.startswith("[")
        buffer, at, ended, wanted = begun[in_array:], 0, False, _CHUNK
        while True:
            space = _SPACE.match(buffer, at)
            start = at if space is None else space.end()
            line += buffer.count("\n", at, start)
            at = start
            if in_array and buffer.startswith("]", at):
                self._refuse_rest(buffer[at + 1 :], line)
                return
            if at == len(buffer) and ended and not in_array:
                return
            try:
                value, end = self._decode(buffer, at)
                # A number at the end of what was read may go on: the next character shows that it does not.
                whole = ended or end < len(buffer)
            except ValueError as error:
                if ended or _is_certain(error, buffer):
                    raise self._not_json(error, line, buffer, at) from error
                whole = False
            if not whole:
                more = self._file.read(wanted)
                ended = not more
                buffer, at = buffer[at:] + more, 0
                wanted = max(_CHUNK, len(buffer))
                continue
            text = buffer[at:end]
            self._refuse_bytes(text, value, line)
            value = self._whole_characters(text, value)
            line, place, at = line + text.count("\n"), line, end
            yield from [(place, value)] if in_array else _rows_in(place, value)

    def _refuse_rest(self, rest: str, line: int) -> None:
        if (rest + self._file.read(_CHUNK)).strip(MARK + " \t\r\n,"):
            raise RecipeError(
                f"{self._origin} goes on after its array ends in line {line}; give one array, or an object a line"
            )

    def _decode(self, text: str, at: int) -> tuple[Any, int]:
        try:
            return self._decoder.raw_decode(text, at)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            self.repeated.update(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return value

    def _not_json(self, error: ValueError, line: int, text: str = "", at: int = 0) -> RecipeError:
        what, column = str(error), ""
        if isinstance(error, json.JSONDecodeError):
            what = error.msg
            line += text.count("\n", at, error.pos)
            column = f"column {error.colno}: "
        return RecipeError(f"line {line} of {self._origin} is not JSON; mend that line ({column}{what})")

    def _refuse_bytes(self, text: str, value: Any, line: int) -> None:
        if not unreadable(text):
            return
        columns = value if isinstance(value, dict) else {}
        column = next(
            (f"column `{key}`, " for key, held in columns.items() if _SURROGATE.search(repr_of(held))), ""
        )
        raise RecipeError(f"{self._origin}: {column}line {line}: not UTF-8 text; save the file as UTF-8")

    def _whole_characters(self, text: str, value: Any) -> Any:
        """The value with U+FFFD in the place of half a character: JSON can write one, and no other format has it."""
        if "\\ud" not in text and "\\uD" not in text:
            return value
        whole = _mended(value)
        self.mended += whole != value
        return whole


def _is_certain(error: ValueError, buffer: str) -> bool:
    """Whether a text is no JSON whatever follows it: the fault is not that the text ends."""
    if not isinstance(error, json.JSONDecodeError):
        return True
    return not error.msg.startswith("Unterminated") and error.pos < len(buffer) - _LONGEST_WORD


def repr_of(value: Any) -> str:
    """All texts of a value, one after another."""
    return json.dumps(value, ensure_ascii=False)


def _rows_in(line: int, value: Any) -> Iterator[tuple[int, Any]]:
    """The rows of the one value of a file: those below a key such as `data`, or an array's, or the value itself."""
    if isinstance(value, list):
        yield from ((line, row) for row in value)
        return
    held = {key.lower(): rows for key, rows in value.items()} if isinstance(value, dict) else {}
    if (columns := _by_column(value)) is not None:
        yield from ((line, row) for row in columns)
        return
    if not _is_row(value):
        for key in DATA_KEYS:
            if isinstance(held.get(key), list) and any(isinstance(row, dict) for row in held[key]):
                yield from ((line, row) for row in held[key])
                return
    yield line, value


def _by_column(value: Any) -> list[dict[str, Any]] | None:
    """The rows of an object that holds a table, as `to_dict` writes one: column by column, or row by row by number."""
    if not isinstance(value, dict) or not value:
        return None
    parts = list(value.values())
    if all(key.isdecimal() and isinstance(part, dict) for key, part in value.items()):
        return parts
    names = written_names(value)
    said = [(name, value[names[name]]) for name in (*TEXTS, *ANSWERS, *CONVERSATIONS) if name in names]
    # By their numbers: an object of objects with other keys is a row, such as a pair whose parts are turns.
    if all(isinstance(part, dict) and part.keys() == parts[0].keys() and _numbered(part) for part in parts):
        keys: Any = parts[0]
    elif parts[0] and all(isinstance(part, list) and len(part) == len(parts[0]) for part in parts):
        keys = range(len(parts[0]))
    else:
        return None
    # A list of texts, or of conversations, is of several rows; a list of messages is one conversation.
    kinds: dict[bool, Any] = {False: str | None, True: list | None}
    if not said or not all(
        isinstance(part[key], kinds[name in CONVERSATIONS]) for name, part in said for key in keys
    ):
        return None
    return [{name: part[key] for name, part in value.items()} for key in keys]


def _numbered(part: dict[str, Any]) -> bool:
    return bool(part) and all(key.isdecimal() for key in part)


def _is_row(value: Any) -> bool:
    """Whether an object says something itself: then a list in it is a part of its row, and holds no rows."""
    # A seed task has `instances`, and a conversation may have `examples`. A file of rows says what they are in other
    # words than theirs: `version`, `name`, `Definition`.
    if not isinstance(value, dict):
        return False
    names = written_names(value)
    return any(isinstance(value[names[name]], str | list) for name in (*COLUMNS, *ANSWERS) if name in names)


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_mended(entry) for entry in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(entry) for key, entry in value.items()}
    return value

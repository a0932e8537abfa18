"""What the page's script is given, as JSON: the rows to read, and the places of the map.

All texts are made harmless here: what could act on a page or a terminal is written out, and a text that no reader would
go through is cut, with a word on it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from magpie.escaping import harmless, one_line
from magpie.figures.reading import Row
from magpie.figures.report_figures import ReportFigures
from magpie.report.page.kinds import setting
from magpie.runs.public import public_reason

MOST_LETTERS, MOST_OF_ROW = 5000, 12_000
"""The most characters of one message, and of one row, that a page holds."""

_SNIPPET = 200
_COLORED = (
    "task_category", "difficulty", "input_quality", "language", "steer_id", "steer_language", "llama_guard",
    "response_finish_reason",
)  # fmt: skip
_MOST_VALUES = 60  # of a tag that rows can be chosen by
_SHORT = 80


def page_data(figures: ReportFigures) -> dict[str, Any]:
    """The rows and the map."""
    return {
        "rows": [_row(row, figures) for row in figures.reading],
        "map": _map(figures),
        "tags": figures.rows.tags(),
    }


def as_script(value: Any) -> str:
    """JSON for a `<script>` element: no character of it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _row(row: Row, figures: ReportFigures) -> dict[str, Any]:
    tags = {name: _value(value) for name, value in row.values.items()}
    return {
        "id": one_line(row.id, _SHORT),
        "out": None if row.rejected is None else one_line(public_reason(row.rejected), 300),
        "tags": {name: value for name, value in tags.items() if value not in (None, "", [])},
        "talk": _messages(row.messages),
        "why": [one_line(why, 120) for why in row.why],
    }


def _value(value: Any) -> str | list[str] | None:
    if isinstance(value, list):
        return [one_line(str(each), _SHORT) for each in dict.fromkeys(value) if each is not None]
    return f"{value:.4g}" if isinstance(value, float) else one_line(str(value), _SHORT)


def _messages(messages: Sequence[tuple[str, str]]) -> list[list[str]]:
    left, shown = MOST_OF_ROW, []
    for role, text in messages:
        room = max(min(MOST_LETTERS, left), 0)
        more = len(text) - room
        left -= min(len(text), room)
        cut = text if more <= 0 else f"{text[:room]}\n\n[cut here: {more:,} more characters]"
        shown.append([one_line(role, 30), harmless(cut)])
    return shown


def _map(figures: ReportFigures) -> dict[str, Any] | None:
    places, sample = figures.map, figures.sample
    if places is None or sample is None:
        return None
    table = figures.rows.table.take(sample.positions)
    return {
        "places": _rounded(places.places),
        "ids": [one_line(str(row_id), _SHORT) for row_id in table["id"].to_pylist()],
        "texts": [one_line(text[: 4 * _SNIPPET], _SNIPPET) for text in sample.texts],
        "tags": _colors(figures, table),
        "others": [
            {
                "name": one_line(other.name.rstrip("/").rpartition("/")[2], _SHORT),
                "places": _rounded(found),
                "ids": [one_line(row_id.rpartition("/")[2], _SHORT) for row_id in other.ids],
                "texts": [one_line(text[: 4 * _SNIPPET], _SNIPPET) for text in other.texts],
            }
            for other, found in zip(figures.others, places.others, strict=True)
        ],
    }


def _rounded(places: Any) -> list[list[int]]:
    return [[round(float(x) * 1000), round(float(y) * 1000)] for x, y in places]


def _colors(figures: ReportFigures, table: Any) -> dict[str, dict[str, Any]]:
    """For each tag its values, the most frequent first, and for each row which of them it has."""
    columns = {name: table[name].to_pylist() for name in _COLORED if figures.rows.has(name)}
    if {"temperature", "top_p"} <= set(table.column_names):
        pairs = zip(table["temperature"].to_pylist(), table["top_p"].to_pylist(), strict=True)
        columns["sampling"] = [setting(*pair) for pair in pairs]
    if figures.topics is not None:
        columns = {"topic": [figures.topics.topics[label].name for label in figures.topics.labels], **columns}
    return {name: _coded(values) for name, values in columns.items()}


def _coded(values: Sequence[str | None]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    named = ["(none)" if value is None else one_line(value, _SHORT) for value in values]
    for value in named:
        counts[value] = counts.get(value, 0) + 1
    ranked = sorted(counts, key=lambda value: (-counts[value], value))[:_MOST_VALUES]
    number = {value: at for at, value in enumerate(ranked)}
    return {"values": ranked, "of": [number.get(value, -1) for value in named]}

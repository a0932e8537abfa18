"""The ids of rows: what all rows of a run have in common, and a row's position."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ID = re.compile(r"(?:(.*)-)?(\d{1,18})", re.ASCII | re.DOTALL)


def row_id(prefix: str, index: int) -> str:
    """The id of the row at a position, such as "demo-1a2b3c4d-00000017"."""
    return f"{prefix}-{index:08d}"


def row_ids(prefix: str, positions: Iterable[int]) -> list[str]:
    """The ids of the rows at these positions."""
    return [row_id(prefix, index) for index in positions]


def prefix_of(some_id: str) -> str:
    """What all ids of the run begin with, from any one of them."""
    return some_id.rpartition("-")[0]


def parse_id(text: str) -> tuple[str | None, int] | None:
    """The prefix and the position in what a person typed, which may be the position alone; None when it is no id."""
    match = _ID.fullmatch(text)
    return None if match is None else (match[1], int(match[2]))

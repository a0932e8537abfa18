from __future__ import annotations

import pyarrow as pa

from magpie.runs.run import with_columns


def test_a_reason_given_earlier_stays() -> None:
    rows = pa.table({"id": ["a", "b"], "rejected": pa.array([None, "first"], pa.string())})
    more = pa.table({"id": ["a", "b"], "x": [1, 2], "rejected": pa.array(["then", "then"])})
    assert with_columns(rows, more).to_pydict() == {
        "id": ["a", "b"],
        "rejected": ["then", "first"],
        "x": [1, 2],
    }

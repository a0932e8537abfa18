"""Every number of a report is one that is computed apart here, with DuckDB and numpy over the Parquet."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import small_recipe
from queried import ask

from magpie.build import build
from magpie.errors import RunError
from magpie.figures.report_figures import ReportFigures, report_figures
from magpie.figures.report_rows import report_rows
from magpie.runs.run import Run
from magpie.text import words

SECTIONS: dict[str, Any] = {
    "rows": 160,
    "pii": {"action": "mark"},
    "models": {
        "generator": {"model": "scripted", "script": {"repeat_rate": 0.2, "cut_rate": 0.1}},
        "judge": "generator", "embedder": "scripted", "reward": "scripted", "base": "generator", "guard": "scripted",
    },
    "reward": {"baseline": {}},
    "guard": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(small_recipe(**SECTIONS), tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def figures(run: Run) -> ReportFigures:
    return report_figures(run, quick=True)


@pytest.fixture(scope="module")
def rows(run: Run) -> pa.Table:
    """Every row, as the run itself joins it: what DuckDB is asked about."""
    return run.table()


def test_the_kept_rows_and_each_reason(figures: ReportFigures, rows: pa.Table) -> None:
    assert ask(rows, "SELECT count(*) FROM t WHERE rejected IS NULL") == [(figures.kept,)]
    counted = dict(ask(rows, "SELECT rejected, count(*) FROM t WHERE rejected IS NOT NULL GROUP BY 1"))
    assert counted
    assert figures.examples.keys() == counted.keys()
    ids = figures.rows.table["id"].to_pylist()
    for reason, positions in figures.examples.items():
        assert 0 < len(positions) <= counted[reason]
        for at in positions:
            assert ask(rows, f"SELECT rejected FROM t WHERE id = '{ids[at]}'") == [(reason,)]


@pytest.mark.parametrize("column", ["task_category", "difficulty", "input_quality", "response_finish_reason"])
def test_counts_and_entropy_of_a_tag(figures: ReportFigures, rows: pa.Table, column: str) -> None:
    found = figures.counts[column]
    every = dict(ask(rows, f"SELECT {column}, count(*) FROM t GROUP BY 1"))
    kept = dict(ask(rows, f"SELECT {column}, count(*) FROM t WHERE rejected IS NULL GROUP BY 1"))
    assert (dict(found.every), dict(found.kept)) == (every, kept)
    shares = [
        count / sum(c for v, c in kept.items() if v is not None) for v, count in kept.items() if v is not None
    ]
    assert found.entropy == pytest.approx(-sum(share * math.log2(share) for share in shares))


def test_ordered_labels_stand_in_their_order(figures: ReportFigures) -> None:
    scale = ["very easy", "easy", "medium", "hard", "very hard"]
    shown = [value for value in figures.counts["difficulty"].every if value is not None]
    assert shown == [value for value in scale if value in shown]


@pytest.mark.parametrize(
    ("column", "expression"),
    [
        ("instruction_characters", "length(instruction)"),
        ("response_characters", "length(response)"),
        ("response_tokens", "response_tokens"),
        ("instruct_reward", "instruct_reward"),
        ("reward_difference", "reward_difference"),
        ("min_neighbor_distance", "min_neighbor_distance"),
    ],
)
def test_spreads(figures: ReportFigures, rows: pa.Table, column: str, expression: str) -> None:
    found = figures.spreads[column]
    values = [
        value
        for (value,) in ask(rows, f"SELECT {expression} FROM t WHERE rejected IS NULL ORDER BY index")
        if value is not None
    ]
    assert found.values.tolist() == pytest.approx(values)
    assert found.median == pytest.approx(np.median(values))
    assert (found.least, found.most) == pytest.approx((min(values), max(values)))
    assert found.share_over(found.median) == sum(value > found.median for value in values) / len(values)


def test_openings(figures: ReportFigures, rows: pa.Table) -> None:
    texts = [text for (text,) in ask(rows, "SELECT instruction FROM t WHERE rejected IS NULL")]
    counted = Counter(" ".join(words(text)[:6]) for text in texts)
    assert {one.words: one.rows for one in figures.openings}.items() <= counted.items()
    if figures.openings:
        assert figures.openings[0].share == pytest.approx(max(counted.values()) / len(texts))


def test_personal_data_counts_a_row_once_for_a_kind() -> None:
    from magpie.figures.counts import personal_data
    from magpie.figures.report_rows import ReportRows

    kinds = pa.array([["email", "email"], ["email", "phone"], None, ["phone"]], pa.list_(pa.string()))
    table = pa.table(
        {"id": ["a", "b", "c", "d"], "rejected": pa.array([None, None, None, "x"]), "pii": kinds}
    )
    (found,) = personal_data(ReportRows("x", "x", table, ("id",), lambda _: iter(())))
    assert (found.rows, dict(found.kept), dict(found.every)) == (
        3,
        {"email": 2, "phone": 1},
        {"email": 2, "phone": 2},
    )


def test_rows_to_read_are_the_run_s_own(figures: ReportFigures, rows: pa.Table) -> None:
    by_id = {row["id"]: row for row in rows.to_pylist()}
    assert figures.reading
    for row in figures.reading:
        there = by_id[row.id]
        assert row.rejected == there["rejected"]
        assert row.values.get("difficulty") == there["difficulty"]
        texts = [text for _, text in row.messages]
        assert texts[0] == (
            there["instruction"] if there["instruction"] is not None else there["raw_instruction"]
        )
        if there["response"]:
            assert there["response"] in texts
    worst = min(
        (row for row in by_id.values() if row["rejected"] is None and row["instruct_reward"] is not None),
        key=lambda row: row["instruct_reward"],
    )
    assert "lowest reward" in next(row for row in figures.reading if row.id == worst["id"]).why


def test_tokens_a_second_add_up_to_the_log_s_tokens(figures: ReportFigures, run: Run) -> None:
    events = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    last = {event["step"]: event["tokens"] for event in events if event["event"] == "shard"}
    assert figures.work is not None
    assert sum(speed.tokens for speed in figures.work.speeds) == sum(last.values()) > 0


def test_a_dataset_and_a_file_have_reports_of_the_rows_they_hold(run: Run, tmp_path: Path) -> None:
    kept = pq.read_table(run.dataset_files.storage.local_path(run.dataset_files.names()[0]))
    pq.write_table(kept, tmp_path / "rows.parquet")
    for place in (tmp_path / "rows.parquet", run.folder / "dataset"):
        found = report_figures(place, quick=True)
        assert (found.kept, found.rows.table.num_rows) == (len(kept), len(kept))
        assert found.spreads["response_characters"].values.tolist() == [
            len(text) for text in kept["response"].to_pylist()
        ]
        assert found.map is None and "map" in found.missing


def test_a_run_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: nothing")
    with pytest.raises(RunError):
        report_rows(tmp_path)

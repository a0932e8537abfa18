"""Names that look like markup are printed as they are, and what more rows would give is one line."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

from builds import small_recipe
from rich.console import Console

from magpie.build import build
from magpie.figures.run_log import FIRST_STAGE
from magpie.figures.saturation import Next, Saturation
from magpie.figures.status import Status, StepStatus, status
from magpie.report.run_table import print_outcome, print_status

FOLDER = "runs/[/b] [bold]mine"


def test_brackets_in_a_run_s_folder_and_reasons_are_shown() -> None:
    said = StringIO()
    step = StepStatus("filter", 1, 1, 4, 2, {"filter: [/b] short": 2}, None)
    found = Status(FOLDER, "small", 4, True, 2, (step,), ("[red] rule",), (f"{FOLDER}/steps",))
    print_status(found, Console(file=said, width=120))
    for text in (
        f"{FOLDER}: finished",
        "filter: [/b] short",
        "left out: [red] rule",
        f"read: {FOLDER}/steps",
    ):
        assert text in said.getvalue()


def test_how_many_of_the_next_rows_would_be_new_is_one_line() -> None:
    said = StringIO()
    curve = Saturation(4000, 3990, (), Next(1000, 986.6, 12.4), 1.0, (), ())
    print_status(Status("run", "small", 4, True, 2, (), (), (), curve), Console(file=said, width=40))
    assert "987 of the next 1,000 would be new (± 12)\n" in said.getvalue()


def test_a_run_without_a_curve_has_no_such_line(tmp_path: Path) -> None:
    said = StringIO()
    found = status(build(small_recipe(), tmp_path / "run", stop_after="clean"))
    print_status(found, Console(file=said, width=120))
    assert "would be new" not in said.getvalue()
    assert found.to_json()["saturation"] is None
    assert "not every row has come to dedup" in found.to_json()["no_saturation"]


def test_a_finished_run_says_how_long_it_took_and_what_its_quotas_did(tmp_path: Path) -> None:
    quotas = {"by": "instruct_finish_reason", "each": 5, "counts": {"stop": 5, "Stopp": 3}}
    run = build(small_recipe(filter={"name": "some", "quotas": quotas}), tmp_path / "run")
    said = StringIO()
    print_outcome(run, status(run), Console(file=said, width=200))
    assert re.search(r": finished in 0:00:\d\d, 5 rows kept of 96", said.getvalue()), said.getvalue()
    assert "quotas filled: stop 5 of 5" in said.getvalue()
    assert "quotas not filled: Stopp 0 of 3" in said.getvalue()
    assert "`quotas.counts` names 'Stopp', which no row has" in said.getvalue()
    # Equal runs have equal reports: times are in none.
    assert "seconds" not in json.loads((run.folder / "report.json").read_text())


def test_the_time_between_two_builds_is_not_the_run_s(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run", stop_after="clean")
    at = 1_000_000.0
    log = [
        (at, "doing", FIRST_STAGE), (at + 10, "shard", ""), (at + 5000, "doing", FIRST_STAGE),
        (at + 5003, "finished", ""),
    ]  # fmt: skip
    lines = [json.dumps({"time": when, "event": event, "what": what}) for when, event, what in log]
    (run.folder / "log.jsonl").write_text("\n".join(lines) + "\ncut sho")
    assert status(run).seconds == 13.0
    (run.folder / "log.jsonl").unlink()
    assert status(run).seconds is None

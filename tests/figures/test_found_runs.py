"""The runs below a folder, with their state."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from builds import small_recipe
from typed import typed

from magpie import api
from magpie.build import build
from magpie.errors import RunError
from magpie.report.runs_table import print_runs
from magpie.runs.run import LOG
from magpie.terminal import new_console

FEW = small_recipe(rows=32, extend=None)


def test_runs_are_found_with_their_state(tmp_path: Path) -> None:
    build(FEW, tmp_path / "a" / "whole", keep_old=True)
    build(FEW.model_copy(update={"rows": 40}), tmp_path / "a" / "whole", keep_old=True)
    build(FEW, tmp_path / "b", stop_after="clean")
    strange = tmp_path / "c"
    (strange / "steps").mkdir(parents=True)
    (strange / "recipe.yaml").write_text("[")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "a" / "whole" / LOG).write_bytes(
        (tmp_path / "a" / "whole" / LOG).read_bytes() + b'{"time": 3'
    )
    with build_at_work(tmp_path / "b"):
        found = {Path(run.folder).name: run for run in api.list_runs(tmp_path)}
        assert found["b"].state == "building"
    found = {Path(run.folder).name: run for run in api.list_runs(tmp_path)}
    assert list(found) == ["whole", "b", "c"]  # and not the earlier run inside the first
    whole, stopped, unreadable = found.values()
    assert (whole.recipe, whole.rows, whole.state) == ("small", 40, "finished") and whole.kept is not None
    assert (stopped.state, stopped.kept) == ("stopped", None) and stopped.what == "at embed, 0 of 2 shards"
    assert unreadable.state == "unreadable" and "recipe.yaml" in unreadable.what
    assert whole.changed is not None and unreadable.changed is None
    said = StringIO()
    print_runs(list(found.values()), str(tmp_path), new_console(file=said, width=200))
    assert "stopped: at embed, 0 of 2 shards" in said.getvalue()
    listed = json.loads(typed("runs", tmp_path, "--json"))
    assert [run["state"] for run in listed["runs"]] == ["finished", "stopped", "unreadable"]
    assert "no runs in" in typed("runs", tmp_path / ".hidden")
    with pytest.raises(RunError, match="there is no folder"):
        api.list_runs(tmp_path / "nowhere")


def build_at_work(folder: Path):  # type: ignore[no-untyped-def]
    """The run, held as a build holds it."""
    from magpie.storage import open_storage

    return open_storage(folder).lock()

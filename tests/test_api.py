"""The verbs for Python: on a run and on its folder the same, and the same as the command says."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builds import scripted, shard_path, small_recipe
from rich.console import Console
from typed import typed

import magpie
from magpie import api

VERBS = (
    "build", "status", "verify", "filter", "compare", "export", "show", "doctor", "tune", "recipe", "plan", "new",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> magpie.Run:
    recipe = small_recipe(models=scripted(cut_rate=0.1))
    return magpie.build(recipe, out=tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filters") / "short.yaml"
    path.write_text("- {name: short, where: response_length < 200}\n")
    return path


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_a_build_has_its_rows_and_its_dataset(tmp_path: Path) -> None:
    run = magpie.build(small_recipe(), out=tmp_path / "run", rows=32)
    assert isinstance(run, magpie.Run)
    assert run.table().num_rows == 32
    assert magpie.Run.open(tmp_path / "run").dataset().num_rows == run.dataset().num_rows
    demo = magpie.build("demo", out=tmp_path / "demo", engine="scripted", rows=64, stop_after="clean")
    assert demo.recipe.rows == 64


def test_doctor_and_tune_are_there_too() -> None:
    assert magpie.doctor("any", n=0, engine="scripted").verdict.startswith("format ready")
    tuning = magpie.tune("other", recipe=small_recipe(), n=4, temperatures=(1,), top_ps=(1,))
    assert "temperature: 1" in tuning.mix


def test_status_is_what_the_command_says(run: magpie.Run) -> None:
    status = magpie.status(run)
    assert status.finished and status.kept == run.dataset().num_rows
    assert magpie.status(run.folder) == magpie.status(str(run.folder)) == status
    assert json.loads(json.dumps(status.to_json())) == json.loads(typed("status", run.folder, "--json"))


def test_verify_is_what_the_command_says(tmp_path: Path, run: magpie.Run) -> None:
    assert magpie.verify(run) == magpie.verify(run.folder) == []
    assert "is whole" in typed("verify", run.folder)
    damaged = magpie.build(small_recipe(), out=tmp_path / "run")
    shard = damaged.storage.local_path(damaged.shard_name(damaged.steps[1], 2))
    shard.write_bytes(shard.read_bytes()[:-40])
    problems = magpie.verify(damaged)
    assert any(str(shard) in problem for problem in problems)
    assert magpie.verify(str(damaged.folder)) == problems
    assert typed("verify", damaged.folder, code=1) == ""


def test_filter_is_what_the_command_does(tmp_path: Path, run: magpie.Run, short: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    result = magpie.filter(run, short, ours, explain=True)
    assert 0 < result.kept < run.recipe.rows and result.explained
    assert magpie.filter(run.folder, magpie.load_filter(short), explain=True) == result
    assert magpie.filter(str(run.folder), str(short)).lines == result.lines
    printed = squeezed(typed("filter", run.folder, short, "--out", theirs, "--explain"))
    assert f"{result.kept} rows in {theirs}" in printed
    for line in result.lines:
        assert f"{line.name} {line.rows_in} {line.lost} {line.left}" in printed
    assert pq.read_table(ours).equals(pq.read_table(theirs))


def test_a_filter_without_a_folder_writes_nothing(run: magpie.Run) -> None:
    before = sorted(run.folder.rglob("*"))
    assert magpie.filter(run, "balanced").kept > 0
    assert sorted(run.folder.rglob("*")) == before


def test_a_dataset_is_filtered_like_a_run(run: magpie.Run, short: Path) -> None:
    result = magpie.filter(run.folder / "dataset", short)
    lengths = pq.read_table(run.folder / "dataset")["response_length"].to_pylist()
    assert result.kept == sum(length < 200 for length in lengths)


def test_compare_is_what_the_command_says(run: magpie.Run, short: Path) -> None:
    comparison = api.compare(run, short, "balanced")
    assert comparison.names == ("short", "balanced")
    assert api.compare(run.folder, magpie.load_filter(short), "balanced") == comparison
    printed = squeezed(typed("filter", run.folder, short, "--compare", "balanced"))
    counts = f"both {comparison.both} only short {comparison.only[0]} only balanced {comparison.only[1]}"
    assert f"{counts} neither {comparison.neither} Jaccard index: {comparison.jaccard:.3f}" in printed


@pytest.mark.parametrize("format", ["messages", "sharegpt", "alpaca"])
def test_export_writes_what_the_command_writes(tmp_path: Path, run: magpie.Run, format: str) -> None:
    files = [tmp_path / name for name in ("run.jsonl", "folder.jsonl", "command.jsonl")]
    rows = magpie.export(run, format, files[0]).rows
    assert rows == magpie.export(run.folder, format, str(files[1])).rows == run.dataset().num_rows
    assert typed("export", run.folder, "--format", format, "--out", files[2]).startswith(f"{rows} rows")
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n": 2, "seed": 1}, ["--n", "2", "--seed", "1"]),
        ({"rejected": True}, ["--rejected"]),
        ({"row": 17}, ["17"]),
    ],
)
def test_show_prints_what_the_command_prints(
    run: magpie.Run, settings: dict[str, object], words: list[str]
) -> None:
    printed = []
    for source in (run, run.folder, str(run.folder)):
        screen = StringIO()
        console = Console(file=screen, width=140, color_system=None, emoji=False)
        magpie.show(source, console=console, **settings)  # type: ignore[arg-type]
        printed.append(screen.getvalue())
    assert printed[0] == printed[1] == printed[2] == typed("show", run.folder, *words)


def test_show_prints_to_the_terminal_of_itself(run: magpie.Run, capsys: pytest.CaptureFixture[str]) -> None:
    magpie.show(run, 0)
    assert "in" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["status", "verify", "export", "show"])
def test_a_folder_that_is_no_run_is_one_clear_error(tmp_path: Path, verb: str) -> None:
    more = ("messages", tmp_path / "rows.jsonl") if verb == "export" else ()
    with pytest.raises(magpie.MagpieError, match="is not a run"):
        getattr(magpie, verb)(tmp_path, *more)


def test_the_package_lists_what_it_offers() -> None:
    assert set(magpie.__all__) <= set(dir(magpie))
    assert {name for name in dir(magpie) if not name.startswith("__")} == set(magpie.__all__)
    assert all(getattr(magpie, name) is not None for name in magpie.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        magpie.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "imports",
    [
        "import magpie.build",
        "import magpie.doctor",
        "import magpie.doctor.tune, magpie.api",
        "from magpie.build import build; from magpie.doctor import measures",
        "import magpie; magpie.doctor; import magpie.doctor.doctor, magpie.build",
    ],
)
def test_a_verb_can_be_called_whatever_was_imported(imports: str) -> None:
    code = f"{imports}\nimport magpie\nprint([type(getattr(magpie, verb)).__name__ for verb in {VERBS!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kinds = [{"doctor": "_Room", "plan": "_Room", "recipe": "_Room"}.get(verb, "function") for verb in VERBS]
    assert re.findall(r"\w+", done.stdout) == kinds


def test_dir_shows_the_verbs_and_loads_nothing() -> None:
    code = (
        "import sys, magpie; print(*dir(magpie)); print(*(name for name in sys.modules if 'magpie.' in name))"
    )
    names, loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split("\n")[:2]
    assert {*VERBS} <= {*names.split()}
    assert loaded == ""


def test_a_verb_that_is_a_room_too_can_be_called_and_its_modules_be_imported() -> None:
    import magpie.doctor.tune as tuning
    import magpie.recipe.loading as loading

    assert tuning.TEMPERATURES and loading.load_recipe("demo").name == "demo"
    assert callable(magpie.doctor) and magpie.doctor.tune is tuning  # type: ignore[attr-defined]
    assert "n" in inspect.signature(magpie.doctor).parameters


def test_a_recipe_and_a_new_one_are_what_the_command_says(tmp_path: Path) -> None:
    assert magpie.recipe("demo") == typed("recipe", "demo")
    assert magpie.recipe("demo", overrides={"rows": 5}) == typed("recipe", "demo", "--set", "rows=5")
    path = tmp_path / "new.yaml"
    assert magpie.new("demo", path, rows=9) == path.read_text() == typed("new", "demo", "--rows", "9")
    assert magpie.load_recipe(path).rows == 9
    with pytest.raises(magpie.MagpieError, match=r"new\.yaml is there already"):
        magpie.new("demo", path)
    with pytest.raises(magpie.MagpieError, match="cannot write"):
        magpie.new("demo", tmp_path / "no" / "folder.yaml")
    assert "is written; build it: magpie build" in typed("new", "demo", "--out", tmp_path / "b.yaml")


def test_the_table_of_a_build_that_stopped_has_what_is_done(tmp_path: Path) -> None:
    recipe = small_recipe()
    run = magpie.build(recipe, tmp_path / "run", stop_after="clean")
    table = run.table()
    assert table.num_rows == recipe.rows and {"id", "instruction", "rejected"} <= {*table.column_names}
    assert "response" not in table.column_names and "task_category" not in table.column_names
    with pytest.raises(magpie.MagpieError, match=r"\['response'\] is not made yet.*run the build again"):
        run.table(["response"])
    shard_path(run, "instruct", 2).unlink()
    with pytest.raises(magpie.MagpieError, match="no step that is done for every row"):
        run.table()
    assert "response" in magpie.build(recipe, tmp_path / "run").table().column_names
    shard_path(run, "respond", 2).unlink()  # lost, and not unfinished
    with pytest.raises(magpie.MagpieError, match="is not there; run the build again to make it"):
        run.table()


def test_a_build_takes_a_dict(tmp_path: Path) -> None:
    models = {"generator": {"model": "any", "engine": "scripted"}}
    run = magpie.build({"name": "small", "rows": 3, "models": models}, tmp_path / "run", stop_after="clean")
    assert run.recipe.models["judge"] == run.recipe.models["generator"]

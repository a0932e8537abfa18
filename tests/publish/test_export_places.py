"""Where an export may go, what it is called, and what is chosen for it."""

from __future__ import annotations

import codecs
import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import small_recipe

import magpie
from magpie import api
from magpie.build import build
from magpie.data.magpie_form import PUBLISHED
from magpie.errors import MagpieError, RunError
from magpie.publish.formats import export
from magpie.publish.hub.checks import MARK
from magpie.runs.run import Run
from magpie.storage.writing import refuse_another

STEER = {
    "prompts": ["You talk to {persona}."],
    "variables": {"persona": {"child": "a child", "cook": "a cook"}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(small_recipe(steer=STEER), tmp_path_factory.mktemp("runs") / "run")


def first_of(path: Path) -> dict[str, object]:
    row: dict[str, object] = json.loads(path.read_text().splitlines()[0])
    return row


def test_a_json_file_is_an_array_and_the_ending_says_how_it_is_compressed(run: Run, tmp_path: Path) -> None:
    rows = export(run, format="messages", out=tmp_path / "x.json").rows
    array = json.loads((tmp_path / "x.json").read_text())
    assert len(array) == rows > 10
    export(run, format="messages", out=tmp_path / "x.JSON.gz")
    assert json.loads(gzip.decompress((tmp_path / "x.JSON.gz").read_bytes())) == array
    export(run, format="messages", out=tmp_path / "x.jsonl.zst")
    with pa.input_stream(tmp_path / "x.jsonl.zst", compression="zstd") as file:
        lines = [json.loads(line) for line in file.read().decode().splitlines()]
    assert sorted(row["id"] for row in lines) == sorted(row["id"] for row in array)


@pytest.mark.parametrize("name", ["x.csv", "x", "x.gz", "x.parquet.gz", ".jsonl"])
def test_another_ending_is_one_clear_line(run: Run, tmp_path: Path, name: str) -> None:
    with pytest.raises(MagpieError, match=r"\.jsonl for JSON lines, \.json for a JSON array"):
        export(run, format="messages", out=tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_replaced_only_when_told(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    out.write_text("mine")
    with pytest.raises(RunError, match="is there already; replace it with --overwrite"):
        export(run, format="messages", out=out)
    assert out.read_text() == "mine"
    link = tmp_path / "link.jsonl"
    link.symlink_to(out)
    export(run, format="messages", out=link, overwrite=True)
    assert link.is_symlink() and first_of(out)["id"]


def test_places_that_are_no_file_are_one_clear_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    loop = tmp_path / "loop.jsonl"
    loop.symlink_to(loop)
    device = tmp_path / "full.jsonl"
    device.symlink_to("/dev/full")
    (tmp_path / "file").write_text("")
    dataset = run.folder / "dataset"
    for out, why in (
        (tmp_path / "folder.jsonl", "is a folder"),
        (device, "not a file that can be replaced"),
        (loop, "loop"),
        (tmp_path / "file" / "x.jsonl", "cannot write"),
        (dataset / "train-00000.parquet", "lies in the dataset itself"),
        (dataset / "new.jsonl", "lies in the dataset itself"),
        (run.folder / "steps" / "x.jsonl", "lies in the dataset itself"),
        (tmp_path / f"{'x' * 250}.jsonl", "cannot write"),
    ):
        with pytest.raises(RunError, match=why) as caught:
            export(run, format="messages", out=out, overwrite=True)
        assert "\n" not in str(caught.value)


def test_columns_are_chosen_and_a_wrong_one_is_named(run: Run, tmp_path: Path) -> None:
    export(run, format="messages", out=tmp_path / "a.jsonl", columns=["difficulty", "id", "difficulty"])
    assert list(first_of(tmp_path / "a.jsonl")) == ["id", "messages", "difficulty"]
    export(run, format="messages", out=tmp_path / "b.jsonl", columns=[])
    assert list(first_of(tmp_path / "b.jsonl")) == ["messages"]
    export(
        run,
        format="sharegpt",
        out=tmp_path / "c.parquet",
        columns=["steer_persona", "generator_engine", "instruct_system_prompt"],
    )
    row = pq.read_table(tmp_path / "c.parquet").to_pylist()[0]
    assert (
        row["instruct_system_prompt"]
        == {"child": "You talk to a child.", "cook": "You talk to a cook."}[row["steer_persona"]]
    )
    assert row["generator_engine"] == "scripted"
    with pytest.raises(RunError, match="no column 'dificulty'; did you mean 'difficulty'"):
        export(run, format="messages", out=tmp_path / "d.jsonl", columns=["dificulty"])


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_columns_that_say_nothing_are_left_out(run: Run, tmp_path: Path, ending: str) -> None:
    whole = tmp_path / f"whole.{ending}"
    export(run, format="messages", out=whole)
    names = run.dataset().column_names
    rows = run.dataset().to_list()
    empty = {name for name in names if all(row[name] in (None, []) for row in rows)}
    same = {name for name in names if all(row[name] == rows[0][name] for row in rows)}
    assert "reasoning" in empty and {"generator", "min_p"} <= same
    export(run, format="messages", out=tmp_path / f"a.{ending}", drop_empty=True)
    export(run, format="messages", out=tmp_path / f"b.{ending}", drop_constant=True)
    read = (
        (lambda path: list(first_of(path)))
        if ending == "jsonl"
        else (lambda path: pq.read_schema(path).names)
    )
    left = set(read(tmp_path / f"a.{ending}"))
    assert empty - left >= {"reasoning"} and left >= set(names) - empty - {"later_reasoning"}
    assert set(read(tmp_path / f"b.{ending}")) == set(names) - same


def test_the_published_form_has_the_published_names_and_forms(run: Run, tmp_path: Path) -> None:
    export(run, format="magpie", out=tmp_path / "x.parquet")
    export(run, format="magpie", out=tmp_path / "x.jsonl")
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column_names == [column.name for column in PUBLISHED]
    assert table.schema.types == [column.kind for column in PUBLISHED]
    ours = {row["id"]: row for row in run.dataset().to_list()}
    lines = {row["uuid"]: row for row in map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())}
    for row in table.to_pylist():
        source = ours[row["uuid"]]
        assert row == lines[row["uuid"]]
        assert row["model"] == source["generator"] and row["task_category_generator"] == source["judge"]
        configs = row["gen_input_configs"]
        assert (configs["temperature"], configs["seed"]) == (
            round(source["temperature"], 3), source["instruct_seed"],
        )  # fmt: skip
        assert configs["input_generator"] == "scripted" and configs["engine"] == "scripted"
        assert configs["system_prompt"].startswith("You talk to a")
        assert [turn["from"] for turn in row["conversations"][:2]] == ["human", "gpt"]
        assert row["conversations"][0]["value"] == row["instruction"] == source["instruction"]
        assert row["instruction_length"] == len(row["instruction"])
        assert row["response_length"] == len(row["response"])
        assert row["other_task_category"] == source["other_task_categories"]
        assert row["min_similar_uuid"] == source["min_similar_id"]
        assert row["llama_guard_2"] is None and row["language"] is None
    export(run, format="magpie", out=tmp_path / "y.jsonl", drop_empty=True, columns=["steer_persona"])
    names = list(first_of(tmp_path / "y.jsonl"))
    assert "llama_guard_2" not in names and names[-1] == "steer_persona"


def test_a_set_in_the_published_form_goes_through_its_own_form(run: Run, tmp_path: Path) -> None:
    export(run, format="magpie", out=tmp_path / "x.parquet")
    export(tmp_path / "x.parquet", format="magpie", out=tmp_path / "y.parquet")
    assert pq.read_table(tmp_path / "x.parquet").equals(pq.read_table(tmp_path / "y.parquet"))
    export(tmp_path / "x.parquet", format="messages", out=tmp_path / "z.jsonl")
    assert first_of(tmp_path / "z.jsonl")["messages"][0]["role"] == "user"  # type: ignore[index]


def test_what_a_filter_wrote_is_exported_shown_and_explained(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = magpie.filter(
        run,
        magpie.Filter.model_validate({"name": "f", "rules": [{"name": "a", "where": "turns > 1"}]}),
        tmp_path / "f",
    )
    assert kept.kept > 2
    for format in ("messages", "sharegpt", "alpaca", "magpie"):
        assert export(tmp_path / "f", format=format, out=tmp_path / f"{format}.jsonl").rows == kept.kept
    row = first_of(tmp_path / "magpie.jsonl")
    assert row["gen_input_configs"]["engine"] == "scripted"  # type: ignore[index]
    export(tmp_path / "f", format="messages", out=tmp_path / "s.jsonl", columns=["instruct_system_prompt"])
    assert str(first_of(tmp_path / "s.jsonl")["instruct_system_prompt"]).startswith("You talk to a")
    # A filter of what a filter wrote still says where the rows come from.
    again = magpie.filter(tmp_path / "f", magpie.Filter(name="all"), tmp_path / "g")
    assert again.kept == kept.kept
    explained = {column.name: column for column in magpie.columns(tmp_path / "g")}
    assert explained["steer_persona"].step == "instruct" and explained["generator_engine"].meaning
    assert all(
        explained[name].meaning for name in pq.read_schema(next((tmp_path / "g").glob("*.parquet"))).names
    )
    magpie.show(tmp_path / "g", n=2)
    magpie.show(tmp_path / "g", str(row["uuid"]))
    printed = capsys.readouterr().out
    assert (
        "assistant" in printed and "instruct_system_prompt: You talk to" in printed and " empty: " in printed
    )
    with pytest.raises(RunError, match="has no row 'nothing'"):
        magpie.show(tmp_path / "g", "nothing")
    with pytest.raises(RunError, match="kept rows only"):
        magpie.show(tmp_path / "g", rejected=True)


@pytest.mark.parametrize("format", ["messages", "sharegpt", "alpaca"])
def test_what_is_no_dataset_is_one_clear_line(tmp_path: Path, format: str) -> None:
    for place in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(RunError, match="is not a run, and no dataset"):
            magpie.export(place, format, tmp_path / "x.jsonl")  # type: ignore[arg-type]
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(RunError, match="no conversations"):
        magpie.export(tmp_path / "a.parquet", format, tmp_path / "x.jsonl")  # type: ignore[arg-type]


def test_names_of_classes_survive(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "instruction": datasets.Value("string"),
            "response": datasets.Value("string"),
            "topic": datasets.ClassLabel(names=["birds", "ships"]),
            "topics": datasets.List(datasets.ClassLabel(names=["birds", "ships"])),
        }
    )
    rows = {
        "id": ["a", "b"],
        "instruction": ["q", "q"],
        "response": ["r", "r"],
        "topic": [1, 0],
        "topics": [[0, 1], []],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set.parquet")
    export(tmp_path / "set.parquet", format="messages", out=tmp_path / "x.jsonl")
    row = first_of(tmp_path / "x.jsonl")
    assert (row["topic"], row["topics"]) == ("ships", ["birds", "ships"])
    export(tmp_path / "set.parquet", format="messages", out=tmp_path / "x.parquet")
    back = datasets.Dataset.from_parquet(str(tmp_path / "x.parquet"), cache_dir=str(tmp_path / "cache"))
    assert back.features["topic"].names == ["birds", "ships"]  # type: ignore[union-attr]


def test_what_lies_beside_an_export_is_not_lost_either(run: Run, tmp_path: Path) -> None:
    beside = tmp_path / "x.axolotl.yaml"
    beside.write_text("mine")
    with pytest.raises(RunError, match=r"x\.axolotl\.yaml is there already; replace it with --overwrite"):
        export(run, format="axolotl", out=tmp_path / "x.jsonl")
    assert beside.read_text() == "mine" and not (tmp_path / "x.jsonl").exists()
    export(run, format="axolotl", out=tmp_path / "x.jsonl", overwrite=True)
    assert "field_messages" in beside.read_text()


@pytest.mark.parametrize(
    "held", [codecs.BOM_UTF8 + b'{"mine": {}}', '{"mine": {}}'.encode("utf-16")], ids=["a mark", "UTF-16"]
)
def test_entries_of_others_stay_however_their_file_is_written(run: Run, tmp_path: Path, held: bytes) -> None:
    info = tmp_path / "dataset_info.json"
    info.write_bytes(held)
    export(run, format="llama-factory", out=tmp_path / "x.jsonl")
    assert set(json.loads(info.read_text())) == {"mine", "x"}
    info.unlink()
    os.mkfifo(info)
    with pytest.raises(RunError, match=r"dataset_info\.json: it is no file"):
        export(run, format="llama-factory", out=tmp_path / "y.jsonl")


def test_a_card_and_a_report_replace_only_their_like(run: Run, tmp_path: Path) -> None:
    for name, write, mark in (
        ("README.md", api.card, MARK),
        ("page.html", api.report, '<meta name="made-from"'),
    ):
        out = tmp_path / name
        out.write_text("mine")
        with pytest.raises(RunError, match="is there already, and magpie did not make it"):
            write(run, out)
        assert out.read_text() == "mine"
        out.unlink()
        os.mkfifo(out)
        with pytest.raises(RunError, match="magpie did not make it"):
            write(run, out)
        out.unlink()
        out.write_text(f"---\n---\n{mark}")
        refuse_another(out, mark.encode())

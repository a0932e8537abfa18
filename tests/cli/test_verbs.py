"""The command as a user types it: one run, every verb."""

import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from builds import small_recipe
from typed import typed

from magpie.publish.formats import FORMATS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    recipe = folder / "small.yaml"
    recipe.write_text(yaml.safe_dump(small_recipe().model_dump(mode="json")))
    printed = typed("build", recipe, "--out", folder / "run", "--set", "extend.turns=2", "--seed", "7")
    assert "rows kept" in printed
    return folder / "run"


def test_help_names_every_verb() -> None:
    printed = typed("--help")
    for verb in (
        "build",
        "status",
        "verify",
        "filter",
        "export",
        "card",
        "push",
        "columns",
        "show",
        "doctor",
        "tune",
        "templates",
        "filters",
        "recipes",
        "schema",
    ):
        assert verb in printed


def test_options_reach_the_run(run: Path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["extend"]["turns"] == 2
    assert recipe["seed"] == 7


def test_status_for_people_and_for_scripts(run: Path) -> None:
    assert "finished" in typed("status", run)
    found = json.loads(typed("status", run, "--json"))
    assert found["finished"] is True
    assert found["rows"] == 96
    assert [step["name"] for step in found["steps"]][:2] == ["instruct", "clean"]
    assert found["kept"] == pq.read_table(run / "dataset").num_rows


def test_verify_says_that_it_is_whole(run: Path) -> None:
    assert "is whole" in typed("verify", run)


def test_show_kept_rejected_and_one(run: Path) -> None:
    kept = pq.read_table(run / "dataset")["id"][0].as_py()
    assert "user" in typed("show", run, "--n", "2")
    assert "dedup: repeat" in typed("show", run, "--rejected")
    assert "input_quality" in typed("show", run, kept)


def test_the_help_of_export_names_every_format() -> None:
    printed = typed("export", "--help")
    assert all(name in printed for name in FORMATS)


@pytest.mark.parametrize("format_", ["messages", "sharegpt", "alpaca"])
def test_export(run: Path, tmp_path: Path, format_: str) -> None:
    out = tmp_path / "x.jsonl"
    printed = typed("export", run, "--format", format_, "--out", out)
    lines = out.read_text().splitlines()
    assert str(len(lines)) in printed
    assert all(json.loads(line)["id"] for line in lines)


def test_another_filter(run: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "short.yaml"
    recipe.write_text("- {name: short, where: response_length < 200}\n")
    printed = typed("filter", run, recipe, "--out", tmp_path / "short")
    kept = pq.read_table(tmp_path / "short")
    assert f"{kept.num_rows} rows in" in printed
    assert max(kept["response_length"].to_pylist()) < 200
    assert typed("verify", run)


def test_a_filter_explains_itself_and_writes_nothing(run: Path, tmp_path: Path) -> None:
    before = sorted(run.rglob("*"))
    printed = typed("filter", run, "air-300k", "--explain")
    assert sorted(run.rglob("*")) == before
    assert "lost alone" in printed and "of alone" in printed and "rows would be kept" in printed
    assert "lost by quality at least good" in printed and "  small-" in printed
    assert "rows in " + str(tmp_path / "out") in typed(
        "filter", run, "balanced", "--explain", "--out", tmp_path / "out"
    ).replace("\n", "")


def test_two_filters_are_compared(run: Path) -> None:
    printed = typed("filter", run, "balanced", "--compare", "strict")
    counts = {
        line.rsplit(None, 1)[0].strip(): line.rsplit(None, 1)[1] for line in printed.splitlines() if line
    }
    assert {"both", "only balanced", "only strict", "neither"} <= counts.keys()
    assert float(counts["Jaccard index:"]) <= 1
    assert "left out, the run has no such column: reward at least -5 (reads instruct_reward)" in printed
    same = typed("filter", run, "balanced", "--compare", "balanced")
    assert "Jaccard index: 1.000" in same and "only the second balanced" in same


def test_a_dataset_without_a_run_is_filtered(run: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "short.yaml"
    recipe.write_text("- {name: short, where: response_length < 200}\n")
    printed = typed("filter", "--input", run / "dataset", recipe, "--out", tmp_path / "short")
    kept = pq.read_table(tmp_path / "short")
    assert f"{kept.num_rows} rows in" in printed
    given = pq.read_table(run / "dataset")
    assert kept.equals(given.filter(pc.less(given["response_length"], 200)))
    file = tmp_path / "short" / "train-00000.parquet"
    assert f"{kept.num_rows} rows would be kept" in typed("filter", "--input", file, recipe, "--explain")
    assert f"both {kept.num_rows}" in " ".join(
        typed("filter", "--input", file, recipe, "--compare", recipe).split()
    )


def test_a_dataset_of_magpie_s_own_is_filtered_like_a_run(run: Path, tmp_path: Path) -> None:
    typed("filter", run, "demo", "--out", tmp_path / "kept")
    printed = typed("filter", tmp_path / "kept", "random-300k", "--out", tmp_path / "drawn")
    assert f"rows in {tmp_path / 'drawn'}" in " ".join(printed.split())
    assert "balanced" in typed("filter", tmp_path / "kept", "balanced", "--compare", "strict")


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    printed = typed("build", "pro", "--dry-run", "--out", tmp_path / "pro")
    assert "tensor parallel 4" in printed
    assert "1,000,000 rows" in printed
    assert "stops after" not in printed
    assert "steered by 4 system prompts" in typed("build", "code", "--dry-run", "--out", tmp_path / "code")
    assert "stops after dedup" in typed("build", "pro", "--dry-run", "--stop-after", "dedup")
    typed("build", "pro", "--dry-run", "--stop-after", "nosuch", "--out", tmp_path / "pro", code=1)
    assert not (tmp_path / "pro").exists()


def test_the_doctor_reads_a_format() -> None:
    found = json.loads(typed("doctor", "demo", "--no-sample", "--json"))
    assert found["pre_query"].endswith("<|im_start|>user\n")
    assert {
        "pre_query",
        "post_query",
        "next_turn",
        "pre_query_ids",
        "stop_ids",
        "warnings",
        "verdict",
    } <= set(found)


def test_the_doctor_cannot_try_without_a_sample() -> None:
    typed("doctor", "demo", "--fix", "--no-sample", code=1)


def test_tune_prints_a_mix_that_a_recipe_takes(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump(small_recipe().model_dump(mode="json")))
    words = (
        "tune",
        "other",
        "--recipe",
        recipe,
        "--n",
        "16",
        "--temperatures",
        "0.8,1.2",
        "--top-ps",
        "1,0.9",
    )
    printed = typed(*words, quiet=False)
    assert "other, judged by" in printed and "best: no other" in printed
    pasted = yaml.safe_load(printed[printed.index("instruct:") :])
    assert 1 <= len(pasted["instruct"]["mix"]) <= 4
    found = json.loads(typed(*words, "--json", quiet=False))
    assert len(found["cells"]) == 4 and found["mix"].startswith("instruct:")
    typed("tune", "other", "--recipe", recipe, "--temperatures", "warm", code=1)


def test_tune_takes_a_recipe_without_an_embedder_and_with_evaluation_sets(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text('{"question": "How many legs has a spider?"}\n')
    recipe = tmp_path / "small.yaml"
    sections = small_recipe().model_dump(mode="json")
    sections |= {"embed": None, "dedup": None, "decontaminate": {"files": ["questions.jsonl"]}}
    recipe.write_text(yaml.safe_dump(sections))
    words = (
        "tune",
        "other",
        "--recipe",
        recipe,
        "--n",
        "4",
        "--temperatures",
        "1",
        "--top-ps",
        "1",
        "--json",
    )
    found = json.loads(typed(*words, quiet=False))
    assert found["cells"][0]["quality"]["rows"] > 0


@pytest.mark.parametrize(
    ("verb", "name"), [("recipes", "air"), ("filters", "pro-300k"), ("templates", "chatml")]
)
def test_lists_of_what_ships(verb: str, name: str) -> None:
    assert name in typed(verb)

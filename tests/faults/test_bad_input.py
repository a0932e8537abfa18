"""What a person may get wrong: one clear line, a non-zero exit code, and nothing written or loaded for it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from builds import RULES, dataset_paths, scripted, tree
from command import done, magpie, refusal, start, write_raw, write_recipe, write_tokenizer

from magpie.runs.run import Run
from magpie.runs.verify import verify


def rule(where: str) -> dict[str, Any]:
    return {"filter": {"name": "mine", "rules": [{"name": "mine", "where": where}]}}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"rowz": 3}, r"`rowz` is not a setting; did you mean `rows`\?$"),
        ({"instruct": {"max_tokns": 3}}, r"`instruct\.max_tokns` is not a setting; did you mean `max_tokens`\?$"),
        ({"rows": "many"}, r"`rows`: must be a whole number, not 'many'$"),
        ({"rows": 0}, r"`rows`: must be greater than or equal to 1, not 0$"),
        ({"models": ["demo"]}, r"`models`: must be a mapping"),
        ({"models": {}}, r"`instruct\.model` is 'generator', which is not under `models`"),
        ({"filter": "air-30k"}, r"no filter 'air-30k'; .*air-300k"),
        (rule("difficultee = 'easy'"), r"reads 'difficultee', .* did you mean 'difficulty'\?$"),
        (rule("difficulty = "), r"rule 'mine' is not one SQL expression"),
        (rule("count(*) > 1"), r"count_star\(\)"),
        (rule("length(instruction)"), r"is of type BIGINT; write a condition"),
        ({"tag": None, "filter": {"rules": RULES}}, r"reads 'input_quality'"),
        ({"engine": "server"}, r"`models\.generator\.server\.url` is missing"),
    ],
)  # fmt: skip
def test_a_wrong_recipe(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    recipe = write_raw(tmp_path / "wrong.yaml", **changes)
    said = refusal(magpie("build", recipe, "--out", tmp_path / "run"))
    assert re.search(line, said), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"rows: [1\n", r"wrong\.yaml is not valid YAML: line 2"),
        (b"", r"wrong\.yaml holds no settings"),
        (b"\xff\xfe\x00rows", r"wrong\.yaml is not UTF-8 text"),
        (b"rows: 3\nrows: 4\n", r"`rows` is written twice"),
        (b"a: &a [*a, *a]\n", r"wrong\.yaml"),
    ],
)
def test_a_recipe_that_is_no_recipe(tmp_path: Path, text: bytes, line: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_bytes(text)
    said = refusal(magpie("build", path, "--out", tmp_path / "run"))
    assert re.search(line, said), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--set", "instruct.max_tokns=3"], r"no `max_tokns` in `instruct`; did you mean `max_tokens`\?$"),
        (["--set", "rows"], r"write it as a\.b=value$"),
        (["--set", "rows.x=3"], r"`rows` is a value, with nothing below it"),
        (["--set", "instruct.mix.7.top_p=1"], r"`instruct\.mix` has 2 entries"),
        (["--engine", "vlm"], r"--engine 'vlm' is not known; use one of: auto, vllm"),
        (["--stop-after", "respnd"], r"no step 'respnd'; it has: instruct, clean"),
        (["--rows", "0"], r"`rows`: must be greater than or equal to 1"),
        (["--seed", "-1"], r"`seed`: must be greater than or equal to 0"),
        (["--set", "models.generator.server.url=ftp://x"], r"must start with http"),
        (["--set", "models.generator.server.retries=1"], r"`models\.generator\.server\.url` is missing"),
    ],
)
def test_a_wrong_option(tmp_path: Path, recipe: Path, options: list[str], line: str) -> None:
    said = refusal(magpie("build", recipe, "--out", tmp_path / "run", *options))
    assert re.search(line, said), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["build", "nope.yaml"], r"no recipe 'nope\.yaml'; .*demo"),
        (["build", "."], r"no recipe '\.'"),
        (["status", "nope"], r"nope is not a run: it holds no recipe\.yaml"),
        (["verify", "nope"], r"nope is not a run"),
        (["show", "nope"], r"nope is not a run"),
        (["export", "nope", "--format", "alpaca", "--out", "x.jsonl"], r"nope is not a run"),
        (["filter", "nope", "demo"], r"nope is not a run"),
        (["filter", "RUN", "nope"], r"no filter 'nope'; .*air-300k"),
        (["filter", "RUN", "column.yaml"], r"reads 'nope', a column the run does not have"),
        (["filter", "RUN", "key.yaml"], r"`rules\.0\.wher` is not a setting; did you mean `where`\?"),
        (["filter", "RUN", "demo", "--compare", "nope"], r"no filter 'nope'; .*air-300k"),
        (["filter", "RUN", "demo", "--compare", "strict", "--explain"], r"--compare only counts; leave out"),
        (["filter", "--input", "nope", "demo", "--out", "x"], r"nope is not there; check the path"),
        (["filter", "--input", ".", "demo", "--out", "x"], r"\. holds no dataset; .*a folder with files that end in"),
        (["filter", "--input", "key.yaml", "demo", "--out", "x"], r"key\.yaml is no dataset; give a file that ends in"),
        (["filter", "--input", "DATASET", "demo"], r"a dataset needs --out"),
        (["filter", "--input", "DATASET", "column.yaml", "--out", "x"], r"a column the dataset does not have"),
        (["show", "RUN", "nope"], r"no row 'nope'"),
        (["export", "RUN", "--format", "xml", "--out", "x.jsonl"], r"--format 'xml' is not known; .*sharegpt"),
        (["export", "RUN", "--format", "messages", "--out", "x.txt"], r"end --out in \.jsonl"),
        (["export", "RUN", "--format", "messages", "--out", "key.yaml/x.jsonl"], r"cannot write .*key\.yaml"),
        (["doctor", "nope", "--no-sample"], r"no model 'nope'"),
    ],
)  # fmt: skip
def test_a_wrong_name(tmp_path: Path, whole: Path, arguments: list[str], line: str) -> None:
    (tmp_path / "column.yaml").write_text("- {name: mine, where: nope > 1}")
    (tmp_path / "key.yaml").write_text("- {name: mine, where: turns > 1, wher: nope}")
    places = {"RUN": str(whole), "DATASET": str(whole / "dataset")}
    arguments = [places.get(argument, argument) for argument in arguments]
    said = refusal(magpie(*arguments, cwd=tmp_path))
    assert re.search(line, said), said
    assert {path.name for path in tmp_path.iterdir()} == {"column.yaml", "key.yaml"}
    assert not (whole / "filtered").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["bild"],
        ["build"],
        ["build", "demo", "--rows", "many"],
        ["show", ".", "--n", "0"],
        ["filter", "demo"],
        ["filter", "--input", ".", "demo", "air-300k"],
    ],
)
def test_wrong_arguments_say_how_the_command_is_used(tmp_path: Path, arguments: list[str]) -> None:
    result = magpie(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert re.fullmatch(r"magpie: .*; see `magpie.* --help`\n", result.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
@pytest.mark.parametrize("model", ["nobody/nothing", "./nowhere", "../../../etc", "bad name!"])
def test_an_unknown_model(tmp_path: Path, recipe: Path, engine: str, model: str) -> None:
    if engine == "vllm" and find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    changes = ["--set", f"models.generator.model={model}", "--set", "models.judge=generator"]
    result = magpie("build", recipe, "--engine", engine, *changes, "--out", "run", cwd=tmp_path)
    assert model in refusal(result)
    assert not list((tmp_path / "run").rglob("*.parquet"))
    right = ["--set", "models.generator.model=scripted", "--set", "models.judge=generator"]
    done(magpie("build", recipe, *right, "--stop-after", "instruct", "--out", "run", cwd=tmp_path))


def test_a_tokenizer_without_a_chat_template(tmp_path: Path, recipe: Path) -> None:
    model = write_tokenizer(tmp_path / "model", chat_template=None)
    settings = (f"models.generator.model={model}", "models.judge=generator", "dedup=null", "embed=null")
    changes = [word for setting in settings for word in ("--set", setting)]
    arguments = ["--engine", "transformers", *changes, "--out", tmp_path / "run"]
    said = refusal(magpie("build", recipe, *arguments))
    assert "chat template" in said
    assert "chat_template" in said  # the setting that helps
    assert not list((tmp_path / "run").rglob("*.parquet"))


def test_a_run_folder_of_another_recipe(tmp_path: Path, recipe: Path) -> None:
    folder = tmp_path / "run"
    done(magpie("build", recipe, "--out", folder, "--stop-after", "instruct"))
    before = tree(folder)
    said = refusal(magpie("build", recipe, "--out", folder, "--seed", "7", "--set", "extend.turns=2"))
    assert "`seed` was 42, now 7" in said
    assert "`extend.turns` was 3, now 2" in said
    assert "--out" in said
    assert tree(folder) == before
    done(magpie("build", recipe, "--out", folder, "--stop-after", "clean"))


def test_what_only_says_how_fast_may_change_in_mid_run(tmp_path: Path, recipe: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    done(magpie("build", recipe, "--out", folder, "--stop-after", "instruct"))
    changes = ["--set", "models.generator.slots=3", "--set", "models.generator.gpu_memory=0.5"]
    done(magpie("build", recipe, "--out", folder, *changes))
    # Shards say which recipe they were made by, and so their metadata differs; nothing else does.
    found, first = Run.open(folder), Run.open(whole)
    assert found.table().equals(first.table())
    assert dataset_paths(found)[0].read_bytes() == dataset_paths(first)[0].read_bytes()
    assert tree(folder)["recipe.yaml"] != tree(whole)["recipe.yaml"]


def test_a_run_folder_that_is_a_file_or_holds_other_things(tmp_path: Path, recipe: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refusal(magpie("build", recipe, "--out", tmp_path / "file"))
    assert "cannot write" in refusal(magpie("build", recipe, "--out", tmp_path / "file" / "run"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    assert "notes.txt" in refusal(magpie("build", recipe, "--out", tmp_path / "folder"))
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["notes.txt"]


def test_two_builds_of_one_folder_at_once(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "slow.yaml", models=scripted(tokens_per_second=1))
    with start("build", recipe, "--out", tmp_path / "run") as first:
        assert first.stdout is not None
        first.stdout.readline()
        said = refusal(magpie("build", recipe, "--out", tmp_path / "run"))
        first.kill()
    assert "another build is at work" in said


def test_every_completion_fails(tmp_path: Path, recipe: Path) -> None:
    """No row is left. That is a result, not an error: the dataset is there, with its columns and no rows."""
    folder = tmp_path / "run"
    changes = ["--set", "models.generator.script.failure_rate=1", "--set", "models.judge=generator"]
    said = done(magpie("build", recipe, "--out", folder, *changes))
    assert "not one row is left" in said
    assert verify(Run.open(folder)) == []
    dataset = Run.open(folder).dataset()
    assert dataset.num_rows == 0
    assert {"id", "messages", "instruction", "difficulty", "generator"} <= set(dataset.column_names)
    assert "engine error" in done(magpie("status", folder))
    assert "engine error" in done(magpie("show", folder, "--rejected"))
    assert "0 rows" in done(magpie("export", folder, "--format", "alpaca", "--out", tmp_path / "x.jsonl"))
    assert "0 rows" in done(magpie("filter", folder, "demo"))

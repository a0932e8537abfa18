"""The JSON schemas: as committed, and what they accept and refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from magpie import shipped
from magpie.recipe.loading import load_recipe, parse_recipe
from magpie.recipe.schema import as_text, filter_schema, main, recipe_schema

RECIPE = Draft202012Validator(recipe_schema())
FILTER = Draft202012Validator(filter_schema())
MODELS: dict[str, Any] = {"generator": {"model": "demo"}, "judge": "generator", "embedder": "demo-embedder"}
WRITTEN: dict[str, Any] = {"name": "small", "rows": 10, "models": MODELS}
RULES = [{"name": "long enough", "where": "length(instruction) > 20"}]


@pytest.mark.parametrize(("name", "schema"), [("recipe", recipe_schema()), ("filter", filter_schema())])
def test_the_committed_schemas_are_up_to_date(name: str, schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    path = shipped.folder("schemas") / f"{name}.json"
    assert path.read_text("utf-8") == as_text(schema), (
        f"{path.name} is not what the code makes; renew it with `python -m magpie.recipe.schema schemas`"
    )


def test_the_command_writes_both(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "magpie.recipe.schema"]
    subprocess.run([*command, str(tmp_path / "new")], check=True)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["filter.json", "recipe.json"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and refused.stderr.startswith("name one folder:")


@pytest.mark.parametrize("words", [[], ["--help"], ["a", "b"]])
def test_what_is_no_folder_makes_none(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["schema", *words])
    with pytest.raises(SystemExit, match="name one folder:"):
        main()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", shipped.names("recipes"))
def test_every_shipped_recipe_fits_and_names_the_schema(name: str) -> None:
    text = (shipped.folder("recipes") / f"{name}.yaml").read_text("utf-8")
    assert text.startswith("# yaml-language-server: $schema=../schemas/recipe.json\n")
    RECIPE.validate(yaml.safe_load(text))
    RECIPE.validate(load_recipe(name).model_dump(mode="json"))


@pytest.mark.parametrize("name", shipped.names("filters"))
def test_every_shipped_filter_fits_and_names_the_schema(name: str) -> None:
    text = (shipped.folder("filters") / f"{name}.yaml").read_text("utf-8")
    assert text.startswith("# yaml-language-server: $schema=../schemas/filter.json\n")
    FILTER.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "changes",
    [
        {"filter": "demo"},
        {"filter": RULES},
        {"filter": {"rules": RULES, "top": {"by": "id", "n": 5}}},
        {"filter": None},
        {"decontaminate": {"files": "exam.jsonl"}},
        {"decontaminate": {"files": ["exam.jsonl"]}},
        {"dedup": {"against": "org/name:test"}},
        {"dedup": {"against": []}},
        {"steer": {"prompts": ["a {year}", {"text": "b", "share": 2}], "variables": {"year": [1990, "now"]}}},
        {"steer": {"prompts": {1: "a {year}"}, "variables": {"year": {"old": 1990, "new": {"text": "now"}}}}},
        {"steer": {"prompts": [{"id": "a", "text": "b"}]}},
        {"language": {"keep": "steered"}},
        {"language": {"keep": ["en"]}},
        {"steer": {"catalogue": "general", "unsteered": 0.1}},
        {"tag": {"questions": {"a": {"prompt": "{{ instruction }}", "answer": {"a": {"type": "text"}}}}}},
        {"respond": None},
    ],
)
def test_what_loading_accepts_fits(changes: dict[str, Any]) -> None:
    parse_recipe(WRITTEN | changes)
    RECIPE.validate(WRITTEN | changes)


def test_texts_in_files_fit(tmp_path: Path) -> None:
    for name in ("prompts", "years"):
        (tmp_path / f"{name}.txt").write_text("in {year}\n" if name == "prompts" else "1990\n")
    steer = {"prompts": {"file": "prompts.txt"}, "variables": {"year": {"file": "years.txt"}}}
    parse_recipe(WRITTEN | {"steer": steer}, folder=tmp_path)
    RECIPE.validate(WRITTEN | {"steer": steer})


@pytest.mark.parametrize(
    "changes",
    [
        {"rowz": 3},
        {"rows": 0},
        {"rows": True},
        {"name": "A b"},
        {"models": {"generator": {"model": "demo", "slotz": 8}}},
        {"models": {"generator": 3}},
        {"instruct": {"mix": []}},
        {"instruct": None},
        {"tag": {"tags": []}},
        {"tag": {"questions": {"stars": {"prompt": "{{ instruction }}"}}}},
        {"steer": {"prompts": ["a"], "combine": "deal"}},
        {"decontaminate": {}},
        {"decontaminate": {"files": []}},
        {"dedup": {"against": 3}},
        {"steer": {"prompts": []}},
        {"steer": {"prompts": "a"}},
        {"steer": {"prompts": [{"id": "a"}]}},
        {"steer": {"prompts": [{"text": "a", "shar": 2}]}},
        {"filter": [{"name": "no predicate"}]},
        {"filter": {"top": {"by": "id", "n": 0}}},
        {"pii": {"phone_region": "us"}},
        {"reward": {"baseline": {"temperature": -1}}},
    ],
)
def test_what_loading_refuses_does_not_fit(changes: dict[str, Any]) -> None:
    assert not RECIPE.is_valid(WRITTEN | changes)
    assert RECIPE.is_valid(WRITTEN)


def test_a_filter_is_a_mapping_or_a_list_of_rules() -> None:
    assert FILTER.is_valid(RULES) and FILTER.is_valid({"rules": RULES}) and FILTER.is_valid({})
    assert not FILTER.is_valid({"rulez": RULES}) and not FILTER.is_valid("demo")


def test_engines_are_those_that_are_named() -> None:
    of_two = Draft202012Validator(recipe_schema(["vllm", "scripted"]))
    for engine, fits in (("auto", True), ("vllm", True), ("vlm", False)):
        assert of_two.is_valid(WRITTEN | {"engine": engine}) == fits
        model = {"generator": {"model": "demo", "engine": engine}}
        assert of_two.is_valid(WRITTEN | {"models": model}) == fits
    assert of_two.is_valid(WRITTEN | {"models": {"generator": {"model": "demo", "engine": None}}})
    assert RECIPE.is_valid(WRITTEN | {"engine": "mine"})


def test_every_setting_is_described_and_has_its_default_unless_it_must_be_given() -> None:
    for schema in (recipe_schema(), filter_schema()):
        for part in (schema, *schema["$defs"].values()):
            for name, setting in part.get("properties", {}).items():
                assert setting["description"], name
                assert ("default" in setting) == (name not in part.get("required", ())) or name == "id"

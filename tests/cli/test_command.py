"""The command itself: its version, its help, completion for shells, and schemas for editors."""

import json

import jsonschema
import pytest
import yaml
from builds import small_recipe
from typed import typed

import magpie
from magpie.cli import VERBS
from magpie.engines import engine_names


def test_the_version_is_that_of_the_package() -> None:
    assert typed("--version") == f"magpie {magpie.__version__}\n"


def test_the_package_is_the_command_too() -> None:
    assert typed("--help", module="magpie") == typed("--help")


# Without shellingham typer takes the shell as an argument; with it, it looks for the shell that the command runs in.
def test_a_shell_can_complete_the_command() -> None:
    script = typed("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_MAGPIE_COMPLETE=complete_bash" in script


def test_completion_knows_the_verbs() -> None:
    words = {"COMP_WORDS": "magpie s", "COMP_CWORD": "1", "_MAGPIE_COMPLETE": "complete_bash"}
    assert typed(**words).split() == [
        verb.__name__.rstrip("_") for verb in VERBS if verb.__name__.startswith("s")
    ]


def test_the_schema_of_recipes_names_the_engines_and_takes_a_recipe() -> None:
    schema = json.loads(typed("schema", "recipe"))
    assert schema == json.loads(typed("schema"))
    assert schema["properties"]["engine"]["enum"] == list(engine_names())
    jsonschema.validate(small_recipe().model_dump(mode="json"), schema)
    with pytest.raises(jsonschema.ValidationError, match="vllmm"):
        jsonschema.validate(small_recipe().model_dump(mode="json") | {"engine": "vllmm"}, schema)


def test_the_schema_of_filters_takes_a_filter() -> None:
    schema = json.loads(typed("schema", "filter"))
    jsonschema.validate(yaml.safe_load("- {name: short, where: response_length < 200}"), schema)


def test_nothing_else_has_a_schema() -> None:
    assert typed("schema", "nonsense", code=2) == ""

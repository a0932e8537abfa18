"""JSON schemas of recipes and filters. With them, an editor completes keys, explains them and marks mistakes.

They are made from the Pydantic models of this package, so a new setting needs no change here. The short forms that
`short_forms.py` and `loading.py` accept are added by hand. `schemas/` holds the result. To write it again:

    python -m magpie.recipe.schema schemas

A schema cannot check all that loading checks: that a role is under `models`, or that one section needs another.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from magpie.recipe.base import Part
from magpie.recipe.filter import Filter
from magpie.recipe.recipe import Recipe

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1}
_FILE: Schema = {
    "type": "object",
    "description": "A file that holds the text.",
    "properties": {"file": _TEXT},
    "required": ["file"],
    "additionalProperties": False,
}
_RULES: Schema = {"type": "array", "items": {"$ref": "#/$defs/Rule"}, "description": "The rules alone."}


def recipe_schema(engines: Sequence[str] = ()) -> Schema:
    """The JSON schema (draft 2020-12) of a recipe file.

    `engines` are the names that `engine` may have besides `auto`. Without any, it may be any text.
    """
    schema = _schema(Recipe)
    settings, parts = schema["properties"], schema["$defs"]

    model = {**_TEXT, "description": "The name of a model, or of another role."}
    settings["models"]["additionalProperties"] = {"anyOf": [{"$ref": "#/$defs/Model"}, model]}
    _accept(settings["filter"], {**_TEXT, "description": "The name of a filter, or a file."}, _RULES)
    for section, name in (("Decontaminate", "files"), ("Dedup", "against"), ("Known", "datasets")):
        _accept(
            parts[section]["properties"][name],
            {**_TEXT, "description": "One dataset."},
            {"$ref": "#/$defs/NamedDataset"},
        )

    questions = {**_TEXT, "description": "The file that holds them, in the folder of the recipe file."}
    _accept(parts["Tag"]["properties"]["questions"], questions)
    _accept(parts["JudgeQuestion"]["properties"]["prompt"], _FILE)

    word = {"const": "paraphrase", "description": "The distance that was measured for paraphrases."}
    _accept(parts["Decontaminate"]["properties"]["distance"], word)

    parts["SteerText"]["required"].remove("id")  # in a mapping it is the key; else it is made from the text
    parts["SteerTexts"] = _steer_texts()
    steer = parts["Steer"]["properties"]
    described = steer["prompts"]["description"]
    steer["prompts"] = {"$ref": "#/$defs/SteerTexts", "description": described, "default": []}
    steer["variables"]["additionalProperties"] = {"$ref": "#/$defs/SteerTexts"}

    if engines:
        for setting in (settings["engine"], parts["Model"]["properties"]["engine"]):
            for option in setting.get("anyOf", [setting]):
                if option["type"] == "string":
                    option["enum"] = list(dict.fromkeys(("auto", *engines)))
    return schema


def filter_schema() -> Schema:
    """The JSON schema (draft 2020-12) of a filter file."""
    schema = _schema(Filter)
    dialect, parts = schema.pop("$schema"), schema.pop("$defs")
    return {
        "$schema": dialect,
        "title": schema["title"],
        "description": schema["description"],
        "anyOf": [{"$ref": "#/$defs/Filter"}, _RULES],
        "$defs": {"Filter": schema, **parts},
    }


def as_text(schema: Schema) -> str:
    """The schema as it stands in a file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, without titles such as "Max Tokens", and with the defaults that a factory makes."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def get_default_value(self, schema: Any) -> Any:
        factory = schema.get("default_factory")
        return factory() if factory is not None else super().get_default_value(schema)


def _schema(part: type[Part]) -> Schema:
    schema: JsonSchemaValue = part.model_json_schema(schema_generator=_Generator)
    for described in (schema, *schema["$defs"].values()):
        for holder in (described, *described.get("properties", {}).values()):
            if "description" in holder:
                holder["description"] = _unwrapped(holder["description"])
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


def _unwrapped(text: str) -> str:
    """The text with each paragraph on one line, as editors wrap lines themselves."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _accept(setting: Schema, *forms: Schema) -> None:
    """Let the setting have other forms too."""
    own = {key: setting.pop(key) for key in list(setting) if key not in {"default", "description"}}
    setting["anyOf"] = [*own.get("anyOf", [own]), *forms]


def _steer_texts() -> Schema:
    """The forms that the prompts, and the values of a variable, may have."""
    text = {"anyOf": [{"$ref": "#/$defs/SteerText"}, _TEXT, {"type": "number"}]}
    file = {
        **_FILE,
        "description": "A .yaml, .jsonl or .txt file that holds the texts, in the folder of the recipe file.",
    }
    return {
        "title": "SteerTexts",
        "anyOf": [
            {"type": "array", "description": "The texts.", "items": text, "minItems": 1},
            file,
            {
                "type": "object",
                "description": "The id of each text, and the text.",
                "additionalProperties": text,
                "minProperties": 1,
            },
        ],
    }


def main() -> None:
    """Write recipe.json and filter.json into the folder that the command line names."""
    # A dash begins an option, such as --help, and no folder that anybody means.
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("name one folder: python -m magpie.recipe.schema schemas")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in (("recipe", recipe_schema()), ("filter", filter_schema())):
        (folder / f"{name}.json").write_text(as_text(schema), encoding="utf-8")


if __name__ == "__main__":
    main()

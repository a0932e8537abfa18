"""A recipe written out for people: whole, explained, and the same recipe when it is read again."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from magpie import shipped
from magpie.recipe import Recipe
from magpie.recipe.commented import commented, inline
from magpie.recipe.loading import load_recipe, parse_recipe
from magpie.recipe.reading import parse_yaml

ODD = {
    "name": "odd",
    "description": "two\nlines, 'quotes', \"more\", # no comment: and {braces} \u2028 \x85 é",
    "rows": 3,
    "models": {
        "generator": {"model": "yes", "chat_template_kwargs": {"on": True, "deep": {"a": [1, None]}}},
        "second": "generator",
        "third": {"model": "null", "server": {"url": "http://host/v1"}},
    },
    "instruct": {"hold_back": ["#", "\n", "\t", ""]},
    "steer": {
        "prompts": ["First: {domain}.\n\n  Second: '#'", {"id": "no", "text": "a\nb", "share": 2}],
        "variables": {"domain": ["1", "true"]},
    },
    "filter": {"rules": [{"name": "a: b", "where": "x = 'y' AND z > 1"}], "quotas": {"by": "a", "counts": {"on": 1}}},
    "embed": None,
    "dedup": None,
}  # fmt: skip


def read_again(text: str) -> Recipe:
    return parse_recipe(parse_yaml(text.encode(), "again"))


@pytest.mark.parametrize("source", [*shipped.names("recipes"), ODD], ids=lambda source: str(source)[:9])
def test_it_is_the_same_recipe_when_it_is_read_again(source: Any) -> None:
    recipe = load_recipe(source)
    assert read_again(commented(recipe)) == recipe


def test_every_key_is_there_with_its_meaning_and_its_default() -> None:
    text = commented(load_recipe({"name": "small", "rows": 3, "models": {"generator": "demo"}}))
    words = " ".join(text.replace("#", " ").split())
    parts: list[type[BaseModel]] = [Recipe]
    for part in parts:
        for name, field in part.model_fields.items():
            assert f"{name}:" in words, (part, name)
            assert " ".join(str(field.description).split())[:60] in words, (part, name)
            parts += [inner for inner in parts_in(field.annotation) if inner not in parts]
    assert len(parts) > 20
    assert "How many rows are committed to disk together." in text and "Default: 1000." in text
    assert "One of: auto, bfloat16, float16, float32. Default: auto." in words


def parts_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [part for option in getattr(annotation, "__args__", ()) for part in parts_in(option)]


def test_a_section_that_is_off_can_be_switched_on_by_taking_away_the_marks() -> None:
    text = commented(load_recipe({"name": "small", "rows": 3, "models": {"generator": "demo"}}))
    before, mark, after = text.partition("\npii: null\n")
    assert mark
    block, _, rest = after.partition("\n\n")
    shown = "\n".join(line.removeprefix("# ") for line in block.splitlines())
    recipe = read_again(f"{before}\n{shown}\n\n{rest}")
    assert recipe.pii is not None and recipe.pii.action == "mark"


@pytest.mark.parametrize("text", ["a", "no", "1", "a\nb", "it's", "\u2028", " x ", "- a", "{", "é", ""])
def test_a_text_stays_on_one_line_and_is_read_as_it_was(text: str) -> None:
    assert len(inline({"k": text}).splitlines()) == 1
    assert parse_yaml(inline({"k": text}).encode(), "t") == {"k": text}

"""The documentation: it builds without a warning, and what it tells people to type is there to be typed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from magpie.cli import app
from magpie.recipe import Filter, Recipe
from magpie.recipe.loading import parse_recipe
from magpie.recipe.page import page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """The code blocks in a language, each with the name of its page."""
    for path in PAGES:
        for found in FENCE.finditer(path.read_text(encoding="utf-8")):
            if found[1] == language:
                yield path.name, found[2]


def commands() -> list[tuple[str, str]]:
    """Every `magpie ...` line of the pages."""
    lines = [(name, line) for name, block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    return [(name, line) for name, line in lines if line.startswith("magpie ")]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environ, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    python = (tmp_path / "site" / "python.html").read_text(encoding="utf-8")
    for name in ("compare", "export_for_trainer", "ChatFormat", "import_dataset"):
        assert f'id="magpie.{HOMES[name]}.{name}"' in python  # made of the docstrings
    # Nothing is fetched from elsewhere to be seen.
    assert not re.search(r'(?:src|rel="stylesheet" href)="https?:', python)


HOMES = {
    "compare": "api.comparing",
    "export_for_trainer": "api.publishing",
    "ChatFormat": "chat",
    "import_dataset": "api.datasets",
}


def test_the_page_of_recipes_is_current() -> None:
    assert (DOCS / "recipes.md").read_text(encoding="utf-8") == page(), (
        "renew it: python -m magpie.recipe.page > docs/recipes.md"
    )


def test_every_key_of_a_recipe_is_explained() -> None:
    text = page()
    for name in Recipe.model_fields:
        assert f"| `{name}` | " in text
    for section in ("models", "instruct.mix", "reward.baseline", "steer.prompts", "filter.quotas"):
        assert f"## `{section}`" in text


def test_every_page_can_be_reached() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"([\w-]+\.md)$", site, re.MULTILINE))
    assert {path.name for path in PAGES} <= listed


@pytest.mark.parametrize(("name", "line"), commands())
def test_what_a_page_tells_people_to_type_is_there(name: str, line: str) -> None:
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    for part in re.split(r"\s*[;|]\s*", line):
        words = shlex.split(part, comments=True)
        if not words or words[0] != "magpie":
            continue
        assert words[1] in verbs, f"{name}: there is no verb {words[1]}"
        options = {option for each in verbs[words[1]].params for option in each.opts} | {"-h", "--help"}
        for word in words[2:]:
            if word.startswith("-"):
                assert word.partition("=")[0] in options, f"{name}: magpie {words[1]} has no {word}"


def test_yaml_on_the_pages_is_what_it_is_said_to_be() -> None:
    examples = dict(blocks("yaml"))
    Filter.model_validate(yaml.safe_load(examples["filters.md"]))
    steer, respond = (yaml.safe_load(text) for name, text in blocks("yaml") if name == "steering.md")
    usual = {"name": "x", "rows": 10, "models": {"generator": "demo"}}
    recipe = parse_recipe({**usual, **steer})
    assert recipe.steer is not None and set(recipe.steer.variables) == {"language", "domain", "persona"}
    assert recipe.steer.prompts[0].id == "tutor"
    everywhere = {"steer": {**steer["steer"], "prompts": [steer["steer"]["prompts"]["tutor"]]}}
    assert parse_recipe({**usual, **everywhere, **respond}).respond is not None
    steer["steer"]["variables"] |= {"topic": ["math"]}
    steer["steer"]["prompts"]["topic"] = "You ask about {topic}."
    for until in (yaml.safe_load(text) for name, text in blocks("yaml") if name == "growing.md"):
        assert parse_recipe({**usual, **steer, **until}).until is not None

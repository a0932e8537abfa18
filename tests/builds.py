"""Small recipes for tests: every step, on the scripted engine, in well under a second."""

from pathlib import Path
from typing import Any

from magpie.recipe import Recipe
from magpie.recipe.loading import parse_recipe

RULES = [
    {"name": "quality", "where": "input_quality IN ('average', 'good', 'excellent')"},
    {"name": "long enough", "where": "response_length > 60"},
    {"name": "medium or harder", "where": "difficulty NOT IN ('very easy', 'easy')"},
]


def small_recipe(**changes: Any) -> Recipe:
    """96 rows in 6 shards; `changes` replace whole sections."""
    recipe: dict[str, Any] = {
        "name": "small",
        "rows": 96,
        "shard_rows": 16,
        "engine": "scripted",
        "models": {"generator": "scripted", "judge": "generator", "embedder": "scripted"},
        "instruct": {
            "mix": [{"share": 2, "temperature": 1.0}, {"share": 1, "temperature": 0.7, "top_p": 0.9}]
        },
        "language": None,
        "extend": {"turns": 3},
        "filter": {"name": "small", "rules": RULES},
    }
    return parse_recipe(recipe | changes)


def scripted(**script: Any) -> dict[str, Any]:
    """The `models` section with a scripted engine that behaves as `script` says."""
    return {
        "generator": {"model": "scripted", "script": script},
        "judge": "generator",
        "embedder": {"model": "scripted"},
    }


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a run that a build promises to make identical, by its place."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for place in ("steps", "dataset", "recipe.yaml", "report.json")
        for path in ([folder / place] if (folder / place).is_file() else sorted((folder / place).rglob("*")))
        if path.is_file()
    }

"""magpie: name a chat model, get an instruction dataset you would train on.

import magpie

run = magpie.build("demo", out="runs/demo")
run.table()      # every row and why it is in or out, as a pyarrow Table
run.dataset()    # what was kept, as a Hugging Face Dataset
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magpie.build import build
    from magpie.chat import ChatFormat
    from magpie.doctor.doctor import doctor
    from magpie.doctor.tune import tune
    from magpie.errors import MagpieError
    from magpie.recipe import Filter, Recipe
    from magpie.recipe.loading import load_filter, load_recipe
    from magpie.runs.run import Run

__version__ = "0.1.0"

_HOMES = {
    "ChatFormat": "magpie.chat",
    "Filter": "magpie.recipe",
    "MagpieError": "magpie.errors",
    "Recipe": "magpie.recipe",
    "Run": "magpie.runs.run",
    "build": "magpie.build",
    "doctor": "magpie.doctor.doctor",
    "load_filter": "magpie.recipe.loading",
    "load_recipe": "magpie.recipe.loading",
    "tune": "magpie.doctor.tune",
}

__all__ = [
    "ChatFormat",
    "Filter",
    "MagpieError",
    "Recipe",
    "Run",
    "build",
    "doctor",
    "load_filter",
    "load_recipe",
    "tune",
]


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: `magpie --help` waits for none of them."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'magpie' has no attribute {name!r}")

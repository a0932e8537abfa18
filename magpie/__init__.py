"""magpie: name a chat model, get an instruction dataset you would train on.

import magpie

run = magpie.build("demo", out="runs/demo")
run.table()      # every row and why it is in or out, as a pyarrow Table
run.dataset()    # what was kept, as a Hugging Face Dataset
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magpie.api import (
        card,
        columns,
        compare,
        compare_filters,
        export,
        export_for_trainer,
        filter,
        import_dataset,
        list_runs,
        merge,
        new,
        plan,
        push,
        recipe,
        report,
        rouge,
        show,
        split,
        status,
        verify,
    )
    from magpie.build import build
    from magpie.chat import ChatFormat
    from magpie.doctor.doctor import doctor
    from magpie.doctor.tune import tune
    from magpie.errors import MagpieError
    from magpie.recipe import Filter, Recipe
    from magpie.recipe.loading import load_filter, load_recipe
    from magpie.runs.run import Run
    from magpie.user_code import step

__version__ = "0.1.0"

_HOMES = {
    "ChatFormat": "magpie.chat",
    "Filter": "magpie.recipe",
    "MagpieError": "magpie.errors",
    "Recipe": "magpie.recipe",
    "Run": "magpie.runs.run",
    "build": "magpie.build",
    "card": "magpie.api",
    "columns": "magpie.api",
    "compare": "magpie.api",
    "compare_filters": "magpie.api",
    "doctor": "magpie.doctor.doctor",
    "export": "magpie.api",
    "export_for_trainer": "magpie.api",
    "filter": "magpie.api",
    "import_dataset": "magpie.api",
    "list_runs": "magpie.api",
    "load_filter": "magpie.recipe.loading",
    "load_recipe": "magpie.recipe.loading",
    "merge": "magpie.api",
    "new": "magpie.api",
    "plan": "magpie.api",
    "plan_costs": "magpie.api",
    "push": "magpie.api",
    "recipe": "magpie.api",
    "report": "magpie.api",
    "rouge": "magpie.api",
    "show": "magpie.api",
    "split": "magpie.api",
    "status": "magpie.api",
    "step": "magpie.user_code",
    "tune": "magpie.doctor.tune",
    "verify": "magpie.api",
}

__all__ = [
    "ChatFormat",
    "Filter",
    "MagpieError",
    "Recipe",
    "Run",
    "build",
    "card",
    "columns",
    "compare",
    "compare_filters",
    "doctor",
    "export",
    "export_for_trainer",
    "filter",
    "import_dataset",
    "list_runs",
    "load_filter",
    "load_recipe",
    "merge",
    "new",
    "plan",
    "plan_costs",
    "push",
    "recipe",
    "report",
    "rouge",
    "show",
    "split",
    "status",
    "step",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `magpie --help` need not wait for any."""
    if name in _ROOMS:
        return import_module(f"magpie.{name}")
    if name in _HOMES:
        if name.islower():  # a verb: a notebook shows what it returns
            import_module("magpie.report.notebook").show_tables()
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'magpie' has no attribute {name!r}")


_ROOMS = ("doctor", "plan", "recipe", "report")  # verbs that are named like the room that does them


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])


class _Room(ModuleType):
    """A room that is a verb too: `magpie.doctor("demo")` is the function, and `magpie.doctor.tune` still the module."""

    @property
    def __wrapped__(self) -> Any:
        """The function; `inspect` takes its signature from here."""
        import_module("magpie.report.notebook").show_tables()
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module(_HOMES[name]), name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.__wrapped__(*arguments, **options)


class _Package(ModuleType):
    """The package. In it `build` is a function, and some rooms can be called, although they are modules too."""

    def __setattr__(self, name: str, value: Any) -> None:
        # When the import system has loaded a submodule, it sets the module as an attribute of the package.
        if name in _ROOMS and isinstance(value, ModuleType):
            value.__class__ = _Room
        elif name in _HOMES and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

"""Steps that users write: a Python function, marked by `@magpie.step`, and how it is found and known again.

    from magpie import step

    @step(reads=["instruction"], adds={"words": "whole"}, rejects=True)
    def count_words(row, *, least=3):
        words = len(row["instruction"].split())
        return {"words": words, "rejected": "too few words" if words < least else None}

Importing a module runs it. So nothing here is imported unless a person has said that code may run.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from magpie.errors import RecipeError
from magpie.recipe import CustomStep, Recipe, StepFacts

GROUP = "magpie.steps"
"""The group of entry points under which a package announces its steps."""

REJECTED = "rejected"
_MARK = "__magpie_step__"

F = TypeVar("F", bound=Callable[..., Any])


def step(
    *, reads: Iterable[str] = (), adds: Mapping[str, Any] | None = None, rejects: bool = False
) -> Callable[[F], F]:
    """Mark a function as a step. It is called with each row that is still in, as a dict, and returns a dict.

    `reads` are the columns that the row holds besides `id` and `index`. `adds` are the columns of what it returns: the
    name, and `text`, `number`, `whole`, `truth` or `texts`, or a pair of that and what the column means. A step that
    `rejects` may return a text under `rejected`: why the row is out. What is left out of the returned dict is null.
    """
    columns = {name: _column(of) for name, of in (adds or {}).items()}

    def mark(function: F) -> F:
        setattr(function, _MARK, {"reads": list(reads), "adds": columns, "rejects": rejects})
        return function

    return mark


def with_code(recipe: Recipe, *, allowed: bool) -> Recipe:
    """The recipe, each step of its own with what that says of itself. Raises RecipeError unless code is `allowed`."""
    if not recipe.steps:
        return recipe
    if not allowed:
        names = ", ".join(step.use for step in recipe.steps)
        raise RecipeError(
            f"the recipe runs Python code that is not magpie's ({names}); read it, and if you trust it, "
            "build with --allow-code"
        )
    found = tuple(step.model_copy(update={"facts": facts_of(step)}) for step in recipe.steps)
    return recipe.with_sections(steps=found)


def facts_of(step: CustomStep) -> StepFacts:
    """What a step says of itself. Its module is imported. Raises RecipeError."""
    function = load(step.use)
    marked = getattr(function, _MARK)
    _check_arguments(step, function)
    try:
        return StepFacts(name=function.__name__, source=source_digest(function), **marked)
    except RecipeError as error:
        raise RecipeError(f"`steps`: {step.use} is marked wrongly: {error}") from error


def load(use: str) -> Callable[..., Any]:
    """The function that a recipe names. Raises RecipeError."""
    try:
        function = _find(use)
    except RecipeError:
        raise
    except Exception as error:  # whatever the module does when it is imported
        raise RecipeError(
            f"`steps`: {use} cannot be imported ({type(error).__name__}: {error}); mend it, or check its name"
        ) from error
    if not callable(function) or not hasattr(function, _MARK):
        raise RecipeError(
            f"`steps`: {use} is no step; mark the function with @magpie.step(reads=..., adds=...)"
        )
    found: Callable[..., Any] = function
    return found


def source_digest(function: Callable[..., Any]) -> str:
    """A digest of the Python source that the function stands in: its package as a whole, or else its file."""
    module = inspect.getmodule(function)
    home = getattr(module, "__file__", None)
    if module is None or home is None:
        raise RecipeError(f"`steps`: the source of {function.__name__} cannot be read; put it into a file")
    top = sys.modules.get(module.__name__.partition(".")[0], module)
    # A step of a package may call what stands beside it there; a file that stands alone is all there is.
    roots = [Path(place) for place in getattr(top, "__path__", ())]
    files = sorted(path for root in roots for path in root.rglob("*.py")) or [Path(home)]
    base = roots[0] if roots else Path(home).parent
    digest = hashlib.sha256()
    for path in files:
        name = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name
        digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _column(of: Any) -> dict[str, str]:
    if isinstance(of, str):
        return {"type": of}
    if isinstance(of, tuple | list) and len(of) == 2:
        return {"type": str(of[0]), "meaning": str(of[1])}
    return dict(of)


def _find(use: str) -> Any:
    place, colon, name = use.rpartition(":")
    if not colon:
        found = [entry for entry in entry_points(group=GROUP) if entry.name == use]
        if not found:
            known = ", ".join(sorted(entry.name for entry in entry_points(group=GROUP))) or "none"
            raise RecipeError(
                f"`steps`: no installed package announces a step {use!r} (there are: {known}); "
                "write module:function or file.py:function"
            )
        return found[0].load()
    module = _module_of_file(Path(place)) if place.endswith(".py") else _module(place)
    found_here = getattr(module, name, None)
    if found_here is None:
        raise RecipeError(f"`steps`: {place} has no {name!r}; check the name")
    return found_here


def _module(name: str) -> ModuleType:
    """A module that is installed, or lies in the working directory, where `python` would find it too."""
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.append(here)
    try:
        importlib.invalidate_caches()
        return importlib.import_module(name)
    finally:
        if added:
            sys.path.remove(here)


def _module_of_file(path: Path) -> ModuleType:
    """The module in a file, which is read once for its content: one that was changed is another module."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise RecipeError(f"`steps`: cannot read {path} ({error.strerror}); check the path") from error
    name = f"magpie_step_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"`steps`: {path} is no Python file; give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as for every import: a dataclass in it looks itself up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _check_arguments(step: CustomStep, function: Callable[..., Any]) -> None:
    try:
        inspect.signature(function).bind({}, **step.settings)
    except TypeError as error:
        raise RecipeError(
            f"`steps`: {step.use} does not take its `settings` ({error}); check their names"
        ) from error

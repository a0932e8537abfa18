"""Engines turn token ids into text, and scorers turn conversations into rewards.

This is the one place that lists them. A new engine is a module with a `SPEC` and a line in `_MODULES`.
"""

from __future__ import annotations

import asyncio
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from magpie.engines.base import EngineSpec
from magpie.errors import EngineError, RecipeError
from magpie.models import ModelFiles, resolve
from magpie.recipe import Model

if TYPE_CHECKING:
    from magpie.engines.base import Engine, Scorer

AUTO = "auto"

# In the order in which `auto` tries them; it takes the first that is installed and loads weights.
_MODULES = {
    "vllm": "magpie.engines.vllm",
    "transformers": "magpie.engines.transformers",
    "server": "magpie.engines.server",
    "scripted": "magpie.engines.scripted",
}


def engine_names() -> tuple[str, ...]:
    """What a recipe may call an engine, `auto` first."""
    return (AUTO, *_MODULES)


def find_engine(name: str | None) -> EngineSpec:
    """The engine of that name; of `auto`, or None, the one that this machine has.

    Raises RecipeError when there is no such engine. Whether it is installed is for `require_engine` to say.
    """
    if name is None or name == AUTO:
        specs = map(_spec, _MODULES)
        return next(spec for spec in specs if spec.is_installed and spec.capabilities.loads_weights)
    if name not in _MODULES:
        raise RecipeError(f"there is no engine {name!r}; use one of: {', '.join(engine_names())}")
    return _spec(name)


def require_engine(model: Model) -> EngineSpec:
    """The engine that a model's settings ask for. Raises EngineError when it is not installed on this machine."""
    spec = find_engine(model.engine)
    if not spec.is_installed:
        raise EngineError(f"{spec.package} is not installed; {spec.install}")
    return spec


async def open_engine(model: Model, files: ModelFiles | None = None) -> Engine:
    """Load the model in the engine that its settings ask for. `files` are looked up when they are not given.

    Raises EngineError or ModelError, with what to do next.
    """
    spec = require_engine(model)
    return await spec.open(model, await _files(spec, model, files))


async def open_scorer(model: Model, files: ModelFiles | None = None) -> Scorer:
    """Load a reward model in the engine that its settings ask for. `files` are looked up when they are not given.

    Raises EngineError or ModelError, with what to do next.
    """
    spec = require_engine(model)
    if spec.open_scorer is None:
        raise EngineError(
            f"{model.model} cannot score with engine {spec.name}, which only writes; "
            "run it with engine vllm or transformers"
        )
    return await spec.open_scorer(model, await _files(spec, model, files))


@cache
def _spec(name: str) -> EngineSpec:
    spec: EngineSpec = import_module(_MODULES[name]).SPEC
    return spec


async def _files(spec: EngineSpec, model: Model, files: ModelFiles | None) -> ModelFiles | None:
    if files is not None or not spec.capabilities.loads_files:
        return files
    # Fetching and converting take minutes: not on the event loop.
    return await asyncio.to_thread(resolve, model, weights=spec.capabilities.loads_weights)

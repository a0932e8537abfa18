"""Engines turn token ids into text. `open_engine` picks and opens the one a recipe asks for.

A scorer turns a whole conversation into a reward; `open_scorer` opens it.
"""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import TYPE_CHECKING

from magpie.errors import EngineError
from magpie.models import ModelFiles, resolve
from magpie.recipe import EngineKind, Model

if TYPE_CHECKING:
    from magpie.engines.base import Engine, Scorer


def pick(kind: EngineKind | None) -> EngineKind:
    """The engine that `auto` means on this machine: vLLM where it is installed, else transformers."""
    if kind not in {None, "auto"}:
        assert kind is not None
        if kind == "vllm" and find_spec("vllm") is None:
            raise EngineError(
                "vLLM is not installed; install magpie-synth[cpu] or [gpu], or use --engine transformers"
            )
        return kind
    return "vllm" if find_spec("vllm") is not None else "transformers"


async def open_engine(model: Model, files: ModelFiles | None = None) -> Engine:
    """Load the model in the engine its settings ask for. `files` are looked up when they are not given.

    Raises EngineError or ModelError, with what to do next.
    """
    kind = pick(model.engine)
    if kind == "scripted":
        from magpie.engines.scripted import ScriptedEngine

        return ScriptedEngine(model.script, name=model.model, context_length=model.context_length)
    if files is None:
        files = await asyncio.to_thread(resolve, model, weights=kind != "server")
    if kind == "server":
        from magpie.engines.server import ServerEngine

        return await ServerEngine.open(model, files)
    if kind == "vllm":
        from magpie.engines.vllm import VllmEngine

        return await VllmEngine.open(model, files)
    from magpie.engines.transformers import TransformersEngine

    return await TransformersEngine.open(model, files)


async def open_scorer(model: Model, files: ModelFiles | None = None) -> Scorer:
    """Load a reward model in the engine its settings ask for. `files` are looked up when they are not given.

    Raises EngineError or ModelError, with what to do next.
    """
    kind = pick(model.engine)
    if kind == "scripted":
        from magpie.engines.scripted import ScriptedScorer

        return ScriptedScorer(model.script, name=model.model, context_length=model.context_length)
    if kind == "server":
        raise EngineError(f"{model.model} cannot score on a server; run it with engine vllm or transformers")
    if files is None:
        files = await asyncio.to_thread(resolve, model)
    if kind == "vllm":
        from magpie.engines.vllm.scoring import VllmScorer

        return await VllmScorer.open(model, files)
    from magpie.engines.transformers.scoring import TransformersScorer

    return await TransformersScorer.open(model, files)

"""Who made what: the fingerprint of every step, from its settings, its model, its template and all that is upstream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magpie.engines import find_engine
from magpie.plan.phases import Plan
from magpie.plan.tools import BuildTools
from magpie.steps.base import GlobalWork, ModelUse, RowWork
from magpie.storage.sealed import FORMAT, digest


@dataclass(frozen=True, slots=True)
class BoundPlan:
    """A plan on this machine, with these models: all that a worker needs besides an engine and storage.

    `work` is what the steps do, in their order. `ingredients` holds, step by step, all that decides what the step
    writes, and `fingerprints` the digest of them and of the step before. `id_prefix` starts every row id.
    """

    plan: Plan
    work: tuple[RowWork[Any] | GlobalWork, ...]
    ingredients: tuple[dict[str, Any], ...]
    fingerprints: tuple[str, ...]
    id_prefix: str


def bind(plan: Plan, tools: BuildTools) -> BoundPlan:
    """Look up every model's revision and chat format, and whatever else the steps need.

    Reads tokenizers and datasets, no weights. Raises ModelError, ChatFormatError and RecipeError.
    """
    work, ingredients, fingerprints = [], [], [digest({"format": FORMAT})]
    for run_step in plan.steps:
        step = run_step.step
        work.append(step.bind(tools))
        ingredients.append(
            {
                "step": step.name,
                "version": step.version,
                "settings": step.fingerprint(tools),
                "model": None if step.uses is None else _model_identity(step.uses, tools),
                "chat": None if step.uses is None else tools.format_digest(step.uses),
            }
        )
        fingerprints.append(digest({"upstream": fingerprints[-1], **ingredients[-1]}))
    return BoundPlan(
        plan=plan,
        work=tuple(work),
        ingredients=tuple(ingredients),
        fingerprints=tuple(fingerprints[1:]),
        id_prefix=f"{plan.recipe.name}-{fingerprints[1][:8]}",
    )


def _model_identity(use: ModelUse, tools: BuildTools) -> Mapping[str, Any] | None:
    """What decides a model's output besides its prompts; None where it is not loaded."""
    model = use.loaded
    if model is None:
        return None
    engine = find_engine(model.engine)
    if engine.identity is not None:
        return engine.identity(model)
    own_code = {"trust_remote_code": True} if model.trust_remote_code else {}
    return {
        "name": model.model,
        "revision": tools.files(model).revision,
        "engine": engine.name if use.needs_engine else "sentence-transformers",
        "dtype": model.dtype,
        "context_length": model.context_length,
        **own_code,
    }

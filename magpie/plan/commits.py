"""Hub commits: a run goes on with those it began with, whatever a main branch has become since."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from magpie.engines import find_engine
from magpie.plan.phases import Plan
from magpie.plan.tools import BuildTools
from magpie.recipe import Recipe

_COMMIT = re.compile(r"[0-9a-f]{40}")


def adopt_commits(recipe: Recipe, recorded: Mapping[str, Any] | None) -> Recipe:
    """The recipe, with the hub commits that a run of it recorded where the recipe itself names none."""
    commits = {}
    for role, model in (recorded or {}).get("models", {}).items():
        mine = recipe.models.get(role)
        if (
            mine is not None
            and mine.revision is None
            and isinstance(model, dict)
            and model.get("model") == mine.model
        ):
            commits[role] = model.get("revision")
    return _with_revisions(recipe, commits)


def pin_commits(plan: Plan, tools: BuildTools) -> Recipe:
    """The plan's recipe, with the hub's present commit for each model in use that names none. Raises ModelError.

    Folders and embedded models are not pinned: they are what they are, and the fingerprints watch them.
    """
    used = [run_step.step.uses for run_step in plan.steps]
    loaded = [use.loaded for use in used if use is not None]
    commits = {}
    for role in plan.recipe.models:
        model = plan.recipe.model(role)
        if model.revision is not None or model.as_loaded not in loaded:
            continue
        if find_engine(model.engine).capabilities.loads_files:
            revision = tools.files(model).revision
            if _COMMIT.fullmatch(revision):
                commits[role] = revision
    return _with_revisions(plan.recipe, commits)


def _with_revisions(recipe: Recipe, revisions: Mapping[str, str | None]) -> Recipe:
    if not any(revisions.values()):
        return recipe
    models = {
        role: model.model_copy(update={"revision": revisions.get(role) or model.revision})
        for role, model in recipe.models.items()
    }
    return recipe.model_copy(update={"models": models})

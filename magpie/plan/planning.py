"""From a recipe to a plan: which steps, in which order, on which model.

Planning loads nothing. Everything that can be wrong with a recipe by itself is found here.
"""

from __future__ import annotations

from magpie.engines import find_engine
from magpie.engines.gpus import built_for_gpus
from magpie.errors import RecipeError
from magpie.plan.phases import Plan, into_phases, with_row_tokens
from magpie.recipe import Recipe
from magpie.runs.run import numbered
from magpie.steps import Method, method_of, steps_of
from magpie.steps.base import ModelUse


def make_plan(recipe: Recipe, method: Method | None = None) -> Plan:
    """The plan of a recipe, by its own method or another. Raises RecipeError or FilterError."""
    method = method or method_of(recipe)
    steps = numbered(steps_of(recipe, method))
    for role in recipe.models:
        find_engine(recipe.model(role).engine)  # raises for an engine that there is not, in use or not
    for run_step in steps:
        if run_step.step.uses is not None:
            _check_engine(run_step.step.section, run_step.step.uses)
    return Plan(recipe=recipe, method=method, steps=steps, phases=with_row_tokens(into_phases(steps)))


def _check_engine(section: str, use: ModelUse) -> None:
    """Raise RecipeError unless the model's engine can do what the step asks of it."""
    if not use.needs_engine:
        return
    place = f"models.{use.role}"
    engine = find_engine(use.model.engine)
    can = engine.capabilities
    if use.purpose == "score" and not can.scores:
        raise RecipeError(
            f"`{place}` is to score and engine {engine.name} only writes; "
            "give it `engine: vllm` or `engine: transformers`"
        )
    if use.purpose == "write" and not can.writes:
        raise RecipeError(f"`{place}` is to write and engine {engine.name} cannot; give it another engine")
    problem = engine.problem(use.model, place)
    if problem is not None:
        raise RecipeError(problem)
    if use.structured and not can.structured_outputs:
        raise RecipeError(
            f"`{section}` wants JSON held to a schema, which engine {engine.name} cannot do; "
            f"give `{place}` another engine"
        )
    if use.model.separate_process and not can.separate_process:
        raise RecipeError(
            f"engine {engine.name} has no process of its own; take out `{place}.separate_process`"
        )
    if use.model.device == "cpu" and not can.chooses_device and engine.is_installed and built_for_gpus():
        raise RecipeError(
            f"`{place}.device` is cpu, and the {engine.name} that is installed is built for GPUs; "
            f"set `{place}.engine` to transformers, or install magpie-synth[cpu]"
        )
    missing = sorted(use.controls - can.controls)
    if missing:
        raise RecipeError(
            f"`{section}.{missing[0]}` cannot be asked of engine {engine.name}; take it out, "
            f"or run `{place}` with engine vllm or transformers"
        )

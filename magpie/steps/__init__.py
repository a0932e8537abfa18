"""The steps, in the order in which rows pass through them.

A new step is a file or a folder beside this one, with a class that describes it and one that does the work, and an
entry in the list of its method. Nothing else in the package knows its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from magpie.errors import RecipeError
from magpie.recipe import Recipe
from magpie.recipe.loading import parse_recipe
from magpie.steps.base import REJECTED, GlobalStep, PlanSteps, RowStep, column, inner
from magpie.steps.baseline import BaselineStep
from magpie.steps.bootstrap import BootstrapStep
from magpie.steps.candidates import CandidatesStep
from magpie.steps.clean import CleanStep
from magpie.steps.custom import UserStep
from magpie.steps.decontaminate import DecontaminateStep, TurnsStep
from magpie.steps.dedup import DedupStep
from magpie.steps.embed import EmbedStep
from magpie.steps.extend import ExtendStep
from magpie.steps.filter import around_answers
from magpie.steps.guard import GuardStep
from magpie.steps.identify import IdentifyStep
from magpie.steps.instances import InstancesStep
from magpie.steps.instruct import InstructStep
from magpie.steps.known import KnownStep
from magpie.steps.language import LanguageStep
from magpie.steps.pii import PiiStep
from magpie.steps.prefer import PreferStep
from magpie.steps.refine import RefineStep
from magpie.steps.respond import RespondStep
from magpie.steps.review import ReviewStep
from magpie.steps.reward import RewardStep
from magpie.steps.screen import ScreenStep
from magpie.steps.tag import TagStep

FIRST_COLUMNS = pa.schema(
    [
        column("id", pa.string(), "The row's name: the run's, then its position there.", published="uuid"),
        inner("index", pa.int64(), "The row's position in the run, from 0."),
        REJECTED,
    ]
)
"""The columns that rows have before the first step."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to make a dataset: the entries of its steps, in order.

    `instructions` are the steps that write and judge instructions, `answers` those that write and judge answers. With
    `filtered`, the recipe's filter is applied before the answers, as far as its rules allow, and after them.
    """

    instructions: tuple[PlanSteps, ...]
    answers: tuple[PlanSteps, ...]
    filtered: bool = True


_AFTER_INSTRUCTIONS: tuple[PlanSteps, ...] = (
    PiiStep.plan_instruction,
    LanguageStep.plan,
    EmbedStep.plan,
    DecontaminateStep.plan,
    KnownStep.plan,
    DedupStep.plan,
    TagStep.plan,
    GuardStep.plan_early,
)
_AFTER_ANSWERS: tuple[PlanSteps, ...] = (
    ExtendStep.plan,
    TurnsStep.plan,
    CandidatesStep.plan,
    BaselineStep.plan,
    PiiStep.plan_answers,
    RewardStep.plan,
    PreferStep.plan,
    GuardStep.plan,
)

MAGPIE = Method(
    instructions=(InstructStep.plan, CleanStep.plan, *_AFTER_INSTRUCTIONS),
    answers=(RespondStep.plan, *_AFTER_ANSWERS),
)
"""The method of arXiv 2406.08464."""

SELF_INSTRUCT = Method(
    instructions=(BootstrapStep.plan, *_AFTER_INSTRUCTIONS),
    answers=(
        IdentifyStep.plan,
        InstancesStep.plan,
        ScreenStep.plan,
        RefineStep.plan,
        ReviewStep.plan,
        *_AFTER_ANSWERS,
    ),
)
"""The method of arXiv 2212.10560."""

METHODS = {"magpie": MAGPIE, "self-instruct": SELF_INSTRUCT}


def method_of(recipe: Recipe) -> Method:
    """The method that a recipe names."""
    return METHODS[recipe.method]


def steps_of(recipe: Recipe, method: Method | None = None) -> tuple[RowStep | GlobalStep, ...]:
    """The steps that a recipe asks for by its own method or another, in order. Raises RecipeError or FilterError.

    A step that reads a column which only a later one adds is moved behind that one: `dedup` by quality comes after the
    judge.
    """
    method = method or method_of(recipe)
    steps = _in_order(recipe, method.instructions, FIRST_COLUMNS)
    columns = columns_of(steps)
    answers = _in_order(recipe, method.answers, columns)
    before, after = around_answers(recipe, columns, answers) if method.filtered else (None, None)
    every = (*steps, *([before] if before else []), *answers, *([after] if after else []))
    _check_own_steps(recipe, every)
    return every


def every_step() -> tuple[RowStep | GlobalStep, ...]:
    """Every step there is, with every column that it may add: to explain them, and for no run."""
    steps = {step.name: step for name in reversed(METHODS) for step in steps_of(whole_recipe(name))}
    # Magpie's own stand first, in their order, and so does what it says of a step that both have.
    first = [step.name for step in steps_of(whole_recipe())]
    return tuple(steps[name] for name in dict.fromkeys([*first, *steps]))


def whole_recipe(method: str = "magpie") -> Recipe:
    """A recipe of a method with every step of it and every column that they may add."""
    model = {"model": "scripted"}
    roles = ("generator", "judge", "other", "embedder", "reward", "base", "guard", "refiner")
    everything = {
        "name": "every-step",
        "rows": 1,
        "engine": "scripted",
        "models": {role: {**model, "script": {"slots": 1 + at}} for at, role in enumerate(roles)},
        "instruct": {"mode": "ask"},
        "steer": {
            "documents": "texts.jsonl",
            "prompts": ["{language}, {variable}"],
            "variables": {"language": ["en"], "variable": ["value"]},
        },
        "pii": {"action": "redact"},
        "language": {"keep": ["en"]},
        "decontaminate": {"files": ["benchmark.jsonl"]},
        "known": {"datasets": ["earlier.jsonl"]},
        "tag": {"times": 2, "temperature": 1.0, "second_judge": "other"},
        "extend": {"turns": 2},
        "reward": {"baseline": {}},
        "prefer": {},
        "guard": {"of": ["instruction", "response", "chosen"]},
        "filter": {"name": "all", "rules": [{"name": "all", "where": "true"}]},
    }
    own: dict[str, Any] = {"method": method, "steer": None, "instruct": {}, "refine": {}, "review": {}}
    return parse_recipe(everything if method == "magpie" else everything | own)


def columns_of(steps: tuple[RowStep | GlobalStep, ...], first: pa.Schema = FIRST_COLUMNS) -> pa.Schema:
    """Every column that rows have after these steps; of a column that two steps add, the later one's."""
    fields = {field.name: field for field in first}
    for step in steps:
        fields |= {field.name: field for field in step.adds}
    return pa.schema(list(fields.values()))


def _own_steps(recipe: Recipe) -> list[UserStep]:
    """The steps of the user's own, as the recipe has them. Raises RecipeError where their code was not read yet."""
    for step in recipe.steps:
        if step.facts is None:
            raise RecipeError(
                f"`steps` names Python code of yours ({step.use}), which is not read unasked; "
                "`magpie build --allow-code` does so, if you trust it"
            )
    return [UserStep(step, step.facts) for step in recipe.steps if step.facts is not None]


def _check_own_steps(recipe: Recipe, steps: tuple[RowStep | GlobalStep, ...]) -> None:
    """Raise RecipeError for a step of the user's own that stands nowhere, or is named like another."""
    names = [step.name for step in steps]
    for own in _own_steps(recipe):
        if own.name not in names:
            there = ", ".join(name for name in names if name not in {"prefilter", "filter"})
            raise RecipeError(
                f"`steps`: {own.name} comes after {own.part.after!r}, and the steps are {there}; name one"
            )
        if names.count(own.name) > 1:
            raise RecipeError(f"`steps`: there are two steps {own.name!r}; give the function another name")


def _in_order(
    recipe: Recipe, entries: tuple[PlanSteps, ...], first: pa.Schema
) -> tuple[RowStep | GlobalStep, ...]:
    placed: list[RowStep | GlobalStep] = []
    waiting: list[RowStep | GlobalStep] = []

    def place(step: RowStep | GlobalStep) -> None:
        placed.append(step)
        for own in _own_steps(recipe):
            if own.part.after == step.name:
                if not is_ready(own):
                    known = columns_of(tuple(placed), first).names
                    missing = next(name for name in own.reads if name not in known)
                    raise RecipeError(
                        f"`steps`: {own.name} reads the column `{missing}`, which there is not after {step.name}; "
                        "name a later step, or another column"
                    )
                place(own)

    def is_ready(step: RowStep | GlobalStep) -> bool:
        return set(step.reads) <= set(columns_of(tuple(placed), first).names)

    for entry in entries:
        for step in entry(recipe, columns_of(tuple(placed), first)):
            if is_ready(step):
                place(step)
            else:
                waiting.append(step)
        # Only now, so that the steps of one entry stay together; one that is placed may be what another waits for.
        while (ready := next((step for step in waiting if is_ready(step)), None)) is not None:
            waiting.remove(ready)
            place(ready)
    for step in waiting:
        missing = next(name for name in step.reads if name not in columns_of(tuple(placed), first).names)
        general = f"`{step.section}` reads the column `{missing}`, which no step before it adds"
        raise RecipeError(
            step.missing_advice.get(
                missing, f"{general}; switch on the step that does, or switch this one off"
            )
        )
    return tuple(placed)

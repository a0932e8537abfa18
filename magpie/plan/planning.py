"""From a recipe to phases: which steps, in which order, on which model, and where the filter is pushed down.

Planning loads nothing. Everything that can be wrong with a recipe is found here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pyarrow as pa

from magpie.errors import RecipeError
from magpie.plan.phases import Phase, Plan, PlannedStep, schema_of
from magpie.recipe import Dedup, Model, Recipe
from magpie.steps.base import GlobalStep, RowStep
from magpie.steps.baseline import BaselineStep
from magpie.steps.candidates import CandidatesStep
from magpie.steps.clean import CleanStep
from magpie.steps.decontaminate import DecontaminateStep
from magpie.steps.dedup import DedupStep
from magpie.steps.embed import EmbedStep
from magpie.steps.extend import ExtendStep
from magpie.steps.filter import FilterStep, PrefilterStep, applicable, check, split
from magpie.steps.guard import GuardStep
from magpie.steps.instruct import InstructStep
from magpie.steps.language import LanguageStep, names_languages
from magpie.steps.pii import PiiStep
from magpie.steps.prefer import PreferStep
from magpie.steps.respond import RespondStep
from magpie.steps.reward import RewardStep
from magpie.steps.tag import TagStep

# Rows up to which dedup compares all pairs.
_EXACT_PAIRS = 2_000_000
_EXACT_NEAREST = 100_000


def make_plan(recipe: Recipe) -> Plan:
    """The plan of a recipe. Raises RecipeError or FilterError."""
    planned: list[PlannedStep] = []

    def add(step: RowStep | GlobalStep, role: str | None = None, *, chat: str | None = None) -> None:
        spoken = None if chat is None else recipe.model(chat)
        if spoken is not None and isinstance(step, TagStep):
            spoken = spoken.model_copy(update={"thinking": "off"})
        planned.append(
            PlannedStep(
                number=len(planned) + 1,
                step=step,
                model=None if role is None else recipe.model(role).as_loaded,
                chat_model=spoken,
            )
        )

    generator = recipe.instruct.model
    instruct = InstructStep(recipe.instruct, recipe.seed, recipe.steer, names_languages(recipe.steer))
    add(instruct, generator, chat=generator)
    add(CleanStep(recipe.clean), chat=generator)
    if recipe.pii is not None and "instruction" in recipe.pii.columns:
        add(PiiStep(recipe.pii, "instruction"))
    if recipe.language is not None:
        add(LanguageStep(recipe.language, recipe.steer))
    if recipe.embed is not None:
        add(EmbedStep(recipe.embed, recipe.model(recipe.embed.model)), recipe.embed.model)
    _check_dedup(recipe)
    embedder = None if recipe.embed is None else recipe.model(recipe.embed.model)
    if recipe.decontaminate is not None:
        add(DecontaminateStep(recipe.decontaminate, embedder))
    tagged_first = recipe.dedup is not None and recipe.dedup.keep == "best_quality"
    if recipe.dedup is not None and not tagged_first:
        add(dedup_step(recipe.dedup, rows=recipe.rows, embedder=embedder))
    if recipe.tag is not None:
        add(TagStep(recipe.tag, seed=recipe.seed), recipe.tag.model, chat=recipe.tag.model)
        if recipe.tag.second_judge is not None:
            second = TagStep(recipe.tag, seed=recipe.seed, prefix="second_")
            add(second, recipe.tag.second_judge, chat=recipe.tag.second_judge)
    if recipe.dedup is not None and tagged_first:
        add(dedup_step(recipe.dedup, rows=recipe.rows, embedder=embedder))
    skipped = _add_answers_and_filter(recipe, planned, add)
    _check_servers(recipe, planned)
    _check_controls(recipe)
    _check_reward(recipe)
    steps = tuple(planned)
    return Plan(recipe=recipe, steps=steps, phases=_phases(steps), skipped_rules=skipped)


def dedup_step(part: Dedup, *, rows: int, embedder: Model | None = None) -> DedupStep:
    """The step for a run of so many rows: `auto` is exact up to where comparing all pairs takes minutes.

    `embedder` is for the instructions of the datasets in `against`.
    """

    def chosen(wish: Literal["auto", "exact", "approximate"], most: int) -> Literal["exact", "approximate"]:
        if wish == "auto":
            return "exact" if rows <= most else "approximate"
        return wish

    pairs, nearest = chosen(part.method, _EXACT_PAIRS), chosen(part.nearest, _EXACT_NEAREST)
    return DedupStep(part, pairs, nearest, embedder=embedder)


def _check_dedup(recipe: Recipe) -> None:
    by_quality = recipe.dedup is not None and recipe.dedup.keep == "best_quality"
    if by_quality and (recipe.tag is None or "quality" not in recipe.tag.tags):
        raise RecipeError(
            "`dedup.keep: best_quality` goes by `input_quality`, which nothing adds; "
            "switch `tag` on with the tag `quality`, or use `keep: longest`"
        )


def _check_servers(recipe: Recipe, planned: list[PlannedStep]) -> None:
    for role, model in recipe.models.items():
        used = any(step.generates and step.model == recipe.model(role).as_loaded for step in planned)
        if used and recipe.model(role).engine == "server" and model.server is None:
            raise RecipeError(
                f"`models.{role}` is asked of a server and `models.{role}.server.url` is missing; "
                "add it, such as http://127.0.0.1:8000/v1"
            )


def _check_reward(recipe: Recipe) -> None:
    """A server gives text and no logits."""
    roles = [recipe.reward.model] if recipe.reward is not None else []
    roles += [recipe.prefer.reward] if recipe.prefer is not None else []
    for role in roles:
        if recipe.model(role).engine == "server":
            raise RecipeError(
                f"`models.{role}` is to score and a server only writes; "
                "give it `engine: vllm` or `engine: transformers`"
            )


def _check_controls(recipe: Recipe) -> None:
    """Refuse what a server cannot be asked for: it takes prompts, and lets nobody at the logits."""
    part = recipe.instruct
    asked = {"hold_back": bool(part.hold_back), "first_token_divisor": part.first_token_divisor != 1}
    for name in (name for name, is_asked in asked.items() if is_asked):
        if recipe.model(part.model).engine == "server":
            raise RecipeError(
                f"`instruct.{name}` cannot be asked of a server; take it out, "
                f"or run `models.{part.model}` with engine vllm or transformers"
            )


def _answers(recipe: Recipe) -> list[tuple[RowStep, str | None]]:
    """The steps that answer and those that read the answers, each with the role it loads."""
    respond, extend, prefer, reward = recipe.respond, recipe.extend, recipe.prefer, recipe.reward
    answers: list[tuple[RowStep, str | None]] = []
    if respond is not None:
        answers.append((RespondStep(respond, recipe.seed), respond.model))
    if extend is not None:
        answers.append((ExtendStep(extend, recipe.seed), extend.model))
    if prefer is not None:
        answers.append((CandidatesStep(prefer, recipe.seed), prefer.model))
    if reward is not None and reward.baseline is not None:
        answers.append((BaselineStep(reward.baseline, recipe.seed), reward.baseline.model))
    if recipe.pii is not None and "response" in recipe.pii.columns and answers:
        pii = PiiStep(
            recipe.pii,
            "response",
            extended=extend is not None,
            candidates=prefer is not None,
            responded=respond is not None,
            baselined=reward is not None and reward.baseline is not None,
        )
        answers.append((pii, None))
    if reward is not None:
        answers.append((RewardStep(reward), reward.model))
    if prefer is not None:
        answers.append((PreferStep(prefer), prefer.reward))
    if recipe.guard is not None:
        answers.append((GuardStep(recipe.guard), recipe.guard.model))
    return answers


def _add_answers_and_filter(
    recipe: Recipe, planned: list[PlannedStep], add: Callable[..., None]
) -> tuple[str, ...]:
    """The steps that cost a response, and the filter on both sides of them; the names of the rules left out."""
    answers = _answers(recipe)

    def answer() -> None:
        for step, role in answers:
            add(step, role, chat=role)

    if recipe.filter is None:
        answer()
        return ()
    early = schema_of(planned)
    fields = {field.name: field for field in (*early, *(field for step, _ in answers for field in step.adds))}
    whole = pa.schema(list(fields.values()))
    kept, skipped = applicable(recipe.filter, whole)
    check(kept, whole)
    early_rules, late_rules = split(kept, early.names)
    answers_all = recipe.respond is not None and recipe.respond.rows == "all"
    is_answered = recipe.respond is not None or recipe.prefer is not None
    push_down = is_answered and not answers_all and bool(early_rules)
    if push_down:
        add(PrefilterStep(early_rules))
    answer()
    add(FilterStep(kept, late_rules if push_down else (*early_rules, *late_rules)))
    return tuple(skipped)


def _phases(steps: tuple[PlannedStep, ...]) -> tuple[Phase, ...]:
    phases: list[Phase] = []
    for step in steps:
        last = phases[-1] if phases else None
        if last is not None and _joins(last, step):
            phases[-1] = Phase((*last.steps, step), last.model or step.model)
        else:
            phases.append(Phase((step,), step.model))
    return tuple(phases)


def _joins(phase: Phase, step: PlannedStep) -> bool:
    """Whether the step needs nothing loaded besides what the phase has."""
    if phase.is_global or step.is_global:
        return False
    if step.model is None or phase.model is None:
        return True
    return phase.model == step.model and phase.scores == step.scores

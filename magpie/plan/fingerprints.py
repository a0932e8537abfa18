"""Who made what: the fingerprint of every step, from its settings, its model, its template and all that is upstream."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from magpie.chat import ChatFormat, PlainText, Transcript
from magpie.engines import pick
from magpie.errors import ChatFormatError
from magpie.models import resolve
from magpie.plan.phases import Plan, PlannedStep
from magpie.recipe import Model, Recipe
from magpie.runs.shards import FORMAT, digest
from magpie.steps.instruct import every_wording

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a plan is on this machine, with these models.

    `ingredients` holds, step by step, all that decides what the step writes; `fingerprints` the digest of them and of
    the step before. `id_prefix` starts every row id. `chats`, `transcripts` and `plains` are keyed by
    `model_key`.
    """

    ingredients: tuple[dict[str, Any], ...]
    fingerprints: tuple[str, ...]
    id_prefix: str
    chats: Mapping[str, ChatFormat]
    transcripts: Mapping[str, Transcript]
    plains: Mapping[str, PlainText]

    def row_ids(self, rows: range) -> list[str]:
        """The ids of the rows at these positions."""
        return [f"{self.id_prefix}-{index:08d}" for index in rows]


def identify(plan: Plan) -> Identity:
    """Look up every model's revision and chat format. Loads tokenizers, no weights. Raises ModelError."""
    chats: dict[str, ChatFormat] = {}
    transcripts: dict[str, Transcript] = {}
    plains: dict[str, PlainText] = {}
    for planned in plan.steps:
        if planned.chat_model is None:
            continue
        key = model_key(planned.chat_model)
        if planned.reads_as == "transcript" and key not in transcripts:
            transcripts[key] = transcript(planned.chat_model)
        elif planned.reads_as == "plain" and key not in plains:
            plains[key] = plain_text(planned.chat_model)
        elif planned.reads_as == "chat" and key not in chats:
            chats[key] = chat_format(planned.chat_model, judges=planned.judges)
    formats: dict[str, Mapping[str, ChatFormat | Transcript | PlainText]] = {
        "chat": chats,
        "transcript": transcripts,
        "plain": plains,
    }
    revisions: dict[str, dict[str, Any]] = {}
    ingredients, fingerprints = [], [digest({"format": FORMAT})]
    for planned in plan.steps:
        if planned.model is not None and model_key(planned.model) not in revisions:
            revisions[model_key(planned.model)] = _model_identity(planned)
        ingredients.append(
            {
                "step": planned.name,
                "version": planned.step.version,
                "settings": planned.step.settings,
                "model": None if planned.model is None else revisions[model_key(planned.model)],
                "chat": None
                if planned.chat_model is None
                else formats[planned.reads_as][model_key(planned.chat_model)].identity(),
            }
        )
        fingerprints.append(digest({"upstream": fingerprints[-1], **ingredients[-1]}))
    return Identity(
        ingredients=tuple(ingredients),
        fingerprints=tuple(fingerprints[1:]),
        id_prefix=f"{plan.recipe.name}-{fingerprints[1][:8]}",
        chats=chats,
        transcripts=transcripts,
        plains=plains,
    )


def check_system_prompts(plan: Plan, identity: Identity) -> None:
    """Try every system prompt of the recipe on the chat format that is to hold it. Raises ChatFormatError."""
    for role, key, prompt in _system_prompts(plan.recipe):
        try:
            identity.chats[model_key(plan.recipe.model(role))].prompt([], system=prompt)
        except ChatFormatError as error:
            raise ChatFormatError(f"`{key}`: {error}") from error


def _system_prompts(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """(role, key of the recipe, system prompt)."""
    if recipe.steer is not None:
        for id, text in every_wording(recipe.steer):
            yield recipe.instruct.model, f"steer.prompts.{id}", text
    for name in ("instruct", "respond", "extend", "prefer"):
        part = getattr(recipe, name)
        if part is not None and part.system_prompt:
            yield part.model, f"{name}.system_prompt", part.system_prompt


def adopt_commits(recipe: Recipe, recorded: Mapping[str, Any] | None) -> Recipe:
    """The recipe, with the hub commits that a run of it recorded where the recipe itself names none.

    A run goes on with the commit it began with, whatever the hub's main branch has become since.
    """
    commits = {}
    for role, model in (recorded or {}).get("models", {}).items():
        mine = recipe.models.get(role)
        if mine is not None and mine.revision is None and model.get("model") == mine.model:
            commits[role] = model.get("revision")
    return _with_revisions(recipe, commits)


def pin_commits(recipe: Recipe, plan: Plan) -> Recipe:
    """The recipe, with the hub's present commit for each model that names none. Raises ModelError.

    Folders and embedded models are not pinned: they are what they are, and the fingerprints watch them.
    """
    used = {model_key(step.model) for step in plan.steps if step.model is not None}
    commits = {}
    for role in recipe.models:
        model = recipe.model(role)
        if model.revision is None and model_key(model.as_loaded) in used and pick(model.engine) != "scripted":
            revision = resolve(model, weights=False).revision
            if _COMMIT.fullmatch(revision):
                commits[role] = revision
    return _with_revisions(recipe, commits)


def _with_revisions(recipe: Recipe, revisions: Mapping[str, str | None]) -> Recipe:
    models = {
        role: model.model_copy(update={"revision": revisions.get(role) or model.revision})
        for role, model in recipe.models.items()
    }
    return recipe.model_copy(update={"models": models})


def model_key(model: Model) -> str:
    """A key for a model and its settings: equal keys are one loaded model."""
    return model.model_dump_json()


def chat_format(model: Model, *, judges: bool = False) -> ChatFormat:
    """The chat format a model speaks; the scripted engine has its own.

    Raises ChatFormatError, also where the model `judges` and can only answer after it has reasoned.
    """
    if pick(model.engine) == "scripted":
        from magpie.engines.scripted import ScriptedTokenizer

        return ChatFormat.derive(ScriptedTokenizer())
    try:
        return ChatFormat.from_model(model)
    except ChatFormatError as error:
        if not judges:
            raise
        ChatFormat.from_model(model.model_copy(update={"thinking": "strip"}))  # raises what has another cause
        raise ChatFormatError(
            f"{model.model} cannot judge: its chat template opens a thinking block in the assistant's header, has "
            "nothing that leaves it out, and a judge's answer is JSON from the beginning; name another model as the "
            "judge, or give it a `chat_template` without that block"
        ) from error


def transcript(model: Model) -> Transcript:
    """How a model that judges is shown conversations; the scripted engine has its own way."""
    if pick(model.engine) == "scripted":
        from magpie.engines.scripted import ScriptedTokenizer

        return Transcript.derive(ScriptedTokenizer())
    return Transcript.from_model(model)


def plain_text(model: Model) -> PlainText:
    """How a base model is given text; the scripted engine has its own way."""
    if pick(model.engine) == "scripted":
        from magpie.engines.scripted import ScriptedTokenizer

        return PlainText((), ScriptedTokenizer())
    return PlainText.from_model(model)


def _model_identity(planned: PlannedStep) -> dict[str, Any]:
    model = planned.model
    assert model is not None
    engine = pick(model.engine) if planned.generates else "sentence-transformers"
    if model.engine == "scripted":
        return {"name": model.model, "revision": "scripted", "script": model.script.model_dump(mode="json")}
    own_code = {"trust_remote_code": True} if model.trust_remote_code else {}
    return {
        "name": model.model,
        "revision": resolve(model, weights=False).revision,
        "engine": engine,
        "dtype": model.dtype,
        "context_length": model.context_length,
        **own_code,
    }

"""Who made what: the fingerprint of every step, from its settings, its model, its template and all that is upstream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magpie.chat import ChatFormat
from magpie.engines import pick
from magpie.models import resolve
from magpie.recipe import Model
from magpie.runs.plan import Plan, PlannedStep
from magpie.runs.store import FORMAT, digest


@dataclass(frozen=True, slots=True)
class Identity:
    """What a plan is on this machine, with these models.

    `ingredients` holds, step by step, all that decides what the step writes; `fingerprints` the digest of them and of
    the step before. `id_prefix` starts every row id. `chats` is keyed by `model_key`.
    """

    ingredients: tuple[dict[str, Any], ...]
    fingerprints: tuple[str, ...]
    id_prefix: str
    chats: Mapping[str, ChatFormat]

    def row_ids(self, rows: range) -> list[str]:
        """The ids of the rows at these positions."""
        return [f"{self.id_prefix}-{index:08d}" for index in rows]


def identify(plan: Plan) -> Identity:
    """Look up every model's revision and chat format. Loads tokenizers, no weights. Raises ModelError."""
    chats: dict[str, ChatFormat] = {}
    for planned in plan.steps:
        if planned.chat_model is not None and model_key(planned.chat_model) not in chats:
            chats[model_key(planned.chat_model)] = chat_format(planned.chat_model)
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
                else chats[model_key(planned.chat_model)].identity(),
            }
        )
        fingerprints.append(digest({"upstream": fingerprints[-1], **ingredients[-1]}))
    return Identity(
        ingredients=tuple(ingredients),
        fingerprints=tuple(fingerprints[1:]),
        id_prefix=f"{plan.recipe.name}-{fingerprints[1][:8]}",
        chats=chats,
    )


def model_key(model: Model) -> str:
    """A key for a model and its settings: equal keys are one loaded model."""
    return model.model_dump_json()


def chat_format(model: Model) -> ChatFormat:
    """The chat format a model speaks; the scripted engine has its own."""
    if pick(model.engine) == "scripted":
        from magpie.engines.scripted import ScriptedTokenizer

        return ChatFormat.derive(ScriptedTokenizer())
    return ChatFormat.from_model(model)


def _model_identity(planned: PlannedStep) -> dict[str, Any]:
    model = planned.model
    assert model is not None
    engine = pick(model.engine) if planned.generates else "sentence-transformers"
    if model.engine == "scripted":
        return {"name": model.model, "revision": "scripted", "script": model.script.model_dump(mode="json")}
    return {
        "name": model.model,
        "revision": resolve(model, weights=False).revision,
        "engine": engine,
        "dtype": model.dtype,
        "context_length": model.context_length,
    }

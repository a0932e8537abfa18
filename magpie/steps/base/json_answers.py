"""Questions that a model answers in JSON: which form of it is asked, how its prompt is made, and what it is held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from magpie import shipped
from magpie.errors import ChatFormatError
from magpie.recipe import Model
from magpie.sizing import lengths
from magpie.steps.base.quoting import QuotingPrompt
from magpie.steps.base.reasons import CUT, NOT_JSON, engine_error
from magpie.steps.base.step import ModelUse, RowStep

if TYPE_CHECKING:
    from magpie.chat import ChatFormat
    from magpie.engines.base import Completion
    from magpie.recipe import Recipe, Refine, Review
    from magpie.steps.base.step import Tools


def answering_at_once(recipe: Recipe, role: str) -> Model:
    """The model of a role, made to answer without reasoning first.

    Its answer is JSON from the first token on: there is no place for anything before it.
    """
    return recipe.model(role).model_copy(update={"thinking": "off"})


def json_chat(model: Model, tools: Tools, *, role: str, work: str) -> ChatFormat:
    """The chat format of a model `answering_at_once`. Raises ChatFormatError, which says what it cannot do."""
    try:
        return tools.chat(model)
    except ChatFormatError as error:
        tools.chat(model.model_copy(update={"thinking": "strip"}))  # raises what has another cause
        raise ChatFormatError(
            f"{model.model} cannot {work}: its chat template opens a thinking block in the assistant's header, has "
            f"nothing that leaves it out, and a {role}'s answer is JSON from the beginning; name another model as the "
            f"{role}, or give it a `chat_template` without that block"
        ) from error


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object with all these properties, in their order, and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def why_no_answer(completion: Completion) -> str:
    """Why a completion is no answer; asked only where it is none."""
    if completion.finish_reason == "error":
        return engine_error(completion)
    return CUT if completion.finish_reason == "length" else NOT_JSON


@dataclass(frozen=True, slots=True)
class RowAsJsonStep(RowStep):
    """A step whose model is shown a row as JSON, by a template that ships, and answers in JSON."""

    part: Refine | Review
    seed: int
    model: Model

    template: ClassVar[str]
    """The template's file in `templates/self_instruct`."""

    role: ClassVar[str]
    work: ClassVar[str]
    """What the model is called, and what it does, to a person."""

    @property
    def wording(self) -> str:
        """What the model is told, with the place of the row."""
        return shipped.text("templates/self_instruct", self.template).strip()

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model, the wording of the prompt included."""
        part = self.part.model_dump(mode="json", exclude={"model"})
        return {"seed": self.seed, **part, "prompt": self.wording}

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", "chat", structured=True)

    @property
    def page(self) -> float:
        """About how many tokens the wording has, which all prompts share."""
        return len(self.wording) / lengths.CHARACTERS

    def quoting(self, tools: Tools, **others: Any) -> QuotingPrompt:
        """The prompt, but for the row. Raises ChatFormatError."""
        chat = json_chat(self.model, tools, role=self.role, work=self.work)
        return QuotingPrompt.of(self.wording, "row", chat, **others)

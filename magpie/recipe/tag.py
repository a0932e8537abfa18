"""The section `tag`: a judge's labels for each instruction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from magpie.recipe.base import Role, Section, Text, that_shapes_rows
from magpie.recipe.models import Model
from magpie.recipe.problems import suggestion
from magpie.recipe.questions import JudgeQuestion, published_questions

TagName = Text
"""The name of a question: a published one, or one of the recipe's own."""

PUBLISHED_TAGS = ("difficulty", "quality", "category")

# Besides settings that shape no rows, these do not change what a judge answers: judges never use `thinking`.
_NOT_IN_ANSWERS = {"engine", "context_length", "thinking"}


class Tag(Section):
    """A judge labels each instruction: for each tag it gives one answer, in JSON that follows a fixed schema.

    The judge answers without reasoning first, whatever `thinking` says for its model. The run's report shows how well
    the votes, and two judges, agree.
    """

    model: Role = "judge"
    """The role that judges."""
    second_judge: Role | None = None
    """The role of another model that is asked the same questions. Its columns begin with `second_`."""
    tags: tuple[TagName, ...] = Field(default=PUBLISHED_TAGS, min_length=1)
    """What to ask the judge for: names of the published questions, and of those in `questions`.

    Where it is left out, all of them are asked.
    """
    questions: dict[str, JudgeQuestion] | None = None
    """Questions of your own: a file that holds them, or the questions themselves. One that is named like a published
    question takes its place. null asks the published ones alone.
    """
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature. 0 always takes the most likely token."""
    times: int = Field(default=1, ge=1)
    """How many times the judge is asked for each tag, each time with another seed.

    Every vote is stored; the tag is the majority's. Above 1, `temperature` must be above 0.
    """
    max_tokens: int = Field(default=512, ge=16)
    """The most tokens one answer may have.

    An answer that is cut off before its label is asked for once more, with texts short enough to fit.
    """
    max_text_length: int = Field(default=400, ge=16)
    """The most characters that each text in an answer, such as an explanation, may have."""

    @model_validator(mode="before")
    @classmethod
    def _ask_all(cls, settings: Any) -> Any:
        """All questions there are, where the recipe does not say which."""
        # `--set tag.questions=FILE` changes a recipe whose default is written out.
        if not isinstance(settings, dict) or (settings.get("tags") or [*PUBLISHED_TAGS]) != [*PUBLISHED_TAGS]:
            return settings
        own = settings.get("questions")
        if not isinstance(own, dict):
            return settings
        return settings | {"tags": list(dict.fromkeys([*PUBLISHED_TAGS, *own]))}

    @model_validator(mode="after")
    def _check_tags(self) -> Tag:
        known = self.every_question
        for tag in self.tags:
            if tag not in known:
                raise ValueError(
                    f"`tags` names {tag!r}, which is no question{suggestion(tag, known, 'the questions')}"
                )
        columns: dict[str, str] = {}
        for tag in dict.fromkeys(self.tags):
            for column in known[tag].answer:
                if column in columns:
                    raise ValueError(
                        f"the questions `{columns[column]}` and `{tag}` both fill the column `{column}`; "
                        "give one of them another"
                    )
                columns[column] = tag
        return self

    @property
    def every_question(self) -> Mapping[str, JudgeQuestion]:
        """The questions that may be asked, by their names: the published ones and the recipe's own."""
        return {**published_questions(), **(self.questions or {})}

    @model_validator(mode="after")
    def _check_temperature(self) -> Tag:
        if self.times > 1 and self.temperature == 0:
            raise ValueError(
                "`times` is above 1 and a temperature of 0 gives the same answer each time; set `temperature` above 0"
            )
        return self

    def check(self, recipe: Any) -> None:
        """The second judge is another model than the first."""
        if self.second_judge is None:
            return
        first, second = recipe.model(self.model), recipe.model(self.second_judge)
        if _judging(first) == _judging(second):
            raise ValueError(
                f"`tag.second_judge` is {self.second_judge!r}, the same model as the first judge {self.model!r}: "
                "no second opinion; name another model, or ask the one several times with `tag.times`"
            )


def _judging(model: Model) -> dict[str, Any]:
    """What decides how a model judges."""
    # The server counts as a whole: two of them may name different models alike.
    settings = that_shapes_rows(Model, model.model_dump()) | {"server": model.server}
    return {name: value for name, value in settings.items() if name not in _NOT_IN_ANSWERS}

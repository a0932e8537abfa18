"""Questions for a judge: each a prompt, and the columns that its answer fills; in a file or in the recipe."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from magpie import shipped
from magpie.errors import RecipeError
from magpie.recipe.base import Part, Text
from magpie.recipe.problems import validate
from magpie.recipe.reading import bytes_of, read_yaml
from magpie.records.encoding import decoded

_COLUMN = re.compile(r"[a-z][a-z0-9_]*")
_INSTRUCTION = re.compile(r"\{\{-?\s*instruction\s*-?\}\}")
_FILE = "questions.yaml"


class AnswerColumn(Part):
    """One value of a judge's answer, which is a column of the dataset."""

    type: Literal["text", "enum", "number", "others"] = "text"
    """What the value is.

    `enum` is one of `values`, `number` lies between `minimum` and `maximum`, and `others` are up to three further
    values of the question's `enum`, as a list. Texts stand first: the judge gives its reasons before it decides.
    """
    values: tuple[Text, ...] = ()
    """The values of an `enum`."""
    ordered: bool = False
    """Whether the values are a scale, from the least to the most: by it two judges are compared."""
    minimum: float | None = None
    """The least that a `number` may be."""
    maximum: float | None = None
    """The most that a `number` may be."""
    decimals: bool = False
    """Whether a `number` may have decimals. Without, it is a whole number."""
    meaning: str = ""
    """What the column says of a row, in one sentence: for the dataset's card."""
    published: Text | None = None
    """The name of the column in the published Magpie datasets, where they have it."""

    @model_validator(mode="after")
    def _check_type(self) -> AnswerColumn:
        if self.type == "enum" and len(set(self.values)) < 2:
            raise ValueError("an `enum` needs two different `values` at least")
        if self.type != "enum" and self.values:
            raise ValueError(f"`values` are for `type: enum`, and this is `{self.type}`")
        bounds = (self.minimum, self.maximum)
        if self.type != "number":
            if bounds != (None, None):
                raise ValueError(f"`minimum` and `maximum` are for `type: number`, and this is `{self.type}`")
            return self
        if self.minimum is None or self.maximum is None or self.minimum >= self.maximum:
            raise ValueError("a `number` needs a `minimum` and a `maximum` above it")
        if not self.decimals and not (self.minimum.is_integer() and self.maximum.is_integer()):
            raise ValueError("the bounds of a whole number are whole too; or set `decimals: true`")
        return self


class JudgeQuestion(Part):
    """What a judge is asked about an instruction, and the columns that its answer fills, in the order of writing.

    The last `enum` or `number` among them decides: votes are counted on it. Without one, the first text does.
    """

    prompt: Text
    """What the judge is told: a Jinja template that holds `{{ instruction }}` once, best at its end."""
    answer: dict[str, AnswerColumn] = Field(min_length=1)
    """The columns of the answer by their names."""

    @model_validator(mode="after")
    def _check_answer(self) -> JudgeQuestion:
        if len(_INSTRUCTION.findall(self.prompt)) != 1:
            raise ValueError("`prompt` must hold `{{ instruction }}` once; put it at the end")
        wrong = next((name for name in self.answer if not _COLUMN.fullmatch(name)), None)
        if wrong is not None:
            raise ValueError(f"the column {wrong!r} must be named in lower-case letters, digits and `_`")
        kinds = [column.type for column in self.answer.values()]
        if kinds.count("others") > 1 or ("others" in kinds and kinds.count("enum") != 1):
            raise ValueError("`others` needs just one `enum` beside it, and stands once in an answer")
        return self

    @property
    def decides(self) -> str:
        """The column on which votes are counted."""
        deciding = [name for name, column in self.answer.items() if column.type in {"enum", "number"}]
        return deciding[-1] if deciding else next(iter(self.answer))


@cache
def published_questions() -> dict[str, JudgeQuestion]:
    """The questions of the published Magpie datasets, in the words of this project: the default file."""
    folder = shipped.folder("templates/judge")
    written = written_questions(folder / _FILE)
    return {name: validate(JudgeQuestion, one, f"{_FILE}: `{name}`") for name, one in written.items()}


def written_questions(path: Path) -> dict[str, Any]:
    """The questions in a file, their prompts read from the files that they name. Raises RecipeError."""
    held = read_yaml(path)
    if not isinstance(held, dict) or not held:
        raise RecipeError(f"{path} holds no questions; write each under its name, with `prompt` and `answer`")
    return with_prompts(held, path.parent)


def with_prompts(questions: dict[Any, Any], folder: Path) -> dict[str, Any]:
    """The questions, with the texts of prompts that are written as `{file: NAME}`. Raises RecipeError."""
    return {str(name): _with_prompt(str(name), one, folder) for name, one in questions.items()}


def _with_prompt(name: str, question: Any, folder: Path) -> Any:
    prompt = question.get("prompt") if isinstance(question, dict) else None
    if not isinstance(prompt, dict) or list(prompt) != ["file"]:
        return question
    path = folder / str(prompt["file"])
    try:
        text = decoded(bytes_of(path), str(path))
    except RecipeError as error:
        raise RecipeError(f"the prompt of the question `{name}`: {error}") from error
    return {**question, "prompt": text.strip()}

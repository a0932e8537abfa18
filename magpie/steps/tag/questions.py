"""The questions for a judge and how its answers are read: JSON that follows a schema, free texts before the label."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import pyarrow as pa

from magpie.engines.base import Completion
from magpie.recipe import AnswerColumn, JudgeQuestion, TagName
from magpie.recipe.questions import published_questions
from magpie.replies import json_object, valid_text
from magpie.steps.base import column, object_schema
from magpie.text import folded

_MOST_OTHERS = 3  # further labels in one answer, such as `other_task_categories`
# The most tokens that one character of a JSON string can take: `\u00e9` is six characters, and the model may write each
# of them as a token. Written directly, a character is at most four bytes of UTF-8, and a token is at least one byte.
_CHARACTER_TOKENS = 6
# What a model puts around a label, or in the place of a space. Not what can tell labels apart: "A+", "C#", "-1".
_MARKS = re.compile(r"[\s*_`'\"“”„‘’«»「」『』.,:;!?…。、()\[\]{}&]+|(?<=[^\W\d])-(?=[^\W\d])")


@dataclass(frozen=True)
class Question:
    """What one tag asks of the judge: its columns, in the order of writing, and the label that decides between votes.

    The texts come first, so that the judge writes its reasons before it decides.
    """

    part: JudgeQuestion

    # What is asked of every answer is worked out once.

    @cached_property
    def label(self) -> str:
        """The column on which votes are counted."""
        return self.part.decides

    @property
    def labels(self) -> tuple[str, ...]:
        """The values that the label may have; none where it is a number or a text."""
        return self.part.answer[self.label].values

    @property
    def ordered(self) -> bool:
        """Whether the labels are a scale, from the least to the most."""
        return self.part.answer[self.label].ordered

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of free text."""
        return self._of_type("text")

    @cached_property
    def others(self) -> str | None:
        """The column of further labels, where the question has one."""
        return next(iter(self._of_type("others")), None)

    @property
    def label_type(self) -> pa.DataType:
        """The type of the label's column."""
        return _arrow_type(self.part.answer[self.label])

    @property
    def fields(self) -> list[pa.Field]:
        """The columns the answer fills, in the order the judge writes them."""
        return [_described(name, answer) for name, answer in self.part.answer.items()]

    def schema(self, *, max_text_length: int, most_others: int = _MOST_OTHERS) -> str:
        """The JSON schema of an answer, as JSON; a text is at most `max_text_length` characters."""
        properties = {
            name: self._schema_of(answer, max_text_length, most_others)
            for name, answer in self.part.answer.items()
        }
        return json.dumps(object_schema(properties))

    def _schema_of(self, answer: AnswerColumn, max_text_length: int, most_others: int) -> dict[str, Any]:
        if answer.type == "text":
            return {"type": "string", "maxLength": max_text_length}
        if answer.type == "enum":
            return {"type": "string", "enum": list(answer.values)}
        if answer.type == "others":
            label = {"type": "string", "enum": list(self._enum.values)}
            return {"type": "array", "items": label, "maxItems": most_others}
        kind, number = ("number", float) if answer.decimals else ("integer", int)
        assert answer.minimum is not None and answer.maximum is not None
        return {"type": kind, "minimum": number(answer.minimum), "maximum": number(answer.maximum)}

    def fitting_schema(self, *, max_tokens: int, max_text_length: int) -> str:
        """The same schema with texts so short that every answer ends within `max_tokens`, however it is tokenized.

        Where even an answer without texts might not fit, it is the schema of that answer.
        """
        # A token is at least one byte. So the JSON without texts, with the longest labels, takes at most as many tokens
        # as it has bytes. One token is left for the stop.
        bare = {name: _longest(answer) for name, answer in self.part.answer.items()}
        room = max(0, max_tokens - 1 - len(json.dumps(bare)))
        most_others = 0
        if self.others:
            most_others = min(_MOST_OTHERS, room // len(json.dumps(_longest(self._enum)) + ", "))
        length = room // (_CHARACTER_TOKENS * len(self.texts)) if self.texts else 0
        return self.schema(max_text_length=min(max_text_length, length), most_others=most_others)

    def read(self, text: str) -> dict[str, Any] | None:
        """The values of the columns in an answer, or None when the text is not an answer."""
        # Models that are not held to a schema wrap the JSON in other text, and vary the case of labels.
        answer = json_object(text)
        if answer is None:
            return None
        given = {name: answer.get(name) for name in self.part.answer}
        if not given.keys() <= answer.keys():
            written = {_spelled(key): value for key, value in answer.items() if isinstance(key, str)}
            given = {name: answer.get(name, written.get(_spelled(name))) for name in self.part.answer}
        values = {name: _value(column, given[name]) for name, column in self.part.answer.items()}
        if any(value is None for name, value in values.items() if name != self.others):
            return None
        if self.others:
            others, labels = given[self.others], self._enum
            named = [_value(labels, other) for other in others] if isinstance(others, list) else []
            main = next(values[name] for name in self._of_type("enum"))
            values[self.others] = [other for other in dict.fromkeys(named) if other not in {None, main}]
        return values

    def answer(self, completion: Completion) -> dict[str, Any] | None:
        """The same for a completion; one that failed is not an answer, whatever its text."""
        return None if completion.finish_reason == "error" else self.read(completion.text)

    def majority(self, answers: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
        """The first answer with the most frequent label, of equal ones the earliest; None without answers.

        Of numbers it is the first answer with the median, of two in the middle the lower one: votes seldom agree.
        """
        valid = [answer for answer in answers if answer is not None]
        if valid and self.part.answer[self.label].type == "number":
            middle = sorted(answer[self.label] for answer in valid)[(len(valid) - 1) // 2]
            return next(answer for answer in valid if answer[self.label] == middle)
        counts = Counter(answer[self.label] for answer in valid)
        # `max` returns the first of equal ones.
        return max(valid, key=lambda answer: counts[answer[self.label]], default=None)

    def _of_type(self, kind: str) -> tuple[str, ...]:
        return tuple(name for name, answer in self.part.answer.items() if answer.type == kind)

    @cached_property
    def _enum(self) -> AnswerColumn:
        """The values that further labels are of."""
        return self.part.answer[self._of_type("enum")[0]]


def _value(column: AnswerColumn, given: object) -> Any:
    """The value of a column in an answer; None where it is none."""
    if column.type == "number":
        return _number(column, given)
    if not isinstance(given, str):
        return None
    if column.type == "text":
        # Where a text is cut, half of a pair such as `\ud83d` may be left: it is no character.
        return valid_text(given)[0].strip()
    # In whichever case the label was written, and with whichever marks: "Very_Easy." is "very easy".
    exact = _canonical(column.values).get(folded(given).strip())
    if exact is not None:
        return exact
    alike = [name for name in column.values if _spelled(name) and _spelled(name) == _spelled(given)]
    return alike[0] if len(alike) == 1 else None


@cache
def _canonical(values: tuple[str, ...]) -> Mapping[str, str]:
    return {folded(name): name for name in values}


def _spelled(label: str) -> str:
    return " ".join(_MARKS.sub(" ", folded(label)).split())


def _number(column: AnswerColumn, given: object) -> int | float | None:
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    assert column.minimum is not None and column.maximum is not None
    # NaN compares false with everything.
    if not column.minimum <= given <= column.maximum:
        return None
    if column.decimals:
        return float(given)
    return int(given) if float(given).is_integer() else None


def _longest(column: AnswerColumn) -> Any:
    """The value that takes most room in JSON, but for texts and further labels, which can be left empty."""
    if column.type == "enum":
        return max(column.values, key=len)
    if column.type == "number":
        # Engines that hold a number between bounds write six decimals at most.
        ends = (str(int(bound or 0)) for bound in (column.minimum, column.maximum))
        return max(ends, key=len) + (".000000" if column.decimals else "")
    return "" if column.type == "text" else []


def _arrow_type(column: AnswerColumn) -> pa.DataType:
    if column.type == "number":
        return pa.float32() if column.decimals else pa.int32()
    return pa.list_(pa.string()) if column.type == "others" else pa.string()


def _described(name: str, answer: AnswerColumn) -> pa.Field:
    meaning = answer.meaning
    if answer.type == "enum":
        meaning = f"{(meaning or name).rstrip('.')}: {', '.join(answer.values)}."
    elif answer.type == "number" and answer.minimum is not None and answer.maximum is not None:
        meaning = f"{(meaning or name).rstrip('.')}: from {answer.minimum:g} to {answer.maximum:g}."
    return column(name, _arrow_type(answer), meaning or f"The judge's {name}.", published=answer.published)


QUESTIONS: Mapping[TagName, Question] = {
    name: Question(question) for name, question in published_questions().items()
}
"""The published questions."""

"""The questions for a judge and how its answers are read: JSON that follows a schema, free texts before the label."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from magpie.engines.base import Completion
from magpie.recipe import TagName
from magpie.replies import json_object, valid_text
from magpie.steps.base import column
from magpie.steps.base.scales import CATEGORIES, DIFFICULTIES, QUALITIES
from magpie.text import folded

_MOST_OTHERS = 3  # further labels in one answer, such as `other_task_categories`
# The most tokens that one character of a JSON string can take: `\u00e9` is six characters, and the model may write each
# of them as a token. Written directly, a character is at most four bytes of UTF-8, and a token is at least one byte.
_CHARACTER_TOKENS = 6


@dataclass(frozen=True, slots=True)
class Question:
    """What one tag asks of the judge: free texts, then one label, then further labels where the tag has them.

    The texts come first, so that the judge writes its reasons before it decides.

    `ordered` says that the labels are a scale, from the least to the most.
    """

    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    others: str | None = None
    ordered: bool = True

    @property
    def fields(self) -> list[pa.Field]:
        """The columns the answer fills, in the order the judge writes them."""
        fields = [_described(name, pa.string()) for name in (*self.texts, self.label)]
        return [*fields, _described(self.others, pa.list_(pa.string()))] if self.others else fields

    def schema(self, *, max_text_length: int, most_others: int = _MOST_OTHERS) -> str:
        """The JSON schema of an answer, as JSON; a text is at most `max_text_length` characters."""
        label = {"type": "string", "enum": list(self.labels)}
        properties: dict[str, Any] = {
            name: {"type": "string", "maxLength": max_text_length} for name in self.texts
        }
        properties[self.label] = label
        if self.others:
            properties[self.others] = {"type": "array", "items": label, "maxItems": most_others}
        return json.dumps(
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        )

    def fitting_schema(self, *, max_tokens: int, max_text_length: int) -> str:
        """The same schema with texts so short that every answer ends within `max_tokens`, however it is tokenized.

        Where even an answer without texts might not fit, it is the schema of that answer.
        """
        # A token is at least one byte. So the JSON without texts, with the longest label, takes at most as many tokens
        # as it has bytes. One token is left for the stop.
        longest = max(self.labels, key=len)
        bare: dict[str, Any] = dict.fromkeys(self.texts, "") | {self.label: longest}
        if self.others:
            bare[self.others] = []
        room = max(0, max_tokens - 1 - len(json.dumps(bare)))
        most_others = min(_MOST_OTHERS, room // len(json.dumps(longest) + ", ")) if self.others else 0
        length = room // (_CHARACTER_TOKENS * len(self.texts)) if self.texts else 0
        return self.schema(max_text_length=min(max_text_length, length), most_others=most_others)

    def read(self, text: str) -> dict[str, Any] | None:
        """The values of the columns in an answer, or None when the text is not an answer."""
        # Models that are not held to a schema wrap the JSON in other text, and vary the case of labels.
        answer = json_object(text)
        if answer is None:
            return None
        label = self._canonical(answer.get(self.label))
        texts = {name: value for name in self.texts if isinstance(value := answer.get(name), str)}
        if label is None or len(texts) < len(self.texts):
            return None
        # Where a text is cut, half of a pair such as `\ud83d` may be left: it is no character.
        values: dict[str, Any] = {name: valid_text(value)[0].strip() for name, value in texts.items()}
        values[self.label] = label
        if self.others:
            others = answer.get(self.others)
            labels = [self._canonical(other) for other in others] if isinstance(others, list) else []
            values[self.others] = [other for other in dict.fromkeys(labels) if other not in {None, label}]
        return values

    def answer(self, completion: Completion) -> dict[str, Any] | None:
        """The same for a completion; one that failed is not an answer, whatever its text."""
        return None if completion.finish_reason == "error" else self.read(completion.text)

    def majority(self, answers: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
        """The first answer with the most frequent label, of equal ones the earliest; None without answers."""
        valid = [answer for answer in answers if answer is not None]
        counts = Counter(answer[self.label] for answer in valid)
        # `max` returns the first of equal ones.
        return max(valid, key=lambda answer: counts[answer[self.label]], default=None)

    def _canonical(self, label: object) -> str | None:
        """The question's label that this is, in whichever case it was written; None where it is none of them."""
        canonical = {folded(name): name for name in self.labels}
        return canonical.get(folded(label).strip()) if isinstance(label, str) else None


# For each column its meaning, and its name in the published datasets.
_COLUMNS = {
    "intent": ("What the user wants, in the judge's words.", "intent"),
    "knowledge": ("What one has to know to answer, in the judge's words.", "knowledge"),
    "difficulty": (f"How hard the instruction is: {', '.join(DIFFICULTIES)}.", "difficulty"),
    "quality_explanation": ("Why the judge gives this quality.", "quality_explanation"),
    "input_quality": (f"How clear and useful the instruction is: {', '.join(QUALITIES)}.", "input_quality"),
    "task_category": (f"What kind of task it is: {', '.join(CATEGORIES)}.", "task_category"),
    "other_task_categories": ("Further kinds of task that it is.", "other_task_category"),
}


def _described(name: str, kind: pa.DataType) -> pa.Field:
    meaning, published = _COLUMNS[name]
    return column(name, kind, meaning, published=published)


QUESTIONS: Mapping[TagName, Question] = {
    "difficulty": Question(("intent", "knowledge"), "difficulty", DIFFICULTIES),
    "quality": Question(("quality_explanation",), "input_quality", QUALITIES),
    "category": Question((), "task_category", CATEGORIES, "other_task_categories", ordered=False),
}

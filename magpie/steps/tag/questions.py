"""What a judge is asked and how its answer is read: JSON held to a schema, the free text before the label."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from magpie.engines.base import Completion
from magpie.recipe import TagName
from magpie.steps.base.scales import CATEGORIES, DIFFICULTIES, QUALITIES

_MOST_OTHERS = 3
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_CHARACTER_TOKENS = 6
"""The most tokens one character of a JSON string can take: `\\u00e9` is six characters, each of them a token where the
model chooses so. Written as it stands, a character is four bytes of UTF-8 at most, and a token is a byte at least."""


@dataclass(frozen=True, slots=True)
class Question:
    """What one tag asks of the judge: free texts, then one label, then further labels where the tag has them.

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
        fields = [pa.field(name, pa.string()) for name in (*self.texts, self.label)]
        return [*fields, pa.field(self.others, pa.list_(pa.string()))] if self.others else fields

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
        """The same schema with texts so short that no answer is longer than `max_tokens`, in whatever tokens.

        A token writes a byte at least, so the names, the longest label and the marks between them are counted in bytes,
        and one token is left for the stop. Where even an answer without texts may not fit, it is that answer.
        """
        longest = max(self.labels, key=len)
        bare: dict[str, Any] = dict.fromkeys(self.texts, "") | {self.label: longest}
        if self.others:
            bare[self.others] = []
        room = max(0, max_tokens - 1 - len(json.dumps(bare)))
        most_others = min(_MOST_OTHERS, room // len(json.dumps(longest) + ", ")) if self.others else 0
        length = room // (_CHARACTER_TOKENS * len(self.texts)) if self.texts else 0
        return self.schema(max_text_length=min(max_text_length, length), most_others=most_others)

    def read(self, text: str) -> dict[str, Any] | None:
        """The columns' values in an answer, or None when it is not an answer.

        Engines that cannot hold a model to a schema wrap their JSON in other text and vary the case of labels; those
        that can let a tab or another control character stand in a text. All of it is read. A label that is not one of
        the question's is not. Half of a pair such as `\\ud83d`, left where a text is cut, becomes U+FFFD: it is no
        character, and no file can hold it.
        """
        try:
            answer = json.loads(text[text.index("{") : text.rindex("}") + 1], strict=False)
        except (ValueError, RecursionError):
            return None
        label = self._known(answer.get(self.label))
        texts = {name: answer.get(name) for name in self.texts}
        if label is None or not all(isinstance(value, str) for value in texts.values()):
            return None
        values: dict[str, Any] = {
            name: _HALF_PAIR.sub("\N{REPLACEMENT CHARACTER}", value).strip() for name, value in texts.items()
        }
        values[self.label] = label
        if self.others:
            given = answer.get(self.others)
            named = [self._known(other) for other in given] if isinstance(given, list) else []
            values[self.others] = [other for other in dict.fromkeys(named) if other not in {None, label}]
        return values

    def answer(self, completion: Completion) -> dict[str, Any] | None:
        """The same of a completion; one that failed is no answer, whatever it holds."""
        return None if completion.finish_reason == "error" else self.read(completion.text)

    def majority(self, answers: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
        """The first answer with the label that most have, of equals the one given first; None where there is none."""
        given = [answer for answer in answers if answer is not None]
        counts = Counter(answer[self.label] for answer in given)
        return max(given, key=lambda answer: counts[answer[self.label]], default=None)

    def _known(self, label: object) -> str | None:
        known = {name.casefold(): name for name in self.labels}
        return known.get(label.strip().casefold()) if isinstance(label, str) else None


QUESTIONS: Mapping[TagName, Question] = {
    "difficulty": Question(("intent", "knowledge"), "difficulty", DIFFICULTIES),
    "quality": Question(("quality_explanation",), "input_quality", QUALITIES),
    "category": Question((), "task_category", CATEGORIES, "other_task_categories", ordered=False),
}

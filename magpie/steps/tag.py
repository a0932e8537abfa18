"""A judge reads each instruction and says how hard it is, how well it is written and what kind of task it sets.

The judge's answer is JSON held to a schema, free text before the label, so that the judge thinks before it chooses. The
instruction is the last thing in the prompt: everything before it is the same for every row, and is cached by engines
that cache prefixes. The labels are those of the published datasets (arXiv 2406.08464).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie import shipped
from magpie.engines.base import Completion, Sampling
from magpie.recipe import Tag, TagName
from magpie.steps.base import live, seeds, spread

if TYPE_CHECKING:
    from magpie.chat import ChatFormat
    from magpie.engines.base import Engine

DIFFICULTIES = ("very easy", "easy", "medium", "hard", "very hard")
QUALITIES = ("very poor", "poor", "average", "good", "excellent")
CATEGORIES = (
    "Information seeking", "Reasoning", "Planning", "Editing", "Coding & Debugging", "Math", "Role playing",
    "Data analysis", "Creative writing", "Advice seeking", "Brainstorming", "Others",
)  # fmt: skip

_MOST_OTHERS = 3
_PLACE = "\x00instruction\x00"
_CUT = "\n[the rest is left out]"


@dataclass(frozen=True, slots=True)
class Question:
    """What one tag asks of the judge: free texts, then one label, then further labels where the tag has them."""

    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    others: str | None = None

    @property
    def fields(self) -> list[pa.Field]:
        """The columns the answer fills, in the order the judge writes them."""
        fields = [pa.field(name, pa.string()) for name in (*self.texts, self.label)]
        return [*fields, pa.field(self.others, pa.list_(pa.string()))] if self.others else fields

    def schema(self, *, max_text_length: int) -> str:
        """The JSON schema of an answer, as JSON; a text is at most `max_text_length` characters."""
        label = {"type": "string", "enum": list(self.labels)}
        properties: dict[str, Any] = {
            name: {"type": "string", "maxLength": max_text_length} for name in self.texts
        }
        properties[self.label] = label
        if self.others:
            properties[self.others] = {"type": "array", "items": label, "maxItems": _MOST_OTHERS}
        return json.dumps(
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        )

    def read(self, text: str) -> dict[str, Any] | None:
        """The columns' values in an answer, or None when it is not an answer.

        Engines that cannot hold a model to a schema wrap their JSON in other text and vary the case of labels; both are
        read. A label that is not one of the question's is not.
        """
        try:
            answer = json.loads(text[text.index("{") : text.rindex("}") + 1])
        except (ValueError, RecursionError):
            return None
        label = self._known(answer.get(self.label))
        texts = {name: answer.get(name) for name in self.texts}
        if label is None or not all(isinstance(value, str) for value in texts.values()):
            return None
        values: dict[str, Any] = {name: value.strip() for name, value in texts.items()} | {self.label: label}
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
    "category": Question((), "task_category", CATEGORIES, "other_task_categories"),
}


@dataclass(frozen=True, slots=True)
class TagStep:
    """Adds the judge's tags. A row whose tags cannot be had stays in, and `tag_error` says which and why.

    `tag_tokens` counts what the judge wrote for the row, all tags together. An instruction too long for the judge's
    context is cut in the prompt, at a token, and the judge is told so; the row itself keeps all of it.

    A judge asked several times votes: `difficulty_votes` and the like hold the label of each vote, null for one that is
    no answer. The tag is the label with most votes, of equals the one voted first, and the texts beside it are those of
    its first vote. `tag_error` is set when no vote is an answer.
    """

    part: Tag
    seed: int
    chat: ChatFormat | None = None

    name = "tag"
    reads = ("instruction",)
    version = 1

    @property
    def tags(self) -> tuple[TagName, ...]:
        """What is asked, each once."""
        return tuple(dict.fromkeys(self.part.tags))

    @property
    def adds(self) -> pa.Schema:
        """The columns of the tags asked for, the votes where there are several, then `tag_error` and `tag_tokens`."""
        fields = [field for tag in self.tags for field in QUESTIONS[tag].fields]
        if self.part.times > 1:
            fields += [
                pa.field(votes_column(QUESTIONS[tag].label), pa.list_(pa.string())) for tag in self.tags
            ]
        return pa.schema([*fields, ("tag_error", pa.string()), ("tag_tokens", pa.int32())])

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model, the wording of the prompts included."""
        templates = {tag: hashlib.sha256(_source(tag).encode()).hexdigest() for tag in self.tags}
        return {
            "seed": self.seed,
            **self.part.model_dump(mode="json", exclude={"model"}),
            "templates": templates,
        }

    def with_chat(self, chat: ChatFormat) -> TagStep:
        """The same step, speaking this model's format."""
        return replace(self, chat=chat)

    async def run(self, rows: pa.Table, engine: Engine | None) -> pa.Table:
        """One request for each row, tag and vote, all at once."""
        assert engine is not None and self.chat is not None
        at = live(rows)
        index = rows["index"].to_numpy()[at]
        instructions = rows["instruction"].take(pa.array(at, pa.int64())).to_pylist()
        columns: dict[str, Sequence[Any]] = {}
        errors: list[list[str]] = [[] for _ in at]
        tokens = [0] * len(at)
        asked = [self._ask(tag, instructions, index, engine) for tag in self.tags]
        for tag, ballots in zip(self.tags, await asyncio.gather(*asked), strict=True):
            question = QUESTIONS[tag]
            answers = [[question.answer(done) for done in ballot] for ballot in ballots]
            chosen = [question.majority(given) for given in answers]
            for field in question.fields:
                columns[field.name] = [answer and answer[field.name] for answer in chosen]
            columns[votes_column(question.label)] = [
                [answer and answer[question.label] for answer in given] for given in answers
            ]
            for row, (answer, ballot) in enumerate(zip(chosen, ballots, strict=True)):
                tokens[row] += sum(done.token_count for done in ballot)
                if answer is None:
                    errors[row].append(f"{tag}: {_why(ballot[0])}")
        columns["tag_error"] = ["; ".join(error) or None for error in errors]
        columns["tag_tokens"] = tokens
        return spread(rows, at, columns, self.adds)

    async def _ask(
        self, tag: TagName, instructions: Sequence[str], index: Any, engine: Engine
    ) -> list[list[Completion]]:
        """The judge's votes on each instruction."""
        assert self.chat is not None
        room = engine.model.context_length - self.part.max_tokens
        prompt = JudgePrompt.load(tag, self.chat)
        once = Sampling(
            max_tokens=self.part.max_tokens,
            seed=0,
            temperature=self.part.temperature,
            stop_ids=self.chat.stop_ids,
            schema=QUESTIONS[tag].schema(max_text_length=self.part.max_text_length),
        )
        purposes = [f"tag/{tag}", *(f"tag/{tag}/{vote}" for vote in range(2, self.part.times + 1))]
        row_seeds = zip(*(seeds(self.seed, purpose, index).tolist() for purpose in purposes), strict=True)
        prompts = (prompt.ids(instruction, room=room) for instruction in instructions)
        return await asyncio.gather(
            *(
                asyncio.gather(*(engine.complete(ids, replace(once, seed=seed)) for seed in own))
                for ids, own in zip(prompts, row_seeds, strict=True)
            )
        )


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """A judge's prompt as token ids: everything before the instruction is encoded once, for all rows."""

    chat: ChatFormat
    before: tuple[int, ...]
    after: tuple[int, ...]
    special: Mapping[int, str]

    @classmethod
    def load(cls, tag: TagName, chat: ChatFormat) -> JudgePrompt:
        """The shipped prompt of one tag, in the judge's chat format."""
        from jinja2 import StrictUndefined
        from jinja2.sandbox import SandboxedEnvironment

        environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
        text = environment.from_string(_source(tag)).render(instruction=_PLACE)
        before, _, after = text.partition(_PLACE)
        asked = chat.prompt([before.strip()])
        post = chat.post_query_ids
        special = {number: token for token, number in chat.tokenizer.special_tokens.items()}
        return cls(
            chat, tuple(asked[: len(asked) - len(post)]), (*chat.encode(after.rstrip()), *post), special
        )

    def ids(self, instruction: str, *, room: int) -> list[int]:
        """The prompt for one instruction, in at most `room` tokens.

        The instruction was written by a model and may be hostile. It stands between fences that do not occur in it, and
        special tokens of the judge in it are blanked, so that neither can end the message early.
        """
        body = self.chat.encode(instruction)
        found = {self.special[number] for number in body if number in self.special}
        if found:
            for text in found:
                instruction = instruction.replace(text, " ")
            body = [number for number in self.chat.encode(instruction) if number not in self.special]
        fence = "```"
        while fence in instruction:
            fence += "`"
        opening, closing = self.chat.encode(f"\n{fence}\n"), self.chat.encode(f"\n{fence}")
        left = room - len(self.before) - len(opening) - len(closing) - len(self.after)
        if len(body) > left:
            mark = self.chat.encode(_CUT)
            body = [*body[: max(0, left - len(mark))], *mark]
        return [*self.before, *opening, *body, *closing, *self.after]


def votes_column(label: str) -> str:
    """The column of the votes on a label, such as `difficulty_votes`."""
    return f"{label}_votes"


def _source(tag: TagName) -> str:
    return (shipped.folder("templates/judge") / f"{tag}.jinja").read_text(encoding="utf-8").strip()


def _why(completion: Completion) -> str:
    """Why a completion is no answer."""
    if completion.finish_reason == "error":
        return completion.error or "engine error"
    return "cut by length" if completion.finish_reason == "length" else "not the JSON asked for"

"""A judge reads each instruction and says how hard it is, how well it is written and what kind of task it sets.

A second judge may be asked the same questions; its columns begin with `second_`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from magpie.recipe import Model, Recipe, Tag, TagName
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    Label,
    ModelUse,
    RowStep,
    RowWork,
    Tools,
    answering_at_once,
    column,
    counts_tokens,
    inner,
    json_chat,
    live,
    meaning_of,
    spread,
    values_at,
)
from magpie.steps.tag.prompt import JudgePrompt
from magpie.steps.tag.questions import QUESTIONS, Question
from magpie.steps.tag.votes import Ballot

if TYPE_CHECKING:
    from magpie.engines.base import Engine

__all__ = [
    "QUESTIONS",
    "JudgePrompt",
    "Question",
    "TagStep",
]


@dataclass(frozen=True, slots=True)
class TagStep(RowStep):
    """Adds the judge's tags. No row is rejected: `tag_error` says which tags of a row are missing, and why.

    `tag_tokens` counts the tokens that the judge wrote for the row, all tags together. An instruction too long for the
    judge's context is cut in the prompt, at a token, and the prompt says so; the row itself keeps all of it.

    An answer that is cut by length, so that its label is missing, is requested once more, with texts so short that the
    whole answer fits `max_tokens`. `tag_retries` counts these requests; `tag_tokens` has the tokens of both.

    A judge asked several times votes: `difficulty_votes` and the like hold the label of each vote, null for a vote that
    is not an answer. The tag is the label with the most votes, of equal ones the label voted first. The texts beside it
    are those of the first vote for it. `tag_error` is set when no vote is an answer.

    The step of the second judge is named `second_tag`. Its columns have the prefix `second_`, such as
    `second_difficulty` and `second_tag_error`, and its seeds are others.
    """

    part: Tag
    seed: int
    role: str
    model: Model
    prefix: Literal["", "second_"] = ""

    section = "tag"
    reads = ("instruction",)
    version = 2

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[TagStep, ...]:
        """A step for each judge of the recipe."""
        part = recipe.tag
        if part is None:
            return ()
        roles: list[tuple[str, Literal["", "second_"]]] = [(part.model, "")]
        if part.second_judge is not None:
            roles.append((part.second_judge, "second_"))
        return tuple(
            cls(part, recipe.seed, role, answering_at_once(recipe, role), prefix) for role, prefix in roles
        )

    @property
    def name(self) -> str:
        """`tag` or `second_tag`."""
        return f"{self.prefix}tag"

    @property
    def tags(self) -> tuple[TagName, ...]:
        """The tags that are asked for, each once."""
        return tuple(dict.fromkeys(self.part.tags))

    @property
    def questions(self) -> Mapping[TagName, Question]:
        """What is asked, by the names of the tags."""
        every = self.part.every_question
        return {tag: Question(every[tag]) for tag in self.tags}

    @property
    def adds(self) -> pa.Schema:
        """The tags asked for, the votes where there are several, then `tag_error`, `tag_tokens` and `tag_retries`."""
        questions = self.questions.values()
        fields = [field for question in questions for field in question.fields]
        if self.part.times > 1:
            fields += [
                column(
                    votes_column(question.label),
                    pa.list_(question.label_type),
                    f"The {question.label} that each vote of the judge gives; null for a vote that is no answer.",
                )
                for question in questions
            ]
        fields += [
            inner("tag_error", pa.string(), "Which tags of the row are missing, and why."),
            counts_tokens(
                "tag_tokens", meaning="Tokens that the judge wrote for the row, all tags together."
            ),
            inner("tag_retries", pa.int32(), "How many of its answers were cut and asked for again."),
        ]
        return pa.schema([self._named(field) for field in fields])

    def _named(self, field: pa.Field) -> pa.Field:
        """The column under the name that it has for this judge."""
        if not self.prefix:
            return field
        # The published datasets have one judge. What the column is marked as, such as inner, stays.
        second = column(field.name, field.type, f"By the second judge. {meaning_of(field)}")
        marks = {key: value for key, value in field.metadata.items() if not value}
        return second.with_name(f"{self.prefix}{field.name}").with_metadata({**second.metadata, **marks})

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model, the wording of the prompts included."""
        # `second_judge` names a role. Each judge has a step of its own, with the model of that role in its fingerprint.
        every, own = self.part.every_question, self.part.questions or {}
        templates = {tag: hashlib.sha256(every[tag].prompt.encode()).hexdigest() for tag in self.tags}
        # The published ones are known by their names and their prompts, as when there were no others.
        asked = {tag: own[tag].model_dump(mode="json", exclude={"prompt"}) for tag in self.tags if tag in own}
        return {
            "seed": self.seed,
            **self.part.model_dump(mode="json", exclude={"model", "second_judge", "questions"}),
            "templates": templates,
            **({"questions": asked} if asked else {}),
        }

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.role, self.model, "write", "chat", structured=True)

    @property
    def credited_as(self) -> str:
        return f"{self.prefix}judge"

    @property
    def requests(self) -> tuple[Request, ...]:
        output = min(lengths.TAG, self.part.max_tokens)
        shared = [len(question.part.prompt) / lengths.CHARACTERS for question in self.questions.values()]
        return tuple(
            Request(same + lengths.INSTRUCTION + lengths.TEMPLATE, output, shared=same, count=self.part.times)
            for same in shared
        )

    @property
    def bytes_per_row(self) -> int:
        return 220

    @property
    def labels(self) -> tuple[Label, ...]:
        return tuple(
            Label(
                question=question.label,
                column=f"{self.prefix}{question.label}",
                values=question.labels,
                ordered=question.ordered,
                votes=f"{self.prefix}{votes_column(question.label)}" if self.part.times > 1 else None,
                times=self.part.times,
                asked=f"{self.prefix}tag_tokens",
            )
            for question in self.questions.values()
            if question.labels
        )

    @property
    def outcome_columns(self) -> tuple[str, ...]:
        return (f"{self.prefix}tag_error", f"{self.prefix}tag_retries")

    def outcomes(self, columns: Mapping[str, Any]) -> list[str]:
        """Tagged at once, tagged when it was asked again, or the error."""
        errors, retries = (columns[name] for name in self.outcome_columns)
        tagged = pc.if_else(pc.greater(retries, 0), "tagged, asked twice", "tagged")
        outcomes: list[str] = pc.coalesce(errors, tagged, pa.scalar("tagged")).to_pylist()
        return outcomes

    def bind(self, tools: Tools) -> Tagger:
        chat = json_chat(self.model, tools, role="judge", work="judge")
        prompts = {
            tag: JudgePrompt.load(question.part.prompt, chat) for tag, question in self.questions.items()
        }
        return Tagger(self, prompts, chat.stop_ids)


@dataclass(frozen=True, slots=True)
class Tagger(RowWork["Engine"]):
    """Asks a judge. `prompts` are in its chat format, one for each tag, and `stop_ids` end its answers."""

    step: TagStep
    prompts: Mapping[TagName, JudgePrompt]
    stop_ids: tuple[int, ...]

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """One request for each row, tag and vote, all at once."""
        at = live(rows)
        index = rows["index"].to_numpy()[at]
        instructions = values_at(rows, "instruction", at)
        columns: dict[str, Sequence[Any]] = {}
        errors: list[list[str]] = [[] for _ in at]
        tokens, retries = [0] * len(at), [0] * len(at)
        questions = self.step.questions
        one = next(iter(self.prompts.values()))  # the others are in the same chat format
        quotes = [one.quote(instruction) for instruction in instructions]
        requests = [
            self._ballot(tag, question).votes(quotes, index, engine) for tag, question in questions.items()
        ]
        for (tag, question), votes_of_rows in zip(
            questions.items(), await asyncio.gather(*requests), strict=True
        ):
            answers = [question.majority([vote.answer for vote in votes]) for votes in votes_of_rows]
            for field in question.fields:
                columns[field.name] = [answer and answer[field.name] for answer in answers]
            # Also where there is one vote: `adds` has the column only where there are several, and `spread` takes the
            # columns of `adds`.
            columns[votes_column(question.label)] = [
                [vote.answer and vote.answer[question.label] for vote in votes] for votes in votes_of_rows
            ]
            for row, (answer, votes) in enumerate(zip(answers, votes_of_rows, strict=True)):
                tokens[row] += sum(vote.tokens for vote in votes)
                retries[row] += sum(vote.retried for vote in votes)
                if answer is None:
                    errors[row].append(f"{tag}: {votes[0].error}")
        columns["tag_error"] = ["; ".join(error) or None for error in errors]
        columns["tag_tokens"] = tokens
        columns["tag_retries"] = retries
        named = {f"{self.step.prefix}{name}": values for name, values in columns.items()}
        return spread(rows, at, named, self.step.adds)

    def _ballot(self, tag: TagName, question: Question) -> Ballot:
        step = self.step
        return Ballot(tag, question, step.part, step.name, step.seed, self.prompts[tag], self.stop_ids)


def votes_column(label: str) -> str:
    """The column of the votes on a label, such as `difficulty_votes`."""
    return f"{label}_votes"

"""A judge reads each instruction and says how hard it is, how well it is written and what kind of task it sets.

A second judge may be asked the same questions; its columns begin with `second_`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from magpie.engines.base import Completion, Sampling
from magpie.errors import ChatFormatError
from magpie.recipe import Model, Recipe, Tag, TagName
from magpie.steps.base import (
    Label,
    ModelUse,
    RowStep,
    RowWork,
    Tools,
    counts_tokens,
    inner,
    live,
    seeds,
    spread,
)
from magpie.steps.tag.prompt import JudgePrompt, source
from magpie.steps.tag.questions import QUESTIONS, Question

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
    """Adds the judge's tags. A row whose tags cannot be had stays in, and `tag_error` says which and why.

    `tag_tokens` counts what the judge wrote for the row, all tags together. An instruction too long for the judge's
    context is cut in the prompt, at a token, and the judge is told so; the row itself keeps all of it.

    An answer that is cut by length, so that its label is missing, is asked for once more, with texts so short that the
    whole of it fits `max_tokens`. `tag_retries` counts how often that was; the tokens of both count.

    A judge asked several times votes: `difficulty_votes` and the like hold the label of each vote, null for one that is
    no answer. The tag is the label with most votes, of equals the one voted first, and the texts beside it are those of
    its first vote. `tag_error` is set when no vote is an answer.

    The step of the second judge is named `second_tag`, and its columns are those of the first with `second_` before
    them: `second_difficulty`, `second_tag_error`. Its seeds are its own.
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
            # A judge's answer is JSON from its first token on: there is no place for reasoning before it.
            cls(part, recipe.seed, role, recipe.model(role).model_copy(update={"thinking": "off"}), prefix)
            for role, prefix in roles
        )

    @property
    def name(self) -> str:
        """`tag` or `second_tag`."""
        return f"{self.prefix}tag"

    @property
    def tags(self) -> tuple[TagName, ...]:
        """What is asked, each once."""
        return tuple(dict.fromkeys(self.part.tags))

    @property
    def adds(self) -> pa.Schema:
        """The tags asked for, the votes where there are several, then `tag_error`, `tag_tokens` and `tag_retries`."""
        fields = [field for tag in self.tags for field in QUESTIONS[tag].fields]
        if self.part.times > 1:
            fields += [
                pa.field(votes_column(QUESTIONS[tag].label), pa.list_(pa.string())) for tag in self.tags
            ]
        fields += [
            inner("tag_error", pa.string()),
            counts_tokens("tag_tokens"),
            inner("tag_retries", pa.int32()),
        ]
        return pa.schema([field.with_name(f"{self.prefix}{field.name}") for field in fields])

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model, the wording of the prompts included."""
        templates = {tag: hashlib.sha256(source(tag).encode()).hexdigest() for tag in self.tags}
        return {
            "seed": self.seed,
            **self.part.model_dump(mode="json", exclude={"model", "second_judge"}),
            "templates": templates,
        }

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.role, self.model, "write", "chat", structured=True)

    @property
    def credited_as(self) -> str:
        return f"{self.prefix}judge"

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
            for question in (QUESTIONS[tag] for tag in self.part.tags)
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
        try:
            chat = tools.chat(self.model)
        except ChatFormatError as error:
            tools.chat(self.model.model_copy(update={"thinking": "strip"}))  # raises what has another cause
            raise ChatFormatError(
                f"{self.model.model} cannot judge: its chat template opens a thinking block in the assistant's "
                "header, has nothing that leaves it out, and a judge's answer is JSON from the beginning; name "
                "another model as the judge, or give it a `chat_template` without that block"
            ) from error
        return Tagger(self, {tag: JudgePrompt.load(tag, chat) for tag in self.tags}, chat.stop_ids)


@dataclass(frozen=True, slots=True)
class Tagger(RowWork["Engine"]):
    """Asks a judge. `prompts` are in its chat format, one for each tag, and `stop_ids` end its answers."""

    step: TagStep
    prompts: Mapping[TagName, JudgePrompt]
    stop_ids: tuple[int, ...]

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """One request for each row, tag and vote, all at once."""
        prefix, tags = self.step.prefix, self.step.tags
        at = live(rows)
        index = rows["index"].to_numpy()[at]
        instructions = rows["instruction"].take(pa.array(at, pa.int64())).to_pylist()
        columns: dict[str, Sequence[Any]] = {}
        errors: list[list[str]] = [[] for _ in at]
        tokens, retries = [0] * len(at), [0] * len(at)
        requests = [self._ask(tag, instructions, index, engine) for tag in tags]
        for tag, ballots in zip(tags, await asyncio.gather(*requests), strict=True):
            question = QUESTIONS[tag]
            chosen = [question.majority([vote.answer for vote in ballot]) for ballot in ballots]
            for field in question.fields:
                columns[field.name] = [answer and answer[field.name] for answer in chosen]
            columns[votes_column(question.label)] = [
                [vote.answer and vote.answer[question.label] for vote in ballot] for ballot in ballots
            ]
            for row, (answer, ballot) in enumerate(zip(chosen, ballots, strict=True)):
                tokens[row] += sum(vote.tokens for vote in ballot)
                retries[row] += sum(vote.retried for vote in ballot)
                if answer is None:
                    errors[row].append(f"{tag}: {ballot[0].error}")
        columns["tag_error"] = ["; ".join(error) or None for error in errors]
        columns["tag_tokens"] = tokens
        columns["tag_retries"] = retries
        named = {f"{prefix}{name}": values for name, values in columns.items()}
        return spread(rows, at, named, self.step.adds)

    async def _ask(
        self, tag: TagName, instructions: Sequence[str], index: Any, engine: Engine
    ) -> list[list[_Vote]]:
        """The judge's votes on each instruction."""
        part, question, prompt = self.step.part, QUESTIONS[tag], self.prompts[tag]
        once = Sampling(
            max_tokens=part.max_tokens,
            seed=0,
            temperature=part.temperature,
            stop_ids=self.stop_ids,
            schema=question.schema(max_text_length=part.max_text_length),
        )
        again = replace(
            once,
            schema=question.fitting_schema(max_tokens=part.max_tokens, max_text_length=part.max_text_length),
        )
        # A seed for each row and vote, and another for the second try of the same vote: no try repeats another's draw,
        # and more votes leave the seeds of those before them alone.
        name, run_seed = self.step.name, self.step.seed
        purposes = [f"{name}/{tag}", *(f"{name}/{tag}/{vote}" for vote in range(2, part.times + 1))]
        first_seeds, second_seeds = (
            zip(*(seeds(run_seed, f"{purpose}{suffix}", index).tolist() for purpose in purposes), strict=True)
            for suffix in ("", "/again")
        )
        room = engine.model.context_length - part.max_tokens

        async def ballot(instruction: str, firsts: Sequence[int], seconds: Sequence[int]) -> list[_Vote]:
            """All votes on one instruction: the same prompt, which a prefix cache holds after the first."""
            ids = prompt.ids(instruction, room=room)
            votes = (
                _vote(question, engine, ids, replace(once, seed=first), replace(again, seed=second))
                for first, second in zip(firsts, seconds, strict=True)
            )
            return await asyncio.gather(*votes)

        rows = zip(instructions, first_seeds, second_seeds, strict=True)
        return await asyncio.gather(*(ballot(*row) for row in rows))


@dataclass(frozen=True, slots=True)
class _Vote:
    """One answer of the judge, or why there is none. `tokens` are those of both tries, where there were two."""

    answer: dict[str, Any] | None
    tokens: int
    retried: bool
    error: str


async def _vote(
    question: Question, engine: Engine, prompt: Sequence[int], once: Sampling, again: Sampling
) -> _Vote:
    """Ask, and once more where the answer was cut before its end."""
    first = await engine.complete(prompt, once)
    answer = question.answer(first)
    if answer is not None or first.finish_reason != "length":
        return _Vote(answer, first.token_count, False, _why(first))
    second = await engine.complete(prompt, again)
    why = "cut by length twice" if second.finish_reason == "length" else _why(second)
    return _Vote(question.answer(second), first.token_count + second.token_count, True, why)


def votes_column(label: str) -> str:
    """The column of the votes on a label, such as `difficulty_votes`."""
    return f"{label}_votes"


def _why(completion: Completion) -> str:
    """Why a completion is no answer."""
    if completion.finish_reason == "error":
        return completion.error or "engine error"
    return "cut by length" if completion.finish_reason == "length" else "not the JSON asked for"

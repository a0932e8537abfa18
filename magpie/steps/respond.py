"""The generator answers the instruction it wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from magpie.engines.base import Completion, Sampling
from magpie.recipe import Model, Recipe, Respond
from magpie.recipe.steer import Steer
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    BROKEN_OFF,
    MANY_CUT,
    REJECTED,
    ROLE_HEADER,
    ModelUse,
    RowStep,
    RowWork,
    Tools,
    answer_sampling,
    column,
    complete_each,
    counts_tokens,
    documents_in,
    first_messages,
    inner,
    live,
    seeds,
    spread,
    text_bytes,
    try_system_prompt,
    values_at,
)

if TYPE_CHECKING:
    from magpie.chat import ChatFormat
    from magpie.engines.base import Engine


SYSTEM_PROMPT = "response_system_prompt"
_CUT, _ANSWERED = "cut", "answered"  # how these outcomes begin: `warning` finds them again by it


@dataclass(frozen=True, slots=True)
class RespondStep(RowStep):
    """Adds the response to every row that is still in. `response_length` is characters.

    What a model reasons before its answer goes to `reasoning`, which is null where there is none; `response` is the
    answer alone. `response_tokens` counts both. `steer` is there where the system prompt has variables.
    """

    part: Respond
    seed: int
    model: Model
    documents: tuple[str, ...] = ()
    steer: Steer | None = None

    name = "respond"
    answers = True
    version = 2
    _always = pa.schema(
        [
            column(
                "reasoning",
                pa.string(),
                "What the model reasoned before the response; null where it did not.",
            ),
            column("response", pa.string(), "The assistant's first answer.", published="response"),
            column("response_length", pa.int32(), "Characters of the response.", published="response_length"),
            column("response_seed", pa.int64(), "The seed that the response was drawn with."),
            counts_tokens("response_tokens", meaning="Tokens of the response, its reasoning included."),
            column(
                "response_finish_reason",
                pa.string(),
                '"stop" where the model ended it, "length" where it was cut, "error" where the engine failed.',
            ),
            REJECTED,
        ]
    )
    _of_retries = (
        inner("response_retries", pa.int32(), "1 where a response was cut and asked for again, else 0."),
        inner("response_cut_tokens", pa.int32(), "Tokens of the response that was cut and asked for again."),
    )
    _of_system = (
        column(
            SYSTEM_PROMPT,
            pa.string(),
            "The system prompt that the response was written by; the first of the messages.",
        ),
    )

    @classmethod
    def plan(cls, recipe: Recipe, columns: pa.Schema) -> tuple[RespondStep, ...]:
        """The step, where the recipe has responses."""
        part = recipe.respond
        if part is None:
            return ()
        steer = recipe.steer if part.variables else None
        return (cls(part, recipe.seed, recipe.model(part.model), documents_in(columns), steer),)

    @property
    def reads(self) -> tuple[str, ...]:
        """The instruction, the document that it is about, and what the row was steered by where that is said."""
        return ("instruction", *self.documents, *(() if self.steer is None else ("steer_id",)))

    @property
    def adds(self) -> pa.Schema:
        """The columns; those of retries and of the system prompt where they are asked for."""
        retries = self._of_retries if self.part.retry_cut is not None else ()
        system = self._of_system if self.part.keep_system_prompt else ()
        return pa.schema([*self._always, *retries, *system])

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model."""
        # `rows` decides which rows come to this step, and changes the output of none of them.
        part = self.part.model_dump(mode="json", exclude={"model", "rows"})
        # What is not used is left out: so runs of earlier versions have the fingerprint that they had.
        for name, unused in (("retry_cut", None), ("keep_system_prompt", False)):
            if part[name] == unused:
                del part[name]
        if self.steer is not None:
            part["variables"] = {
                name: {value.id: value.text for value in self.steer.variables[name]}
                for name in self.part.variables
            }
        return {"seed": self.seed, **part}

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", "chat")

    @property
    def keeps_reasoning(self) -> bool:
        return self.model.thinking == "keep"

    @property
    def answers_every_row(self) -> bool:
        return self.part.rows == "all"

    @property
    def requests(self) -> tuple[Request, ...]:
        prompt = lengths.INSTRUCTION + lengths.TEMPLATE
        return (Request(prompt, lengths.written(self.part.max_tokens)),)

    @property
    def bytes_per_row(self) -> int:
        return text_bytes(self.part.max_tokens)

    @property
    def outcome_columns(self) -> tuple[str, ...]:
        return ("response_finish_reason", *(() if self.part.retry_cut is None else ("response_retries",)))

    def outcomes(self, columns: Mapping[str, Any]) -> list[str]:
        """Answered, cut or not answered; and whether it was asked for twice."""
        reasons = columns["response_finish_reason"]
        cut = pc.fill_null(pc.equal(reasons, "length"), False)
        whole = pc.fill_null(pc.equal(reasons, "stop"), False)
        ended = pc.if_else(whole, _ANSWERED, pc.if_else(cut, _CUT, "not answered"))
        if self.part.retry_cut is not None:
            again = pc.fill_null(pc.greater(columns["response_retries"], 0), False)
            ended = pc.if_else(again, pc.binary_join_element_wise(ended, "asked twice", ", "), ended)
        outcomes: list[str] = ended.to_pylist()
        return outcomes

    def warning(self, outcomes: Mapping[str, int]) -> str | None:
        """Said where many of the responses that stand are cut."""
        cut = sum(count for outcome, count in outcomes.items() if outcome.startswith(_CUT))
        answered = cut + sum(count for outcome, count in outcomes.items() if outcome.startswith(_ANSWERED))
        if not answered or cut / answered < MANY_CUT:
            return None
        key, more = ("max_tokens", ", or ask once more with `respond.retry_cut`")
        if self.part.retry_cut is not None:
            key, more = ("retry_cut", "")
        return f"{cut / answered:.0%} of the responses were cut at their limit: raise `respond.{key}`{more}"

    def makes_alike(self, then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
        """Also where only the room for a second try differs: a response that was whole at the first one stands."""
        one, other = (
            {key: value for key, value in each.items() if key != "retry_cut"} for each in (then, now)
        )
        return one == other

    def as_now(self, made: pa.Table) -> tuple[pa.Table, pa.BooleanArray]:
        had_retries = "response_retries" in made.column_names
        whole = (
            pc.equal(made["response_retries"], 0)
            if had_retries
            else pc.not_equal(made["response_finish_reason"], "length")
        )
        if self.part.retry_cut is not None and not had_retries:
            asked_once = [
                pa.repeat(pa.scalar(0, pa.int32()), made.num_rows),
                pa.nulls(made.num_rows, pa.int32()),
            ]
            for field, values in zip(self._of_retries, asked_once, strict=True):
                made = made.append_column(field, values)
        return made, whole.combine_chunks()

    def bind(self, tools: Tools) -> Responder:
        chat = tools.chat(self.model)
        for prompt in self._every_prompt():
            try_system_prompt(chat, prompt, "respond.system_prompt")
        return Responder(self, chat)

    def _every_prompt(self) -> list[str | None]:
        """System prompts in which every value of every variable has its place once."""
        if self.steer is None:
            return [self.part.system_prompt]
        values = {name: self.steer.variables[name] for name in self.part.variables}
        longest = max(len(each) for each in values.values())
        return [
            self.part.filled({name: each[at % len(each)].text for name, each in values.items()})
            for at in range(longest)
        ]


@dataclass(frozen=True, slots=True)
class Responder(RowWork["Engine"]):
    """Writes the responses, in the chat format of the generator."""

    step: RespondStep
    chat: ChatFormat

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """One request a row, all at once."""
        at = live(rows)
        part, chat = self.step.part, self.chat
        row_seeds = seeds(self.step.seed, "respond", rows["index"].to_numpy()[at]).tolist()
        instructions = first_messages(rows, at)
        systems = self._systems(rows, at)
        prompts = [
            chat.prompt([instruction], system=system)
            for instruction, system in zip(instructions, systems, strict=True)
        ]
        samplings = [answer_sampling(part, chat, engine, seed) for seed in row_seeds]
        completions = await complete_each(engine, prompts, samplings)
        cut_tokens: list[int | None] = [None] * len(at)
        if part.retry_cut is not None:
            cut_tokens = await self._ask_again(engine, prompts, samplings, completions)
        texts = [chat.split_reasoning(chat.without_end(completion.text)) for completion in completions]
        columns: dict[str, list[Any]] = {
            "reasoning": [reasoning for reasoning, _ in texts],
            "response": [answer for _, answer in texts],
            "response_length": [len(answer) for _, answer in texts],
            "response_seed": row_seeds,
            "response_tokens": [completion.token_count for completion in completions],
            "response_finish_reason": [completion.finish_reason for completion in completions],
            "response_retries": [int(tokens is not None) for tokens in cut_tokens],
            "response_cut_tokens": cut_tokens,
            SYSTEM_PROMPT: systems,
            "rejected": [
                _reason(completion, reasoning, answer, leaks=chat.has_leak(answer))
                for completion, (reasoning, answer) in zip(completions, texts, strict=True)
            ],
        }
        return spread(rows, at, columns, self.step.adds)

    def _systems(self, rows: pa.Table, at: Sequence[int]) -> list[str | None]:
        """The system prompt of each row."""
        part, steer = self.step.part, self.step.steer
        if steer is None:
            return [part.system_prompt] * len(at)
        ids = values_at(rows, "steer_id", at)
        # A shard has many more rows than there are kinds of steering: each is filled in once.
        filled = {steer_id: part.filled(steer.texts_of(steer_id)) for steer_id in dict.fromkeys(ids)}
        return [filled[steer_id] for steer_id in ids]

    async def _ask_again(
        self,
        engine: Engine,
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[Sampling],
        completions: list[Completion],
    ) -> list[int | None]:
        """Replace completions that were cut by ones with more room; the tokens of each that was, else None."""
        assert self.step.part.retry_cut is not None
        again = [place for place, each in enumerate(completions) if each.finish_reason == "length"]
        # With the seed that the row has: it is the same answer, which may now come to its end.
        more = [replace(samplings[place], max_tokens=self.step.part.retry_cut) for place in again]
        cut: list[int | None] = [None] * len(completions)
        for place, completion in zip(
            again, await complete_each(engine, (prompts[place] for place in again), more), strict=True
        ):
            cut[place] = completions[place].token_count
            # Where the engine fails at the second one, the first is better than none.
            if completion.finish_reason != "error":
                completions[place] = completion
        return cut


def _reason(completion: Completion, reasoning: str | None, answer: str, *, leaks: bool) -> str | None:
    """Why a row without a usable answer is out; None where it has one."""
    # An answer cut by length stays in: `response_finish_reason` lets a filter decide about it.
    if completion.finish_reason in BROKEN_OFF and completion.finish_reason != "length":
        return f"respond: {BROKEN_OFF[completion.finish_reason]}"
    # As an instruction is: trained on, it would teach a model to write both sides of a conversation.
    if leaks:
        return f"respond: {ROLE_HEADER}"
    if answer:
        return None
    return "respond: empty" if reasoning is None else "respond: no answer after the reasoning"

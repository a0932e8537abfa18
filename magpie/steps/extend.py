"""Further turns: the generator writes the user's next message, then answers it, as often as the recipe says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from magpie.engines.base import FinishReason, Sampling
from magpie.recipe import Extend, Model, Recipe
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    BROKEN_OFF,
    MESSAGE,
    ROLE_HEADER,
    ModelUse,
    RowStep,
    RowWork,
    Tools,
    column,
    counts_tokens,
    documents_in,
    drawn_by,
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

_SYSTEM = "response_system_prompt"
_MANY_TURNS = (
    "You are a helpful assistant in a conversation of many turns. The user asks follow-up questions that build on "
    "what was said before, each one specific and different from the last."
)


@dataclass(frozen=True, slots=True)
class _Conversation:
    """The turns that were added to one conversation. `ended` says why there are no more: "turns", or what went wrong.

    `later` are messages, the user's first; `reasoning` has an entry for each of the assistant's among them.
    """

    later: list[str]
    reasoning: list[str | None]
    tokens: int
    ended: str


@dataclass(frozen=True, slots=True)
class ExtendStep(RowStep):
    """Adds `later_turns`: the messages after the first pair, and `later_reasoning`, one for each later answer.

    A conversation that cannot be continued keeps the turns it has; `extend_ended` says why.
    """

    part: Extend
    seed: int
    model: Model
    documents: tuple[str, ...] = ()

    system_column: str | None = None
    """The column of a system prompt that stays in the messages: later answers are written by it, too."""

    name = "extend"
    version = 2
    adds = pa.schema(
        [
            inner("later_turns", pa.list_(MESSAGE), "The messages after the first response."),
            column(
                "later_reasoning",
                pa.list_(pa.string()),
                "What the model reasoned before each later answer; null where it did not.",
            ),
            column("turns", pa.int32(), "How many turns the conversation has, the first included."),
            counts_tokens("extend_tokens", meaning="Tokens of the later turns, instructions and answers."),
            column(
                "extend_ended",
                pa.string(),
                "Why the conversation has fewer turns than were asked for; null where it has them all.",
            ),
        ]
    )

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model."""
        part = self.part.model_dump(mode="json", exclude={"model"})
        kept = {} if self.system_column is None else {"system_column": self.system_column}
        return {"seed": self.seed, **part, "many_turns": _MANY_TURNS, **kept}

    @classmethod
    def plan(cls, recipe: Recipe, columns: pa.Schema) -> tuple[ExtendStep, ...]:
        """The step, where the recipe asks for further turns."""
        part = recipe.extend
        if part is None:
            return ()
        kept = recipe.respond is not None and recipe.respond.keep_system_prompt
        system = _SYSTEM if kept and _SYSTEM in columns.names else None
        return (cls(part, recipe.seed, recipe.model(part.model), documents_in(columns), system),)

    @property
    def reads(self) -> tuple[str, ...]:
        """The first pair, the document that it is about, how it ended, and the system prompt where it stays."""
        kept = filter(None, [self.system_column])
        return ("instruction", "response", "response_finish_reason", *self.documents, *kept)

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", "chat")

    @property
    def requests(self) -> tuple[Request, ...]:
        # Each message is written with all that was said before it, which is in the prefix cache while it lasts: no more
        # than that of the last turn is counted on.
        answer, asked = lengths.written(self.part.respond_max_tokens), lengths.INSTRUCTION
        turn = lengths.TEMPLATE + lengths.INSTRUCTION + answer
        return tuple(
            request
            for number in range(1, self.part.turns)
            for request in (
                Request(number * turn + lengths.TEMPLATE, asked),
                Request(number * turn + lengths.TEMPLATE + asked, answer),
            )
        )

    @property
    def bytes_per_row(self) -> int:
        return text_bytes(self.part.respond_max_tokens) * (self.part.turns - 1)

    def bind(self, tools: Tools) -> Extender:
        chat = tools.chat(self.model)
        try_system_prompt(chat, self.part.system_prompt, "extend.system_prompt")
        return Extender(self, chat)


@dataclass(frozen=True, slots=True)
class Extender(RowWork["Engine"]):
    """Writes the further turns, in the chat format of the generator."""

    step: ExtendStep
    chat: ChatFormat

    @property
    def part(self) -> Extend:
        """The settings."""
        return self.step.part

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """Every conversation is a task of its own: none waits for another's turn."""
        at = live(rows)
        index = rows["index"].to_numpy()[at]
        kept = self.step.system_column
        systems: list[str | None] = [None] * len(at) if kept is None else values_at(rows, kept, at)
        conversations = await asyncio.gather(
            *(
                self._extend([instruction, response], finish_reason, row_seeds, engine, system)
                for instruction, response, finish_reason, row_seeds, system in zip(
                    first_messages(rows, at),
                    values_at(rows, "response", at),
                    values_at(rows, "response_finish_reason", at),
                    self._seeds(index),
                    systems,
                    strict=True,
                )
            )
        )
        columns: dict[str, list[Any]] = {
            "later_turns": [_messages(conversation.later) for conversation in conversations],
            "later_reasoning": [conversation.reasoning for conversation in conversations],
            "turns": [1 + len(conversation.later) // 2 for conversation in conversations],
            "extend_tokens": [conversation.tokens for conversation in conversations],
            "extend_ended": [conversation.ended for conversation in conversations],
        }
        return spread(rows, at, columns, self.step.adds)

    async def _extend(
        self,
        first: list[str],
        finish_reason: FinishReason,
        row_seeds: Sequence[tuple[int, int]],
        engine: Engine,
        system: str | None,
    ) -> _Conversation:
        """One conversation, turn by turn: a message of the user, then the answer to it."""
        # A response that was cut is in the dataset, and is no base for a next message.
        problem = self._problem(first[1], finish_reason)
        if problem is not None:
            return _Conversation([], [], 0, f"response 1: {problem}")
        turns, reasonings, tokens = list(first), list[str | None](), 0
        for turn, (user_seed, assistant_seed) in enumerate(row_seeds, 2):
            # An even number of messages: the prompt ends in the header of the user, as for the first instruction.
            user = await engine.complete(
                self.chat.prompt(turns, system=self._system_prompt()),
                self._user_sampling(user_seed, engine),
            )
            tokens += user.token_count
            instruction = self.chat.without_end(user.text).strip()
            problem = self._problem(instruction, user.finish_reason)
            if problem is not None:
                return _Conversation(turns[2:], reasonings, tokens, f"instruction {turn}: {problem}")
            # Without the prompt above, which is for the user's messages: the dataset does not have it either.
            assistant = await engine.complete(
                self.chat.prompt([*turns, instruction], system=system),
                self._assistant_sampling(assistant_seed, engine),
            )
            tokens += assistant.token_count
            reasoning, response = self.chat.split_reasoning(self.chat.without_end(assistant.text))
            problem = self._problem(response, assistant.finish_reason)
            if problem is not None:
                return _Conversation(turns[2:], reasonings, tokens, f"response {turn}: {problem}")
            # Without the reasoning: templates of reasoning models leave it out of earlier turns, too.
            turns += [instruction, response]
            reasonings.append(reasoning)
        return _Conversation(turns[2:], reasonings, tokens, "turns")

    def _system_prompt(self) -> str | None:
        # null in the recipe means the prompt above, unless the template has no place for one. An empty text means none.
        if self.part.system_prompt is None and self.chat.texts.system_problem is None:
            return _MANY_TURNS
        return self.part.system_prompt or None

    def _problem(self, text: str, finish_reason: FinishReason) -> str | None:
        """Why a message cannot be part of the conversation; None when it can."""
        if finish_reason != "stop":
            return BROKEN_OFF[finish_reason]
        if not text:
            return "empty"
        return ROLE_HEADER if self.chat.has_leak(text) else None

    def _seeds(self, index: np.ndarray[Any, Any]) -> list[tuple[tuple[int, int], ...]]:
        """For each row the seeds of its further turns: of the user's message, and of the answer to it."""
        of_turns = (
            zip(
                *(
                    seeds(self.step.seed, f"extend/{turn}/{role}", index).tolist()
                    for role in ("user", "assistant")
                ),
                strict=True,
            )
            for turn in range(2, self.part.turns + 1)
        )
        return list(zip(*of_turns, strict=True))

    def _user_sampling(self, seed: int, engine: Engine) -> Sampling:
        return drawn_by(
            self.part.draw,
            seed,
            engine,
            max_tokens=self.part.instruct_max_tokens,
            stop_ids=self.chat.stop_ids,
            stop=(*self.chat.stop_texts, "\n") if self.part.stop_at_newline else self.chat.stop_texts,
            stop_repetition=engine.model.stops_repetition(self.part.stop_repetition),
        )

    def _assistant_sampling(self, seed: int, engine: Engine) -> Sampling:
        return Sampling(
            max_tokens=self.part.respond_max_tokens,
            seed=seed,
            temperature=self.part.respond_temperature,
            stop_ids=self.chat.answer_stop_ids,
            stop=self.chat.stop_texts,
            stop_repetition=engine.model.stops_repetition(self.part.stop_repetition),
        )


def _messages(later: list[str]) -> list[dict[str, str]]:
    """The texts as messages, the user's first."""
    return [
        {"role": "user" if position % 2 == 0 else "assistant", "content": text}
        for position, text in enumerate(later)
    ]

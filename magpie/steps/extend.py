"""Further turns: the generator writes the user's next message, then answers it, as often as the recipe says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from magpie.engines.base import Sampling
from magpie.recipe import Extend, Model, Recipe
from magpie.steps.base import (
    MESSAGE,
    ModelUse,
    RowStep,
    RowWork,
    Tools,
    counts_tokens,
    inner,
    live,
    seeds,
    spread,
    try_system_prompt,
)

if TYPE_CHECKING:
    from magpie.chat import ChatFormat
    from magpie.engines.base import Engine

_ENDED_BADLY = {"length": "cut by length", "repetition": "repeats itself", "error": "engine error"}
_MANY_TURNS = (
    "You are a helpful assistant in a conversation of many turns. The user asks follow-up questions that build on "
    "what was said before, each one specific and different from the last."
)


@dataclass(frozen=True, slots=True)
class _Grown:
    """What one conversation became. `ended` says why it has no more turns: "turns", or what went wrong.

    `later` are messages, the user's first; `reasoning` is one for each of the assistant's among them.
    """

    later: list[str]
    reasoning: list[str | None]
    tokens: int
    ended: str


@dataclass(frozen=True, slots=True)
class ExtendStep(RowStep):
    """Adds `later_turns`: the messages after the first pair, and `later_reasoning`, one for each later answer.

    A model is not shown its earlier reasoning again, as the templates of reasoning models have it. A conversation that
    cannot go on keeps the turns it has; `extend_ended` says why.
    """

    part: Extend
    seed: int
    model: Model

    name = "extend"
    reads = ("instruction", "response", "response_finish_reason")
    version = 2
    adds = pa.schema(
        [
            inner("later_turns", pa.list_(MESSAGE)),
            ("later_reasoning", pa.list_(pa.string())),
            ("turns", pa.int32()),
            counts_tokens("extend_tokens"),
            ("extend_ended", pa.string()),
        ]
    )

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model."""
        part = self.part.model_dump(mode="json", exclude={"model"})
        return {"seed": self.seed, **part, "many_turns": _MANY_TURNS}

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[ExtendStep, ...]:
        """The step, where the recipe asks for further turns."""
        part = recipe.extend
        return () if part is None else (cls(part, recipe.seed, recipe.model(part.model)),)

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", "chat")

    @property
    def bytes_per_row(self) -> int:
        return min(1600, 3 * self.part.respond_max_tokens) * (self.part.turns - 1)

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
        """Every conversation grows by itself: none waits for another's turn."""
        at = live(rows)
        index = rows["index"].to_numpy()
        chosen = rows.take(pa.array(at, pa.int64()))
        grown = await asyncio.gather(
            *(
                self._grow([instruction, response], finish, int(position), engine)
                for instruction, response, finish, position in zip(
                    *(chosen[name].to_pylist() for name in self.step.reads), index[at], strict=True
                )
            )
        )
        columns: dict[str, list[Any]] = {
            "later_turns": [_messages(one.later) for one in grown],
            "later_reasoning": [one.reasoning for one in grown],
            "turns": [1 + len(one.later) // 2 for one in grown],
            "extend_tokens": [one.tokens for one in grown],
            "extend_ended": [one.ended for one in grown],
        }
        return spread(rows, at, columns, self.step.adds)

    async def _grow(self, first: list[str], finish_reason: str, index: int, engine: Engine) -> _Grown:
        trouble = self._trouble(first[1], finish_reason)
        if trouble is not None:
            return _Grown([], [], 0, f"response 1: {trouble}")
        turns, reasoned, tokens = list(first), list[str | None](), 0
        for turn in range(2, self.part.turns + 1):
            asked = await engine.complete(
                self.chat.prompt(turns, system=self._system_prompt()),
                self._user_sampling(turn, index, engine),
            )
            tokens += asked.token_count
            instruction = asked.text.strip()
            trouble = self._trouble(instruction, asked.finish_reason)
            if trouble is not None:
                return _Grown(turns[2:], reasoned, tokens, f"instruction {turn}: {trouble}")
            answered = await engine.complete(
                self.chat.prompt([*turns, instruction]), self._assistant_sampling(turn, index, engine)
            )
            tokens += answered.token_count
            reasoning, response = self.chat.split_reasoning(answered.text)
            trouble = self._trouble(response, answered.finish_reason)
            if trouble is not None:
                return _Grown(turns[2:], reasoned, tokens, f"response {turn}: {trouble}")
            turns += [instruction, response]
            reasoned.append(reasoning)
        return _Grown(turns[2:], reasoned, tokens, "turns")

    def _system_prompt(self) -> str | None:
        if self.part.system_prompt is None and self.chat.texts.system_problem is None:
            return _MANY_TURNS
        return self.part.system_prompt or None

    def _trouble(self, text: str, finish_reason: str) -> str | None:
        if finish_reason != "stop":
            return _ENDED_BADLY[finish_reason]
        if not text:
            return "empty"
        return "role header inside" if any(leak in text for leak in self.chat.leaks) else None

    def _user_sampling(self, turn: int, index: int, engine: Engine) -> Sampling:
        draw = self.part.draw
        return Sampling(
            max_tokens=self.part.instruct_max_tokens,
            seed=_seed(self.step.seed, f"extend/{turn}/user", index),
            temperature=draw.temperature,
            top_p=draw.top_p,
            top_k=draw.top_k,
            min_p=draw.min_p,
            stop_ids=self.chat.stop_ids,
            stop=(*self.chat.stop_texts, "\n") if self.part.stop_at_newline else self.chat.stop_texts,
            stop_repetition=engine.model.stops_repetition(self.part.stop_repetition),
        )

    def _assistant_sampling(self, turn: int, index: int, engine: Engine) -> Sampling:
        return Sampling(
            max_tokens=self.part.respond_max_tokens,
            seed=_seed(self.step.seed, f"extend/{turn}/assistant", index),
            temperature=self.part.respond_temperature,
            stop_ids=self.chat.answer_stop_ids,
            stop=self.chat.stop_texts,
            stop_repetition=engine.model.stops_repetition(self.part.stop_repetition),
        )


def _seed(run_seed: int, purpose: str, index: int) -> int:
    return int(seeds(run_seed, purpose, np.array([index]))[0])


def _messages(later: list[str]) -> list[dict[str, str]]:
    return [
        {"role": "user" if position % 2 == 0 else "assistant", "content": text}
        for position, text in enumerate(later)
    ]

"""The generator is given nothing but its pre-query template, and writes the user's message itself.

Where the recipe steers, a system prompt stands before the user's header: each row has its own, by its position alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from magpie.engines.base import Sampling
from magpie.recipe import Draw, Instruct, Model, Recipe
from magpie.recipe.steer import Steer, SteerText
from magpie.steps.base import (
    ModelUse,
    RowStep,
    RowWork,
    Tools,
    counts_tokens,
    inner,
    seeds,
    try_system_prompt,
)

if TYPE_CHECKING:
    from magpie.chat import ChatFormat
    from magpie.engines.base import Control, Engine

_GOLDEN_RATIO = 0.6180339887498949
_ROOT_OF_76 = 0.717797887081348
"""What is after the point of the two numbers. Multiples of either fill the unit interval evenly, and multiples of both
the unit square, so that steering and sampling, both decided by position, know nothing of each other. Of 100 irrationals
tried beside the golden ratio this one does so best: of 64 to 5,000 rows in a stretch, those in any rectangle of the
square were within 6 of its area, and of 20,000 within 8, in 400 rectangles drawn at random and three stretches."""


@dataclass(frozen=True, slots=True)
class Steered:
    """What one row is steered by. `id` is such as "exercise;domain=graphs"; `language` is the id of that variable."""

    id: str
    prompt: str
    language: str | None


@dataclass(frozen=True, slots=True)
class InstructStep(RowStep):
    """Adds the raw instruction, and all that is needed to say how it came about.

    A recipe that steers adds `steer_id`; one whose variable `language` has nothing but ISO 639-1 codes adds
    `steer_language` too: the language that the row was steered to.
    """

    part: Instruct
    seed: int
    model: Model
    steer: Steer | None = None

    name = "instruct"
    reads = ()
    version = 2

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[InstructStep, ...]:
        """The step: every recipe has instructions."""
        part = recipe.instruct
        return (cls(part, recipe.seed, recipe.model(part.model), recipe.steer),)

    @property
    def adds(self) -> pa.Schema:
        """The columns, those of steering last."""
        fields = [
            inner("raw_instruction", pa.string()),
            ("temperature", pa.float32()),
            ("top_p", pa.float32()),
            ("top_k", pa.int32()),
            ("min_p", pa.float32()),
            ("instruct_seed", pa.int64()),
            counts_tokens("instruct_tokens"),
            ("instruct_finish_reason", pa.string()),
            inner("instruct_error", pa.string()),
        ]
        if self.steer is not None:
            fields.append(("steer_id", pa.string()))
        if self.steer is not None and self.steer.names_languages:
            fields.append(("steer_language", pa.string()))
        return pa.schema(fields)

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model."""
        settings = {"seed": self.seed, **self.part.model_dump(mode="json", exclude={"model"})}
        return settings if self.steer is None else settings | {"steer": self.steer.model_dump(mode="json")}

    @property
    def uses(self) -> ModelUse:
        asked: dict[Control, bool] = {
            "hold_back": bool(self.part.hold_back),
            "first_token_divisor": self.part.first_token_divisor != 1,
        }
        controls = frozenset(control for control, is_asked in asked.items() if is_asked)
        return ModelUse(self.part.model, self.model, "write", "chat", controls)

    @property
    def credited_as(self) -> str:
        return "generator"

    @property
    def bytes_per_row(self) -> int:
        return 120

    def bind(self, tools: Tools) -> InstructionWriter:
        chat = tools.chat(self.model)
        for prompt_id, text in every_wording(self.steer) if self.steer is not None else ():
            try_system_prompt(chat, text, f"steer.prompts.{prompt_id}")
        try_system_prompt(chat, self.part.system_prompt, "instruct.system_prompt")
        return InstructionWriter(self, chat)


@dataclass(frozen=True, slots=True)
class InstructionWriter(RowWork["Engine"]):
    """Has the generator write instructions, in its own chat format."""

    step: InstructStep
    chat: ChatFormat

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """One request a row, all at once; each with its own seed, since many prompts or all are the same."""
        part, steer, seed = self.step.part, self.step.steer, self.step.seed
        index = rows["index"].to_numpy()
        draws = [part.mix[entry] for entry in mix_entries([draw.share for draw in part.mix], index)]
        row_seeds = seeds(seed, "instruct", index).tolist()
        steering = [None] * len(index) if steer is None else steered(steer, seed, index)
        prompts = self._prompts(steering)
        samplings = self._samplings(draws, row_seeds, engine)
        completions = await asyncio.gather(
            *(
                engine.complete(prompts[by], sampling)
                for by, sampling in zip(steering, samplings, strict=True)
            )
        )
        columns: dict[str, list[Any]] = {
            "raw_instruction": [completion.text for completion in completions],
            "temperature": [draw.temperature for draw in draws],
            "top_p": [draw.top_p for draw in draws],
            "top_k": [draw.top_k for draw in draws],
            "min_p": [draw.min_p for draw in draws],
            "instruct_seed": row_seeds,
            "instruct_tokens": [completion.token_count for completion in completions],
            "instruct_finish_reason": [completion.finish_reason for completion in completions],
            "instruct_error": [completion.error for completion in completions],
            "steer_id": [by and by.id for by in steering],
            "steer_language": [by and by.language for by in steering],
        }
        adds = self.step.adds
        arrays = [pa.array(columns[field.name], type=field.type) for field in adds]
        return pa.table([rows["id"], *arrays], schema=pa.schema([("id", pa.string()), *adds]))

    def _prompts(self, steering: list[Steered] | list[None]) -> dict[Steered | None, list[int]]:
        """The token ids for each way to be steered, each made once."""
        return {
            by: self.chat.prompt([], system=by.prompt if by else self.step.part.system_prompt)
            for by in dict.fromkeys(steering)
        }

    def _samplings(self, draws: list[Draw], row_seeds: list[int], engine: Engine) -> Iterator[Sampling]:
        part, chat = self.step.part, self.chat
        stop = (*chat.stop_texts, "\n") if part.stop_at_newline else chat.stop_texts
        hold_back = chat.first_tokens(part.hold_back)
        stop_repetition = engine.model.stops_repetition(part.stop_repetition)
        for draw, seed in zip(draws, row_seeds, strict=True):
            yield Sampling(
                max_tokens=part.max_tokens,
                seed=seed,
                temperature=draw.temperature,
                top_p=draw.top_p,
                top_k=draw.top_k,
                min_p=draw.min_p,
                stop_ids=chat.stop_ids,
                stop=stop,
                hold_back=hold_back,
                first_token_divisor=part.first_token_divisor,
                stop_repetition=stop_repetition,
            )


def mix_entries(shares: list[float], index: np.ndarray[Any, Any]) -> list[int]:
    """Which entry of a sampling mix each row draws from, decided by its position alone.

    Multiples of the golden ratio modulo 1 fill the unit interval evenly, so that every stretch of rows, and so every
    shard, holds each entry in its share to within a row or two, however many rows the run has.
    """
    return _entries(shares, _multiples(index, _GOLDEN_RATIO))


def steered(steer: Steer, run_seed: int, index: np.ndarray[Any, Any]) -> list[Steered]:
    """What each row is steered by, decided by its position and, for `combine: sample`, the run's seed."""
    chosen = _crossed(steer, index) if steer.combine == "cross" else _sampled(steer, run_seed, index)
    made: dict[tuple[int, ...], Steered] = {}
    for choice in chosen:
        if choice not in made:
            made[choice] = _filled(steer, *choice)
    return [made[choice] for choice in chosen]


def every_wording(steer: Steer) -> Iterator[tuple[str, str]]:
    """The id of a prompt and a text of it, until every prompt and every value of a variable has been in one."""
    for number, prompt in enumerate(steer.prompts):
        sizes = _shape(steer, prompt)
        for at in range(max(sizes, default=1)):
            yield prompt.id, _filled(steer, number, *(at % size for size in sizes)).prompt


def _crossed(steer: Steer, index: np.ndarray[Any, Any]) -> list[tuple[int, ...]]:
    """Every prompt with every value of its variables, in the product of their shares, spread evenly over the rows."""
    shapes = [_shape(steer, prompt) for prompt in steer.prompts]
    shares = [prompt.share * _pair_shares(steer, prompt) for prompt in steer.prompts]
    first = np.cumsum([0, *map(prod, shapes)])
    cells = np.array(_entries(np.concatenate(shares), _multiples(index, _ROOT_OF_76)))
    numbers = np.searchsorted(first, cells, side="right") - 1
    return [
        (number, *(int(at) for at in np.unravel_index(cell - first[number], shapes[number])))
        for number, cell in zip(numbers.tolist(), cells.tolist(), strict=True)
    ]


def _shape(steer: Steer, prompt: SteerText) -> tuple[int, ...]:
    """How many values each variable of the prompt has."""
    return tuple(len(steer.variables[name]) for name in steer.variables_of(prompt))


def _pair_shares(steer: Steer, prompt: SteerText) -> np.ndarray[Any, Any]:
    """The shares of a prompt's pairings with values, which add up to 1, the last variable varying fastest."""
    shares = np.ones(1)
    for name in steer.variables_of(prompt):
        of_values = np.array([value.share for value in steer.variables[name]])
        shares = np.outer(shares, of_values / of_values.sum()).ravel()
    return shares


def _sampled(steer: Steer, run_seed: int, index: np.ndarray[Any, Any]) -> list[tuple[int, ...]]:
    """A prompt and each of its variables for each row, every one drawn by a seed of its own."""

    def draw(purpose: str, texts: tuple[SteerText, ...]) -> list[int]:
        return _entries([text.share for text in texts], seeds(run_seed, purpose, index) / 2**31)

    names = [steer.variables_of(prompt) for prompt in steer.prompts]
    values = {name: draw(f"steer/{name}", texts) for name, texts in steer.variables.items()}
    return [
        (number, *(values[name][row] for name in names[number]))
        for row, number in enumerate(draw("steer", steer.prompts))
    ]


def _filled(steer: Steer, number: int, *at: int) -> Steered:
    """Prompt `number` with the values at these places of its variables."""
    prompt = steer.prompts[number]
    names = steer.variables_of(prompt)
    values = {name: steer.variables[name][place] for name, place in zip(names, at, strict=True)}
    return Steered(
        id=";".join([prompt.id, *(f"{name}={value.id}" for name, value in values.items())]),
        prompt=prompt.filled({name: value.text for name, value in values.items()}),
        language=values["language"].id if "language" in values else None,
    )


def _multiples(index: np.ndarray[Any, Any], irrational: float) -> np.ndarray[Any, Any]:
    """A place in the unit interval for each row."""
    return (np.asarray(index, dtype=np.float64) + 0.5) * irrational % 1.0


def _entries(shares: Any, where: np.ndarray[Any, Any]) -> list[int]:
    """The entries whose stretches of the unit interval, as long as their shares, hold these places."""
    bounds = np.cumsum(shares) / np.sum(shares)
    entries = np.searchsorted(bounds, where, side="right")
    return [int(entry) for entry in np.minimum(entries, len(shares) - 1)]

"""The generator is given nothing but its pre-query template, and writes the user's message itself.

If the recipe steers, a system prompt stands before the user's header. Which one a row gets is decided by its position.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.engines.base import Sampling
from magpie.recipe import Draw, Instruct, Model, Recipe
from magpie.recipe.steer import Steer, values_in
from magpie.records.documents import digest_of, read_documents
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    DOCUMENT,
    ModelUse,
    RowStep,
    RowWork,
    Tools,
    column,
    complete_each,
    counts_tokens,
    drawn_by,
    filled,
    inner,
    seeds,
    try_system_prompt,
)
from magpie.steps.instruct.asking import request_for
from magpie.steps.instruct.documents import Chunk, Chunks
from magpie.steps.instruct.shares import mix_entries
from magpie.steps.instruct.steering import Steered, every_wording, prompts_by_id, steered

if TYPE_CHECKING:
    from magpie.chat import ChatFormat
    from magpie.engines.base import Control, Engine

__all__ = [
    "InstructStep",
    "InstructionWriter",
    "Steered",
    "every_wording",
    "mix_entries",
    "steered",
]

_SYSTEM_PROMPT = "instruct_system_prompt"


@dataclass(frozen=True, slots=True)
class InstructStep(RowStep):
    """Adds the raw instruction, and how it was sampled.

    A recipe that steers adds `steer_id`. If all values of its variable `language` are ISO 639-1 codes, it also adds
    `steer_language`: the language that the row was steered to.
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
            inner("raw_instruction", pa.string(), "The instruction as the generator wrote it."),
            column(
                "temperature",
                pa.float32(),
                "The temperature that the instruction was drawn at.",
                published="gen_input_configs",
            ),
            column("top_p", pa.float32(), "Its top_p; 1 is off.", published="gen_input_configs"),
            column("top_k", pa.int32(), "Its top_k; 0 is off."),
            column("min_p", pa.float32(), "Its min_p; 0 is off."),
            column(
                "instruct_seed",
                pa.int64(),
                "The seed that the instruction was drawn with.",
                published="gen_input_configs",
            ),
            counts_tokens("instruct_tokens", meaning="Tokens of the instruction as it was written."),
            column(
                "instruct_finish_reason", pa.string(), "How the instruction ended, as response_finish_reason."
            ),
            inner("instruct_error", pa.string(), "Why the engine gave no instruction; null where it did."),
        ]
        if self.part.mode == "ask":
            # Only then: the rows of the method itself are as they were.
            fields.append(
                column(
                    "instruct_mode",
                    pa.string(),
                    '"ask" where the generator was asked for a message as a user writes it, in its chat format.',
                )
            )
        if self.has_documents:
            fields += [
                column("document_id", pa.string(), "The document, and which part of it, as ID#PART."),
                DOCUMENT,
            ]
        if self.steer is not None:
            fields.append(
                column("steer_id", pa.string(), "The prompt that steered the row, and the values in it.")
            )
        if self.steer is not None and self.steer.names_languages:
            fields.append(column("steer_language", pa.string(), "The language that the row was steered to."))
        return pa.schema(fields)

    @property
    def has_documents(self) -> bool:
        """Whether a document stands before the user's message."""
        return self.steer is not None and self.steer.documents is not None

    @property
    def derives(self) -> pa.Schema:
        """A column for each variable of steering, and the system prompt of the instruction."""
        names = {} if self.steer is None else self.steer.variables
        fields = [
            column(f"steer_{name}", pa.string(), f"The value of `{name}` that the row was steered by.")
            for name in names
        ]
        prompt = inner(
            _SYSTEM_PROMPT,
            pa.string(),
            "The system prompt that stood before the user's message; null where there was none.",
        )
        # A column that the step adds is not made a second time: `steer_language`, or a variable that is called `id`.
        return pa.schema([field for field in (*fields, prompt) if field.name not in self.adds.names])

    def derive(self, rows: pa.Table) -> dict[str, Any]:
        """Reads the column `steer_id`, where the recipe steers."""
        if self.steer is None:
            prompts = pa.array([self.part.system_prompt] * rows.num_rows, pa.string())
            return {field.name: prompts for field in self.derives}
        ids: list[str | None] = rows["steer_id"].to_pylist()
        values = {steer_id: values_in(steer_id) for steer_id in set(ids) if steer_id is not None}
        columns: dict[str, dict[str, str | None]] = {
            f"steer_{name}": {steer_id: value.get(name) for steer_id, value in values.items()}
            for name in self.steer.variables
        }
        columns[_SYSTEM_PROMPT] = {
            steer_id: choice.prompt for steer_id, choice in prompts_by_id(self.steer, values).items()
        }
        return {
            field.name: pa.array([columns[field.name].get(steer_id or "") for steer_id in ids], pa.string())
            for field in self.derives
        }

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model."""
        settings = {"seed": self.seed, **self.part.model_dump(mode="json", exclude={"model", "mode"})}
        if self.part.mode == "ask":
            settings["ask"] = request_for(None)
        return settings if self.steer is None else settings | {"steer": _settings_of(self.steer)}

    def fingerprint(self, tools: Tools) -> dict[str, Any]:
        """The settings; of documents their content in the place of their path."""
        if self.steer is None or self.steer.documents is None:
            return self.settings
        return {**self.settings, "documents": digest_of(read_documents(Path(self.steer.documents)))}

    @property
    def uses(self) -> ModelUse:
        needed: dict[Control, bool] = {
            "hold_back": bool(self.part.hold_back),
            "first_token_divisor": self.part.first_token_divisor != 1,
        }
        controls = frozenset(control for control, is_needed in needed.items() if is_needed)
        return ModelUse(self.part.model, self.model, "write", "chat", controls)

    @property
    def credited_as(self) -> str:
        return "generator"

    @property
    def requests(self) -> tuple[Request, ...]:
        # The prompt is the same for every row, system prompts of a few kinds apart.
        usual = lengths.INSTRUCTION if self.part.stop_at_newline else lengths.LONG_INSTRUCTION
        output = min(usual, self.part.max_tokens)
        if self.steer is not None and self.steer.documents is not None:
            return (Request(lengths.TEMPLATE + self.steer.document_tokens, output),)
        return (Request(lengths.TEMPLATE, output, shared=lengths.TEMPLATE),)

    @property
    def bytes_per_row(self) -> int:
        return 120

    def bind(self, tools: Tools) -> InstructionWriter:
        chat = tools.chat(self.model)
        # A template that refuses a prompt would fail in the middle of a run: every text is tried before a model loads.
        for prompt_id, text in every_wording(self.steer) if self.steer is not None else ():
            try_system_prompt(chat, text, f"steer.prompts.{prompt_id}")
        try_system_prompt(chat, self.part.system_prompt, "instruct.system_prompt")
        return InstructionWriter(self, chat, self._chunks(chat))

    def _chunks(self, chat: ChatFormat) -> Chunks | None:
        """The documents, which are tried as system prompts too; None where there are none."""
        if self.steer is None or self.steer.documents is None:
            return None
        documents = read_documents(Path(self.steer.documents))
        try_system_prompt(chat, "A document.", "steer.documents")
        return Chunks(documents, chat.encode, chat.leaks, self.steer.document_tokens)


@dataclass(frozen=True, slots=True)
class InstructionWriter(RowWork["Engine"]):
    """Has the generator write instructions, in its own chat format."""

    step: InstructStep
    chat: ChatFormat
    chunks: Chunks | None = None

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """One request a row, all at once."""
        part, steer, run_seed = self.step.part, self.step.steer, self.step.seed
        index = rows["index"].to_numpy()
        draws = [part.mix[entry] for entry in mix_entries([draw.share for draw in part.mix], index)]
        # Without steering all prompts are the same: with one seed for all rows every row would be the same, too.
        row_seeds = seeds(run_seed, "instruct", index).tolist()
        steering: list[Steered | None] = (
            [None] * len(index) if steer is None else steered(steer, run_seed, index)
        )
        chunks: list[Chunk | None] = [None] * len(index)
        if self.chunks is not None:
            chunks = [*await asyncio.to_thread(self.chunks.dealt, run_seed, index)]
        prompts = self._prompts(list(zip(steering, chunks, strict=True)))
        completions = await complete_each(engine, prompts, self._samplings(draws, row_seeds, engine))
        columns: dict[str, list[Any]] = {
            "raw_instruction": [self._written(completion.text) for completion in completions],
            "temperature": [draw.temperature for draw in draws],
            "top_p": [draw.top_p for draw in draws],
            "top_k": [draw.top_k for draw in draws],
            "min_p": [draw.min_p for draw in draws],
            "instruct_seed": row_seeds,
            "instruct_tokens": [completion.token_count for completion in completions],
            "instruct_finish_reason": [completion.finish_reason for completion in completions],
            "instruct_error": [completion.error for completion in completions],
            "instruct_mode": [part.mode] * len(index),
            "document_id": [chunk and chunk.id for chunk in chunks],
            DOCUMENT.name: [chunk and chunk.text for chunk in chunks],
            "steer_id": [choice and choice.id for choice in steering],
            "steer_language": [choice and choice.language for choice in steering],
        }
        return filled(rows, columns, self.step.adds)

    def _prompts(self, shown: list[tuple[Steered | None, Chunk | None]]) -> Iterator[list[int]]:
        """The token ids of each row, made once for each way to be steered."""
        # Steering takes the place of the recipe's system prompt: a template holds one.
        own = self.step.part.system_prompt
        made = {one: self._prompt(_system_prompt(*one) or own) for one in dict.fromkeys(shown)}
        return (made[one] for one in shown)

    def _prompt(self, system: str | None) -> list[int]:
        if self.step.part.mode == "ask":
            return self.chat.prompt([request_for(system)])
        return self.chat.prompt([], system=system)

    def _written(self, text: str) -> str:
        """The message in a completion: of an answer to a request, without what the model reasoned before it."""
        return text if self.step.part.mode == "raw" else self.chat.split_reasoning(text)[1]

    def _samplings(self, draws: list[Draw], row_seeds: list[int], engine: Engine) -> Iterator[Sampling]:
        part, chat = self.step.part, self.chat
        stop = (*chat.stop_texts, "\n") if part.stop_at_newline else chat.stop_texts
        stop_ids = chat.stop_ids if part.mode == "raw" else chat.answer_stop_ids
        # What depends on the model alone is looked up once, not for every row.
        hold_back = chat.first_tokens(part.hold_back)
        stop_repetition = engine.model.stops_repetition(part.stop_repetition)
        for draw, seed in zip(draws, row_seeds, strict=True):
            yield drawn_by(
                draw,
                seed,
                engine,
                max_tokens=part.max_tokens,
                stop_ids=stop_ids,
                stop=stop,
                hold_back=hold_back,
                first_token_divisor=part.first_token_divisor,
                stop_repetition=stop_repetition,
            )


def _system_prompt(choice: Steered | None, chunk: Chunk | None) -> str | None:
    """What stands before the user's header: a prompt, and behind it a document."""
    return "\n\n".join(one for one in (choice and choice.prompt, chunk and chunk.text) if one) or None


def _settings_of(steer: Steer) -> dict[str, Any]:
    """The settings of steering; those that came later are left out where they are off: old runs go on."""
    later = {"catalogue": None, "unsteered": 0.0, "document_tokens": 2048}
    # Refills concern rows that were not there before: the others stay what they are.
    settings = steer.model_dump(mode="json", exclude={"documents", "refills"})
    return {name: value for name, value in settings.items() if name not in later or value != later[name]}

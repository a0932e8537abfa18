"""A model writes tasks after the example of seeds and of its own earlier ones, in rounds.

A shard is a round, and a row a place for one task: a prompt of a round fills several rows. The prompts of a round
depend on what earlier rounds accepted, and not on one another. So every candidate has a row, with the reason where it
is out, and a round that is committed is part of the pool of every later one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from magpie.engines.base import Completion, Sampling
from magpie.recipe import Bootstrap, Model, Recipe, Screen
from magpie.self_instruct.prompts import LIST, LIST_REQUEST, numbered_list
from magpie.self_instruct.tasks import digest_of, seed_tasks
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    REJECTED,
    ModelUse,
    Page,
    SequentialStep,
    SequentialWork,
    Tools,
    column,
    complete_each,
    counts_tokens,
    drawn_by,
    filled,
    inner,
    seeds,
)
from magpie.steps.bootstrap.rounds import (
    ENOUGH,
    Candidate,
    Pool,
    Prompt,
    Round,
    draw_prompts,
    instruction_rules,
)

if TYPE_CHECKING:
    from magpie.engines.base import Engine


@dataclass(frozen=True, slots=True)
class BootstrapStep(SequentialStep):
    """Adds the instruction, and how it came about. What is said of a whole completion stands in each of its rows.

    But its tokens stand in the first alone, so that they add up.
    """

    part: Bootstrap
    screen: Screen
    seed: int
    model: Model

    name = "bootstrap"
    reads = ()
    recalls = ("instruction", "rejected")
    version = 1
    adds = pa.schema(
        [
            inner("raw_instruction", pa.string(), "The task as the model wrote it."),
            column("instruction", pa.string(), "The task, on one line.", published="instruction"),
            column("temperature", pa.float32(), "The temperature that the task was drawn at."),
            column("top_p", pa.float32(), "Its top_p; 1 is off."),
            column("top_k", pa.int32(), "Its top_k; 0 is off."),
            column("min_p", pa.float32(), "Its min_p; 0 is off."),
            column("instruct_seed", pa.int64(), "The seed that its list was drawn with."),
            counts_tokens("instruct_tokens", meaning="Tokens of the list, in the row of its first task."),
            column("instruct_finish_reason", pa.string(), "How its list ended, as response_finish_reason."),
            inner("instruct_error", pa.string(), "Why the engine gave no list; null where it did."),
            inner(
                "shots", pa.list_(pa.string()), "The tasks that its prompt showed: ids of seeds and of rows."
            ),
            inner("similar_to", pa.string(), "The seed or the row for which the task is too similar."),
            inner("similarity", pa.float64(), "The ROUGE-L F1 of the two."),
            REJECTED,
        ]
    )

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[BootstrapStep, ...]:
        """The step: every recipe of the method has tasks."""
        part, screen = recipe.bootstrap, recipe.screen
        assert part is not None and screen is not None
        return (cls(part, screen, recipe.seed, recipe.model(part.model)),)

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model and the seeds."""
        part = self.part.model_dump(mode="json", exclude={"model", "seeds"})
        if self.part.heading is None:  # as it was before there was the setting
            del part["heading"]
        return {"seed": self.seed, **part, "screen": self.screen.model_dump(mode="json")}

    def fingerprint(self, _: Tools) -> dict[str, Any]:
        return {
            **self.settings,
            "seeds": digest_of(seed_tasks(self.part.seeds)),
            "page": [LIST, LIST_REQUEST],
        }

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", self.part.speech)

    @property
    def credited_as(self) -> str:
        return "generator"

    @property
    def requests(self) -> tuple[Request, ...]:
        # One request fills several rows.
        shown = (self.part.shots + 1) * lengths.INSTRUCTION
        output = min(self.part.max_tokens, self.part.tasks * lengths.INSTRUCTION)
        return (Request(shown, output, count=1 / self.part.tasks),)

    @property
    def bytes_per_row(self) -> int:
        return 200

    def bind(self, tools: Tools) -> TaskWriter:
        page = Page.of(self.part.speech, self.model, tools)
        pool = Pool(seed_tasks(self.part.seeds), self.screen.rouge)
        return TaskWriter(self, page, pool)


@dataclass(slots=True)
class TaskWriter(SequentialWork["Engine"]):
    """Writes one round."""

    step: BootstrapStep
    page: Page
    pool: Pool
    recalled: int = 0
    lineage: str = ""
    round: Round = field(init=False)

    def __post_init__(self) -> None:
        rules = instruction_rules(self.step.screen)
        self.round = Round(self.step.part, rules, self.pool, self.page.leaks)

    def recall(self, rows: pa.Table) -> None:
        accepted = rows.filter(
            pa.array([reason is None for reason in rows["rejected"].to_pylist()], pa.bool_())
        )
        self.pool.add(accepted["id"].to_pylist(), accepted["instruction"].to_pylist())

    def forget(self) -> None:
        self.pool.forget()

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """One request a prompt, all at once."""
        part, index = self.step.part, rows["index"].to_numpy()
        ids: list[str] = rows["id"].to_pylist()
        if part.accepted is not None and len(self.pool.machine) >= part.accepted:
            return self._table(rows, [Candidate(reason=ENOUGH) for _ in ids], {}, [])
        prompts = list(draw_prompts(part, self.pool, self.step.seed, index.tolist()))
        firsts = np.array([index[prompt.places.start] for prompt in prompts], np.int64)
        list_seeds = seeds(self.step.seed, "bootstrap", firsts).tolist()
        # Tokenising and comparing take time that an engine in this event loop would wait for.
        asked = await asyncio.to_thread(lambda: [self._ids_of(prompt) for prompt in prompts])
        completions = await complete_each(
            engine,
            asked,
            (self._sampling(prompt, seed, engine) for prompt, seed in zip(prompts, list_seeds, strict=True)),
        )
        written = dict(zip(prompts, completions, strict=True))
        texts = {prompt: self.page.without_end(each.text) for prompt, each in written.items()}
        candidates = await asyncio.to_thread(self.round.decide, ids, written, texts)
        return self._table(rows, candidates, written, list_seeds)

    def _ids_of(self, prompt: Prompt) -> list[int]:
        shown, heading = numbered_list(prompt.shown), self.step.part.heading
        if heading is not None:
            return self.page.ids(heading, shown, plain=f"{heading}\n{shown}")
        return self.page.ids(LIST_REQUEST.format(count=prompt.last), shown, plain=LIST + shown)

    def _sampling(self, prompt: Prompt, seed: int, engine: Engine) -> Sampling:
        part, after = self.step.part, prompt.last + 1
        # With its mark: a task may have the bare number in it.
        stop = (*self.page.stop_texts, *part.stop, f"\n{after}.", f"\n{after} .", f"\n{after})")
        return drawn_by(part, seed, engine, stop_ids=self.page.stop_ids, stop=stop)

    def _table(
        self,
        rows: pa.Table,
        candidates: Sequence[Candidate],
        written: dict[Prompt, Completion],
        list_seeds: Sequence[int],
    ) -> pa.Table:
        part, name = self.step.part, self.step.name
        prompts: list[Prompt | None] = [None] * len(candidates)
        seed_of: list[int | None] = [None] * len(candidates)
        for prompt, seed in zip(written, list_seeds, strict=True):
            for place in prompt.places:
                prompts[place], seed_of[place] = prompt, seed
        completions = [None if prompt is None else written[prompt] for prompt in prompts]
        columns: dict[str, list[Any]] = {
            "raw_instruction": [candidate.raw for candidate in candidates],
            "instruction": [None if each.reason else each.instruction for each in candidates],
            **{
                setting: [None if prompt is None else getattr(part, setting) for prompt in prompts]
                for setting in ("temperature", "top_p", "top_k", "min_p")
            },
            "instruct_seed": seed_of,
            "instruct_tokens": [
                completion.token_count if prompt and completion and prompt.places.start == place else None
                for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
            ],
            "instruct_finish_reason": [each and each.finish_reason for each in completions],
            "instruct_error": [each and each.error for each in completions],
            "shots": [prompt and list(prompt.ids) for prompt in prompts],
            "similar_to": [each.similar and each.similar[0] for each in candidates],
            "similarity": [each.similar and each.similar[1] for each in candidates],
            "rejected": [each.reason and f"{name}: {each.reason}" for each in candidates],
        }
        return filled(rows, columns, self.step.adds)

"""The votes of a judge: the same question about the same instruction, asked once or several times."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from magpie.engines.base import Sampling
from magpie.recipe import Tag, TagName
from magpie.steps.base import CUT, Quote, seeds, why_no_answer
from magpie.steps.tag.prompt import JudgePrompt
from magpie.steps.tag.questions import Question

if TYPE_CHECKING:
    from magpie.engines.base import Engine


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer of the judge, or why there is none. `tokens` are those of both tries, where there were two."""

    answer: dict[str, Any] | None
    tokens: int
    retried: bool
    error: str


@dataclass(frozen=True, slots=True)
class Ballot:
    """Collects the votes on one tag. `step` is the name of the step and `seed` that of the run."""

    tag: TagName
    question: Question
    part: Tag
    step: str
    seed: int
    prompt: JudgePrompt
    stop_ids: tuple[int, ...]

    async def votes(
        self, instructions: Sequence[Quote], index: np.ndarray[Any, Any], engine: Engine
    ) -> list[list[Vote]]:
        """The votes on each instruction, which any of the judge's prompts has quoted.

        `index` are the positions of their rows in the run.
        """
        question, (first, again) = self.question, self._samplings()
        room = engine.model.context_length - self.part.max_tokens
        requests = []
        for instruction, *of_votes in zip(
            instructions, self._seeds(index, ""), self._seeds(index, "/again"), strict=True
        ):
            # All votes have the same prompt, which a prefix cache holds after the first of them.
            ids = self.prompt.ids(instruction, room=room)
            requests += [
                _vote(
                    question, engine, ids, replace(first, seed=seed), partial(replace, again, seed=again_seed)
                )
                for seed, again_seed in zip(*of_votes, strict=True)
            ]
        votes, times = await asyncio.gather(*requests), self.part.times
        return [votes[at : at + times] for at in range(0, len(votes), times)]

    def _samplings(self) -> tuple[Sampling, Sampling]:
        """How an answer is drawn, and how it is drawn once more after it was cut; without their seeds."""
        part, question = self.part, self.question
        first = Sampling(
            max_tokens=part.max_tokens,
            seed=0,
            temperature=part.temperature,
            stop_ids=self.stop_ids,
            schema=question.schema(max_text_length=part.max_text_length),
        )
        # Only the schema differs: its texts are so short that the whole answer fits.
        fitting = question.fitting_schema(max_tokens=part.max_tokens, max_text_length=part.max_text_length)
        return first, replace(first, schema=fitting)

    def _seeds(self, index: np.ndarray[Any, Any], suffix: str) -> list[tuple[int, ...]]:
        """For each row the seeds of its votes."""
        # Every row, vote and try has its own seed, so that no try repeats the draw of another. More votes do not change
        # the seeds of those before them: the first vote has the seed that it would have alone.
        purposes = [f"{self.step}/{self.tag}"]
        purposes += [f"{self.step}/{self.tag}/{vote}" for vote in range(2, self.part.times + 1)]
        of_votes = (seeds(self.seed, f"{purpose}{suffix}", index).tolist() for purpose in purposes)
        return list(zip(*of_votes, strict=True))


async def _vote(
    question: Question,
    engine: Engine,
    prompt: Sequence[int],
    first: Sampling,
    again: Callable[[], Sampling],
) -> Vote:
    """Ask, and `again` if the answer was cut before its end."""
    completion = await engine.complete(prompt, first)
    answer = question.answer(completion)
    # An answer that was cut may still be whole, such as before a last blank. One that ended and is not JSON is not
    # requested again: shorter texts would not help it.
    if answer is not None or completion.finish_reason != "length":
        return Vote(answer, completion.token_count, False, why_no_answer(completion))
    second = await engine.complete(prompt, again())
    error = f"{CUT} twice" if second.finish_reason == "length" else why_no_answer(second)
    return Vote(question.answer(second), completion.token_count + second.token_count, True, error)

"""One round of Self-Instruct: what its prompts show, and what becomes of each place for a task."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from magpie.engines.base import Completion
from magpie.recipe import Bootstrap, Screen
from magpie.self_instruct.parsing import split_numbered
from magpie.self_instruct.rouge import RougeFilter
from magpie.self_instruct.rules import InstructionRules, tidied
from magpie.self_instruct.tasks import Task
from magpie.steps.base import BROKEN_OFF, ENGINE_ERROR, ROLE_HEADER

NOTHING = "nothing written"
SIMILAR = "too similar"
ENOUGH = "enough are accepted"


def instruction_rules(part: Screen) -> InstructionRules:
    """The rules of a recipe about one instruction by itself."""
    return InstructionRules(
        min_words=part.min_words,
        max_words=part.max_words,
        words=part.words,
        openings=part.openings,
        punctuation=part.punctuation,
        ascii_only=part.ascii_only,
    )


class Pool:
    """The seeds, the tasks that earlier rounds accepted, and the filter that compares new ones with both."""

    def __init__(self, seeds: Sequence[Task], threshold: float) -> None:
        self.seeds = seeds
        self._threshold = threshold
        self.forget()

    def forget(self) -> None:
        """Be as before the first round."""
        self.machine: list[tuple[str, str]] = []
        self._filter = RougeFilter(self._threshold)
        self._filter.add([task.instruction for task in self.seeds])

    def add(self, ids: Sequence[str], instructions: Sequence[str]) -> None:
        """Take in what a round accepted."""
        self.machine += zip(ids, instructions, strict=True)
        self._filter.add(instructions)

    def compare(self, ids: Sequence[str], instructions: Sequence[str]) -> list[tuple[str, float] | None]:
        """For each, in order, the id and the F1 of an earlier one that it is too similar to; None for a new one.

        The pool is afterwards what it was.
        """
        count = len(self._filter)
        decisions = self._filter.screen(instructions)
        self._filter.rewind(count)
        names = [*(task.id for task in self.seeds), *(id for id, _ in self.machine)]
        names += [id for id, decision in zip(ids, decisions, strict=True) if decision.accepted]
        return [
            None if decision.accepted else (names[decision.most_similar[0][0]], decision.most_similar[0][1])
            for decision in decisions
        ]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one prompt shows, by id and by text, in its order, and the places of the round that it is to fill."""

    ids: tuple[str, ...]
    shown: tuple[str, ...]
    places: range

    @property
    def first(self) -> int:
        """The number of the first task that the model is to write."""
        return len(self.shown) + 1

    @property
    def last(self) -> int:
        """The number of the last."""
        return len(self.shown) + len(self.places)


def draw_prompts(part: Bootstrap, pool: Pool, run_seed: int, index: Sequence[int]) -> Iterator[Prompt]:
    """The prompts of a round whose rows have these positions in the run."""
    for start in range(0, len(index), part.tasks):
        # By the position of its first row: what a prompt shows depends on the pool, and on no other prompt.
        draw = random.Random(
            hashlib.blake2b(f"{run_seed}/shots/{index[start]}".encode(), digest_size=8).digest()
        )
        machine = draw.sample(pool.machine, min(part.machine_shots, len(pool.machine)))
        wanted = min(part.shots - len(machine), len(pool.seeds))
        seeds = [(task.id, task.instruction) for task in draw.sample(list(pool.seeds), wanted)]
        shots = machine + seeds
        draw.shuffle(shots)
        places = range(start, min(start + part.tasks, len(index)))
        yield Prompt(tuple(id for id, _ in shots), tuple(text for _, text in shots), places)


@dataclass(slots=True)
class Candidate:
    """What stands in one place of a round. `reason` says why it is out; None for a task that is accepted."""

    raw: str | None = None
    instruction: str = ""
    reason: str | None = NOTHING
    similar: tuple[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """Decides about the places of a round. `leaks` are texts that no person types."""

    part: Bootstrap
    rules: InstructionRules
    pool: Pool
    leaks: tuple[str, ...] = field(default=())

    def decide(
        self, ids: Sequence[str], written: Mapping[Prompt, Completion], texts: Mapping[Prompt, str]
    ) -> list[Candidate]:
        """A candidate for each row of the round, in order. `texts` are the completions without what ends a turn."""
        candidates = [Candidate() for _ in ids]
        for prompt, completion in written.items():
            self._fill(candidates, prompt, completion, texts[prompt])
        self._compare(ids, candidates)
        return candidates

    def _fill(self, candidates: list[Candidate], prompt: Prompt, completion: Completion, text: str) -> None:
        if completion.finish_reason == "error":
            for place in prompt.places:
                candidates[place].reason = ENGINE_ERROR
            return
        parts = split_numbered(text, prompt.first, prompt.last).texts
        broken = BROKEN_OFF.get(completion.finish_reason)
        for number, (place, part) in enumerate(zip(prompt.places, parts, strict=False), start=1):
            instruction = tidied(part)
            # A list that was cut is thrown away as a whole, as published, or as far as it was cut.
            is_cut = broken is not None and (self.part.cut == "all" or number == len(parts))
            if not instruction and not is_cut:
                continue
            reason = (
                broken if is_cut else ROLE_HEADER if self._leaks(part) else self.rules.problem(instruction)
            )
            candidates[place] = Candidate(part, instruction, reason)

    def _leaks(self, text: str) -> bool:
        return any(leak in text for leak in self.leaks)

    def _compare(self, ids: Sequence[str], candidates: list[Candidate]) -> None:
        """Throw out what is too similar to what came before it, and what comes when enough are accepted."""
        fit = [place for place, candidate in enumerate(candidates) if candidate.reason is None]
        similar = self.pool.compare(
            [ids[place] for place in fit], [candidates[place].instruction for place in fit]
        )
        left = len(fit) if self.part.accepted is None else self.part.accepted - len(self.pool.machine)
        for place, other in zip(fit, similar, strict=True):
            candidate = candidates[place]
            if other is not None:
                candidate.reason, candidate.similar = SIMILAR, other
            elif left <= 0:
                candidate.reason = ENOUGH
            else:
                left -= 1

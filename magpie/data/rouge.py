"""Instructions from files through the ROUGE-L filter of Self-Instruct."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from magpie.data.instructions import read_instructions
from magpie.recipe import NamedDataset
from magpie.self_instruct.rouge import Decision, RougeFilter
from magpie.steps.base import Instructions

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class RougeResult:
    """The instructions of a file in their order, and what was decided about each.

    `places` names every text that was in the pool, by its number: those of `against` first, then the accepted ones.
    """

    threshold: float
    instructions: Instructions
    decisions: tuple[Decision, ...]
    places: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def accepted(self) -> int:
        """How many instructions are kept."""
        return sum(decision.accepted for decision in self.decisions)

    @property
    def rejected(self) -> int:
        """How many instructions are too similar to an earlier one."""
        return len(self.decisions) - self.accepted

    def rows(self) -> Iterator[dict[str, Any]]:
        """A JSON object for each instruction; `most_similar` holds [place, F1], where it is known."""
        named = zip(self.instructions.ids, self.instructions.texts, self.decisions, strict=True)
        for id_, text, decision in named:
            similar = [[self.places[number], score] for number, score in decision.most_similar]
            row = {"id": id_, "instruction": text, "accepted": decision.accepted, "most_similar": similar}
            if decision.average is not None:
                row["avg_similarity_score"] = decision.average
            yield row


def screen_files(
    named: str | NamedDataset,
    *,
    against: Sequence[str | NamedDataset] = (),
    threshold: float,
    averages: bool = False,
    on_progress: OnProgress = lambda what, done, total: None,
) -> RougeResult:
    """Decide about every instruction of a dataset, in its order, after taking those of `against` as they are.

    Raises RecipeError when a dataset cannot be read.
    """
    pool = RougeFilter(threshold, averages=averages)
    places, texts = list[str](), list[str]()
    for other in against:
        earlier = read_instructions(other)
        pool.add(earlier.texts)
        places += earlier.places
        texts += earlier.texts
    instructions = read_instructions(named)
    decisions = pool.screen(
        instructions.texts, lambda done, total: on_progress("comparing instructions", done, total)
    )
    for place, text, decision in zip(instructions.places, instructions.texts, decisions, strict=True):
        if decision.accepted:
            places.append(place)
            texts.append(text)
    return RougeResult(threshold, instructions, tuple(decisions), tuple(places), tuple(texts))

"""How many tokens the conversations are, as the chat template of a named tokenizer renders them."""

from __future__ import annotations

from dataclasses import dataclass

from magpie.errors import MagpieError
from magpie.plan.tools import BuildTools
from magpie.publish.card.measures import Lengths, Measures, OnRows, lengths
from magpie.publish.source import Source
from magpie.recipe import Model

MOST_ROWS = 20_000
"""So many conversations are counted, drawn by a fixed seed where there are more."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of `counted` conversations, and of all rows: exact where all were counted."""

    tokenizer: str
    counted: int
    rows: int
    spread: Lengths

    @property
    def is_exact(self) -> bool:
        """Whether every row was counted."""
        return self.counted == self.rows

    @property
    def total(self) -> int:
        """Tokens of all rows."""
        return self.spread.total if self.is_exact else round(self.spread.total / self.counted * self.rows)


def count_tokens(
    source: Source, measures: Measures, tokenizer: str | None, on_rows: OnRows = lambda _: None
) -> Tokens | str:
    """The tokens by `tokenizer`, or by the generator's own; or why they are not counted.

    Raises ModelError and ChatFormatError for a tokenizer that was asked for and cannot be used.
    """
    model = Model(model=tokenizer) if tokenizer is not None else _generator(source)
    if model is None:
        return "Tokens were not counted: no tokenizer is known. `--tokenizer MODEL` names one."
    if not measures.conversations:
        return "There are no rows to count tokens of."
    try:
        transcript = BuildTools().transcript(model)
        counts = []
        for turns in measures.conversations:
            counts.append(len(transcript.ids(turns)))
            on_rows(1)
    except MagpieError as error:
        if tokenizer is not None:
            raise
        return f"Tokens were not counted: {str(error).partition(';')[0]}. `--tokenizer MODEL` names another tokenizer."
    spread = lengths(counts)
    assert spread is not None
    return Tokens(_name(model), len(counts), measures.rows, spread)


def _generator(source: Source) -> Model | None:
    """The model that wrote the instructions."""
    if source.provenance is None:
        return None
    for step in source.provenance.steps:
        if step.uses is not None and step.credited_as is not None:
            return source.provenance.recipe.model(step.uses.role)
    return None


def _name(model: Model) -> str:
    if model.engine == "scripted":
        return "the scripted engine (its tokens are bytes)"
    return model.model if model.revision is None else f"{model.model} at {model.revision[:12]}"

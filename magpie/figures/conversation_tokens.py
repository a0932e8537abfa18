"""How many tokens whole conversations are, as the chat template of a named tokenizer renders them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magpie.errors import MagpieError
from magpie.figures.reading import conversation
from magpie.figures.report_rows import TEXTS, ReportRows
from magpie.figures.spreads import Floats
from magpie.plan.tools import BuildTools
from magpie.recipe import Model

MOST_ROWS = 2_000
"""The most conversations whose tokens a report counts."""

_SPOKEN = {"user": 0, "human": 0, "assistant": 1, "gpt": 1, "chosen": 1}


@dataclass(frozen=True, slots=True)
class ConversationTokens:
    """The tokens of each conversation of a seeded sample of the `of` kept rows, by a named `tokenizer`."""

    tokenizer: str
    values: Floats
    of: int

    def share_over(self, limit: int) -> float:
        """The share of the conversations with more tokens than `limit`."""
        return float((self.values > limit).mean())


def conversation_tokens(rows: ReportRows, tokenizer: str | None = None) -> ConversationTokens | str:
    """The tokens by `tokenizer`, or by that of the generator; or why they are not counted.

    Raises ModelError and ChatFormatError where a tokenizer that was named cannot be used.
    """
    model = _tokenizer(rows, tokenizer)
    if model is None:
        return "no tokenizer is known; name one with --tokenizer MODEL"
    at = rows.sample(MOST_ROWS)
    turns = [_turns(row) for row in rows.at(at, TEXTS).to_pylist()] if len(at) else []
    turns = [each for each in turns if each]
    if not turns:
        return "no kept row is a conversation by turns"
    try:
        transcript = BuildTools().transcript(model)
        counts = np.array([len(transcript.ids(each)) for each in turns], np.float64)
    except MagpieError as error:
        if tokenizer is not None:
            raise
        return f"{str(error).partition(';')[0]}; name a tokenizer with --tokenizer MODEL"
    name = "the scripted engine (its tokens are bytes)" if model.engine == "scripted" else model.model
    return ConversationTokens(name, counts, int(rows.kept.sum()))


def _tokenizer(rows: ReportRows, named: str | None) -> Model | None:
    if named is not None:
        return Model(model=named, engine="scripted" if named == "scripted" else None)
    return None if rows.recipe is None else rows.recipe.model("generator")


def _turns(row: dict[str, object]) -> list[str]:
    """What user and assistant say by turns, the user first; nothing where they do not."""
    said = [(_SPOKEN[role], text) for role, text in conversation(row) if role in _SPOKEN]
    by_turns = [who for who, _ in said] == [at % 2 for at in range(len(said))]
    return [text for _, text in said] if by_turns else []

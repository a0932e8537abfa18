"""The section `pii`: personal information in the texts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from magpie.recipe.base import Section
from magpie.recipe.problems import COUNTRY

PiiKind = Literal["email", "phone", "secret"]


class Pii(Section):
    """Searches for personal information in the instruction and in everything that answers it.

    The answers are the response, all further turns, the candidates for a preference pair and the base model's answer.
    """

    action: Literal["mark", "reject", "redact"] = "mark"
    """What to do with what is found.

    `mark` names it in the columns `pii` and `response_pii`. `reject` also rejects the row. `redact` also replaces it
    with [EMAIL], [PHONE] or [SECRET], for every later step and in the dataset.
    """
    kinds: tuple[PiiKind, ...] = Field(default=("email", "phone", "secret"), min_length=1)
    """What to search for. Secrets are API keys, tokens, and passwords inside URLs."""
    columns: tuple[Literal["instruction", "response"], ...] = Field(
        default=("instruction", "response"), min_length=1
    )
    """Which texts to search. `response` stands for everything that answers the instruction."""
    phone_region: str | None = Field(default="US", pattern=COUNTRY)
    """The country (ISO 3166, such as US) of phone numbers that are written without a country code.

    null finds only numbers with a country code.
    """

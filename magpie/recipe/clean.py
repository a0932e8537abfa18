"""What a recipe says of each text by itself: whether it is a message, in which language, and what of it is personal."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from magpie.recipe.base import Part, Text


class Clean(Part):
    """Strips what is not the message, and rejects what is not one. Lengths are characters.

    `prefixes` are texts that come off the beginning in upper or lower case, besides labels such as "Question:".
    From the first of `cut_at` on everything is cut away, such as "## Step 1" in the published multi-turn set of Llama
    3.1, which goes on to answer itself; what was wrong behind the cut is no reason to reject a row.
    """

    min_length: int = Field(default=8, ge=0)
    max_length: int = Field(default=8192, ge=1)
    prefixes: tuple[Text, ...] = ()
    cut_at: tuple[Text, ...] = ()


class Language(Part):
    """Names each instruction's language (ISO 639-1).

    `keep` rejects every language that is not in it; `keep: steered` rejects a row in any language but the one that
    `steer.variables.language` gave it.
    """

    keep: tuple[str, ...] | Literal["steered"] | None = None

    @field_validator("keep", mode="before")
    @classmethod
    def _is_a_list_or_steered(cls, keep: Any) -> Any:
        if keep in (None, "steered") or (
            isinstance(keep, list | tuple) and all(isinstance(one, str) for one in keep)
        ):
            return keep
        raise ValueError("must be a list of languages such as [en, de], or `steered`")


PiiKind = Literal["email", "phone", "secret"]


class Pii(Part):
    """Looks for what may belong to a person, in the instruction and in all that answers it, candidates for a pair and
    the base model's answer too.

    `mark` says in the columns `pii` and `response_pii` what was found, `reject` puts such rows out, and `redact`
    replaces it by [EMAIL], [PHONE] or [SECRET] for every later step and the dataset. Secrets are keys, tokens and
    passwords in addresses. `phone_region` is where phone numbers without a country's code are from (an ISO 3166 code
    such as US); null finds those with a code only.
    """

    action: Literal["mark", "reject", "redact"] = "mark"
    kinds: tuple[PiiKind, ...] = Field(default=("email", "phone", "secret"), min_length=1)
    columns: tuple[Literal["instruction", "response"], ...] = Field(
        default=("instruction", "response"), min_length=1
    )
    phone_region: str | None = Field(default="US", pattern=r"^[A-Z]{2}$")

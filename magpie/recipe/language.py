"""The section `language`: which language an instruction is in."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from magpie.recipe.base import Section


class Language(Section):
    """Detects the language of each instruction and writes its ISO 639-1 code into the column `language`."""

    keep: tuple[str, ...] | Literal["steered"] | None = None
    """Languages to keep, such as [en, de]; rows in any other language are rejected. null keeps every language.

    `steered` rejects a row that is not in the language that `steer.variables.language` gave it.
    """

    @field_validator("keep", mode="before")
    @classmethod
    def _check_list_or_steered(cls, keep: Any) -> Any:
        # Pydantic would name each type of the union in an error of its own; this gives one error.
        if keep in (None, "steered") or (
            isinstance(keep, list | tuple) and all(isinstance(language, str) for language in keep)
        ):
            return keep
        raise ValueError("must be a list of languages such as [en, de], or `steered`")

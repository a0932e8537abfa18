"""Names the language of each instruction, and keeps the languages a recipe asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from magpie.errors import RecipeError
from magpie.models.languages import detect, unload
from magpie.models.languages import load as _load
from magpie.recipe import Language, Recipe
from magpie.recipe.languages import LANGUAGES
from magpie.recipe.steer import Steer
from magpie.steps.base import REJECTED, PreparedWork, RowStep, Tools, column, live, spread, values_at


@dataclass(frozen=True, slots=True)
class LanguageStep(RowStep):
    """Adds `language`, an ISO 639-1 code in lower case, or null where a text shows none.

    With `keep` set, a row in another language is rejected as "language: fr", one that shows none as
    "language: unknown". `keep: steered` keeps the language that `steer_language` says the row was steered to.
    """

    part: Language
    steer: Steer | None = None

    name = "language"

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[LanguageStep, ...]:
        """The step, where the recipe looks at languages. Raises RecipeError for one that cannot be told apart."""
        part = recipe.language
        return () if part is None else (cls(part, recipe.steer),)

    def __post_init__(self) -> None:
        if self.part.keep == "steered":
            _refuse_unsteered(self.steer)
        else:
            _refuse_unknown("`language.keep`", self.part.keep or ())

    @property
    def reads(self) -> tuple[str, ...]:
        """The instruction; with `keep: steered`, also the language that the row was steered to."""
        return ("instruction", "steer_language") if self.part.keep == "steered" else ("instruction",)

    @property
    def adds(self) -> pa.Schema:
        """`language`, and `rejected` when only some languages are kept."""
        language = column(
            "language",
            pa.string(),
            "The language of the instruction, as an ISO 639-1 code; null where it cannot be told.",
            published="language",
        )
        return pa.schema([language] if self.part.keep is None else [language, REJECTED])

    @property
    def settings(self) -> dict[str, Any]:
        """The languages kept."""
        return self.part.model_dump(mode="json")

    @property
    def bytes_per_row(self) -> int:
        return 2

    def problem(self, reason: str) -> str:
        return "language"

    def bind(self, _: Tools) -> Detector:
        return Detector(self)


@dataclass(frozen=True, slots=True)
class Detector(PreparedWork[None]):
    """Names languages with lingua's models, which it loads and unloads."""

    step: LanguageStep

    async def prepare(self) -> None:
        """Loads lingua's models."""
        # This takes seconds in which no other Python thread runs, so it is done before an engine is at work.
        await asyncio.to_thread(_load)

    async def close(self) -> None:
        """Unloads lingua's models."""
        unload()

    async def run(self, rows: pa.Table, _: None) -> pa.Table:
        """Detects in a thread, so that an engine fed by the same event loop is not kept waiting."""
        return await asyncio.to_thread(self._detect, rows)

    def _detect(self, rows: pa.Table) -> pa.Table:
        at = live(rows)
        languages = list(detect(values_at(rows, "instruction", at)))
        keep: Any = self.step.part.keep
        columns = {"language": languages}
        if keep is not None:
            # The languages to keep: for each row its own, or the same for all.
            if keep == "steered":
                wanted = [(language,) for language in values_at(rows, "steer_language", at)]
            else:
                wanted = [keep] * len(at)
            columns["rejected"] = [
                None if language in languages_to_keep else f"language: {language or 'unknown'}"
                for language, languages_to_keep in zip(languages, wanted, strict=True)
            ]
        return spread(rows, at, columns, self.step.adds)


def _refuse_unsteered(steer: Steer | None) -> None:
    """Raises RecipeError unless every row will be steered to a language that can be detected."""
    if steer is None or "language" not in steer.variables:
        raise RecipeError(
            "`language.keep: steered` needs languages to steer to; add `steer.variables.language`, "
            "such as {de: German, fr: French}, or list the languages to keep"
        )
    _refuse_unknown("`steer.variables.language`", steer.languages)
    if steer.unsteered:
        raise RecipeError(
            "`language.keep: steered` needs a language for every row, and `steer.unsteered` leaves some without; "
            "set it to 0, or list the languages to keep"
        )
    for prompt in steer.prompts:
        if "language" not in prompt.slots:
            raise RecipeError(
                f"`language.keep: steered` needs a language for every row, and the prompt {prompt.id!r} has none; "
                "put `{language}` into it, or list the languages to keep"
            )


def _refuse_unknown(place: str, languages: Iterable[str]) -> None:
    if unknown := sorted(set(languages) - LANGUAGES):
        raise RecipeError(
            f"{place}: {', '.join(map(repr, unknown))} cannot be detected; "
            "give ISO 639-1 codes in lower case, such as en or de"
        )

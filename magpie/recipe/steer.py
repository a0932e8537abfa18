"""The section `steer`: which kind of user the generator writes as."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product
from math import prod
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from magpie.recipe.base import Part, Section, Share, Text
from magpie.recipe.languages import LANGUAGES
from magpie.recipe.problems import nearest
from magpie.text import normal

_PLACEHOLDER = re.compile(r"\{([A-Za-z]\w*)\}")
_ESCAPED = re.compile(r"\{\{([A-Za-z]\w*)\}\}")  # {{domain}} stands for the text {domain}
_MAX_PAIRS = 1_000_000


class SteerText(Part):
    """A prompt, or one value of a variable.

    In a prompt, `{domain}` stands for the text of a value of the variable `domain`, and `{{domain}}` for the text
    "{domain}".
    """

    id: str
    """The name of this text in the column `steer_id`."""
    text: Text
    """The text itself."""
    share: Share = 1.0
    """How many of the rows get it, relative to the other shares of the list. Shares need not add up to 1."""

    @field_validator("id")
    @classmethod
    def _check_id(cls, id: str) -> str:
        # The column `steer_id` joins ids by `;` and `=`.
        if not re.fullmatch(r"[^\s;=]+", id):
            raise ValueError("must be a name without spaces, `;` and `=`")
        return id

    @property
    def slots(self) -> frozenset[str]:
        """The names of the variables that a prompt contains."""
        return frozenset(_PLACEHOLDER.findall(_ESCAPED.sub("", self.text)))

    def filled(self, values: Mapping[str, str]) -> str:
        """The prompt, with each variable replaced by its value."""
        pieces = _ESCAPED.split(self.text)  # pieces 1, 3, 5, ... are names that stood in double braces
        return "".join(
            f"{{{piece}}}" if number % 2 else _PLACEHOLDER.sub(lambda match: values[match[1]], piece)
            for number, piece in enumerate(pieces)
        )


class Refill(Part):
    """What rows are steered by from one row on, to fill cells that are short. A build writes it, and no person."""

    start: int = Field(ge=0)
    """The first row."""
    shares: dict[str, float] = Field(default_factory=dict)
    """The share of each prompt with its values, by the id in `steer_id`; none are as in the rows before any refill."""


class Steer(Section):
    """Tells the generator what kind of user to write as, by a system prompt before the user's message.

    Only `instruct` gets these prompts: a response is written to the instruction alone.
    """

    catalogue: Text | None = None
    """A catalogue of topics, kinds of request and facets, in the place of `prompts`: general, math, code, support, or a
    YAML file of the same form, in the folder of the recipe file. Its texts are written into the run's recipe.
    """
    documents: Text | None = None
    """Documents that users ask about: a text file, a file of records with a column `text`, or a folder of such files.

    A part of one stands before the user's header, behind the prompt if there is one, and before the instruction when
    it is answered and in the messages. A path is looked up in the working directory first, then in the folder of the
    recipe file.
    """
    document_tokens: int = Field(default=2048, ge=16)
    """The most tokens of a document that stand in one row. A longer one is cut between paragraphs, else sentences."""
    prompts: tuple[SteerText, ...] = ()
    """The system prompts. Each gets its share of the rows, whichever variables it contains."""
    variables: dict[str, tuple[SteerText, ...]] = Field(default_factory=dict)
    """Values for the variables in the prompts: {domain: [graphs, trees]} fills in `{domain}`."""
    combine: Literal["cross", "sample", "cycle"] = "cross"
    """How prompts are paired with values.

    `cross` uses every prompt with every value of its variables, spread evenly over the rows by position. `sample` draws
    a prompt and its values at random for each row, by seed. `cycle` deals them out like cards: in every round of the
    longest list each of its values comes once, in an order drawn by seed, and meets every value of the other lists in
    turn. It takes no shares, and is what a catalogue does.
    """
    refills: tuple[Refill, ...] = ()
    """What a build with `until` has steered later rows by. Leave it out: builds write it."""
    unsteered: float = Field(default=0.0, ge=0, lt=1)
    """The share of rows that get no system prompt, spread evenly: they show what the model writes by itself."""

    @model_validator(mode="after")
    def _check_texts(self) -> Steer:
        if self.catalogue is not None:
            raise ValueError(
                "`catalogue` is read from a recipe; to change one that is loaded, change its file"
            )
        if not self.prompts and self.documents is None:
            raise ValueError("needs `prompts`, a `catalogue` or `documents`; add one of them")
        for name, values in self.variables.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"the variable {name!r} must be named in lower-case letters, digits and `_`")
            if not values:
                raise ValueError(f"the variable {name!r} has no values; give it some, or take it out")
            _refuse_same_ids(values, f"the values of {name!r}")
        _refuse_same_ids(self.prompts, "the prompts")
        self._check_variables()
        pairs = sum(
            prod(len(self.variables[name]) for name in self.variables_of(prompt)) for prompt in self.prompts
        )
        if self.combine == "cross" and pairs > _MAX_PAIRS:
            raise ValueError(f"prompts and values make {pairs:,} pairings; use `combine: sample` for so many")
        texts = (text for group in (self.prompts, *self.variables.values()) for text in group)
        if self.combine == "cycle" and any(text.share != 1 for text in texts):
            raise ValueError(
                "`combine: cycle` gives every text its turn and takes no `share`; use `cross`, or `sample`"
            )
        return self

    def _check_variables(self) -> None:
        """Every variable in a prompt has values, and every variable is in a prompt."""
        for prompt in self.prompts:
            for name in sorted(prompt.slots - self.variables.keys()):
                close = nearest(name, self.variables)
                advice = f"write `{{{close}}}`" if close else "add it to `variables`"
                raise ValueError(
                    f"the prompt {prompt.id!r} holds `{{{name}}}`, which is no variable; {advice}, "
                    f"or `{{{{{name}}}}}` for the braces themselves"
                )
        unused = [name for name in self.variables if not any(name in prompt.slots for prompt in self.prompts)]
        if unused:
            raise ValueError(
                f"no prompt holds `{{{unused[0]}}}`; put it into one, or take {unused[0]!r} out of `variables`"
            )

    @property
    def languages(self) -> tuple[str, ...]:
        """The ids of the variable `language`; none where there is no such variable."""
        return tuple(value.id for value in self.variables.get("language", ()))

    @property
    def names_languages(self) -> bool:
        """Whether the variable `language` is there and its ids are languages that can be told apart."""
        return bool(self.languages) and LANGUAGES.issuperset(self.languages)

    def texts_of(self, steer_id: str) -> dict[str, str]:
        """The text of each variable's value in an id such as "exercise;domain=graphs"."""
        chosen = values_in(steer_id)
        texts = {name: {value.id: value.text for value in values} for name, values in self.variables.items()}
        return {name: texts[name][value] for name, value in chosen.items() if value in texts.get(name, {})}

    def every_id(self, most: int) -> tuple[str, ...]:
        """The id of every prompt with every value of its variables, as in `steer_id`; none where there are more."""
        ids: list[str] = []
        for prompt in self.prompts:
            names = self.variables_of(prompt)
            if len(ids) + prod(len(self.variables[name]) for name in names) > most:
                return ()
            pairings = product(*(self.variables[name] for name in names))
            ids += [
                ";".join([prompt.id, *(f"{n}={value.id}" for n, value in zip(names, values, strict=True))])
                for values in pairings
            ]
        return tuple(ids)

    def variables_of(self, prompt: SteerText) -> tuple[str, ...]:
        """The variables that the prompt contains, in the recipe's order."""
        return tuple(name for name in self.variables if name in prompt.slots)

    def check(self, recipe: Any) -> None:
        """There is room for one system prompt only, and in the context for a document and a message about it."""
        model = recipe.model(recipe.instruct.model)
        needed = self.document_tokens + recipe.instruct.max_tokens
        if self.documents is not None and needed > model.context_length:
            raise ValueError(
                f"`document_tokens` ({self.document_tokens}) and `instruct.max_tokens` ({recipe.instruct.max_tokens}) "
                f"do not fit into the context of {model.context_length}; lower one of them, or raise "
                f"`models.{recipe.instruct.model}.context_length`"
            )
        if recipe.instruct.system_prompt is not None:
            raise ValueError(
                "`steer` and `instruct.system_prompt` both give the system prompt of the user's message; keep one"
            )


def values_in(steer_id: str) -> dict[str, str]:
    """The variables in an id such as "exercise;domain=graphs", and the id of the value that each has."""
    return dict(part.split("=", 1) for part in steer_id.split(";")[1:])


def _refuse_same_ids(texts: Iterable[SteerText], what: str) -> None:
    ids: set[str] = set()
    for text in texts:
        if normal(text.id) in ids:
            raise ValueError(f"the id {text.id!r} is given to two of {what}; give each an `id` of its own")
        ids.add(normal(text.id))

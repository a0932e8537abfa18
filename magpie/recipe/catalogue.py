"""Catalogues of what users ask about: topics, kinds of request and facets, in a file; as `steer` writes them out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from magpie import shipped
from magpie.errors import RecipeError
from magpie.recipe.base import Part, Text
from magpie.recipe.problems import validate
from magpie.recipe.reading import read_yaml

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_ID = re.compile(r"[^\s;=/]+")
_LANGUAGE = " The user writes in {language}."


class Catalogue(Part):
    """What users ask about, for `steer.catalogue`.

    Each frame is a system prompt with places for a topic (`{topic}`), a kind of request (`{kind}`) and facets by their
    names. Everything is crossed.
    """

    name: Text
    """The name of the catalogue."""
    description: str = ""
    """What it is about, in one sentence."""
    neutral: bool = True
    """Whether none of it belongs to one language: only then is it crossed with a variable `language`."""
    frames: dict[str, Text] = Field(min_length=1)
    """The system prompts by their ids."""
    fields: dict[str, dict[str, Text]] = Field(min_length=1)
    """The topics by their ids, in fields: `{food: {baking: baking bread}}` gives the topic `food/baking`."""
    kinds: dict[str, Text] = Field(default_factory=dict)
    """The kinds of request by their ids."""
    facets: dict[str, dict[str, Text]] = Field(default_factory=dict)
    """How a message is written: for each facet, such as `length`, its values by their ids."""

    @field_validator("facets")
    @classmethod
    def _check_facets(cls, facets: dict[str, Any]) -> dict[str, Any]:
        for name, values in facets.items():
            if not _NAME.fullmatch(name) or name in {"topic", "kind", "language"}:
                raise ValueError(
                    f"the facet {name!r} must be named in lower-case letters, digits and `_`, and not be "
                    "`topic`, `kind` or `language`"
                )
            if not values:
                raise ValueError(f"the facet {name!r} has no values; give it some, or take it out")
        return facets

    @model_validator(mode="after")
    def _check_ids(self) -> Catalogue:
        held = (self.frames, *self.fields.values(), self.kinds, *self.facets.values())
        ids = [*self.fields, *(id for group in held for id in group)]
        wrong = next((id for id in ids if not _ID.fullmatch(id)), None)
        if wrong is not None:
            raise ValueError(f"the id {wrong!r} must be a name without spaces, `;`, `=` and `/`")
        return self

    def steer(self, language: Any = None) -> dict[str, Any]:
        """The section `steer` that it stands for. `language` are values of a variable of that name."""
        if language is not None and not self.neutral:
            raise ValueError(
                f"the catalogue {self.name} belongs to one language; leave the variable `language` out"
            )
        more = "" if language is None else _LANGUAGE
        topics = {f"{field}/{id}": text for field, held in self.fields.items() for id, text in held.items()}
        variables: dict[str, Any] = {"topic": _texts(topics)}
        if self.kinds:
            variables["kind"] = _texts(self.kinds)
        variables |= {name: _texts(values) for name, values in self.facets.items()}
        if language is not None:
            variables["language"] = language
        prompts = _texts({id: f"{text.strip()}{more}" for id, text in self.frames.items()})
        return {"prompts": prompts, "variables": variables, "combine": "cycle"}


def write_out_catalogue(steer: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The section `steer` with the prompts and variables of its catalogue. Raises RecipeError."""
    if "prompts" in steer and steer["prompts"] not in (None, []):
        raise RecipeError("`catalogue` brings its own prompts; leave `prompts` out, or the catalogue")
    variables = steer.get("variables") or {}
    if not isinstance(variables, Mapping) or set(variables) - {"language"}:
        raise RecipeError(
            "beside `catalogue`, the one variable of your own is `language`; write others into a catalogue"
        )
    try:
        written = _catalogue(str(steer["catalogue"]), folder).steer(variables.get("language"))
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return {**steer, **written, "catalogue": None}


def _catalogue(name: str, folder: Path) -> Catalogue:
    own = folder / name
    path = own if own.is_file() else shipped.find("templates/topics", name)
    if path is None:
        names = ", ".join(shipped.names("templates/topics"))
        raise RecipeError(f"no catalogue {name!r}; give a YAML file or one of: {names}")
    return validate(Catalogue, read_yaml(path), str(path))


def _texts(texts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"id": id, "text": text} for id, text in texts.items()]

"""Under which licence a dataset is given on: that of its generators' outputs, and what it asks of whoever trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magpie.errors import RecipeError
from magpie.models.licences import OTHER, Licence, licence_by_key, licence_of, unread
from magpie.publish.card.measures import Measures
from magpie.publish.source import Source
from magpie.recipe import Model
from magpie.runs.record import recorded_ingredients
from magpie.steps.base import ModelUse


@dataclass(frozen=True, slots=True)
class UsedModel:
    """A model that took part: its name, its exact revision where that is known, and what it did.

    `writes` says that texts of the dataset are its own: its licence is the one that counts.
    """

    name: str
    revision: str | None
    engine: str | None
    did: tuple[str, ...]
    writes: bool
    licence: Licence | None


@dataclass(frozen=True, slots=True)
class Terms:
    """The licence of a dataset as its card gives it; `keys` is empty while it is not known.

    `given` says that a person named it. `unknown` are the generators whose licence nobody knows.
    """

    keys: tuple[str, ...]
    name: str | None
    link: str | None
    given: bool
    generators: tuple[tuple[str, Licence | None], ...]

    @property
    def unknown(self) -> tuple[str, ...]:
        """The generators whose licences are not known."""
        return tuple(name for name, licence in self.generators if licence is None)

    @property
    def licences(self) -> tuple[Licence, ...]:
        """The licences of the generators, each once."""
        known = {licence.key: licence for _, licence in self.generators if licence is not None}
        return tuple(known.values())

    @property
    def by_licence(self) -> list[tuple[Licence | None, list[str]]]:
        """Each licence with the generators that come under it."""
        grouped: dict[str | None, tuple[Licence | None, list[str]]] = {}
        for name, licence in self.generators:
            grouped.setdefault(None if licence is None else licence.key, (licence, []))[1].append(name)
        return list(grouped.values())

    def front(self) -> dict[str, Any]:
        """The keys of the card's front matter; empty while the licence is not known."""
        if not self.keys:
            return {}
        front: dict[str, Any] = {"license": self.keys[0] if len(self.keys) == 1 else list(self.keys)}
        if OTHER in self.keys:
            front |= {"license_name": self.name, "license_link": self.link}
        return front


def models_of(source: Source) -> tuple[UsedModel, ...]:
    """Every model that took part, in the order of the steps."""
    provenance = source.provenance
    if provenance is None:
        return ()
    recorded = {} if source.run is None else recorded_ingredients(source.run.storage) or {}
    used: dict[tuple[str, str | None], dict[str, Any]] = {}
    for step in provenance.steps:
        if step.uses is None:
            continue
        model = provenance.recipe.model(step.uses.role)
        made = recorded.get(step.name)
        identity = made.get("model") if isinstance(made, dict) else None
        identity = identity if isinstance(identity, dict) else {}
        entry = used.setdefault((model.model, model.revision), {"did": [], "writes": False, "identity": {}})
        entry["did"].append(step.name)
        # An answer may be held to a form, as those of a judge are: a step that writes answers writes them anyway.
        entry["writes"] |= step.answers or _writes(step.uses)
        entry["model"] = model
        entry["identity"] = entry["identity"] or identity
    return tuple(_used(**entry) for entry in used.values())


def terms_of(models: Sequence[UsedModel], measures: Measures, given: str | None) -> Terms:
    """The licence of the dataset: the one `given`, or that of all its generators. Raises RecipeError.

    Rows that were brought together from elsewhere name their own generators and licences.
    """
    generators: dict[str, Licence | None] = {each.name: each.licence for each in models if each.writes}
    if not generators:
        generators = _of_rows(measures.counts)
    named = tuple(generators.items())
    if given is not None:
        return Terms(*parse_licence(given), given=True, generators=named)
    known = {licence.key: licence for licence in generators.values() if licence is not None}
    if None in generators.values() or not known:
        return Terms((), None, None, False, named)
    keys = tuple(sorted({licence.hub for licence in known.values()}))
    others = [licence for licence in known.values() if licence.hub == OTHER]
    if len(others) > 1:  # the hub has room for the name and link of one
        return Terms((), None, None, False, named)
    other = others[0] if others else None
    name, link = (other.short, other.link) if other is not None else (None, None)
    return Terms(keys, name, link, False, named)


def parse_licence(given: str) -> tuple[tuple[str], str | None, str | None]:
    """Key, name and link of a licence that a person names: KEY, or NAME=LINK. Raises RecipeError."""
    name, equals, link = (part.strip() for part in given.partition("="))
    if equals and name and link.startswith(("https://", "http://")):
        return (OTHER,), name, link
    if equals or not name or name in {OTHER, "unknown"} or name != name.lower() or " " in name:
        raise RecipeError(
            f"--license {given!r}: give a key that the Hub knows, such as cc-by-4.0, or NAME=LINK for another licence"
        )
    known = licence_by_key(name)
    if known is not None and known.hub == OTHER:
        return (OTHER,), known.short, known.link
    return (name,), None, None


def _writes(use: ModelUse) -> bool:
    return use.purpose == "write" and not use.structured and use.speech in {"chat", "plain"}


def _used(model: Model, did: list[str], writes: bool, identity: Mapping[str, Any]) -> UsedModel:
    folder = Path(model.model)
    revision = identity.get("revision") or model.revision
    engine = identity.get("engine") or model.engine
    return UsedModel(
        name=folder.name if folder.is_absolute() else model.model,
        revision=None if revision is None else str(revision),
        engine=None if engine is None else str(engine),
        did=tuple(dict.fromkeys(did)),
        writes=writes,
        licence=licence_of(model.model),
    )


def _of_rows(counts: Mapping[str, Mapping[Any, int]]) -> dict[str, Licence | None]:
    """The licences that the rows themselves carry, or those of the generators that they name."""
    keys = [key for key in counts.get("license", {}) if key]
    # `other` says nothing without a name; the generators then may.
    if keys and None not in counts["license"] and OTHER not in keys:
        return {
            f"rows under {key}": licence_by_key(str(key)) or unread(str(key), said_by="the rows themselves")
            for key in keys
        }
    return {str(name): licence_of(str(name)) for name in counts.get("generator", {}) if name}

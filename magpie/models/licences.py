"""What a model's licence asks of whoever trains on its outputs: the files of templates/licences.

A model's licence is what its own card says, where the card lies beside its weights; else what a file says of its hub
name. It is what we read in the licences, and no legal advice. A model that neither knows has an unknown licence.
"""

from __future__ import annotations

from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from magpie import shipped
from magpie.recipe.base import Part
from magpie.recipe.problems import validate
from magpie.recipe.reading import read_yaml

OTHER = "other"
"""The hub's key for a licence that it has no key for."""

_CARD = "README.md"
_LONGEST_FRONT = 64 << 10  # bytes of a card that are looked at


class Licence(Part):
    """One file of templates/licences."""

    name: str
    """The licence's own name."""
    hub: str
    """Its key on the hub: the value of `license` in a card. `other` where the hub has none."""
    short: str | None = None
    """Its `license_name` in a card, where `hub` is `other`."""
    link: str
    """Where its text is."""
    models: tuple[str, ...]
    """Patterns of hub names: the models that come under it."""
    asks: str
    """What it asks of whoever trains on outputs, in a sentence."""
    outputs: str
    """What it says of outputs themselves, in a sentence."""
    notice: str | None = None
    """A notice that it wants to be kept with the model."""
    named: str | None = None
    """What the name of a model that is trained on outputs has to begin with."""
    only: str | None = None
    """The only models that outputs may improve; None where it sets no such limit."""
    free: bool
    """Whether it asks nothing of whoever trains on outputs."""
    source: str
    """What this was read in."""
    read: date | None = None
    """When it was read; None where only its name was."""

    @property
    def key(self) -> str:
        """The key by which it is one licence and not another: that of the hub, or its short name."""
        return self.short or self.hub


def licence_of(model: str, folder: Path | None = None) -> Licence | None:
    """The licence of the model of that name, whose files are in `folder` where they are here; None if not known."""
    own = _in_card(model, folder)
    by_name = _by_name(model)
    if own is None:
        return by_name
    key, name, link = own
    if by_name is not None and by_name.hub == key == OTHER:
        return by_name  # the card names a licence that the hub has no key for, as the file does
    known = licence_by_key(name if key == OTHER and name else key)
    if known is not None or (key == OTHER and not (name and link)):
        return known
    return unread(key, name, link, said_by=f"the card of {model}")


def unread(key: str, name: str | None = None, link: str | None = None, *, said_by: str) -> Licence:
    """A licence that somebody names and no file is of."""
    return Licence(
        name=name or key,
        hub=key,
        short=name if key == OTHER else None,
        link=link or "",
        models=(),
        asks="magpie has not read it: read it before you train on outputs.",
        outputs="What it says of outputs is not known to magpie.",
        free=False,
        source=said_by,
    )


def licence_by_key(key: str) -> Licence | None:
    """The licence with this key of the hub, or short name; None where there is no file of it."""
    return next((licence for licence in _licences() if key in {licence.short or licence.hub}), None)


def _by_name(model: str) -> Licence | None:
    # Of several patterns that fit, the longest says most.
    fitting = [
        (len(pattern), licence)
        for licence in _licences()
        for pattern in licence.models
        if fnmatchcase(model, pattern)
    ]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def _in_card(model: str, folder: Path | None) -> tuple[str, str | None, str | None] | None:
    """Key, name and link of the licence that the model's own card gives, from its folder or the hub's cache."""
    for card in (_beside(model, folder), _cached(model)):
        front = {} if card is None else _front_matter(card)
        key = front.get("license")
        if isinstance(key, list):
            key = key[0] if len(key) == 1 else None
        if isinstance(key, str) and key and key != "unknown":
            name, link = front.get("license_name"), front.get("license_link")
            return key, name if isinstance(name, str) else None, link if isinstance(link, str) else None
    return None


def _beside(model: str, folder: Path | None) -> Path | None:
    place = folder if folder is not None else Path(model)
    try:
        return place / _CARD if (place / _CARD).is_file() else None
    except (OSError, ValueError):  # such as a name that is longer than names may be
        return None


def _cached(model: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, _CARD)
    except (HFValidationError, OSError):
        return None
    return Path(found) if isinstance(found, str) else None


def _front_matter(card: Path) -> dict[str, Any]:
    try:
        with card.open("rb") as file:
            text = file.read(_LONGEST_FRONT).decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
        opening, front, *_ = text.split("---\n", 2)
        data = yaml.safe_load(front) if not opening.strip() else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


@cache
def _licences() -> tuple[Licence, ...]:
    folder = shipped.folder("templates/licences")
    return tuple(
        validate(Licence, read_yaml(folder / f"{name}.yaml"), f"templates/licences/{name}.yaml")
        for name in shipped.names("templates/licences")
    )

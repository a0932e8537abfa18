"""What a model's licence asks of whoever trains on its outputs: the files of templates/licences, found by hub name.

It is what we read in the licences, and no legal advice. A model that no file names has an unknown licence.
"""

from __future__ import annotations

from datetime import date
from fnmatch import fnmatchcase
from functools import cache

from magpie import shipped
from magpie.recipe.base import Part
from magpie.recipe.problems import validate
from magpie.recipe.reading import read_yaml


class Licence(Part):
    """One file of templates/licences."""

    name: str
    """The licence's own name."""
    hub: str
    """Its key on the hub: the value of `license` in a card."""
    link: str
    """Where its text is."""
    models: tuple[str, ...]
    """Patterns of hub names: the models that come under it."""
    asks: str
    """What it asks of whoever trains on outputs, in a sentence."""
    free: bool
    """Whether it asks nothing of them."""
    source: str
    """What this was read in."""
    read: date
    """When it was read."""


def licence_of(model: str) -> Licence | None:
    """The licence of the model of that name; None where it is not known."""
    # Of several patterns that fit, the longest says most.
    fitting = [
        (len(pattern), licence)
        for licence in _licences()
        for pattern in licence.models
        if fnmatchcase(model, pattern)
    ]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


@cache
def _licences() -> tuple[Licence, ...]:
    folder = shipped.folder("templates/licences")
    return tuple(
        validate(Licence, read_yaml(folder / f"{name}.yaml"), f"templates/licences/{name}.yaml")
        for name in shipped.names("templates/licences")
    )

"""Everything a person writes to say what to build: `recipe.py` and `steer.py` say what, `loading.py` reads it."""

from magpie.recipe.base import Part
from magpie.recipe.recipe import (
    Clean,
    Dedup,
    Draw,
    Embed,
    EngineKind,
    Extend,
    Filter,
    Instruct,
    Language,
    Model,
    Quotas,
    Recipe,
    Respond,
    Rule,
    Script,
    Server,
    Tag,
    TagName,
    Top,
)
from magpie.recipe.scores import Guard, GuardSubject, Reward
from magpie.recipe.steer import Steer, SteerText

__all__ = [
    "Clean",
    "Dedup",
    "Draw",
    "Embed",
    "EngineKind",
    "Extend",
    "Filter",
    "Guard",
    "GuardSubject",
    "Instruct",
    "Language",
    "Model",
    "Part",
    "Quotas",
    "Recipe",
    "Respond",
    "Reward",
    "Rule",
    "Script",
    "Server",
    "Steer",
    "SteerText",
    "Tag",
    "TagName",
    "Top",
]

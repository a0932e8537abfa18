"""Everything a person writes to say what to build: a file for each subject, `recipe.py` for the whole, `loading.py` to
read it."""

from magpie.recipe.base import Part
from magpie.recipe.clean import Clean, Language, Pii, PiiKind
from magpie.recipe.filter import Filter, Quotas, Rule, Top
from magpie.recipe.models import EngineKind, Model, Script, Server
from magpie.recipe.recipe import Recipe
from magpie.recipe.repeats import Decontaminate, Dedup, Embed
from magpie.recipe.scores import Baseline, Guard, GuardSubject, Prefer, Reward
from magpie.recipe.steer import Steer, SteerText
from magpie.recipe.tag import Tag, TagName
from magpie.recipe.writing import Draw, Extend, Instruct, Respond

__all__ = [
    "Baseline",
    "Clean",
    "Decontaminate",
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
    "Pii",
    "PiiKind",
    "Prefer",
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

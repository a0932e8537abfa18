"""What a person writes to say what to build. One file a section, `recipe.py` for the whole, `loading.py` to read it."""

from magpie.recipe.base import Part, Role, RoleName, Section
from magpie.recipe.bootstrap import Bootstrap, Speech
from magpie.recipe.clean import Clean
from magpie.recipe.datasets import NamedDataset
from magpie.recipe.decontaminate import Decontaminate
from magpie.recipe.dedup import Dedup
from magpie.recipe.embed import Embed
from magpie.recipe.extend import Extend
from magpie.recipe.filter import Filter, Quotas, Rule, Top
from magpie.recipe.gate import Gate
from magpie.recipe.guard import Guard, GuardSubject
from magpie.recipe.identify import Identify
from magpie.recipe.instances import Instances
from magpie.recipe.instruct import Draw, Instruct
from magpie.recipe.known import Known
from magpie.recipe.language import Language
from magpie.recipe.models import EngineKind, Model, Script, Server
from magpie.recipe.pii import Pii, PiiKind
from magpie.recipe.prefer import Prefer
from magpie.recipe.questions import AnswerColumn, JudgeQuestion
from magpie.recipe.recipe import Recipe
from magpie.recipe.refine import Refine
from magpie.recipe.respond import Respond
from magpie.recipe.review import Review
from magpie.recipe.reward import Baseline, Reward
from magpie.recipe.screen import Screen
from magpie.recipe.steer import Steer, SteerText
from magpie.recipe.steps import CustomColumn, CustomStep, StepFacts
from magpie.recipe.tag import Tag, TagName

__all__ = [
    "AnswerColumn",
    "Baseline",
    "Bootstrap",
    "Clean",
    "CustomColumn",
    "CustomStep",
    "Decontaminate",
    "Dedup",
    "Draw",
    "Embed",
    "EngineKind",
    "Extend",
    "Filter",
    "Gate",
    "Guard",
    "GuardSubject",
    "Identify",
    "Instances",
    "Instruct",
    "JudgeQuestion",
    "Known",
    "Language",
    "Model",
    "NamedDataset",
    "Part",
    "Pii",
    "PiiKind",
    "Prefer",
    "Quotas",
    "Recipe",
    "Refine",
    "Respond",
    "Review",
    "Reward",
    "Role",
    "RoleName",
    "Rule",
    "Screen",
    "Script",
    "Section",
    "Server",
    "Speech",
    "Steer",
    "SteerText",
    "StepFacts",
    "Tag",
    "TagName",
    "Top",
]

"""All that a person writes to say what to build, together and checked.

A recipe is one YAML file, read by `loading.py`. Each step has a section named after it; a section set to null switches
its step off. A model is written once under `models` and named by its role; a role may point at another
(`judge: generator`), and then both are one loaded model. `filter` names a file of `filters/`, or holds the rules.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from magpie.recipe.base import Part
from magpie.recipe.clean import Clean, Language, Pii
from magpie.recipe.filter import Filter
from magpie.recipe.models import EngineKind, Model
from magpie.recipe.repeats import Decontaminate, Dedup, Embed
from magpie.recipe.scores import Guard, Prefer, Reward
from magpie.recipe.steer import Steer
from magpie.recipe.tag import Tag
from magpie.recipe.writing import Extend, Instruct, Respond


class Recipe(Part):
    """One dataset to build. `rows` counts instructions asked for; `shard_rows` is the unit of commit and of retry."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = ""
    rows: int = Field(ge=1)
    seed: int = Field(default=42, ge=0)
    shard_rows: int = Field(default=1000, ge=1)
    engine: EngineKind = "auto"
    models: dict[str, Model]
    steer: Steer | None = None
    instruct: Instruct = Instruct()
    clean: Clean = Clean()
    pii: Pii | None = None
    language: Language | None = Language()
    embed: Embed | None = Embed()
    decontaminate: Decontaminate | None = None
    dedup: Dedup | None = Dedup()
    tag: Tag | None = Tag()
    respond: Respond | None = Respond()
    extend: Extend | None = None
    reward: Reward | None = None
    prefer: Prefer | None = None
    guard: Guard | None = None
    filter: Filter | None = None

    @model_validator(mode="after")
    def _roles_are_there(self) -> Recipe:
        for part in ("instruct", "embed", "tag", "respond", "extend", "reward", "prefer", "guard"):
            section = getattr(self, part)
            if section is not None and section.model not in self.models:
                roles = ", ".join(self.models) or "none"
                raise ValueError(
                    f"`{part}.model` is {section.model!r}, which is not under `models`; the roles there are: {roles}"
                )
        _check_second_judge(self)
        baseline = self.reward and self.reward.baseline
        if baseline and baseline.model not in self.models:
            raise ValueError(
                f"`reward.baseline.model` is {baseline.model!r}, which is not under `models`; "
                "name there the base model that the generator was aligned from"
            )
        if self.prefer is not None and self.prefer.reward not in self.models:
            raise ValueError(
                f"`prefer.reward` is {self.prefer.reward!r}, which is not under `models`; "
                "name there the reward model that chooses among the answers"
            )
        return self

    @model_validator(mode="after")
    def _sections_fit(self) -> Recipe:
        for needs, needed in (("dedup", "embed"), ("extend", "respond"), ("reward", "respond")):
            if getattr(self, needs) is not None and getattr(self, needed) is None:
                raise ValueError(
                    f"`{needs}` needs `{needed}`, which is switched off; switch off both or neither"
                )
        if self.decontaminate is not None and self.decontaminate.distance is not None and self.embed is None:
            raise ValueError(
                "`decontaminate.distance` needs `embed`, which is switched off; switch it on, or leave `distance` out"
            )
        if self.guard is not None and "response" in self.guard.of and self.respond is None:
            raise ValueError("`guard.of` names the response and `respond` is off; use `of: [instruction]`")
        if self.guard is not None and "chosen" in self.guard.of and self.prefer is None:
            raise ValueError(
                "`guard.of` names the chosen answer and `prefer` is off; leave `chosen` out of it"
            )
        if self.steer is not None and self.instruct.system_prompt is not None:
            raise ValueError(
                "`steer` and `instruct.system_prompt` both give the system prompt of the user's message; keep one"
            )
        return self

    def model(self, role: str) -> Model:
        """The model that plays `role`, with the recipe's engine filled in."""
        model = self.models[role]
        return model if model.engine is not None else model.model_copy(update={"engine": self.engine})


_NO_SECOND_OPINION = (
    "engine", "context_length", "tensor_parallel", "slots", "gpu_memory", "separate_process", "thinking",
)  # fmt: skip
"""What may differ between models that judge alike: where and how they run, and a reasoning that judges leave out."""


def _check_second_judge(recipe: Recipe) -> None:
    """A second judge is there, and is another than the first."""
    if recipe.tag is None or recipe.tag.second_judge is None:
        return
    first, second = recipe.tag.model, recipe.tag.second_judge
    if second not in recipe.models:
        raise ValueError(
            f"`tag.second_judge` is {second!r}, which is not under `models`; "
            f"the roles there are: {', '.join(recipe.models)}"
        )
    one, other = recipe.model(first), recipe.model(second)
    if one.model_copy(update={name: getattr(other, name) for name in _NO_SECOND_OPINION}) == other:
        raise ValueError(
            f"`tag.second_judge` is {second!r}, the same model as the first judge {first!r}: no second opinion; "
            "name another model, or ask the one several times with `tag.times`"
        )

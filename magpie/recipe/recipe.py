"""A whole recipe: the sections together, and the checks that need all of them.

A recipe is one YAML file, read by `loading.py`. Each step has a section of its own; null switches a section off.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from magpie.recipe.base import FileName, Part, Section, ShapesNoRows, Text, named_roles
from magpie.recipe.bootstrap import Bootstrap
from magpie.recipe.clean import Clean
from magpie.recipe.decontaminate import Decontaminate
from magpie.recipe.dedup import Dedup
from magpie.recipe.embed import Embed
from magpie.recipe.extend import Extend
from magpie.recipe.filter import Filter
from magpie.recipe.gate import Gate
from magpie.recipe.guard import Guard
from magpie.recipe.identify import Identify
from magpie.recipe.instances import Instances
from magpie.recipe.instruct import Instruct
from magpie.recipe.known import Known
from magpie.recipe.language import Language
from magpie.recipe.models import Model
from magpie.recipe.pii import Pii
from magpie.recipe.prefer import Prefer
from magpie.recipe.problems import NAME
from magpie.recipe.refine import Refine
from magpie.recipe.respond import Respond
from magpie.recipe.review import Review
from magpie.recipe.reward import Reward
from magpie.recipe.screen import Screen
from magpie.recipe.short_forms import write_out
from magpie.recipe.steer import Steer
from magpie.recipe.steps import CustomStep
from magpie.recipe.tag import Tag
from magpie.recipe.until import Until

_EMBEDDER = "demo-embedder"  # comes with magpie, so that it is always there
_USUAL = ("bootstrap", "identify", "instances", "screen")
"""The sections of `method: self-instruct` that are on unless a recipe says otherwise."""
_SELF_INSTRUCT = (*_USUAL, "refine", "review")
"""The sections that only `method: self-instruct` has."""


class Recipe(Part):
    """One dataset to build: the models, and a section for each step. A section that is null is switched off."""

    name: FileName = Field(pattern=NAME)
    """The name of the recipe: lower-case letters, digits, `.`, `_` and `-`, a letter or digit first."""
    description: Annotated[str, ShapesNoRows()] = ""
    """One sentence about the dataset."""
    method: Literal["magpie", "self-instruct"] = "magpie"
    """How instructions are made.

    `magpie`: an aligned model writes the user's turn (arXiv 2406.08464). `self-instruct`: a model goes on with lists of
    seed tasks, and writes instances of what it wrote (arXiv 2212.10560).
    """
    rows: int = Field(ge=1)
    """How many instructions to generate, before any is rejected."""
    until: Annotated[Until | None, ShapesNoRows()] = None
    """Ask for rows until so many are kept, instead of for `rows`."""
    seed: int = Field(default=42, ge=0)
    """The seed that the seed of every row is made from."""
    shard_rows: int = Field(default=1000, ge=1)
    """How many rows are committed to disk together. After an interruption, unfinished shards are made again."""
    engine: Text = "auto"
    """The engine for every model that names none. `auto` is vLLM if it is installed, else transformers."""
    models: dict[str, Model]
    """The model for each role, such as `generator`, `judge` or `embedder`.

    A value may be the name of a model alone, or of another role (`judge: generator`): both roles then share one loaded
    model. The generator is enough: where it is not named, `judge` is the generator and `embedder` is `demo-embedder`.
    """
    steer: Steer | None = None
    """Describe the user that the generator writes as."""
    instruct: Instruct = Instruct()
    """Write the user's messages."""
    clean: Clean = Clean()
    """Remove what is not part of the message, and reject what is no message."""
    pii: Pii | None = None
    """Mark, reject or redact personal information."""
    language: Language | None = Language()
    """Detect the language of each instruction."""
    embed: Embed | None = Embed()
    """Turn each instruction into a vector."""
    decontaminate: Decontaminate | None = None
    """Reject questions of evaluation sets."""
    known: Known | None = None
    """Show the rows that are near copies of datasets you name, such as the generator's own training data."""
    dedup: Dedup | None = Dedup()
    """Reject repeats."""
    tag: Tag | None = Tag()
    """Have a judge label each instruction."""
    gate: Annotated[Gate | None, ShapesNoRows()] = None
    """Look at the instructions before more is paid for, and pause a run that collapses."""
    respond: Respond | None = Respond()
    """Answer each instruction."""
    extend: Extend | None = None
    """Add further turns to each conversation."""
    reward: Reward | None = None
    """Score each response."""
    prefer: Prefer | None = None
    """Make preference pairs."""
    guard: Guard | None = None
    """Judge whether texts are safe."""
    filter: Filter | None = None
    """Which rows are kept: the name of a filter, a filter file, or the rules themselves. null keeps all."""
    bootstrap: Bootstrap | None = None
    """Write tasks after the example of seeds: for `method: self-instruct`, where it is always on."""
    identify: Identify | None = None
    """Ask which tasks are classification: for `method: self-instruct`, where it is on unless it is null."""
    instances: Instances | None = None
    """Write instances of each task: for `method: self-instruct`, where it is always on."""
    screen: Screen | None = None
    """Throw tasks and instances out: for `method: self-instruct`, where it is always on."""
    refine: Refine | None = None
    """Have an aligned model rewrite tasks and instances: for `method: self-instruct`."""
    review: Review | None = None
    """Have a judge say which tasks are valid and which outputs right: for `method: self-instruct`."""
    steps: tuple[CustomStep, ...] = ()
    """Steps of your own, each behind a step that it names. They run only in a build with `--allow-code`."""

    def __init__(self, /, **settings: Any) -> None:
        """A recipe made in Python: the short forms of recipe files work here too. Raises RecipeError."""
        super().__init__(**write_out(settings, "Recipe"))

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_method(cls, settings: Any) -> Any:
        """The sections of `method: self-instruct` where the recipe does not write them, and none of Magpie's."""
        if not isinstance(settings, dict) or settings.get("method") != "self-instruct":
            return settings
        own: dict[str, Any] = {name: {} for name in _USUAL} | {"respond": None}
        filled = own | settings
        for name in ("bootstrap", "instances", "screen"):
            filled[name] = {} if filled[name] is None else filled[name]
        bootstrap = filled["bootstrap"]
        writer = bootstrap.get("model") if isinstance(bootstrap, dict) else getattr(bootstrap, "model", None)
        # Who is named as the writer, and is the judge where none is named.
        filled.setdefault("instruct", {} if writer is None else {"model": writer})
        return filled

    @model_validator(mode="after")
    def _check_method(self) -> Recipe:
        if self.method == "magpie":
            wrong = next((name for name in _SELF_INSTRUCT if getattr(self, name) is not None), None)
            if wrong is not None:
                raise ValueError(f"`{wrong}` is for `method: self-instruct`; add that, or take `{wrong}` out")
            return self
        assert self.bootstrap is not None
        off = {"steer": None, "respond": None, "instruct": Instruct(model=self.bootstrap.model)}
        wrong = next((name for name, nothing in off.items() if getattr(self, name) != nothing), None)
        if wrong is not None:
            raise ValueError(f"`{wrong}` is no part of `method: self-instruct`; take it out")
        return self

    @model_validator(mode="after")
    def _check_roles(self) -> Recipe:
        for setting, role, mark in named_roles(self):
            if role not in self.models and (model := self._default_model(role)) is not None:
                self.models[role] = model  # the dict was made by this validation, and nobody else has it yet
            if role not in self.models:
                roles = ", ".join(self.models) or "none"
                advice = f"; {mark.advice}" if mark.advice else ""
                raise ValueError(
                    f"`{setting}` is {role!r}, which is not under `models`; the roles there are: {roles}{advice}"
                )
        return self

    @model_validator(mode="after")
    def _check_sections(self) -> Recipe:
        for _, section in self.sections():
            section.check(self)
        return self

    def _default_model(self, role: str) -> Model | None:
        """The model of a role that the recipe names nowhere, if there is a usual one."""
        if role == "judge":
            return self.models.get(self.instruct.model)
        return Model(model=_EMBEDDER) if role == "embedder" else None

    def sections(self) -> Iterator[tuple[str, Section]]:
        """The sections that are on, each with its name, in the order of the fields."""
        for name in type(self).model_fields:
            section = getattr(self, name)
            if isinstance(section, Section):
                yield name, section

    def roles(self) -> dict[str, str]:
        """The role that each setting names: {"instruct.model": "generator", ...}. Sections that are off name none."""
        return {setting: role for setting, role, _ in named_roles(self)}

    @property
    def has_responses(self) -> bool:
        """Whether each instruction gets a response: an answer to it, or the output of an instance of it."""
        return self.respond is not None or self.instances is not None

    @property
    def shards(self) -> int:
        """How many shards the rows are in."""
        return -(-self.rows // self.shard_rows)

    def with_sections(self, **sections: Any) -> Recipe:
        """The recipe with other sections in the place of its own. They are taken as they are, and not checked again."""
        return self.model_copy(update=sections)

    def steered_alike(self, other: Recipe) -> bool:
        """Whether the rows that both have are steered by the same, refills included."""
        rows = min(self.rows, other.rows)
        mine, theirs = (
            [] if each.steer is None else [refill for refill in each.steer.refills if refill.start < rows]
            for each in (self, other)
        )
        return mine == theirs

    def model(self, role: str) -> Model:
        """The model that plays `role`, with the recipe's engine filled in."""
        model = self.models[role]
        return model if model.engine is not None else model.model_copy(update={"engine": self.engine})

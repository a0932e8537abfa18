"""What a plan is made of: steps in their places, phases that share a loaded model, and what they leave on disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from magpie.recipe import Model, Recipe
from magpie.steps.base import REJECTED, GlobalStep, Judging, Plain, RowStep
from magpie.steps.tag import TagStep

_BASE = pa.schema([("id", pa.string()), ("index", pa.int64())])

# Bytes on disk for a row of each step, zstd-compressed: for the estimate of a dry run. Measured on the demo recipe,
# scaled by max_tokens where a model writes; they are an order of magnitude, not a promise.
_BYTES_PER_ROW = {
    "instruct": 120,
    "clean": 60,
    "pii": 2,
    "response_pii": 2,
    "language": 2,
    "decontaminate": 2,
    "dedup": 28,
    "tag": 220,
    "second_tag": 220,
    "prefer": 800,
    "prefilter": 2,
    "filter": 2,
}


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step in its place. `model` is what it loads, `chat_model` is whose chat format it speaks.

    A judge's `thinking` is off: what it writes is JSON from the first token on.
    """

    number: int
    step: RowStep | GlobalStep
    model: Model | None = None
    chat_model: Model | None = None

    @property
    def name(self) -> str:
        """The step's name, such as "instruct"."""
        return self.step.name

    @property
    def folder(self) -> str:
        """The step's folder below `steps/`, such as "01-instruct"."""
        return f"{self.number:02d}-{self.name}"

    @property
    def is_global(self) -> bool:
        """Whether the step sees every row of the run at once."""
        return hasattr(self.step, "run_all")  # asking whether it is a GlobalStep would work out its settings

    @property
    def generates(self) -> bool:
        """Whether the step sends prompts to an engine, or conversations to a scorer."""
        return self.model is not None and self.chat_model is not None

    @property
    def judges(self) -> bool:
        """Whether the model is a judge, whose answer leaves no place for reasoning before it."""
        return isinstance(self.step, TagStep)

    @property
    def scores(self) -> bool:
        """Whether the model is a reward model, for a scorer to load."""
        return bool(getattr(self.step, "scores", False))

    @property
    def reads_as(self) -> Literal["chat", "transcript", "plain"]:
        """How the model is spoken to: in its chat format, by finished conversations, or in plain text."""
        if isinstance(self.step, Judging):
            return "transcript"
        return "plain" if isinstance(self.step, Plain) else "chat"


@dataclass(frozen=True, slots=True)
class Phase:
    """Neighbouring row steps that share one loaded model, or one global step."""

    steps: tuple[PlannedStep, ...]
    model: Model | None

    @property
    def is_global(self) -> bool:
        """Whether this is a global step, and so a barrier."""
        return self.steps[0].is_global

    @property
    def generates(self) -> bool:
        """Whether the phase needs an engine."""
        return any(step.generates for step in self.steps)

    @property
    def scores(self) -> bool:
        """Whether the phase needs a scorer in the place of an engine."""
        return any(step.scores for step in self.steps)

    @property
    def name(self) -> str:
        """The names of the steps, joined by arrows."""
        return " → ".join(step.name for step in self.steps)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a build will do. `skipped_rules` are filter rules left out because the run lacks their columns."""

    recipe: Recipe
    steps: tuple[PlannedStep, ...]
    phases: tuple[Phase, ...]
    skipped_rules: tuple[str, ...]

    @property
    def shards(self) -> int:
        """How many shards the run has."""
        return -(-self.recipe.rows // self.recipe.shard_rows)

    def shard_range(self, shard: int) -> range:
        """The row positions of a shard."""
        first = shard * self.recipe.shard_rows
        return range(first, min(first + self.recipe.shard_rows, self.recipe.rows))

    @property
    def schema(self) -> pa.Schema:
        """Every column of the finished run."""
        return schema_of(self.steps)

    @property
    def disk_bytes(self) -> int:
        """About how many bytes the run folder will hold: an order of magnitude."""
        return sum(_bytes_per_row(planned) for planned in self.steps) * self.recipe.rows * 3 // 2


def schema_of(steps: Iterable[PlannedStep]) -> pa.Schema:
    """Every column of a run after these steps."""
    fields = {field.name: field for field in _BASE}
    fields[REJECTED.name] = REJECTED
    for planned in steps:
        fields |= {field.name: field for field in planned.step.adds}
    return pa.schema(list(fields.values()))


def _bytes_per_row(planned: PlannedStep) -> int:
    if planned.name == "embed":
        return 2 * 768
    if planned.name in {"respond", "baseline", "candidates"}:
        settings = planned.step.settings
        return min(1600, 3 * int(settings["max_tokens"])) * int(settings.get("responses", 1))
    if planned.name == "extend":
        settings = planned.step.settings
        return min(1600, 3 * int(settings["respond_max_tokens"])) * (int(settings["turns"]) - 1)
    return _BYTES_PER_ROW.get(planned.name, 16)

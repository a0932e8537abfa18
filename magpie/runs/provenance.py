"""Where the rows of a dataset come from: the recipe, its models, and the engines that ran them.

A run knows this from its own files. A dataset's manifest holds it too, so that a folder of kept rows can be explained
with no run around it. Columns follow from it that stand in no shard: those that the steps derive, and the engines.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from magpie.engines import AUTO, engine_names, find_engine
from magpie.errors import MagpieError
from magpie.recipe import Model, Recipe
from magpie.recipe.loading import parse_recipe
from magpie.runs.record import recorded_ingredients
from magpie.runs.run import Run
from magpie.steps import steps_of
from magpie.steps.base import GlobalStep, RowStep, column, inner, is_inner

# What the published datasets call the columns that name models.
_PUBLISHED_CREDITS = {"generator": "model", "reward_model": "reward_model"}


@dataclass(frozen=True, slots=True)
class Provenance:
    """The recipe and the steps that made rows. `engines` has the engine of each column that names a model."""

    recipe: Recipe
    steps: tuple[RowStep | GlobalStep, ...]
    engines: Mapping[str, str]

    @classmethod
    def of(cls, run: Run) -> Provenance:
        """That of a run, with the engines it recorded where the recipe leaves the choice to the machine."""
        steps = tuple(run_step.step for run_step in run.steps)
        ingredients = recorded_ingredients(run.storage) or {}
        engines: dict[str, str] = {}
        for step in steps:
            if step.credited_as is not None and step.uses is not None:
                model = run.recipe.model(step.uses.role)
                made = ingredients.get(step.name)
                identity = made.get("model") if isinstance(made, dict) else None
                recorded = identity.get("engine") if isinstance(identity, dict) else None
                chosen = model.engine if model.engine != AUTO else recorded
                engines.setdefault(step.credited_as, str(chosen or AUTO))
        return cls(run.recipe, steps, engines)

    @classmethod
    def parse(cls, about: Mapping[str, Any]) -> Provenance | None:
        """What `to_json` wrote; None where there is nothing that this version can read."""
        try:
            recipe = parse_recipe(dict(about["recipe"]), origin="the dataset's manifest")
            return cls(recipe, steps_of(recipe), dict(about["engines"]))
        except (KeyError, TypeError, ValueError, MagpieError):
            return None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object. The addresses of servers stay out: a dataset is given to others."""
        recipe = self.recipe.model_dump(mode="json", exclude={"models": {"__all__": {"server"}}})
        return {"recipe": recipe, "engines": dict(self.engines)}

    @property
    def credits(self) -> dict[str, str]:
        """The models to name in each row; of two steps that name theirs in one column, the first."""
        models: dict[str, str] = {}
        for step in self.steps:
            if step.credited_as is not None and step.uses is not None:
                models.setdefault(step.credited_as, _credited(self.recipe.model(step.uses.role)))
        return models

    @property
    def credit_fields(self) -> list[pa.Field]:
        """The columns that name models."""
        sections: dict[str, list[str]] = {}
        for step in self.steps:
            if step.credited_as is not None:
                sections.setdefault(step.credited_as, []).append(step.name)
        return [
            column(
                name,
                pa.string(),
                f"The model of {' and '.join(f'`{section}`' for section in sections[name])}.",
                published=_PUBLISHED_CREDITS.get(name),
            )
            for name in self.credits
        ]

    @property
    def derived_fields(self) -> list[pa.Field]:
        """The columns that follow from the recipe and the row; those made with `inner` are not in the dataset."""
        fields = [field for step in self.steps for field in step.derives]
        engines = [
            inner(f"{name}_engine", pa.string(), f"The engine that ran the model in `{name}`.")
            for name in self.engines
        ]
        return [*fields, *engines]

    @property
    def derived_in_dataset(self) -> list[str]:
        """The names of those that are in the dataset."""
        return [field.name for field in self.derived_fields if not is_inner(field)]

    def derive(self, rows: pa.Table, names: Collection[str]) -> dict[str, Any]:
        """The derived columns of these names, for rows with the columns of the dataset."""
        columns: dict[str, Any] = {
            f"{name}_engine": pa.array([engine] * rows.num_rows, pa.string())
            for name, engine in self.engines.items()
        }
        for step in self.steps:
            if set(step.derives.names) & set(names):
                columns |= step.derive(rows)
        return {name: columns[name] for name in names}


def _credited(model: Model) -> str:
    return find_engine(model.engine).credited(model) if model.engine in engine_names() else model.model

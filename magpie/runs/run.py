"""A run on disk, read: where everything lies, and rows put together from the steps that made them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from magpie.errors import DamagedShardError, RecipeError, RunError
from magpie.plan.phases import Plan, PlannedStep
from magpie.plan.planning import make_plan
from magpie.recipe.loading import parse_recipe
from magpie.recipe.reading import read_yaml
from magpie.runs.shards import read_shard
from magpie.steps.base import REJECTED

if TYPE_CHECKING:
    import datasets

    from magpie.recipe import Recipe


class Run:
    """One build of a recipe: a folder.

    `steps/NN-name/00000.parquet` holds what a step added to a shard's rows; `dataset/` what was kept of it all.
    """

    def __init__(self, folder: str | Path, plan: Plan) -> None:
        self.folder = Path(folder)
        self.plan = plan

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """The run in `folder`. Raises RunError when there is none."""
        path = Path(folder) / "recipe.yaml"
        if not path.is_file():
            raise RunError(f"{folder} is not a run: it holds no recipe.yaml; give the folder of a build")
        try:
            return cls(folder, make_plan(parse_recipe(read_yaml(path), origin=str(path))))
        except RecipeError as error:
            raise RunError(
                f"{folder} cannot be read: {error}; its build, run again, writes it anew"
            ) from error

    @property
    def recipe(self) -> Recipe:
        """What was built, with every default written out."""
        return self.plan.recipe

    @property
    def recipe_path(self) -> Path:
        """The resolved recipe."""
        return self.folder / "recipe.yaml"

    @property
    def fingerprints_path(self) -> Path:
        """The fingerprint of each step, and what went into it."""
        return self.folder / "fingerprints.json"

    @property
    def log_path(self) -> Path:
        """What happened, an event a line."""
        return self.folder / "log.jsonl"

    @property
    def dataset_folder(self) -> Path:
        """The final dataset."""
        return self.folder / "dataset"

    @property
    def dataset_files(self) -> list[Path]:
        """The files of the final dataset, in order; empty until the build is finished."""
        return sorted(self.dataset_folder.glob("*.parquet"))

    @property
    def has_shards(self) -> bool:
        """Whether anything has been made yet."""
        return any((self.folder / "steps").glob("*/*.parquet"))

    def step(self, name: str) -> PlannedStep:
        """The planned step called `name`. Raises RunError."""
        for planned in self.plan.steps:
            if planned.name == name:
                return planned
        known = ", ".join(planned.name for planned in self.plan.steps)
        raise RunError(f"the run has no step {name!r}; it has: {known}")

    def shard_path(self, planned: PlannedStep, shard: int) -> Path:
        """Where a step keeps a shard."""
        return self.folder / "steps" / planned.folder / f"{shard:05d}.parquet"

    def rows(
        self, shard: int, columns: Iterable[str], *, before: PlannedStep | None = None, check: bool = True
    ) -> pa.Table:
        """A shard's rows put together: `id`, `index`, `rejected` and `columns`, as they stand before step `before`.

        A column that two steps add is the later one's.

        Raises DamagedShardError when a shard is missing, damaged or holds other rows than its neighbours.
        """
        wanted = set(columns)
        steps = [p for p in self.plan.steps if before is None or p.number < before.number]
        positions = self.plan.shard_range(shard)
        gathered: dict[str, Any] = {"index": pa.array(np.arange(positions.start, positions.stop))}
        reasons: list[Any] = []
        ids: Any = None
        for planned in steps:
            here = [name for name in planned.step.adds.names if name in wanted or name == REJECTED.name]
            if not here and not (ids is None and planned is steps[0]):
                continue
            path = self.shard_path(planned, shard)
            if not path.is_file():
                raise DamagedShardError(f"{path} is not there; run the build again to make it")
            table = read_shard(path, ["id", *here], check=check)
            ids = table["id"] if ids is None else ids
            if not table["id"].equals(ids):
                raise DamagedShardError(
                    f"{path} holds other rows than the steps before it; run the build again"
                )
            for name in here:
                if name == REJECTED.name:
                    reasons.append(table[name])
                else:
                    gathered[name] = table[name]
        if ids is not None:
            gathered["id"] = ids
        gathered[REJECTED.name] = merge_reasons(reasons, len(positions))
        return pa.table(gathered)

    def table(self, columns: Sequence[str] | None = None, *, rejected: bool = True) -> pa.Table:
        """Every row of the finished run, joined over its steps; `rejected=False` leaves out the rows that are out.

        `columns` defaults to all but the embedding. `id`, `index` and `rejected` are always there.
        """
        if columns is None:
            columns = [name for name in self.plan.schema.names if name != "embedding"]
        unknown = set(columns) - set(self.plan.schema.names)
        if unknown:
            raise RunError(
                f"the run has no column {sorted(unknown)}; it has: {', '.join(self.plan.schema.names)}"
            )
        table = pa.concat_tables(self.rows(shard, columns) for shard in range(self.plan.shards))
        if not rejected:
            table = table.filter(pc.is_null(table[REJECTED.name]))
        fixed = ["id", "index", REJECTED.name]
        return table.select([*fixed, *(name for name in columns if name not in fixed)])

    def dataset(self) -> datasets.Dataset:
        """The final dataset, as a Hugging Face dataset. Raises RunError while the build is unfinished."""
        if not self.dataset_files:
            raise RunError(f"{self.folder} holds no dataset yet; run the build again to finish it")
        import datasets

        first = read_shard(self.dataset_files[0])
        if first.num_rows == 0:  # datasets cannot read Parquet without rows
            return datasets.Dataset(first)
        return datasets.Dataset.from_parquet([str(path) for path in self.dataset_files])

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, recipe={self.recipe.name!r}, rows={self.recipe.rows})"


def merge_reasons(reasons: Sequence[Any], rows: int) -> Any:
    """The first reason a row was rejected for, over the steps in their order; null for rows that are in."""
    if not reasons:
        return pa.nulls(rows, pa.string())
    return pc.coalesce(*reasons)


def recipe_text(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)

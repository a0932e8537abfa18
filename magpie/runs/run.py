"""A run, read: where everything lies, and rows put together from the steps that made them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.dataset import DatasetFiles
from magpie.errors import DamagedShardError, RecipeError, RunError
from magpie.names import file_name
from magpie.recipe.loading import parse_recipe
from magpie.runs.sealing import read_recipe
from magpie.steps import Method, columns_of, steps_of
from magpie.steps.base import REJECTED, GlobalStep, RowStep, SequentialStep
from magpie.storage import MemoryStorage, Storage, open_storage
from magpie.storage.sealed import read_shard

if TYPE_CHECKING:
    import datasets

    from magpie.recipe import Recipe

_logger = logging.getLogger(__name__)

RECIPE = "recipe.yaml"
FINGERPRINTS = "fingerprints.json"
LOG = "log.jsonl"
SUMMARY = "report.json"
REPORT = "report.html"
STEPS = "steps/"
DATASET = "dataset/"
QUARANTINE = "quarantine/"
PROGRESS = "progress.json"
GATE = "gate.json"


@dataclass(frozen=True, slots=True)
class RunStep:
    """A step in its place in a run. `number` counts from 1."""

    number: int
    step: RowStep | GlobalStep

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
        return isinstance(self.step, GlobalStep)

    @property
    def is_sequential(self) -> bool:
        """Whether a shard of the step is made from the step's earlier shards too."""
        return isinstance(self.step, SequentialStep)


class Run:
    """One build of a recipe: files in a storage, most often a folder.

    `steps/NN-name/00000.parquet` holds what a step added to a shard's rows; `dataset/` what was kept of it all.
    """

    def __init__(self, storage: Storage, recipe: Recipe, steps: Sequence[RunStep]) -> None:
        self.storage = storage
        self.recipe = recipe
        self.steps = tuple(steps)
        self.notes: tuple[str, ...] = ()
        """What was found wrong with it when it was opened, and could be recovered."""
        self.about: str | None = None
        """How its shards are made, for their metadata: see `sealing.py`. Worked out by the first that commits one."""

    @classmethod
    def open(cls, place: str | Path | Storage, method: Method | None = None) -> Run:
        """The run in a folder, which was built by `method`, by default that of its recipe.

        Raises RunError when there is none, or its recipe cannot be read.
        """
        storage = place if isinstance(place, Storage) else open_storage(place)
        try:
            raw, note = read_recipe(storage, RECIPE)
            recipe = parse_recipe(raw, origin=storage.place(RECIPE))
            run = cls(storage, recipe, numbered(steps_of(recipe, method)))
        except (OSError, RecipeError) as error:
            if isinstance(error, OSError) and not storage.exists(RECIPE):
                raise RunError(
                    f"{storage.location} is not a run: it holds no {RECIPE}; give the folder of a build"
                ) from error
            raise RunError(
                f"{storage.location} cannot be read: {error}; its build, run again, writes it anew"
            ) from error
        if note is not None:
            run.notes = (note,)
            _logger.warning("%s", note)
        return run

    @property
    def folder(self) -> Path:
        """Where the run lies, for messages."""
        return Path(self.storage.location)

    @property
    def shards(self) -> int:
        """How many shards the run has."""
        return self.recipe.shards

    def shard_range(self, shard: int) -> range:
        """The row positions of a shard."""
        first = shard * self.recipe.shard_rows
        return range(first, min(first + self.recipe.shard_rows, self.recipe.rows))

    @property
    def schema(self) -> pa.Schema:
        """Every column of the finished run."""
        return columns_of(tuple(run_step.step for run_step in self.steps))

    @property
    def skipped_rules(self) -> tuple[str, ...]:
        """What to say of each rule of the filter that is left out because the run lacks its columns."""
        return tuple(rule for run_step in self.steps for rule in run_step.step.skipped_rules)

    @property
    def has_shards(self) -> bool:
        """Whether anything has been made yet."""
        return any(name.endswith(".parquet") for name in self.storage.names(STEPS))

    @property
    def dataset_files(self) -> DatasetFiles:
        """The files of the final dataset."""
        return DatasetFiles(self.storage, DATASET)

    def step(self, name: str) -> RunStep:
        """The step called `name`. Raises RunError."""
        for run_step in self.steps:
            if run_step.name == name:
                return run_step
        names = ", ".join(run_step.name for run_step in self.steps)
        raise RunError(f"the run has no step {name!r}; it has: {names}")

    def step_adding(self, column: str) -> RunStep | None:
        """The first step that adds a column; None where none does."""
        return next((run_step for run_step in self.steps if column in run_step.step.adds.names), None)

    @property
    def own_filter(self) -> RunStep | None:
        """The step that applies the recipe's filter to the whole run; None where the recipe has no filter."""
        last = self.steps[-1] if self.steps else None
        return last if last is not None and last.is_global and self.recipe.filter is not None else None

    def shard_name(self, run_step: RunStep, shard: int) -> str:
        """The name of a step's shard in the storage."""
        return f"{STEPS}{run_step.folder}/{shard:05d}.parquet"

    def shard_place(self, run_step: RunStep, shard: int) -> str:
        """Where a step's shard lies, for messages."""
        return self.storage.place(self.shard_name(run_step, shard))

    def has_shard(self, run_step: RunStep, shard: int) -> bool:
        """Whether a step's shard is there, whole or not."""
        return self.storage.exists(self.shard_name(run_step, shard))

    def read(
        self, run_step: RunStep, shard: int, columns: Sequence[str] | None = None, *, check: bool = True
    ) -> pa.Table:
        """What a step added to a shard's rows: `columns`, or all of it. Raises DamagedShardError."""
        return read_shard(self.storage, self.shard_name(run_step, shard), columns, check=check)

    def rows(
        self, shard: int, columns: Iterable[str], *, before: RunStep | None = None, check: bool = True
    ) -> pa.Table:
        """A shard's rows put together: `id`, `index`, `rejected` and `columns`, as they stand before step `before`.

        A column that two steps add is the later one's.

        Raises DamagedShardError when a shard is missing, damaged or holds other rows than its neighbours.
        """
        wanted = set(columns)
        steps = [step for step in self.steps if before is None or step.number < before.number]
        positions = self.shard_range(shard)
        gathered: dict[str, Any] = {"index": pa.array(np.arange(positions.start, positions.stop))}
        reasons: list[Any] = []
        ids: Any = None
        for run_step in steps:
            here = [name for name in run_step.step.adds.names if name in wanted or name == REJECTED.name]
            # The first step is read for the ids, even where it adds nothing that is asked for.
            if not here and not (ids is None and run_step is steps[0]):
                continue
            try:
                table = self.read(run_step, shard, ["id", *here], check=check)
            except DamagedShardError:
                if self.has_shard(
                    run_step, shard
                ):  # asked only now: on a bucket each question takes its time
                    raise
                raise DamagedShardError(
                    f"{self.shard_place(run_step, shard)} is not there; run the build again to make it"
                ) from None
            ids = table["id"] if ids is None else ids
            if not table["id"].equals(ids):
                raise DamagedShardError(
                    f"{self.shard_place(run_step, shard)} holds other rows than the steps before it; "
                    "run the build again"
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
        """Every row of the run, joined over its steps; `rejected=False` leaves out the rows that are out.

        `columns` defaults to all but the embedding. `id`, `index` and `rejected` are always there. Of an unfinished run
        it has what every row has been through: the steps up to the first that is not done. Raises RunError when that
        is the first step, or for a column that is not made yet, and DamagedShardError.
        """
        unfinished = self.first_unfinished
        if unfinished is self.steps[0]:
            raise RunError(
                f"{self.storage.location} has no step that is done for every row; run the build again to go on"
            )
        steps = self.steps if unfinished is None else self.steps[: unfinished.number - 1]
        names = columns_of(tuple(run_step.step for run_step in steps)).names
        if columns is None:
            columns = [name for name in names if name != "embedding"]
        unknown = set(columns) - set(names)
        if unfinished is not None and unknown & set(self.schema.names):
            raise RunError(
                f"{sorted(unknown)} is not made yet: {unfinished.name} is not done; run the build again to go on"
            )
        if unknown:
            raise RunError(f"the run has no column {sorted(unknown)}; it has: {', '.join(names)}")
        table = pa.concat_tables(self.rows(shard, columns, before=unfinished) for shard in range(self.shards))
        if not rejected:
            table = table.filter(pc.is_null(table[REJECTED.name]))
        fixed = ["id", "index", REJECTED.name]
        return table.select([*fixed, *(name for name in columns if name not in fixed)])

    @property
    def first_unfinished(self) -> RunStep | None:
        """The first step that lacks shards; None where the dataset is there: a shard that it lacks is lost."""
        if self.storage.names(DATASET):
            return None
        for run_step in self.steps:
            if not all(self.has_shard(run_step, shard) for shard in range(self.shards)):
                return run_step
        return None

    def dataset(self) -> datasets.Dataset:
        """The final dataset, as a Hugging Face dataset. Raises RunError while the build is unfinished."""
        names = self.dataset_files.names()
        if not names:
            raise RunError(f"{self.storage.location} holds no dataset yet; run the build again to finish it")
        import datasets

        first = read_shard(self.storage, names[0])
        if first.num_rows == 0:  # datasets cannot read Parquet without rows
            return datasets.Dataset(first)
        if isinstance(self.storage, MemoryStorage):
            return datasets.Dataset(pa.concat_tables(read_shard(self.storage, name) for name in names))
        return datasets.Dataset.from_parquet([str(self.storage.local_path(name)) for name in names])

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, recipe={self.recipe.name!r}, rows={self.recipe.rows})"


def is_run(storage: Storage) -> bool:
    """Whether a run lies there, be its recipe lost."""
    return any(storage.exists(name) for name in (RECIPE, FINGERPRINTS)) or bool(storage.names(STEPS))


def numbered(steps: Iterable[RowStep | GlobalStep]) -> tuple[RunStep, ...]:
    """The steps in their places. Raises RecipeError for a name that cannot be that of a folder."""
    steps = tuple(steps)
    for step in steps:
        try:
            file_name(step.name)
        except ValueError as error:
            raise RecipeError(f"the name of the step {step.name!r} {error}") from error
    return tuple(RunStep(number, step) for number, step in enumerate(steps, start=1))


def merge_reasons(reasons: Sequence[Any], rows: int) -> Any:
    """The first reason a row was rejected for, over the steps in their order; null for rows that are in."""
    if not reasons:
        return pa.nulls(rows, pa.string())
    return pc.coalesce(*reasons)


def with_columns(rows: pa.Table, more: pa.Table) -> pa.Table:
    """The rows with a step's columns: new ones beside them, others anew; a reason given earlier stays."""
    for name in more.column_names:
        column = more[name]
        if name == REJECTED.name:
            column = merge_reasons([rows[name], column], rows.num_rows)
        at = rows.schema.get_field_index(name)
        rows = rows.append_column(name, column) if at < 0 else rows.set_column(at, name, column)
    return rows

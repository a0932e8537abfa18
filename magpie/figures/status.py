"""How much of a run is done, step by step: read from its shards, never from a log."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import DamagedShardError, RunError
from magpie.figures.agreement import Agreement, agreement
from magpie.figures.collapse import Collapse
from magpie.figures.pace import Pace, paces
from magpie.figures.run_log import seconds_at_work
from magpie.figures.saturation import Saturation, saturation
from magpie.runs.live import Running, running
from magpie.runs.run import Run, RunStep
from magpie.steps.base import REJECTED
from magpie.storage.sealed import count_rows

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class StepStatus:
    """One step of a run. `rows_in` counts rows that were still in, over the shards that are done.

    rows_in = rows_out + the sum of `rejected`, whose keys are the reasons. `outcomes` counts the rows by
    `Step.outcomes`, such as rows that a judge has tagged and rows that it has not, by error; their sum is rows_in, too.
    None for steps without outcomes. `warning` is what the step says of them where they should worry somebody.
    """

    name: str
    shards_done: int
    shards: int
    rows_in: int
    rows_out: int
    rejected: dict[str, int]
    tokens: int | None
    outcomes: dict[str, int] | None = None
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a run. `kept` is how many rows the dataset has, None until it is written.

    `damaged` names the files that cannot be read; they count as not done. A file may be damaged in bytes that are not
    read here: `verify` reads them all. `no_saturation` says why `saturation` is None. `running` is the build that is at
    work now, with the rows that it has in hand; None while there is none. `paces` are the phases' speeds beside the
    planned ones, where there is a plan. `seconds` is how long the builds were at work, by the log; None without one.
    `collapse` says what takes too much of the rows; it is looked for when somebody asks, and not while a build counts.
    """

    folder: str
    recipe: str
    rows: int
    finished: bool
    kept: int | None
    steps: tuple[StepStatus, ...]
    skipped_rules: tuple[str, ...]
    damaged: tuple[str, ...]
    saturation: Saturation | None = None
    no_saturation: str | None = None
    agreement: tuple[Agreement, ...] = ()
    running: Running | None = None
    paces: tuple[Pace, ...] = ()
    seconds: float | None = None
    collapse: Collapse | None = None

    def to_json(self) -> dict[str, Any]:
        """The status as JSON can hold it."""
        return asdict(self)


def status(run: Run) -> Status:
    """Count rows, tokens and reasons, step by step, and say how many of the next rows would be new."""
    damaged: list[str] = []
    out: dict[int, Mask] = {}
    steps = tuple(_step_status(run, run_step, out, damaged) for run_step in run.steps)
    kept = _dataset_rows(run, damaged)
    done = all(step.shards_done == step.shards for step in steps)
    curve, no_curve = _saturation(run)
    return Status(
        folder=str(run.folder),
        recipe=run.recipe.name,
        rows=run.recipe.rows,
        finished=done and kept is not None,
        kept=kept,
        steps=steps,
        skipped_rules=run.skipped_rules,
        damaged=tuple(damaged),
        saturation=curve,
        no_saturation=no_curve,
        agreement=agreement(run),
        running=running(run),
        paces=paces(run),
        seconds=seconds_at_work(run),
    )


def as_ended(counted: Status, run: Run) -> Status:
    """The status that a build has counted at its end, as it is once the build is over: no row is counted again."""
    return replace(counted, running=None, seconds=seconds_at_work(run))


def _step_status(run: Run, run_step: RunStep, out: dict[int, Mask], damaged: list[str]) -> StepStatus:
    """Counts of one step. `out` holds for each shard which rows earlier steps rejected, and is updated."""
    step = run_step.step
    reasons: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    done = rows_in = tokens = 0
    names = (REJECTED.name if step.rejects else None, step.token_column, *step.outcome_columns)
    columns = [name for name in names if name is not None]
    for shard in range(run.shards):
        table = _read_shard(run, run_step, shard, columns, damaged)
        if table is None:
            continue
        done += 1
        before = out.get(shard, np.zeros(table.num_rows, dtype=bool))
        rows_in += int((~before).sum())
        if step.rejects:
            rejected = pc.is_valid(table[REJECTED.name]).to_numpy(zero_copy_only=False)
            reasons.update(table[REJECTED.name].filter(pa.array(rejected & ~before)).to_pylist())
            out[shard] = before | rejected
        if step.outcome_columns:
            still_in = pa.array(~before)
            outcomes.update(
                step.outcomes({name: table[name].filter(still_in) for name in step.outcome_columns})
            )
        if step.token_column is not None:
            tokens += _sum(table[step.token_column])
    return StepStatus(
        name=run_step.name,
        shards_done=done,
        shards=run.shards,
        rows_in=rows_in,
        rows_out=rows_in - reasons.total(),
        rejected=dict(reasons.most_common()),
        tokens=None if step.token_column is None else tokens,
        outcomes=dict(outcomes.most_common()) if step.outcome_columns else None,
        warning=step.warning(outcomes),
    )


def _read_shard(
    run: Run, run_step: RunStep, shard: int, columns: list[str], damaged: list[str]
) -> pa.Table | None:
    """These columns of a shard; None where it is not there, or damaged. Without columns a table has its rows still."""
    if not run.has_shard(run_step, shard):
        return None
    try:
        return run.read(run_step, shard, columns, check=False)
    except DamagedShardError:
        damaged.append(run.shard_place(run_step, shard))
        return None


def _sum(counts: pa.ChunkedArray) -> int:
    flat = pc.list_flatten(counts) if pa.types.is_list(counts.type) else counts
    return int(pc.sum(flat).as_py() or 0)


def _saturation(run: Run) -> tuple[Saturation | None, str | None]:
    """The saturation, or why there is none."""
    try:
        return saturation(run), None
    except RunError as error:
        return None, str(error)


def _dataset_rows(run: Run, damaged: list[str]) -> int | None:
    """The rows of the dataset; None while it is not whole, or where a file of it cannot be read."""
    try:
        names = run.dataset_files.names()
    except DamagedShardError:
        damaged.append(run.dataset_files.place)
        return None
    rows = []
    for name in names:
        try:
            rows.append(count_rows(run.storage, name))
        except DamagedShardError:
            damaged.append(run.storage.place(name))
    return sum(rows) if rows and len(rows) == len(names) else None

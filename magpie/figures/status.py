"""Where a run stands, and whether it is whole: read from its shards, never from a log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import DamagedShardError, RunError
from magpie.figures.agreement import Agreement, agreement
from magpie.figures.saturation import Saturation, saturation
from magpie.plan.phases import PlannedStep
from magpie.runs.lineage import Standing
from magpie.runs.run import Run, merge_reasons
from magpie.runs.shards import count_rows, inspect_shard, read_shard
from magpie.steps.base import REJECTED, token_column

_OUTCOMES = {
    "tag": ("tag_error", "tag_retries"),
    "second_tag": ("second_tag_error", "second_tag_retries"),
    "reward": ("reward_error",),
    "guard": ("guard_error",),
}


@dataclass(frozen=True, slots=True)
class StepStatus:
    """One step of a run. `rows_in` counts rows that were still in, over the shards that are done.

    rows_in = rows_out + the sum of `rejected`, whose keys are the reasons. The sum of `outcomes` is rows_in too: the
    rows that a judge has tagged, those among them for which it had to be asked twice, and those it has not tagged, by
    what `tag_error` says of them; those that a reward model or a guard has judged, and those it has not; None for other
    steps.
    """

    name: str
    shards_done: int
    shards: int
    rows_in: int
    rows_out: int
    rejected: dict[str, int]
    tokens: int | None
    outcomes: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """A run as it stands. `kept` is the rows of the dataset, None until it is written.

    `damaged` names the files that cannot be read; they count as not done. A file may be damaged in bytes that are not
    read here: `verify` reads them all. `no_saturation` says why `saturation` is None.
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

    def to_json(self) -> dict[str, Any]:
        """The status as JSON can hold it."""
        return asdict(self)


def status(run: Run) -> Status:
    """Count rows, tokens and reasons, step by step, and say how many of the next rows would be new."""
    out: dict[int, np.ndarray[Any, Any]] = {}
    damaged: list[str] = []
    steps = tuple(_step_status(run, planned, out, damaged) for planned in run.plan.steps)
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
        skipped_rules=run.plan.skipped_rules,
        damaged=tuple(damaged),
        saturation=curve,
        no_saturation=no_curve,
        agreement=agreement(run),
    )


def _step_status(
    run: Run, planned: PlannedStep, out: dict[int, np.ndarray[Any, Any]], damaged: list[str]
) -> StepStatus:
    """Counts of one step; `out` carries, shard by shard, which rows earlier steps put out."""
    reasons: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    done = rows_in = tokens = 0
    counted = token_column(planned.step)
    outcome_columns = _OUTCOMES.get(planned.name, ())
    wanted = (REJECTED.name, counted, *outcome_columns)
    columns = [name for name in wanted if name and name in planned.step.adds.names]
    for shard in range(run.plan.shards):
        path = run.shard_path(planned, shard)
        if not path.is_file():
            continue
        try:
            rows = count_rows(path)
            table = read_shard(path, columns, check=False) if columns else None
        except DamagedShardError:
            damaged.append(str(path))
            continue
        done += 1
        before = out.get(shard, np.zeros(rows, dtype=bool))
        rows_in += int((~before).sum())
        if table is None:
            continue
        if REJECTED.name in columns:
            here = pc.is_valid(table[REJECTED.name]).to_numpy(zero_copy_only=False)
            reasons.update(table[REJECTED.name].filter(pa.array(here & ~before)).to_pylist())
            out[shard] = before | here
        if outcome_columns:
            said = [table[name].filter(pa.array(~before)) for name in outcome_columns]
            outcomes.update(_tagged(*said) if len(said) > 1 else _judged(*said))
        if counted is not None:
            counts = table[counted]
            counts = pc.list_flatten(counts) if pa.types.is_list(counts.type) else counts
            tokens += pc.sum(counts).as_py() or 0
    return StepStatus(
        name=planned.name,
        shards_done=done,
        shards=run.plan.shards,
        rows_in=rows_in,
        rows_out=rows_in - reasons.total(),
        rejected=dict(reasons.most_common()),
        tokens=None if counted is None else tokens,
        outcomes=dict(outcomes.most_common()) if outcome_columns else None,
    )


def _judged(errors: pa.ChunkedArray) -> list[str]:
    """Whether each row was judged; `guard_error` and `reward_error` say more, of each in its own words."""
    said: list[str] = pc.if_else(pc.is_null(errors), "judged", "not judged").to_pylist()
    return said


def _tagged(errors: pa.ChunkedArray, retries: pa.ChunkedArray) -> list[str]:
    """What became of each row: tagged at once, tagged when it was asked again, or the error."""
    tagged = pc.if_else(pc.greater(retries, 0), "tagged, asked twice", "tagged")
    said: list[str] = pc.coalesce(errors, tagged, pa.scalar("tagged")).to_pylist()
    return said


def _saturation(run: Run) -> tuple[Saturation | None, str | None]:
    """The saturation, or why there is none."""
    try:
        return saturation(run), None
    except RunError as error:
        return None, str(error)


def _dataset_rows(run: Run, damaged: list[str]) -> int | None:
    rows = []
    for path in run.dataset_files:
        try:
            rows.append(count_rows(path))
        except DamagedShardError:
            damaged.append(str(path))
    return sum(rows) if rows and len(rows) == len(run.dataset_files) else None


def verify(run: Run) -> list[str]:
    """Everything that is wrong with a run, a line each, naming the file; empty when it is whole.

    Checks every byte of every shard, that each was made from the one before it, that ids are complete and unique, and
    that at every step rows in = rows out + rows rejected, down to the dataset.
    """
    return list(_problems(run))


def _problems(run: Run) -> Iterator[str]:
    standing, damaged = Standing.look(run)
    for _, _, error in damaged:
        yield str(error)
    yield from _gaps(run)
    yield from _strangers(run)
    yield from _broken_stamps(run, standing)
    if standing.end is not None:
        yield from _wrong_rows(run)
        yield from _wrong_dataset(run, standing.end)


def _gaps(run: Run) -> Iterator[str]:
    for planned in run.plan.steps:
        paths = [run.shard_path(planned, shard) for shard in range(run.plan.shards)]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            more = f" and {len(missing) - 1} more of the step" if len(missing) > 1 else ""
            yield f"{missing[0]}{more}: not there; run the build again to go on"


def _strangers(run: Run) -> Iterator[str]:
    expected = {run.shard_path(p, shard) for p in run.plan.steps for shard in range(run.plan.shards)}
    for path in sorted((run.folder / "steps").rglob("*")):
        if path.is_file() and path not in expected:
            yield f"{path}: not a file of this run; move it away"


def _broken_stamps(run: Run, standing: Standing) -> Iterator[str]:
    fingerprints: dict[int, str] = {}
    for planned, shard in standing.places():
        found = standing.get(planned, shard)
        if found is None:
            continue
        path, positions, stamp = run.shard_path(planned, shard), run.plan.shard_range(shard), found.stamp
        said = (stamp.step, stamp.shard, stamp.first, stamp.rows, stamp.total)
        if said != (planned.name, shard, positions.start, len(positions), run.recipe.rows):
            yield f"{path}: stamped as shard {stamp.shard} of {stamp.step}; run the build again to make it anew"
        if fingerprints.setdefault(planned.number, stamp.fingerprint) != stamp.fingerprint:
            yield f"{path}: made by other settings than the rest of its step; run the build again to make it anew"
        if standing.source(planned, shard) not in {None, stamp.made_from}:
            yield f"{path}: made from an earlier version of the step before it; run the build again to make it anew"


def _wrong_rows(run: Run) -> Iterator[str]:
    prefix = None
    for shard in range(run.plan.shards):
        reasons: list[Any] = []
        positions = run.plan.shard_range(shard)
        for planned in run.plan.steps:
            path = run.shard_path(planned, shard)
            rejects = REJECTED.name in planned.step.adds.names
            table = read_shard(path, ["id", *([REJECTED.name] if rejects else [])])
            ids = table["id"].to_pylist()
            prefix = ids[0].rpartition("-")[0] if prefix is None and ids else prefix
            if ids != [f"{prefix}-{index:08d}" for index in positions]:
                yield f"{path}: its ids are not rows {positions.start} to {positions.stop - 1} of this run, each once"
            if rejects:
                earlier = merge_reasons(reasons, len(positions))
                twice = pc.and_(pc.is_valid(earlier), pc.is_valid(table[REJECTED.name]))
                if pc.any(twice).as_py():
                    yield f"{path}: rejects rows that were out already, so rows in is not rows out + rejected"
                reasons.append(table[REJECTED.name])


def _wrong_dataset(run: Run, source: str) -> Iterator[str]:
    if not run.dataset_files:
        yield f"{run.dataset_folder}: no dataset yet; run the build again to write it"
        return
    ids: list[str] = []
    for path in run.dataset_files:
        try:
            if inspect_shard(path).stamp.made_from != source:
                yield f"{path}: made from earlier shards; run the build again to write it anew"
                continue
            ids += read_shard(path, ["id"])["id"].to_pylist()
        except DamagedShardError as error:
            yield str(error)
            return
    kept = [one for shard in range(run.plan.shards) for one in _kept_ids(run, shard)]
    if ids != kept:
        yield f"{run.dataset_folder}: holds {len(ids)} rows, the steps kept {len(kept)}; run the build again"


def _kept_ids(run: Run, shard: int) -> list[str]:
    rows = run.rows(shard, [], check=False)
    return [str(one) for one in rows["id"].filter(pc.is_null(rows[REJECTED.name])).to_pylist()]


def quarantined(run: Run) -> list[Path]:
    """Damaged files that earlier builds moved away."""
    return sorted(path for path in (run.folder / "quarantine").rglob("*") if path.is_file())

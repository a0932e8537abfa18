"""Another filter over a finished run: what would it have kept?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import RunError
from magpie.recipe import Filter
from magpie.runs.dataset import kept_rows, write_files
from magpie.runs.run import Run, merge_reasons
from magpie.runs.store import digest
from magpie.steps.base import REJECTED
from magpie.steps.filter import FilterStep, FunnelLine, applicable, check, funnel, split


@dataclass(frozen=True, slots=True)
class Refiltered:
    """What another filter made of a run: rows kept, the funnel, and the names of the rules left out.

    `never_answered` rows were dropped by the build's own filter before they were answered, and so are out here too.
    """

    kept: int
    never_answered: int
    lines: tuple[FunnelLine, ...]
    skipped: tuple[str, ...]


def refilter(run: Run, other: Filter, out: Path) -> Refiltered:
    """Apply `other` to the rows of `run`, and write what it keeps to folder `out`: a new one, or an earlier result's.

    Raises FilterError, DamagedShardError, and RunError when `out` holds other things.
    """
    if out.resolve() in {run.folder.resolve(), run.dataset_folder.resolve()}:
        raise RunError(f"{out} is the run itself; choose another folder with --out")
    schema = run.plan.schema
    other, skipped = applicable(other, schema)
    check(other, schema)
    early, late = split(other, schema.names)
    step = FilterStep(other, (*early, *late))
    own = next((planned for planned in run.plan.steps if planned.name == "filter"), None)
    rows = pa.concat_tables(run.rows(shard, step.reads, before=own) for shard in range(run.plan.shards))
    verdict = step.run_all(rows)
    earlier = pc.if_else(
        pc.is_valid(rows[REJECTED.name]), "out before this filter", pa.scalar(None, pa.string())
    )
    decided = pa.table(
        {"id": rows["id"], REJECTED.name: merge_reasons([earlier, verdict[REJECTED.name]], rows.num_rows)}
    )
    lines = funnel(other, decided, schema.names)
    kept = decided[REJECTED.name].null_count
    made_from = digest({"run": run.recipe.name, "filter": other.model_dump(mode="json")})
    write_files(out, kept_rows(run, decided), kept, run_name=run.recipe.name, made_from=made_from)
    return Refiltered(kept, _never_answered(run, rows), lines, tuple(skipped))


def _never_answered(run: Run, rows: pa.Table) -> int:
    """How many rows the build's own filter dropped before they were answered."""
    if run.plan.recipe.respond is None:
        return 0
    return int(pc.sum(pc.starts_with(rows[REJECTED.name], "filter: ")).as_py() or 0)

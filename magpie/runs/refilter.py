"""Another filter over a finished run: what would it have kept?"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from magpie.recipe import Filter
from magpie.runs.dataset import kept_rows, write_files
from magpie.runs.run import Run, merge_reasons
from magpie.runs.store import digest
from magpie.steps.base import REJECTED
from magpie.steps.filter import FilterStep, FunnelLine, applicable, check, funnel, split


def refilter(run: Run, other: Filter, out: Path) -> tuple[int, tuple[FunnelLine, ...], tuple[str, ...]]:
    """Apply `other` to the rows of `run` and write what it keeps to folder `out`.

    Gives the rows kept, the funnel, and the names of the rules left out. Rows that the build's own filter dropped
    before they were answered stay out: there is no response to keep. Raises FilterError, DamagedShardError.
    """
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
    made_from = digest({"run": run.recipe.name, "filter": other.model_dump(mode="json")})
    kept = write_files(out, kept_rows(run, decided), run_name=run.recipe.name, made_from=made_from)
    return kept, lines, tuple(skipped)

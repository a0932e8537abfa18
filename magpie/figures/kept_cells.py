"""What a run has kept so far, by cells and by steering: what a build with `until` goes by."""

from __future__ import annotations

from collections import Counter, defaultdict

from magpie.errors import RecipeError
from magpie.plan.until import Cell, Kept
from magpie.recipe.steer import values_in
from magpie.recipe.until import variable_of
from magpie.runs.run import Run
from magpie.steps.base import REJECTED

_STEER_ID = "steer_id"


def kept_cells(run: Run) -> Kept:
    """Count the kept rows of a run whose steps are all done. Raises RecipeError for a column that it has not."""
    until = run.recipe.until
    by = () if until is None else until.by
    is_steered = _STEER_ID in run.schema.names
    columns = {name for name in by if name in run.schema.names} | ({_STEER_ID} if is_steered else set())
    refuse_unknown_cells(run)
    rows = kept = 0
    cells: Counter[Cell] = Counter()
    asked: Counter[str] = Counter()
    fed: dict[str, Counter[Cell]] = defaultdict(Counter)
    for shard in range(run.shards):
        for row in run.rows(shard, columns, check=False).to_pylist():
            steer_id = row.get(_STEER_ID)
            rows += 1
            if steer_id is not None:
                asked[steer_id] += 1
            if row[REJECTED.name] is None:
                cell = _cell(row, by, steer_id)
                kept += 1
                cells[cell] += 1
                if steer_id is not None:
                    fed[steer_id][cell] += 1
    by_choice = {steer_id: (count, dict(fed[steer_id])) for steer_id, count in sorted(asked.items())}
    return Kept(rows, kept, dict(cells), by_choice)


def _cell(row: dict[str, object], by: tuple[str, ...], steer_id: str | None) -> Cell:
    values = values_in(steer_id or "")
    return tuple(
        str(row[name]) if name in row and row[name] is not None else values.get(variable_of(name), "none")
        for name in by
    )


def refuse_unknown_cells(run: Run) -> None:
    """Raise RecipeError where `until.by` names something that rows do not have."""
    by = () if run.recipe.until is None else run.recipe.until.by
    variables = {} if run.recipe.steer is None else run.recipe.steer.variables
    unknown = [name for name in by if name not in run.schema.names and variable_of(name) not in variables]
    if unknown:
        raise RecipeError(
            f"`until.by` names `{unknown[0]}`, which is neither a column of the run nor a variable of `steer`; "
            "see the columns with: magpie columns"
        )

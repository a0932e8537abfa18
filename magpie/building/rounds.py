"""The rounds of a build with `until`: how many rows were kept, which cells are short, how many come next."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from magpie.execution.counts import clock
from magpie.execution.progress import Progress
from magpie.figures.kept_cells import kept_cells
from magpie.plan.until import Kept, is_reached, next_rows, short_cells, with_next
from magpie.recipe import Recipe
from magpie.runs.run import Run

_SHOWN = 6


@dataclass(slots=True)
class RoundPlanner:
    """Plans the next round after each. `short` says what the build lacks in the end; None where it has all."""

    short: str | None = None
    _began: float = field(default_factory=time.monotonic)
    _rows_made: int = 0
    _tokens: int = 0

    def next(self, run: Run, progress: Progress) -> Recipe | None:
        """The recipe of the next round; None after the last. `progress` is told what is kept, and what is predicted."""
        recipe, kept = run.recipe, kept_cells(run)
        until = recipe.until
        assert until is not None
        counts = progress.counts.values()
        self._rows_made += max((count.fresh for count in counts), default=0)
        self._tokens += sum(count.tokens for count in counts)
        said = f"{kept.kept:,} of {until.kept:,} rows are kept, after {kept.rows:,} asked for"
        lacks = _listed(recipe, kept)
        step = next_rows(recipe, kept)
        if step is None:
            self.short = None if is_reached(recipe, kept) else _short(run, kept, lacks)
            progress.note(
                f"{said}{'' if self.short is None else f'; the limit of {until.limit:,} is reached'}"
            )
            return None
        more = step.rows - kept.rows
        steered = "" if not step.shares else f", steered by {len(step.shares)} prompts that feed them"
        progress.note(f"{said}{lacks}; {more:,} more are asked for{steered}")
        progress.note(self._predicted(recipe, kept))
        progress.log.write("until", rows=kept.rows, kept=kept.kept, next=step.rows)
        return with_next(recipe, step)

    def _predicted(self, recipe: Recipe, kept: Kept) -> str:
        """How many rows it takes in all, and what these still cost, by what was measured so far."""
        until = recipe.until
        assert until is not None
        if not kept.kept:
            return f"no row is kept so far; {until.limit:,} are asked for at most"
        rows = min(until.limit, max(kept.rows, round(until.kept * kept.rows / kept.kept)))
        left = rows - kept.rows
        parts = [f"about {rows:,} rows in all"]
        if self._rows_made:
            tokens = self._tokens * left / self._rows_made
            seconds = (time.monotonic() - self._began) * left / self._rows_made
            parts += [f"{tokens:,.0f} tokens", f"{clock(seconds)} more"]
        return f"predicted from these: {', '.join(parts)}"


def _listed(recipe: Recipe, kept: Kept) -> str:
    """The cells that are short, in words; empty where none is."""
    assert recipe.until is not None
    short, targets = short_cells(recipe, kept), recipe.until.targets(recipe.steer)
    cells = [
        f"{'/'.join(cell)} {targets[cell] - lacks:,} of {targets[cell]:,}" for cell, lacks in short.items()
    ]
    more = f" and {len(cells) - _SHOWN} more" if len(cells) > _SHOWN else ""
    return f"; short of {', '.join(cells[:_SHOWN])}{more}" if cells else ""


def _short(run: Run, kept: Kept, lacks: str) -> str:
    """What the finished dataset lacks, why, and what to do."""
    until = run.recipe.until
    assert until is not None
    never = ["/".join(cell) for cell in short_cells(run.recipe, kept) if not kept.cells.get(cell)]
    why = f"; not one row came to {', '.join(never[:_SHOWN])}" if never else ""
    return (
        f"{run.storage.location} has {kept.kept:,} of {until.kept:,} rows{lacks}{why}; the limit of {until.limit:,} "
        "rows is reached: raise `until.most`, or take it as it is with --accept-short"
    )

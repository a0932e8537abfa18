"""Where the rows of a finished run went, rule by rule of its own filter."""

from __future__ import annotations

from magpie.figures.status import Status
from magpie.runs.run import Run
from magpie.steps.base import REJECTED
from magpie.steps.filter import FunnelLine, QuotaGroup, funnel_lines, quota_groups, values_of_no_row
from magpie.steps.filter.sql import columns_read


def filter_funnel(run: Run, found: Status) -> tuple[FunnelLine, ...] | None:
    """Rows in, lost and left for each rule of the run's filter, the quotas and the top; None without a filter.

    Rows that another step rejected, such as one that got no answer, are not counted. What is left after the last line
    is `kept`.
    """
    if run.recipe.filter is None:
        return None
    # By step, so that pushed-down rules come first. A rule has one name in the reasons of both steps.
    rules = [rule.name for run_step in run.steps for rule in run_step.step.rules]
    lost = {reason: count for step in found.steps for reason, count in step.rejected.items()}
    return funnel_lines(run.recipe.filter, rules, lost, left=found.steps[-1].rows_out)


def quota_outcome(run: Run) -> tuple[tuple[QuotaGroup, ...], tuple[str, ...]]:
    """What the quotas of a finished run's filter did to each value; and the values in `counts` that no row has."""
    filter = run.recipe.filter
    if filter is None or filter.quotas is None:
        return (), ()
    rows = run.table(sorted(columns_read(filter.quotas.by)))
    return quota_groups(filter, rows, rows[REJECTED.name]), values_of_no_row(filter, rows)

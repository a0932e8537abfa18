"""The commands about a run, for Python: they return results where the command prints tables.

Each takes a `Run` or its folder.
"""

from __future__ import annotations

from magpie.api.comparing import compare, compare_filters, compare_sets
from magpie.api.datasets import columns, filter, import_dataset, merge, rouge, split
from magpie.api.publishing import card, export, export_for_trainer, push
from magpie.api.recipes import new, plan, plan_costs, recipe
from magpie.api.reports import report
from magpie.api.runs import list_runs, show, status, verify
from magpie.api.viewing import atlas_rows

__all__ = [
    "atlas_rows",
    "card",
    "columns",
    "compare",
    "compare_filters",
    "compare_sets",
    "export",
    "export_for_trainer",
    "filter",
    "import_dataset",
    "list_runs",
    "merge",
    "new",
    "plan",
    "plan_costs",
    "push",
    "recipe",
    "report",
    "rouge",
    "show",
    "split",
    "status",
    "verify",
]

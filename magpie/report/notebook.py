"""Results as notebooks show them: what the command prints of them, as HTML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console

from magpie.data.select import FilterComparison, Refiltered
from magpie.doctor.doctor import Diagnosis
from magpie.doctor.tune import Tuning
from magpie.figures.comparison import Comparison
from magpie.figures.status import Status
from magpie.plan import DryRun
from magpie.report.cell import as_html
from magpie.report.comparison_table import print_sets
from magpie.report.diagnosis import print_diagnosis
from magpie.report.dry_run import print_plan
from magpie.report.filter_tables import print_comparison, print_funnel
from magpie.report.run_table import print_status
from magpie.report.tuning import print_tuning


def show_tables() -> None:
    """Give the results of the verbs the method that notebooks look for."""
    # Results stand below the reports in the house and cannot know them, so they are told from here.
    shown: dict[type, Callable[[Any, Console], None]] = {
        Status: print_status,
        Refiltered: print_funnel,
        FilterComparison: print_comparison,
        Comparison: print_sets,
        DryRun: print_plan,
        Diagnosis: print_diagnosis,
        Tuning: print_tuning,
    }
    for kind, print_result in shown.items():
        setattr(kind, "_repr_html_", lambda result, how=print_result: as_html(how, result))  # noqa: B010

"""From a recipe to steps, phases and fingerprints. Nothing is loaded here but tokenizers."""

from magpie.plan.commits import adopt_commits, pin_commits
from magpie.plan.dry_run import DryRun, dry_run
from magpie.plan.fingerprints import BoundPlan, bind
from magpie.plan.phases import Phase, Plan
from magpie.plan.planning import make_plan
from magpie.plan.tools import BuildTools

__all__ = [
    "BoundPlan",
    "BuildTools",
    "DryRun",
    "Phase",
    "Plan",
    "adopt_commits",
    "bind",
    "dry_run",
    "make_plan",
    "pin_commits",
]

"""What is there of a run when a build begins: shards that count, and damaged ones, which are put in quarantine."""

from __future__ import annotations

from dataclasses import replace

from magpie.errors import DamagedShardError
from magpie.execution.base import Noted, Report
from magpie.execution.worker import stamp_for
from magpie.plan import BoundPlan
from magpie.runs.earlier import names_put_aside
from magpie.runs.manifest import Manifest
from magpie.runs.run import QUARANTINE, Run
from magpie.runs.verify import stray_problem, strays
from magpie.storage import Storage


def scan(run: Run, bound: BoundPlan, report: Report) -> Manifest:
    """The shards of a run that count. What is moved into quarantine, or is none of the run's, is reported.

    A shard of the run as it was before it was changed is taken away, where it is kept among the earlier runs.
    """
    manifest, damaged = Manifest.scan(run)
    put_aside: frozenset[str] | None = None

    def drop(name: str) -> bool:
        nonlocal put_aside
        if put_aside is None:
            put_aside = names_put_aside(run.storage)
        if name not in put_aside:
            return False
        run.storage.delete(name)
        return True

    for run_step, shard in manifest.places():
        committed = manifest.get(run_step, shard)
        if committed is None:
            continue
        stamp = committed.stamp
        expected = stamp_for(run, bound, run_step, shard, stamp.made_from)
        # A run that has grown has shards of when it was smaller.
        if stamp != replace(expected, total=stamp.total) or stamp.total > expected.total:
            if drop(run.shard_name(run_step, shard)):
                manifest.remove(run_step, shard)
                continue
            place = run.shard_place(run_step, shard)
            misplaced = DamagedShardError(f"{place} is stamped for another place or recipe")
            damaged.append((run_step, shard, misplaced))
    for run_step, shard, error in damaged:
        manifest.remove(run_step, shard)
        place = _quarantine(run.storage, run.shard_name(run_step, shard))
        report(Noted(f"{str(error).split(';')[0]}; moved to {place}, making it again"))
    for name in strays(run):
        if not drop(name):
            report(Noted(stray_problem(run, name)))
    return manifest


def _quarantine(storage: Storage, name: str) -> str:
    """Move a damaged file away, keeping its name and place; where it went."""
    to = f"{QUARANTINE}{name}"
    while storage.exists(to):
        to = f"{to}.again"
    storage.move(name, to)
    return storage.place(to)

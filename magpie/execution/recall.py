"""The earlier shards of a sequential step, shown to its work before it makes the next one."""

from __future__ import annotations

from typing import Any

from magpie.errors import DamagedShardError
from magpie.runs.manifest import START, lineage_after
from magpie.runs.run import Run, RunStep
from magpie.steps.base import SequentialStep, SequentialWork
from magpie.storage.sealed import inspect_shard


def recall(run: Run, run_step: RunStep, work: SequentialWork[Any], shard: int, lineage: str) -> None:
    """Show the work every shard before this one, of which it reads only those that it has not seen.

    `lineage` is that of their contents: the work may have seen others, in which case it is shown all of them again.
    Raises DamagedShardError where what is there is not what the shard is to be made from.
    """
    if work.recalled > shard:
        _start_again(work)
    _catch_up(run, run_step, work, shard)
    if work.lineage != lineage:
        _start_again(work)
        _catch_up(run, run_step, work, shard)
    if work.lineage != lineage:
        _start_again(work)
        raise DamagedShardError(
            f"the shards before {run.shard_place(run_step, shard)} have changed while it was made; run the build again"
        )


def _start_again(work: SequentialWork[Any]) -> None:
    work.forget()
    work.recalled, work.lineage = 0, START


def _catch_up(run: Run, run_step: RunStep, work: SequentialWork[Any], shard: int) -> None:
    assert isinstance(run_step.step, SequentialStep)
    while work.recalled < shard:
        committed = inspect_shard(run.storage, run.shard_name(run_step, work.recalled))
        work.recall(run.read(run_step, work.recalled, ["id", *run_step.step.recalls], check=False))
        work.lineage = lineage_after(work.lineage, committed)
        work.recalled += 1

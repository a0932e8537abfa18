"""A run that takes over from another all that it would make alike: every step before the first that differs.

So another threshold of `dedup` costs neither the instructions nor their embeddings again. Shards are never written to
once they are there, and a file that two runs share is one file on disk.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from magpie.errors import RunError
from magpie.plan.phases import PlannedStep
from magpie.runs.run import Run
from magpie.runs.shards import storage_errors, sync_folder


def take_over(run: Run, source: Run, made_of: dict[str, Any]) -> dict[str, int]:
    """Put the shards of `source` that `run` would make alike into `run`; how many there are of each step.

    `made_of` is all that decides what the shards of `run` hold, step by step, and `run` for its shape. Shards that
    `run` has already stay as they are. What is damaged, or was made from other shards, is found when the build looks at
    what it has, and made again. Raises RunError when no step is alike, StorageError.
    """
    steps = _alike(run, source, made_of)
    taken: dict[str, int] = {}
    for mine, theirs in steps:
        folder = run.folder / "steps" / mine.folder
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for shard in range(run.plan.shards):
                there, here = source.shard_path(theirs, shard), run.shard_path(mine, shard)
                if there.is_file() and not here.exists():
                    _share(there, here)
                    taken[mine.name] = taken.get(mine.name, 0) + 1
            sync_folder(folder)
    return taken


def _alike(run: Run, source: Run, made_of: dict[str, Any]) -> list[tuple[PlannedStep, PlannedStep]]:
    """The steps from the first on that both runs make alike, as each plans them."""
    if source.folder.resolve() == run.folder.resolve():
        raise RunError(f"{run.folder} cannot reuse itself; name another folder with --out")
    try:
        there = json.loads(source.fingerprints_path.read_text(encoding="utf-8"))
        named = {"name": source.recipe.name, **there["run"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{source.folder} does not say how it was made; leave out --reuse") from error
    if not source.has_shards:
        raise RunError(f"{source.folder} has made nothing yet; build it first, or leave out --reuse")
    wanted = {"name": run.recipe.name, **made_of["run"]}
    if named != wanted:
        other = ", ".join(f"{key} {named.get(key)}" for key in wanted if named.get(key) != wanted[key])
        raise RunError(f"{source.folder} has other rows ({other}); use the same, or leave out --reuse")
    steps: list[tuple[PlannedStep, PlannedStep]] = []
    for mine, theirs in zip(run.plan.steps, source.plan.steps, strict=False):
        if mine.name != theirs.name or there.get(mine.name) != made_of[mine.name]:
            break
        steps.append((mine, theirs))
    if not steps:
        raise RunError(
            f"{source.folder} makes even its instructions in another way, so there is nothing to reuse; "
            "leave out --reuse"
        )
    return steps


def _share(there: Path, here: Path) -> None:
    """One file in two places; a copy where the file system cannot, such as across two disks."""
    unfinished = here.with_name(f".{here.name}.tmp")
    unfinished.unlink(missing_ok=True)
    try:
        os.link(there, unfinished)
    except OSError:
        shutil.copyfile(there, unfinished)
        with unfinished.open("rb+") as written:
            os.fsync(written.fileno())
    unfinished.replace(here)

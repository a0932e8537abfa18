"""The runs below a folder, each with its state: read from a few files of each, not from its shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from magpie.errors import MagpieError, RunError
from magpie.figures.run_log import event_in
from magpie.runs.live import running
from magpie.runs.run import LOG, Run, is_run
from magpie.storage import open_storage
from magpie.storage.folders import folders_below

_DEEPEST = 4
_TAIL = 4096  # bytes at the end of a log that its last event is looked for in


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run. `state` is "finished", "building", "stopped" or "unreadable", and `what` says more in words.

    `kept` is how many rows its dataset has, None while there is none; `changed` when its build last said something, in
    seconds since 1970, None where it has no log.
    """

    folder: str
    recipe: str | None
    rows: int | None
    kept: int | None
    state: str
    what: str
    changed: float | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def runs_below(folder: str | Path) -> list[FoundRun]:
    """The runs in a folder and in those inside it, by name. Raises RunError where there is no such folder."""
    if not Path(folder).is_dir():
        raise RunError(f"there is no folder {folder}; give the one that your runs are in, such as runs")
    return [_found(place) for place in _places(str(folder), _DEEPEST)]


def _places(folder: str, deepest: int) -> Iterator[str]:
    if is_run(open_storage(folder)):
        yield folder  # what lies inside a run is its own
    elif deepest:
        for below in folders_below(folder):
            yield from _places(below, deepest - 1)


def _found(place: str) -> FoundRun:
    try:
        run = Run.open(place)
        at_work, unfinished = running(run), run.first_unfinished
        manifest = run.dataset_files.manifest()
        kept = None if manifest is None else manifest.rows
        changed = _last_event(run)
    except MagpieError as error:
        return FoundRun(place, None, None, None, "unreadable", str(error), None)
    known = (place, run.recipe.name, run.recipe.rows, kept)
    if at_work is not None:
        return FoundRun(*known, "building", f"{at_work.doing or 'starting'}, process {at_work.pid}", changed)
    if unfinished is None and kept is not None:
        return FoundRun(*known, "finished", "", changed)
    step = unfinished or run.steps[-1]
    done = sum(run.has_shard(step, shard) for shard in range(run.shards))
    return FoundRun(*known, "stopped", f"at {step.name}, {done} of {run.shards} shards", changed)


def _last_event(run: Run) -> float | None:
    try:
        with run.storage.open(LOG) as log:
            size = log.size()
            log.seek(max(0, size - _TAIL))
            lines = log.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        event = event_in(line)
        if event is not None:
            return float(event["time"])
    return None

"""What shards of a run are there and whole, and whether each was made from what is there now.

A shard's lineage is a digest of its own content and of the lineage of the shard it was made from. Each shard's stamp
names the lineage it was made from; a shard of a global step, which saw every row, names that of all shards, and one of
a sequential step also the contents of the step's shards before it. So a shard that is made again with other text makes
stale what was built on it and nothing else, and one that is made again with the same text leaves everything current.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from magpie.errors import DamagedShardError
from magpie.runs.run import Run, RunStep
from magpie.storage.sealed import Shard, inspect_shard

_AT_ONCE = 8

START = ""
"""The lineage of rows that no step has been at yet."""


class Manifest:
    """The shards of a run that are there and whole, by step number and shard number."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._shards: dict[tuple[int, int], Shard] = {}
        # Lineages are looked up once for each shard of a large run, and change only behind a shard that changes.
        self._lineages: dict[tuple[int, int], str] = {}
        self._lineages_of_all: dict[int, str] = {}
        # Of each sequential step: the lineage of its first shards' contents, of none of them, of one, of two, ...
        self._earlier: dict[int, list[str]] = {}

    @classmethod
    def scan(cls, run: Run) -> tuple[Manifest, list[tuple[RunStep, int, DamagedShardError]]]:
        """Read every byte of every shard: what is whole, and what is damaged."""
        manifest, damaged = cls(run), []
        there = run.storage.which([run.shard_name(*place) for place in manifest.places()])
        places = [place for place in manifest.places() if run.shard_name(*place) in there]

        def inspected(place: tuple[RunStep, int]) -> Shard | DamagedShardError:
            try:
                return inspect_shard(run.storage, run.shard_name(*place))
            except DamagedShardError as error:
                return error

        # A bucket answers many requests at once as fast as one.
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="scan") as pool:
            for (run_step, shard), found in zip(places, pool.map(inspected, places), strict=True):
                if isinstance(found, DamagedShardError):
                    damaged.append((run_step, shard, found))
                else:
                    manifest.add(run_step, shard, found)
        return manifest, damaged

    def places(self) -> Iterator[tuple[RunStep, int]]:
        """Every step and shard of the run, step by step."""
        for run_step in self._run.steps:
            for shard in range(self._run.shards):
                yield run_step, shard

    def get(self, run_step: RunStep, shard: int) -> Shard | None:
        """The shard, if it is there and whole."""
        return self._shards.get((run_step.number, shard))

    def add(self, run_step: RunStep, shard: int, committed: Shard) -> None:
        """Note that the shard is there now."""
        self._shards[run_step.number, shard] = committed
        self._forget_lineages(run_step, shard)

    def remove(self, run_step: RunStep, shard: int) -> None:
        """Note that the shard is gone."""
        self._shards.pop((run_step.number, shard), None)
        self._forget_lineages(run_step, shard)

    def source(self, run_step: RunStep, shard: int) -> str | None:
        """What a shard's stamp must say it was made from; None while some of that is not there."""
        before = run_step.number - 1
        if run_step.is_global:
            return self._lineage_of_all(before)
        lineage = self._lineage(before, shard)
        if not run_step.is_sequential or shard == 0 or lineage is None:
            return lineage
        earlier = self.earlier(run_step, shard)
        return None if earlier is None else _digest([lineage, earlier])

    def earlier(self, run_step: RunStep, shard: int) -> str | None:
        """The lineage of the shards before this one that it is made from too; None while some of them are not there."""
        if not run_step.is_sequential:
            return START
        lineages = self._earlier.setdefault(run_step.number, [START])
        while len(lineages) <= shard:
            committed = self._shards.get((run_step.number, len(lineages) - 1))
            if committed is None:
                return None
            lineages.append(lineage_after(lineages[-1], committed))
        return lineages[shard]

    def is_current(self, run_step: RunStep, shard: int) -> bool:
        """Whether the shard is there, and made from what is there before it."""
        committed = self.get(run_step, shard)
        return committed is not None and committed.stamp.made_from == self.source(run_step, shard)

    @property
    def end(self) -> str | None:
        """The lineage of the whole run, which the dataset is made from; None while shards are missing."""
        return self._lineage_of_all(self._run.steps[-1].number)

    def _lineage(self, number: int, shard: int) -> str | None:
        if number == 0:
            return START
        lineage = self._lineages.get((number, shard))
        if lineage is None:
            run_step, committed = self._run.steps[number - 1], self._shards.get((number, shard))
            before = (
                self.source(run_step, shard) if run_step.is_sequential else self._lineage(number - 1, shard)
            )
            if before is None or committed is None:
                return None
            lineage = self._lineages[number, shard] = lineage_after(before, committed)
        return lineage

    def _lineage_of_all(self, number: int) -> str | None:
        lineage = self._lineages_of_all.get(number)
        if lineage is None:
            parts = [self._lineage(number, shard) for shard in range(self._run.shards)]
            whole = [part for part in parts if part is not None]
            if len(whole) < len(parts):
                return None
            lineage = self._lineages_of_all[number] = _digest(whole)
        return lineage

    def _forget_lineages(self, run_step: RunStep, shard: int) -> None:
        changed = range(shard, shard + 1)
        for after in self._run.steps[run_step.number - 1 :]:
            if after.is_sequential:
                changed = range(shard, self._run.shards)
                del self._earlier.get(after.number, [])[shard + 1 :]
            for each in changed:
                self._lineages.pop((after.number, each), None)
            self._lineages_of_all.pop(after.number, None)


def lineage_after(lineage: str, committed: Shard) -> str:
    """The lineage of a shard that was made from what has `lineage`."""
    return _digest([lineage, committed.content])


def _digest(parts: Iterable[str]) -> str:
    return hashlib.blake2b("/".join(parts).encode(), digest_size=16).hexdigest()

"""What of a run stands on disk: which shards are whole, and whether each was made from what is there now.

A shard's lineage is a digest of its own content and of the lineage of the shard it was made from. Each shard's stamp
names the lineage it was made from; a shard of a global step, which saw every row, names that of all shards. So a shard
that is made again with other text makes stale what was built on it and nothing else, and one that is made again with
the same text leaves everything standing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from magpie.errors import DamagedShardError
from magpie.plan.phases import PlannedStep
from magpie.runs.run import Run
from magpie.runs.shards import Shard, inspect_shard


class Standing:
    """The shards of a run that are on disk and whole, by step number and shard number."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._found: dict[tuple[int, int], Shard] = {}
        self._lineages: dict[tuple[int, int], str] = {}
        self._of_all: dict[int, str] = {}

    @classmethod
    def look(cls, run: Run) -> tuple[Standing, list[tuple[PlannedStep, int, DamagedShardError]]]:
        """Read every byte of every shard: what stands, and what is damaged."""
        standing, damaged = cls(run), []
        for planned, shard in standing.places():
            path = run.shard_path(planned, shard)
            if not path.exists():
                continue
            try:
                standing.put(planned, shard, inspect_shard(path))
            except DamagedShardError as error:
                damaged.append((planned, shard, error))
        return standing, damaged

    def places(self) -> Iterator[tuple[PlannedStep, int]]:
        """Every step and shard of the run, step by step."""
        for planned in self._run.plan.steps:
            for shard in range(self._run.plan.shards):
                yield planned, shard

    def get(self, planned: PlannedStep, shard: int) -> Shard | None:
        """The shard, if it is on disk and whole."""
        return self._found.get((planned.number, shard))

    def put(self, planned: PlannedStep, shard: int, found: Shard) -> None:
        """Note that the shard is on disk now."""
        self._found[planned.number, shard] = found
        self._forget(planned, shard)

    def drop(self, planned: PlannedStep, shard: int) -> None:
        """Note that the shard is gone."""
        self._found.pop((planned.number, shard), None)
        self._forget(planned, shard)

    def source(self, planned: PlannedStep, shard: int) -> str | None:
        """What a shard's stamp must say it was made from; None while some of that is not there."""
        before = planned.number - 1
        return self._all(before) if planned.is_global else self._lineage(before, shard)

    def stands(self, planned: PlannedStep, shard: int) -> bool:
        """Whether the shard is there, and made from what is there before it."""
        found = self.get(planned, shard)
        return found is not None and found.stamp.made_from == self.source(planned, shard)

    @property
    def end(self) -> str | None:
        """The lineage of the whole run, which the dataset is made from; None while shards are missing."""
        return self._all(self._run.plan.steps[-1].number)

    def _lineage(self, number: int, shard: int) -> str | None:
        if number == 0:
            return ""
        known = self._lineages.get((number, shard))
        if known is None:
            before, found = self._lineage(number - 1, shard), self._found.get((number, shard))
            if before is None or found is None:
                return None
            known = self._lineages[number, shard] = _digest([before, found.content])
        return known

    def _all(self, number: int) -> str | None:
        known = self._of_all.get(number)
        if known is None:
            every = [self._lineage(number, shard) for shard in range(self._run.plan.shards)]
            if None in every:
                return None
            known = self._of_all[number] = _digest(one for one in every if one is not None)
        return known

    def _forget(self, planned: PlannedStep, shard: int) -> None:
        for number in range(planned.number, len(self._run.plan.steps) + 1):
            self._lineages.pop((number, shard), None)
            self._of_all.pop(number, None)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.blake2b("/".join(parts).encode(), digest_size=16).hexdigest()

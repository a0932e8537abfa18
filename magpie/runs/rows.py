"""A finished run as a filter sees it: its rows as they stand before its own filter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import RunError
from magpie.runs.dataset import kept_rows
from magpie.runs.run import DATASET, Run
from magpie.steps.base import REJECTED
from magpie.steps.filter import is_reason_of_filter


class RunRows:
    """The rows of a run, to choose from: a RowSource."""

    what = "the run"

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self._run.recipe.name

    @property
    def schema(self) -> pa.Schema:
        """Every column of the run."""
        return self._run.schema

    def columns(self, names: Sequence[str]) -> pa.Table:
        """`id`, `index`, `rejected` and the named columns of every row."""
        run = self._run
        shards = (run.rows(shard, names, before=run.own_filter) for shard in range(run.shards))
        return pa.concat_tables(shards)

    def kept(self, rejected: pa.ChunkedArray) -> Iterator[pa.Table]:
        """The rows whose `rejected` is null, in dataset form."""
        return kept_rows(self._run, rejected)

    def texts(self, at: Sequence[int]) -> dict[int, tuple[str, str]]:
        """The id and the instruction of the rows at these positions."""
        texts: dict[int, tuple[str, str]] = {}
        for shard in sorted({index // self._run.recipe.shard_rows for index in at}):
            here = self._run.shard_range(shard)
            rows = self._run.rows(shard, ["instruction"], check=False)
            for index in (index for index in at if index in here):
                place = index - here.start
                texts[index] = (rows["id"][place].as_py(), rows["instruction"][place].as_py() or "")
        return texts

    def refuse(self, out: Path) -> None:
        """Raise RunError when `out` is the run itself."""
        run = self._run.folder.resolve()
        if out.resolve() in {run, run / DATASET}:
            raise RunError(f"{out} is the run itself; choose another folder with --out")

    def never_answered(self, rows: pa.Table) -> int:
        """How many rows the build's own filter dropped before they were answered."""
        return int(pc.sum(is_reason_of_filter(rows[REJECTED.name])).as_py() or 0)

"""The work of a step that asks a model once about each row: what all such steps do alike."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from magpie.steps.base.columns import REJECTED
from magpie.steps.base.requests import complete_each
from magpie.steps.base.rows import by_column, live, seeds, spread
from magpie.steps.base.step import RowWork

if TYPE_CHECKING:
    from magpie.engines.base import Completion, Engine, Sampling

Row = Mapping[str, Any]
"""One row: what its step reads, by column."""


class AskingStep(Protocol):
    """What the work reads of its step; `seed` is that of the run."""

    @property
    def name(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def reads(self) -> Sequence[str]: ...

    @property
    def adds(self) -> pa.Schema: ...

    @property
    def rewrites(self) -> tuple[str, ...]: ...


class AskingWork(RowWork["Engine"]):
    """Row work that is one request to a model for each row that is in.

    A subclass says of one row what the model is shown, how its text is drawn, and which columns come of that.
    """

    step: AskingStep

    def asked(self, rows: pa.Table) -> list[int]:
        """The positions of the rows that the model is asked about, in ascending order."""
        return live(rows)

    @abstractmethod
    def prompt_for(self, row: Row, engine: Engine) -> list[int]:
        """The prompt, as token ids."""

    @abstractmethod
    def sampling_for(self, row: Row, seed: int, engine: Engine) -> Sampling:
        """How the text is drawn; `seed` is the row's own."""

    @abstractmethod
    def columns_from(self, row: Row, seed: int, completion: Completion) -> dict[str, Any]:
        """What the step adds to the row; null where it says nothing. `rejected` is the bare reason."""

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """One request a row, all at once."""
        step, at = self.step, self.asked(rows)
        # The type is given for an empty `at`, of which Arrow would make an array of type null.
        about = rows.select(list(step.reads)).take(pa.array(at, pa.int64())).to_pylist()
        row_seeds = seeds(step.seed, step.name, rows["index"].to_numpy()[at]).tolist()
        completions = await complete_each(
            engine,
            (self.prompt_for(row, engine) for row in about),
            (self.sampling_for(row, seed, engine) for row, seed in zip(about, row_seeds, strict=True)),
        )
        made = [self.columns_from(*each) for each in zip(about, row_seeds, completions, strict=True)]
        columns = by_column(made, step.adds)
        if REJECTED.name in columns:
            columns[REJECTED.name] = [
                reason and f"{step.name}: {reason}" for reason in columns[REJECTED.name]
            ]
        return spread(rows, at, columns, step.adds, rewritten=step.rewrites)

"""A row step whose shards depend on earlier ones of its own: one shard is made after the other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from magpie.steps.base.step import RowStep, RowWork

if TYPE_CHECKING:
    import pyarrow as pa

    from magpie.steps.base.step import Tools

E = TypeVar("E")


class SequentialWork(RowWork[E]):
    """Row work on a shard that depends on what the step committed for the shards before it.

    Whoever runs it shows it the rows of these first, each shard once and in order; `recalled` are how many it has seen,
    and `lineage` is that of their contents. What `run` itself makes counts only when it comes back by `recall`.
    """

    recalled: int = 0
    lineage: str = ""

    @abstractmethod
    def recall(self, rows: pa.Table) -> None:
        """Take in what the step committed for the next shard: `id` and the columns that the step `recalls`."""

    @abstractmethod
    def forget(self) -> None:
        """Be as if no shard had been shown."""


class SequentialStep(RowStep):
    """A row step of which a shard is made from the earlier ones too. It is a phase by itself."""

    by_row = False

    @property
    @abstractmethod
    def recalls(self) -> Sequence[str]:
        """The columns of its own that later shards are made from."""

    @abstractmethod
    def bind(self, tools: Tools) -> SequentialWork[Any]:
        """The work, with all that it needs besides an engine. Raises ModelError and RecipeError."""

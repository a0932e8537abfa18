"""The section `until`: how many rows are to be kept, and of which kinds, instead of how many are asked for."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from magpie.recipe.base import Part, Section, Text

_DRAWS = 10
"""How many rows are asked for at most for each one that is to be kept, unless the recipe says otherwise."""


class Cell(Part):
    """A kind of row, and how many of them are to be kept."""

    of: tuple[str, ...] = Field(min_length=1)
    """The values of the columns in `by`, in their order."""
    share: float | None = Field(default=None, gt=0, le=1)
    """Which part of the rows it is to be."""
    count: int | None = Field(default=None, ge=0)
    """How many rows it is to have, instead of a share."""

    @model_validator(mode="after")
    def _check_size(self) -> Cell:
        if (self.share is None) == (self.count is None):
            raise ValueError("needs either a `share` or a `count`")
        return self


class Until(Section):
    """Rows are asked for, some shards at a time, until so many are kept. `rows` is then not read."""

    kept: int = Field(ge=1)
    """How many rows the dataset is to have: that many, and a shard more at most."""
    most: int | None = Field(default=None, ge=1)
    """The most rows that are asked for, whatever is kept of them. null is 10 for each that is to be kept."""
    by: tuple[Text, ...] = ()
    """Columns, or variables of `steer`, whose values make cells: [language, topic]."""
    cells: tuple[Cell, ...] = ()
    """The cells and their sizes. Without any, each pairing of the values of `by` has the same share.

    Later rows are steered by the prompts that feed the cells which are short.
    """

    @property
    def limit(self) -> int:
        """The most rows that are asked for."""
        return self.kept * _DRAWS if self.most is None else self.most

    @model_validator(mode="after")
    def _check_cells(self) -> Until:
        if self.cells and not self.by:
            raise ValueError("`cells` need `by`, the columns whose values they name")
        for cell in self.cells:
            if len(cell.of) != len(self.by):
                raise ValueError(
                    f"the cell {list(cell.of)} has {len(cell.of)} values, and `by` has {len(self.by)} columns"
                )
        names = [cell.of for cell in self.cells]
        if len(set(names)) < len(names):
            raise ValueError("two cells have the same values; give them one size")
        asked = sum(cell.count or round((cell.share or 0) * self.kept) for cell in self.cells)
        if asked > self.kept + len(self.cells):
            raise ValueError(f"the cells ask for {asked} rows, which is more than `kept`; give them less")
        return self

    def targets(self, steer: Any) -> dict[tuple[str, ...], int]:
        """How many rows each cell is to have; `steer` is the section of that name, or None."""
        if self.cells:
            return {
                cell.of: cell.count if cell.count is not None else round((cell.share or 0) * self.kept)
                for cell in self.cells
            }
        if not self.by:
            return {}
        every: list[tuple[str, ...]] = [()]
        for name in self.by:
            every = [(*cell, value.id) for cell in every for value in steer.variables[variable_of(name)]]
        return dict.fromkeys(every, self.kept // len(every))

    def check(self, recipe: Any) -> None:
        """Without sizes, cells are made of the values of steering."""
        known = {} if recipe.steer is None else recipe.steer.variables
        unknown = [name for name in self.by if variable_of(name) not in known]
        if self.by and not self.cells and unknown:
            raise ValueError(
                f"`until.by` names `{unknown[0]}`, which is no variable of `steer`: its values are not known before; "
                "give the sizes of the `cells`"
            )


def variable_of(name: str) -> str:
    """The variable of steering that a column is named after: `steer_topic` is of `topic`."""
    return name.removeprefix("steer_")

"""Every column explained: what it holds, which step makes it, and what the published datasets call it.

Nothing is written down twice: a column's meaning stands in the step that adds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from magpie.data.magpie_form import PUBLISHED
from magpie.data.plain_columns import FIELDS
from magpie.runs.kept import CONVERSATION, PAIR_COLUMNS
from magpie.runs.opened import OpenDataset
from magpie.runs.provenance import Provenance
from magpie.steps import FIRST_COLUMNS, every_step, whole_recipe
from magpie.steps.base import REJECTED, GlobalStep, RowStep, is_inner, meaning_of, published_name

_NO_STEP = "dataset"


@dataclass(frozen=True, slots=True)
class Explanation:
    """One column. `step` names the steps that make it, or says "dataset"; it is empty for a column of a foreign set.

    `in_dataset` is False for a column that stays in the run, or that is only made when it is asked for.
    """

    name: str
    type: str
    meaning: str
    step: str
    published: str | None
    in_dataset: bool

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def explain_run(provenance: Provenance) -> list[Explanation]:
    """The columns of a run and its dataset: first those in the dataset, then those that stay in the run."""
    every = _explained(provenance.steps, provenance)
    return sorted(every, key=lambda column: not column.in_dataset)


def explain_dataset(dataset: OpenDataset) -> list[Explanation]:
    """The columns that the files of a dataset have, and those that could be added."""
    known = (
        _plain() if dataset.provenance is None else _explained(dataset.provenance.steps, dataset.provenance)
    )
    here = [_of_file(field, known) for field in dataset.schema]
    more = {field.name for field in dataset.derived}
    return [*here, *(replace(column, in_dataset=False) for column in known if column.name in more)]


def explain_everything() -> list[Explanation]:
    """Every column that any step may add."""
    return explain_run(_everything())


def type_name(kind: pa.DataType) -> str:
    """A type in words: "list of string"."""
    if pa.types.is_struct(kind):
        fields = (kind.field(at) for at in range(kind.num_fields))
        return "{" + ", ".join(f"{field.name}: {type_name(field.type)}" for field in fields) + "}"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"list of {type_name(kind.value_type)}"
    return str(kind)


def _everything() -> Provenance:
    steps = every_step()
    return Provenance(
        whole_recipe(), steps, {step.credited_as: "" for step in steps if step.credited_as is not None}
    )


def _explained(steps: Sequence[RowStep | GlobalStep], provenance: Provenance) -> list[Explanation]:
    added = [(field, step.name) for step in steps for field in step.adds]
    names = [field.name for field, _ in added]
    pairs = PAIR_COLUMNS if "chosen_response" in names else ()
    identity, *positions = FIRST_COLUMNS
    texts = [(field, _NO_STEP) for field in (identity, CONVERSATION, *pairs)]
    derived = [
        (field, next((step.name for step in steps if field.name in step.derives.names), _NO_STEP))
        for field in provenance.derived_fields
    ]
    credited = [(field, _NO_STEP) for field in provenance.credit_fields]
    first = [(field, _NO_STEP) for field in positions if field.name not in names]
    # What follows from the conversation, where no step puts it into the dataset.
    plain = [
        (field, _NO_STEP) for field in FIELDS if field.name not in {*names, *(one.name for one, _ in derived)}
    ]
    described: dict[tuple[str, bool], Explanation] = {}
    for field, step in (*texts, *first, *added, *derived, *credited, *plain):
        in_dataset = not is_inner(field) and field is not REJECTED and not field.equals(REJECTED)
        key = (field.name, in_dataset)
        earlier = described.get(key)
        if earlier is None:
            described[key] = _explanation(field, step, in_dataset=in_dataset)
        elif step not in earlier.step.split(", "):
            described[key] = replace(earlier, step=f"{earlier.step}, {step}")
    return list(described.values())


def _plain() -> list[Explanation]:
    return [_explanation(field, _NO_STEP, in_dataset=False) for field in FIELDS]


def _explanation(field: pa.Field, step: str, *, in_dataset: bool) -> Explanation:
    return Explanation(
        field.name, type_name(field.type), meaning_of(field), step, published_name(field), in_dataset
    )


def _of_file(field: pa.Field, known: Iterable[Explanation]) -> Explanation:
    """A column of a file, as the recipe explains it, or else as any recipe does, or the published sets."""
    every = [*known, *explain_everything()]
    for column in every:
        if column.in_dataset and column.name == field.name:
            return replace(column, type=type_name(field.type))
    plain = next((one for one in FIELDS if one.name == field.name), None)
    if plain is not None:
        return replace(_explanation(plain, "", in_dataset=True), type=type_name(field.type))
    for published in PUBLISHED:
        if published.name == field.name:
            same = next((column for column in every if column.name == published.made_from), None)
            meaning = same.meaning if same is not None else f"Made from: {published.made_from}."
            return Explanation(field.name, type_name(field.type), meaning, "", published.name, True)
    return Explanation(field.name, type_name(field.type), "", "", None, True)

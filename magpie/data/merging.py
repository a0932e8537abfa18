"""Puts datasets together: ids stay apart, near repeats across them go out, and each row says where it comes from.

Rows come in the order of the datasets. A row is a repeat when its instruction is near that of a row which is kept of an
earlier dataset, as `dedup.against` rejects rows. Within a dataset nothing is compared: that is its own affair.

What is held is a hash and an instruction a row, and while they are compared a vector a distinct instruction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.dataset import PAIR, DatasetFiles
from magpie.data.left_out import EXAMPLES, LeftOut, Reasons
from magpie.data.near import THRESHOLD, near_texts
from magpie.data.plain_columns import licences_of
from magpie.data.rows import Rows, ids_of, instructions_of, talks_of
from magpie.errors import RecipeError, RunError
from magpie.neighbors.vectors import Positions, ProgressCallback, no_progress
from magpie.recipe import Model
from magpie.records.schemas import NamedSchema, one_schema
from magpie.storage import open_storage
from magpie.storage.sealed import digest

_OF_ROW = ("source", "generator", "license")
_TALKS = ("conversations", "conversation")


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of the rows: `rows_in` = `rows` + all `left_out`. `renamed` are datasets whose ids got a prefix."""

    rows_in: int
    rows: int
    left_out: tuple[LeftOut, ...]
    renamed: tuple[str, ...]


def merge(
    datasets: Sequence[Rows],
    out: Path,
    *,
    embedder: Model | None,
    threshold: float = THRESHOLD,
    on_progress: ProgressCallback = no_progress,
) -> Merged:
    """Write the rows of all `datasets` to the folder `out`, but for those that repeat one of an earlier dataset.

    Two instructions are near when the squared distance of their vectors is below `threshold`. Without an `embedder`,
    or at 0, only the same instruction is a repeat. Raises RunError where datasets do not go together, ModelError.
    """
    files = DatasetFiles(open_storage(out))
    _refuse(datasets, out)
    files.refuse_other_things()
    names = _names(datasets)
    sources = [_Source(dataset, name) for dataset, name in zip(datasets, names, strict=True)]
    schema = _schema(sources)
    texts = [instructions_of(dataset) for dataset in datasets]
    counts = [len(part) for part in texts]
    repeats = _repeats([text for part in texts for text in part], counts, embedder, threshold, on_progress)
    _prefix_colliding(sources)
    kept = int(np.count_nonzero(repeats < 0))
    reasons = _reasons(sources, counts, repeats)
    about = {
        "merged": [
            {"name": name, "rows": count, "about": dict(dataset.about)}
            for name, count, dataset in zip(names, counts, datasets, strict=True)
        ],
        "left_out": [one.to_json() for one in reasons],
    }
    files.storage.prepare()
    files.storage.sweep()
    tables = _tables(sources, schema, repeats < 0, on_progress)
    files.write(tables, kept, name="merged", made_from=digest({"merge": about, "to": threshold}), about=about)
    return Merged(sum(counts), kept, reasons, tuple(source.name for source in sources if source.prefix))


_NAMES_OF_ROWS = {"min_similar_id", "min_similar_uuid"}  # columns that name another row of the same dataset


class _Source:
    """One of the datasets. `prefix` comes before its ids where they are those of others."""

    def __init__(self, dataset: Rows, name: str) -> None:
        self.dataset = dataset
        self.name = name
        self.prefix = ""

    def ids(self) -> Iterator[list[str]]:
        """The ids as they are."""
        first = 0
        for table in self.dataset.tables():
            yield ids_of(table, self.dataset, first)
            first += table.num_rows

    def ids_at(self, positions: Positions) -> list[str]:
        """The ids at these positions."""
        found, first = [], 0
        for ids in self.ids() if len(positions) else ():
            found += [ids[at - first] for at in positions if first <= at < first + len(ids)]
            first += len(ids)
        return found

    def tables(self) -> Iterator[pa.Table]:
        """The rows, with messages, their id, and where they come from."""
        first = 0
        for table in self.dataset.tables():
            ids = [self.prefix + text for text in ids_of(table, self.dataset, first)]
            columns: dict[str, Any] = {"id": pa.array(ids, pa.string()), "messages": talks_of(table)}
            for name in table.column_names:
                if name not in {"id", "messages", *_TALKS}:
                    columns[name] = table[name]
            for name in _NAMES_OF_ROWS & columns.keys() if self.prefix else ():
                columns[name] = pc.binary_join_element_wise(self.prefix, columns[name].cast(pa.string()), "")
            yield pa.table(columns | self._of_row(columns, table.num_rows))
            first += table.num_rows

    def _of_row(self, columns: dict[str, Any], rows: int) -> dict[str, Any]:
        """Who wrote each row, under which licence, and of which dataset it is."""
        nothing = pa.nulls(rows, pa.string())
        writer = columns.get("generator", columns.get("model", nothing)).cast(pa.string())
        known = licences_of(pa.chunked_array([writer]) if isinstance(writer, pa.Array) else writer)
        licence = columns.get("license", nothing).cast(pa.string())
        source = columns.get("source", nothing)
        source = source.cast(pa.string()) if _is_text(source.type) else nothing
        return {
            "source": pc.fill_null(source, self.name),
            "generator": writer,
            # A licence that a row names goes before the one that is known of its generator.
            "license": pc.coalesce(licence, known),
        }


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _refuse(datasets: Sequence[Rows], out: Path) -> None:
    if len(datasets) < 2:
        raise RunError("there is nothing to merge: give two datasets or more")
    for dataset in datasets:
        if {folder.resolve() for folder in dataset.folders} & {out.resolve(), *out.resolve().parents}:
            raise RunError(
                f"{out} lies in {dataset.place}, one of the datasets; choose another folder with --out"
            )
    with_pairs = [set(PAIR) <= set(dataset.schema.names) for dataset in datasets]
    if any(with_pairs) and not all(with_pairs):
        has, lacks = datasets[with_pairs.index(True)].place, datasets[with_pairs.index(False)].place
        raise RunError(
            f"{has} holds pairs of preference and {lacks} does not; export the first with --format messages, "
            "import that, and merge what comes out"
        )


def _names(datasets: Sequence[Rows]) -> list[str]:
    """A name for each dataset, no two alike."""
    names: list[str] = []
    for dataset in datasets:
        name, number = dataset.name, 2
        while name in names:
            name, number = f"{dataset.name}-{number}", number + 1
        names.append(name)
    return names


def _schema(sources: Sequence[_Source]) -> pa.Schema:
    """The columns of all datasets, each in a type that holds all its values. Raises RunError."""
    schemas = [
        NamedSchema(source.name, next(source.tables()).schema.remove_metadata(), True) for source in sources
    ]
    try:
        schema = one_schema(schemas)
    except RecipeError as error:
        raise RunError(f"the datasets do not go together: {error}") from error
    first = [name for name in ("id", "messages", *PAIR) if name in schema.names]
    last = [name for name in schema.names if name not in {*first, *_OF_ROW}]
    return pa.schema([schema.field(name) for name in (*first, *last, *_OF_ROW)])


def _repeats(
    texts: list[str],
    counts: list[int],
    embedder: Model | None,
    threshold: float,
    on_progress: ProgressCallback,
) -> Positions:
    """For each row the first kept row of an earlier dataset that it is near, or -1."""
    near = near_texts(texts, embedder, threshold, on_progress)
    kept_row = np.full(len(texts) + 1, -1, np.int64)  # the first kept row of each kind
    repeat_of = np.full(len(texts), -1, np.int64)
    first = 0
    for count in counts:
        kinds = near.kind[first : first + count]
        # The first kept row of an earlier dataset that has this kind or one near it.
        before = np.where(kept_row < 0, len(texts), kept_row)
        reached = before.copy()
        np.minimum.at(reached, near.one, before[near.other])
        np.minimum.at(reached, near.other, before[near.one])
        hit = np.where(reached[kinds] < len(texts), reached[kinds], -1)
        hit[
            [not text for text in texts[first : first + count]]
        ] = -1  # rows without an instruction repeat none
        repeat_of[first : first + count] = hit
        fresh = np.flatnonzero(hit < 0)[::-1]  # backwards, so that the first row of a kind is written last
        new = fresh[kept_row[kinds[fresh]] < 0]
        kept_row[kinds[new]] = first + new
        first += count
    return repeat_of


def _prefix_colliding(sources: Sequence[_Source]) -> None:
    """Give the ids of a dataset its name as a prefix where one of them is that of an earlier dataset."""
    seen: set[int] = set()
    for source in sources:
        own = {hash(text) for ids in source.ids() for text in ids}
        if own & seen:
            source.prefix = f"{source.name}/"
            own = {hash(source.prefix + text) for ids in source.ids() for text in ids}
        seen |= own


def _reasons(sources: Sequence[_Source], counts: list[int], repeats: Positions) -> tuple[LeftOut, ...]:
    """How many rows of each dataset are out."""
    reasons, start = Reasons(), 0
    for source, count in zip(sources, counts, strict=True):
        out = np.flatnonzero(repeats[start : start + count] >= 0)
        reason = f"of {source.name}: the instruction is near one that is kept of an earlier dataset"
        reasons.count(reason, len(out), source.ids_at(out[:EXAMPLES]))
        start += count
    return reasons.result()


def _tables(
    sources: Sequence[_Source], schema: pa.Schema, keeps: Any, on_progress: ProgressCallback
) -> Iterator[pa.Table]:
    yield schema.empty_table()
    at = 0
    for source in sources:
        for table in source.tables():
            here = table.filter(pa.array(keeps[at : at + table.num_rows]))
            columns = [
                here[field.name].cast(field.type)
                if field.name in here.column_names
                else pa.nulls(here.num_rows, field.type)
                for field in schema
            ]
            yield pa.Table.from_arrays(columns, schema=schema)
            at += table.num_rows
            on_progress("writing", at, len(keeps))

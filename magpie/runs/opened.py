"""A finished dataset, opened to be read: that of a run, a folder that a filter wrote, or Parquet made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from magpie.data.dataset import DatasetFiles
from magpie.data.plain_columns import is_later_turn, plain_fields, plain_values
from magpie.data.published import Published
from magpie.errors import RecipeError, RunError
from magpie.records.schemas import FEATURES, label_names
from magpie.runs.provenance import Provenance
from magpie.runs.run import DATASET, QUARANTINE, STEPS, Run, is_run
from magpie.storage import open_storage
from magpie.storage.sealed import open_sealed

_BATCH_ROWS = 4096
_HUGGINGFACE = b"huggingface"


@dataclass(frozen=True, slots=True)
class OpenDataset:
    """A dataset and where its rows come from, `provenance`, which is None where that is not known.

    `folders` are those that its files lie in, or the one file that it is. `features` is what `datasets` wrote about the
    columns, as JSON; None in most datasets. `about` is what its manifest says of where its rows come from.
    """

    place: Path
    schema: pa.Schema
    provenance: Provenance | None
    folders: tuple[Path, ...]
    features: bytes | None
    read: Callable[[], Iterator[pa.Table]]
    count: Callable[[], int]
    """How many rows there are."""
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the dataset is called: its run, or its file or folder."""
        recipe = None if self.provenance is None else self.provenance.recipe.name
        return recipe or self.place.resolve().name.partition(".")[0] or "dataset"

    @property
    def derived(self) -> list[pa.Field]:
        """The columns that its files lack and that follow from the rest."""
        of_recipe = [] if self.provenance is None else self.provenance.derived_fields
        names = {*self.schema.names, *(field.name for field in of_recipe)}
        plain = [field for field in plain_fields(self.schema) if field.name not in names]
        return [*(field for field in of_recipe if field.name not in self.schema.names), *plain]

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The names of labels, by column, of columns that hold their numbers."""
        return label_names(pa.schema([], metadata={FEATURES: self.features} if self.features else None))

    def tables(self, derived: Collection[str] = ()) -> Iterator[pa.Table]:
        """All rows, a few thousand at a time, in one table at least; with the `derived` columns of these names."""
        wanted = [name for name in derived if name not in self.schema.names]
        known = set() if self.provenance is None else {field.name for field in self.provenance.derived_fields}
        of_recipe = [name for name in wanted if name in known]
        names = {field.name for field in self.derived} - known
        plain = [name for name in wanted if name in names or (name not in known and is_later_turn(name))]
        for table in self.read():
            columns = {} if self.provenance is None else self.provenance.derive(table, of_recipe)
            usual = pa.table({name: _usual(table[name]) for name in table.column_names})
            yield pa.table(
                {
                    **dict(zip(usual.column_names, usual.columns, strict=True)),
                    **columns,
                    **plain_values(usual, plain),
                }
            )


def open_dataset(source: Run | str | Path) -> OpenDataset:
    """The dataset of a run, in a folder of its own, or in Parquet files.

    Raises RunError for a run that is not finished and for what is no dataset, DamagedShardError.
    """
    if isinstance(source, Run):
        return _of_run(source)
    path = Path(source)
    storage = open_storage(path)
    if is_run(storage):
        return _of_run(Run.open(path))
    files = DatasetFiles(storage)
    manifest = files.manifest() if path.is_dir() else None
    if manifest is not None:
        return _of_files(path, files, Provenance.parse(manifest.about), (path,), manifest.about)
    return _of_parquet(path)


def _of_run(run: Run) -> OpenDataset:
    if not run.dataset_files.names():
        raise RunError(f"{run.storage.location} holds no dataset yet; run the build again to finish it")
    places = tuple(Path(run.storage.place(prefix)) for prefix in (DATASET, STEPS, QUARANTINE))
    provenance = Provenance.of(run)
    return _of_files(run.folder, run.dataset_files, provenance, places, provenance.to_json())


def _of_files(
    place: Path,
    files: DatasetFiles,
    provenance: Provenance | None,
    folders: tuple[Path, ...],
    about: Mapping[str, Any],
) -> OpenDataset:
    names = files.names()

    def read() -> Iterator[pa.Table]:
        for name in names:
            with open_sealed(files.storage, name) as file:
                yield file.schema_arrow.empty_table()  # so that a dataset without rows has its columns
                for batch in file.iter_batches(_BATCH_ROWS):
                    yield pa.Table.from_batches([batch])

    def count() -> int:
        manifest = files.manifest()
        return 0 if manifest is None else manifest.rows

    with open_sealed(files.storage, names[0]) as first:
        schema = first.schema_arrow
    return OpenDataset(
        place, schema.remove_metadata(), provenance, folders, _features(schema), read, count, about
    )


def _of_parquet(path: Path) -> OpenDataset:
    try:
        published = Published(path)
    except RecipeError as error:
        raise RunError(
            f"{path} is not a run, and no dataset: {str(error).removeprefix('--input ')}"
        ) from error
    everyone = pa.chunked_array([pa.nulls(published.rows, pa.string())])
    schema = next(published.kept(everyone)).schema
    features = _features(schema)
    folders = tuple(dict.fromkeys(file.parent for file in published.files)) if path.is_dir() else (path,)
    return OpenDataset(
        path,
        schema.remove_metadata(),
        None,
        folders,
        features,
        lambda: published.kept(everyone),
        lambda: published.rows,
    )


def _usual(column: Any) -> Any:
    """The column in a type that every reader of files has: half floats are widened, and a map is a list of pairs."""
    kind = column.type
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return column.cast(pa.string() if pa.types.is_string_view(kind) else pa.binary())
    if pa.types.is_map(kind):
        pair = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
        items = [
            None if row is None else [{"key": key, "value": value} for key, value in row]
            for row in column.to_pylist()
        ]
        return pa.array(items, pa.list_(pair))
    return column


def _features(schema: pa.Schema) -> bytes | None:
    return (schema.metadata or {}).get(_HUGGINGFACE)


def as_run(run: Run | str | Path) -> Run:
    """The run itself, or the one in a folder or a bucket. Raises RunError."""
    return run if isinstance(run, Run) else Run.open(run)

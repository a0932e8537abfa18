"""Whether the dataset in a folder is whole: every byte, every row, every file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq

from magpie.data.dataset import DatasetFiles, DatasetManifest
from magpie.errors import DamagedShardError, RunError
from magpie.storage.sealed import inspect_shard
from magpie.text import counted


def problems_of_dataset(files: DatasetFiles) -> list[str]:
    """Everything that is wrong with a dataset, a line each, naming the file; empty when it is whole.

    Checks every byte of every file, that they are those of the manifest with as many rows, that each row has an id and
    no two have the same, and that no other file lies there. Raises RunError where there is no dataset.
    """
    try:
        manifest = files.manifest()
    except DamagedShardError as error:
        return [str(error)]
    if manifest is None:
        raise RunError(
            f"{files.place} is not a run, and no dataset that magpie wrote; import it first: "
            f"magpie import {files.place} --out FOLDER"
        )
    return [*_wrong_files(files, manifest), *_wrong_ids(files, manifest), *_strays(files)]


def _wrong_files(files: DatasetFiles, manifest: DatasetManifest) -> Iterator[str]:
    for file in manifest.files:
        name = f"{files.prefix}{file.name}"
        place = files.storage.place(name)
        if not files.storage.exists(name):
            yield f"{place}: not there; make the dataset again"
            continue
        try:
            shard = inspect_shard(files.storage, name)
        except DamagedShardError as error:
            yield str(error)
            continue
        if shard.content != file.content:
            yield f"{place}: not the file that the manifest names; make the dataset again"
        if shard.stamp.rows != file.rows:
            yield f"{place}: holds {counted(shard.stamp.rows, 'row')} where the manifest has {file.rows:,}"
    if sum(file.rows for file in manifest.files) != manifest.rows:
        yield f"{files.place}: the files of the manifest do not add up to its {manifest.rows:,} rows"


def _wrong_ids(files: DatasetFiles, manifest: DatasetManifest) -> Iterator[str]:
    seen: list[np.ndarray] = []
    for file in manifest.files:
        try:
            with (
                files.storage.open(f"{files.prefix}{file.name}") as source,
                pq.ParquetFile(source) as parquet,
            ):
                if "id" not in parquet.schema_arrow.names:
                    return  # such as what a filter kept of Parquet that has none
                for batch in parquet.iter_batches(columns=["id"]):
                    ids = batch.column(0)
                    if ids.null_count:
                        place = files.storage.place(f"{files.prefix}{file.name}")
                        yield f"{place}: {counted(ids.null_count, 'row')} without an id"
                    # Eight bytes an id: a hash is enough to tell that all differ.
                    seen.append(np.array([hash(value) for value in ids.drop_null().to_pylist()], np.int64))
        except (OSError, ValueError):
            return  # said already, with the file
    hashes = np.concatenate(seen) if seen else np.array([], np.int64)
    twice = len(hashes) - len(np.unique(hashes))
    if twice:
        yield f"{files.place}: {counted(twice, 'row')} with the id of another row"


def _strays(files: DatasetFiles) -> Iterator[str]:
    for name in files.strays():
        yield f"{files.storage.place(name)}: not a file of this dataset; it is left alone, move it away"

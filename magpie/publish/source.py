"""What is described and pushed: the kept rows of a run or a dataset, and all rows of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from magpie.data.dataset import CONFIGS, PAIR, DatasetFiles, DatasetManifest, configs_of
from magpie.errors import RunError
from magpie.runs.kept import kept_rows
from magpie.runs.opened import OpenDataset, open_dataset
from magpie.runs.provenance import Provenance
from magpie.runs.run import Run, is_run
from magpie.steps.base import REJECTED, column
from magpie.storage import open_storage
from magpie.storage.sealed import digest

What = Literal["filtered", "raw", "both"]
WHATS: tuple[What, ...] = ("filtered", "raw", "both")

RAW = "raw/"
"""Where all rows of a run lie, in its folder and on the Hub."""
REASON = column(
    "rejected_reason", pa.string(), "Why the row is not in the filtered dataset; null where it is."
)


@dataclass(frozen=True, slots=True)
class Part:
    """One set of rows: its `files`, their manifest, and `prefix`, the folder they have on the Hub."""

    prefix: str
    files: DatasetFiles
    manifest: DatasetManifest
    schema: pa.Schema

    @property
    def paths(self) -> dict[str, Path]:
        """The Parquet files, or copies of them on this machine, by their paths on the Hub. Raises StorageError."""
        return {
            f"{self.prefix}{file.name}": self.files.storage.local_path(f"{self.files.prefix}{file.name}")
            for file in self.manifest.files
        }

    def configs(self, names: Sequence[str]) -> dict[str, list[str]]:
        """The columns of each configuration by its name: of the rows and, with a second name, of the pairs, if any."""
        columns = self.schema.names
        known = configs_of(columns)
        # Without the file that says so, the folder has one way of being loaded.
        if len(names) == 1 or known is None or not self.files.storage.exists(f"{self.files.prefix}{CONFIGS}"):
            return {names[0]: columns}
        return {name: config["columns"] for name, config in zip(names, known, strict=True)}


@dataclass(frozen=True, slots=True)
class Source:
    """A finished dataset to publish, and the run that it is of, where it is in one."""

    run: Run | None
    kept: Part
    dataset: OpenDataset

    @property
    def provenance(self) -> Provenance | None:
        """Where the rows come from; None where that is not known."""
        return self.dataset.provenance

    @property
    def about(self) -> dict[str, Any]:
        """What the manifest says of that."""
        return dict(self.kept.manifest.about)

    @property
    def name(self) -> str:
        """The recipe's name, or that of the folder."""
        return self.dataset.place.name if self.provenance is None else self.provenance.recipe.name

    @property
    def has_pairs(self) -> bool:
        """Whether rows are preference pairs."""
        return set(PAIR) <= set(self.kept.schema.names)

    def parts(self, what: What) -> tuple[Part, ...]:
        """The rows that are asked for; all rows of the run are written first, where they are not there yet.

        Raises RunError for the raw rows of a dataset, which has kept rows only.
        """
        if what == "filtered":
            return (self.kept,)
        if self.run is None:
            raise RunError(
                f"{self.dataset.place} is a dataset, which holds kept rows only; give the folder of its run, or "
                "--what filtered"
            )
        raw = _part(write_raw(self.run), RAW)
        return (raw,) if what == "raw" else (self.kept, raw)


def open_source(source: Run | str | Path) -> Source:
    """The finished dataset of a run or in a folder. Raises RunError where there is none, and DamagedShardError."""
    if isinstance(source, Run) or is_run(open_storage(source)):
        run = source if isinstance(source, Run) else Run.open(source)
        return Source(run, _part(run.dataset_files, ""), open_dataset(run))
    dataset = open_dataset(source)
    files = DatasetFiles(open_storage(source))
    if files.manifest() is None:
        raise RunError(
            f"{source} holds Parquet without a manifest, which is not a dataset of magpie's; bring it in with "
            "`magpie import`, or with `magpie filter --input`, and give the folder that it writes"
        )
    return Source(None, _part(files, ""), dataset)


def write_raw(run: Run) -> DatasetFiles:
    """All rows of a finished run as a dataset beside the kept ones; nothing is written where it is there already."""
    manifest = run.dataset_files.manifest()
    if manifest is None:
        raise RunError(f"{run.storage.location} holds no dataset yet; run the build again to finish it")
    files = DatasetFiles(run.storage, RAW)
    made_from = digest([manifest.made_from, REASON.name])
    if not files.is_made_from(made_from, run.recipe.rows):
        about = Provenance.of(run).to_json()
        files.write(_raw_rows(run), run.recipe.rows, name=run.recipe.name, made_from=made_from, about=about)
    return files


def _raw_rows(run: Run) -> Iterator[pa.Table]:
    everyone = pa.chunked_array([pa.nulls(run.recipe.rows, pa.string())])
    for shard, rows in enumerate(kept_rows(run, everyone)):
        yield rows.append_column(REASON.name, run.rows(shard, [])[REJECTED.name].cast(pa.string()))


def _part(files: DatasetFiles, prefix: str) -> Part:
    manifest = files.manifest()
    if manifest is None:
        raise RunError(f"{files.place} holds no dataset yet; run the build again to finish it")
    with files.storage.open(f"{files.prefix}{manifest.files[0].name}") as file:
        schema = pq.read_schema(file).remove_metadata()
    return Part(prefix, files, manifest, schema)

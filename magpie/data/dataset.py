"""A dataset: sealed Parquet files, and a manifest that names them, written last.

A dataset without a manifest is not finished. A new dataset is written out of sight beside the earlier one, and gets
other file names when all of it is there. Then the manifest is replaced, and then the earlier files are deleted. So a
crash leaves one whole dataset or the other, and perhaps files that are in no manifest, which the next writer deletes.

The files that a Hub repository has beside its data, such as the card, may lie there too. They are left as they are.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import yaml

from magpie.errors import DamagedShardError, RunError, StorageError
from magpie.storage import Storage, StrangeFileError
from magpie.storage.sealed import Stamp, inspect_shard, read_schema, stage_shard

ROWS_PER_FILE = 50_000
MANIFEST = ".manifest.json"  # hidden, so that `datasets` does not take it for rows
CONFIGS = ".huggingface.yaml"  # where `datasets` looks for the configurations of a folder, besides a card
FORMAT = 1

PAIR = ("prompt", "chosen", "rejected")
"""The columns of a preference pair."""

# The files of a dataset, which may be replaced and deleted; all others are somebody else's.
_ROWS = re.compile(r"train-\d{5}(?:-[0-9a-f]{8})?\.parquet")
_FIRST_FILE = re.compile(r"train-\d{5}\.parquet")
_FILE = re.compile(rf"{_ROWS.pattern}|{re.escape(MANIFEST)}|{re.escape(CONFIGS)}")

# What belongs beside a dataset that is given to others: it is expected, and nobody's to replace or delete here.
_BESIDE = re.compile(
    r"README\.md|\.gitattributes|\.gitignore|(?:LICENSE|LICENCE|NOTICE|COPYING)(?:\.md|\.txt)?|CITATION\.cff"
    r"|dataset_infos\.json|report\.html|(?:\.git|\.cache/huggingface|figures|images|assets)/.*"
    r"|[^/]+\.(?:png|jpe?g|svg|gif|webp|pdf)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class DatasetFile:
    """One file: its name beside the manifest, its rows, and the digest of its content."""

    name: str
    rows: int
    content: str


@dataclass(frozen=True, slots=True)
class DatasetManifest:
    """The files of a dataset. `made_from` is the lineage of the run or filter that made it.

    `about` is where its rows come from: see `runs/provenance.py`. It is empty in datasets of earlier versions, and in
    those that were made elsewhere.
    """

    made_from: str
    rows: int
    files: tuple[DatasetFile, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The manifest as it is written."""
        written = {name: value for name, value in asdict(self).items() if name != "about" or value}
        return json.dumps({"format": FORMAT, **written}, indent=1) + "\n"

    @classmethod
    def parse(cls, data: bytes) -> DatasetManifest:
        """The manifest in the bytes of its file. Raises ValueError, TypeError or KeyError when they are none."""
        content = json.loads(data)
        files = tuple(DatasetFile(**entry) for entry in content["files"])
        # A dataset may be anybody's, and a name leads to a file that is read, and that a push sends.
        strange = next((file.name for file in files if not _ROWS.fullmatch(file.name)), None)
        if strange is not None:
            raise ValueError(f"it names {strange!r}, which is no file of rows")
        return cls(str(content["made_from"]), int(content["rows"]), files, dict(content.get("about") or {}))


class DatasetFiles:
    """The files of a dataset below `prefix` of a storage, "" or a name that ends in a slash."""

    def __init__(self, storage: Storage, prefix: str = "") -> None:
        self.storage = storage
        self.prefix = prefix

    @property
    def place(self) -> str:
        """Where the dataset lies, for messages."""
        return self.storage.place(self.prefix).rstrip("/")

    def manifest(self) -> DatasetManifest | None:
        """The manifest; None while there is no whole dataset. Raises DamagedShardError."""
        name = f"{self.prefix}{MANIFEST}"
        # Earlier versions wrote none; the stamps in their files say the same.
        if not self.storage.exists(name):
            return self._manifest_in_stamps()
        try:
            return DatasetManifest.parse(self.storage.read(name))
        except StrangeFileError as error:
            raise DamagedShardError(
                f"{self.storage.place(name)} is {error}, not a file; move it away, or run the build again"
            ) from error
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            what = "is not there" if isinstance(error, OSError) else f"cannot be read ({error})"
            raise DamagedShardError(f"{self.storage.place(name)} {what}; run the build again") from error

    def inner_names(self) -> list[str]:
        """The names of the files beside the rows: the manifest, and the configurations where there are any."""
        names = (f"{self.prefix}{name}" for name in (MANIFEST, CONFIGS))
        return [name for name in names if self.storage.exists(name)]

    def names(self) -> list[str]:
        """The names of the files in the storage, in order; empty while there is no whole dataset."""
        manifest = self.manifest()
        return [] if manifest is None else [f"{self.prefix}{file.name}" for file in manifest.files]

    def strays(self) -> list[str]:
        """The names of files that the manifest does not name: who reads the folder takes their rows for the dataset's.

        A writer that was stopped leaves them behind. Raises DamagedShardError.
        """
        named = {f"{self.prefix}{MANIFEST}", f"{self.prefix}{CONFIGS}", *self.names()}
        names = self.storage.names(self.prefix)
        return [name for name in names if name not in named and not self._is_beside(name)]

    def is_made_from(self, made_from: str, rows: int) -> bool:
        """Whether the dataset with this lineage and so many rows is there, undamaged, and no more. Reads every byte."""
        try:
            manifest = self.manifest()
            if manifest is None or (manifest.made_from, manifest.rows) != (made_from, rows):
                return False
            if not self.storage.exists(f"{self.prefix}{MANIFEST}"):
                return False  # one of an earlier version: it is written again, with a manifest
            if self.strays():
                return False
            return all(
                inspect_shard(self.storage, f"{self.prefix}{file.name}").content == file.content
                for file in manifest.files
            )
        except DamagedShardError:
            return False

    def write(
        self,
        tables: Iterator[pa.Table],
        rows: int,
        *,
        name: str,
        made_from: str,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Write tables of `rows` rows as files of up to 50,000, in the place of an earlier dataset.

        At least one file is written, so that an empty dataset has its columns. `name` is that of the run or dataset it
        comes from. Raises RunError when there are files that are not an earlier dataset's.
        """
        self.storage.unlink_folder(self.prefix.rstrip("/"))  # what a link leads to is not ours to replace
        self.refuse_other_things()
        # Names that no earlier file has: until the manifest is replaced, the earlier files are the dataset.
        suffix = f"-{uuid.uuid4().hex[:8]}" if self._own_files() else ""
        files: list[DatasetFile] = []
        staged: dict[str, str] = {}
        first, columns = 0, []
        try:
            for number, table in enumerate(_regrouped(tables)):
                columns = table.column_names
                stamp = Stamp("dataset", number, first, table.num_rows, rows, name, made_from)
                file = f"train-{number:05d}{suffix}.parquet"
                place = f"{self.prefix}{file}"
                staged[place], written = stage_shard(self.storage, place, table, stamp)
                files.append(DatasetFile(file, table.num_rows, written.content))
                first += table.num_rows
            # Before the manifest is replaced: a wrong count must not replace a right dataset.
            if first != rows:
                raise RunError(
                    f"{self.place}: {first} rows came where {rows} were announced; please report this"
                )
        except BaseException:
            for hidden in staged.values():
                with suppress(StorageError):
                    self.storage.delete(hidden)
            raise
        self._swap(staged, columns, DatasetManifest(made_from, rows, tuple(files), about or {}))

    def _swap(self, staged: Mapping[str, str], columns: Sequence[str], manifest: DatasetManifest) -> None:
        """Give the new files their names, then the manifest, then delete what was there before."""
        earlier = [name for name in self._own_files() if name not in staged]
        for name, hidden in staged.items():
            self.storage.move(hidden, name)
        self._write_configs(columns)
        self.storage.replace(f"{self.prefix}{MANIFEST}", manifest.to_json().encode())
        for file in earlier:
            if not file.endswith((MANIFEST, CONFIGS)):
                self.storage.delete(file)

    def restore_configs(self) -> None:
        """Write the file of configurations where a dataset of pairs lacks it: it is lost, or older than such files."""
        names = self.names()
        if names:
            self._write_configs(read_schema(self.storage, names[0]).names)

    def discard(self) -> None:
        """Delete the dataset."""
        self.storage.unlink_folder(self.prefix.rstrip("/"))
        files = self._own_files()
        if files:
            self.refuse_other_things()
        # The manifest first (False sorts before True): after a crash, the files that are left are no dataset.
        for file in sorted(files, key=lambda name: not name.endswith(MANIFEST)):
            self.storage.delete(file)

    def refuse_other_things(self) -> None:
        """Raise RunError if there are files that do not belong to a dataset: they might be lost."""
        for name in self.storage.names(self.prefix):
            if not _FILE.fullmatch(name.removeprefix(self.prefix)) and not self._is_beside(name):
                other = name.removeprefix(self.prefix)
                raise RunError(
                    f"{self.place} holds other things ({other}); choose an empty folder with --out"
                    + (", or move them away and run the same command again" if self.prefix else "")
                )

    def _write_configs(self, columns: Sequence[str]) -> None:
        name, configs = f"{self.prefix}{CONFIGS}", configs_of(columns)
        if configs is None:
            if self.storage.exists(name):
                self.storage.delete(name)
            return
        text = yaml.safe_dump({"configs": configs}, sort_keys=False, allow_unicode=True).encode()
        if not self.storage.exists(name) or self.storage.read(name) != text:
            self.storage.replace(name, text)

    def _is_beside(self, name: str) -> bool:
        return _BESIDE.fullmatch(name.removeprefix(self.prefix)) is not None

    def _own_files(self) -> list[str]:
        names = self.storage.names(self.prefix)
        return [name for name in names if _FILE.fullmatch(name.removeprefix(self.prefix))]

    def _manifest_in_stamps(self) -> DatasetManifest | None:
        """The manifest of files that have none, from their stamps; None when they are not one whole dataset."""
        # What is on its way to replace such a dataset has other names.
        names = [name for name in self._own_files() if _FIRST_FILE.fullmatch(name.removeprefix(self.prefix))]
        try:
            shards = [inspect_shard(self.storage, name) for name in names]
        except DamagedShardError:
            return None
        # The numbers must have no gap, and the rows must be as many as the writer announced.
        first = 0
        for number, shard in enumerate(shards):
            if (shard.stamp.shard, shard.stamp.first) != (number, first):
                return None
            first += shard.stamp.rows
        if not shards or shards[0].stamp.total != first:
            return None
        files = (
            DatasetFile(name.removeprefix(self.prefix), shard.stamp.rows, shard.content)
            for name, shard in zip(names, shards, strict=True)
        )
        return DatasetManifest(shards[0].stamp.made_from, first, tuple(files))


def configs_of(columns: Sequence[str]) -> list[dict[str, Any]] | None:
    """The configurations of a dataset of pairs for `datasets`; None where one way of loading is enough.

    TRL's trainers take the `prompt` of a row that has one, and its messages no more: so what `load_dataset(folder)`
    gives has no pair, and what `load_dataset(folder, "pairs")` gives has no messages. The rows are in the files once.
    """
    if not {"messages", *PAIR} <= set(columns):
        return None
    hidden = {"default": set(PAIR), "pairs": {"messages"}}
    return [
        {
            "config_name": name,
            "data_files": "train-*.parquet",
            "columns": [column for column in columns if column not in left_out],
        }
        for name, left_out in hidden.items()
    ]


def _regrouped(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of ROWS_PER_FILE, the last one with the rest; at least one table."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        # Only when there are more: the last table is then never empty, unless there are no rows at all.
        while sum(part.num_rows for part in waiting) > ROWS_PER_FILE:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, ROWS_PER_FILE)
            waiting = [whole.slice(ROWS_PER_FILE)]
    yield pa.concat_tables(waiting)

"""Parts a dataset into train and test, so that no instruction of the one is near an instruction of the other.

Rows that are near each other, and those that are near these, are one group, and a group is never cut. Groups are drawn
in an order that the seed decides, and each goes to the test rows while there is room for all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from magpie.data.dataset import CONFIGS, DatasetFiles
from magpie.data.near import THRESHOLD, Near, near_texts
from magpie.data.rows import Rows, instructions_of
from magpie.errors import RunError
from magpie.neighbors.vectors import Positions, ProgressCallback, no_progress
from magpie.recipe import Model
from magpie.storage import open_storage
from magpie.storage.sealed import digest

TRAIN, TEST = "train", "test"


@dataclass(frozen=True, slots=True)
class Split:
    """How many rows came and went where. `groups` of near rows hold `grouped` rows; the largest has `largest`."""

    rows_in: int
    train: int
    test: int
    groups: int
    grouped: int
    largest: int


def split(
    dataset: Rows,
    out: Path,
    *,
    test: float,
    seed: int = 0,
    embedder: Model | None,
    threshold: float = THRESHOLD,
    on_progress: ProgressCallback = no_progress,
) -> Split:
    """Write the share `test` of the rows to `out`/test and the others to `out`/train, each a dataset of its own.

    Two instructions are near when the squared distance of their vectors is below `threshold`. Without an `embedder`,
    or at 0, only the same instruction is. Raises RunError where a side would be empty, ModelError.
    """
    if not 0 < test < 1:
        raise RunError(f"--test {test:g} is no share of the rows; give one between 0 and 1, such as 0.02")
    storage = open_storage(out)
    sides = {name: DatasetFiles(storage, f"{name}/") for name in (TEST, TRAIN)}
    _refuse(dataset, out, storage.names(""))
    texts = instructions_of(dataset)
    near = near_texts(texts, embedder, threshold, on_progress)
    group = _groups(near, texts)
    in_test = _drawn(group, round(test * len(texts)), seed)
    chosen = int(np.count_nonzero(in_test))
    if not 0 < chosen < len(texts):
        raise RunError(
            f"{dataset.place} has {len(texts):,} rows, of which a test set of {test:g} would take "
            f"{'none' if not chosen else 'all'}; give another --test, or a lower --threshold"
        )
    about = {
        **dataset.about,
        "split": {"of": dataset.name, "test": test, "seed": seed, "threshold": threshold},
    }
    storage.prepare()
    storage.sweep()
    for name, files in sides.items():
        mask = in_test if name == TEST else ~in_test
        made_from = digest({"split": about["split"], "side": name})
        tables = _tables(dataset, mask, name, on_progress)
        files.write(tables, int(np.count_nonzero(mask)), name=dataset.name, made_from=made_from, about=about)
    storage.replace(CONFIGS, _configs().encode())
    sizes = np.bincount(group)
    near_sizes = sizes[sizes > 1]
    return Split(
        len(texts), len(texts) - chosen, chosen, len(near_sizes), int(near_sizes.sum()), int(sizes.max())
    )


def _refuse(dataset: Rows, out: Path, names: list[str]) -> None:
    if {folder.resolve() for folder in dataset.folders} & {out.resolve(), *out.resolve().parents}:
        raise RunError(f"{out} lies in {dataset.place}, the dataset itself; choose another folder with --out")
    other = next((name for name in names if not name.startswith((f"{TRAIN}/", f"{TEST}/", CONFIGS))), None)
    if other is not None:
        raise RunError(f"{out} holds other things ({other}); choose an empty folder with --out")


def _groups(near: Near, texts: list[str]) -> Positions:
    """The number of its group for each row, from 0."""
    leads = np.arange(
        len(texts)
    )  # each kind leads to another of its group, and at last to the lowest of them

    def lowest(kind: int) -> int:
        while leads[kind] != kind:
            leads[kind] = leads[leads[kind]]
            kind = int(leads[kind])
        return kind

    for one, other in zip(near.one.tolist(), near.other.tolist(), strict=True):
        first, second = sorted((lowest(one), lowest(other)))
        leads[second] = first
    group = np.array([lowest(kind) for kind in near.kind.tolist()], np.int64)
    # A row without an instruction is near to none.
    empty = np.flatnonzero([not text for text in texts])
    group[empty] = len(texts) + empty
    return np.unique(group, return_inverse=True)[1].astype(np.int64)


def _drawn(group: Positions, wanted: int, seed: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows are in the test set: `wanted` of them, or fewer where only larger groups are left."""
    sizes = np.bincount(group)
    room, chosen = wanted, np.zeros(len(sizes), np.bool_)
    for number in np.random.default_rng(seed).permutation(len(sizes)):
        if sizes[number] <= room:
            chosen[number] = True
            room -= int(sizes[number])
            if not room:
                break
    return np.asarray(chosen[group])


def _tables(dataset: Rows, mask: Any, what: str, on_progress: ProgressCallback) -> Iterator[pa.Table]:
    at = 0
    for table in dataset.tables():
        yield table.filter(pa.array(mask[at : at + table.num_rows]))
        at += table.num_rows
        on_progress(f"writing {what}", at, len(mask))


def _configs() -> str:
    """What `datasets` needs to know of the folder: it takes the names of the files for those of splits."""
    files = [{"split": name, "path": f"{name}/*.parquet"} for name in (TRAIN, TEST)]
    return yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]}, sort_keys=False)

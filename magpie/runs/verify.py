"""Whether a run is whole: every byte, every row, every file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.compute as pc

from magpie.errors import DamagedShardError, RunError
from magpie.runs.ids import prefix_of, row_ids
from magpie.runs.manifest import Manifest
from magpie.runs.run import DATASET, FINGERPRINTS, QUARANTINE, RECIPE, STEPS, SUMMARY, Run, merge_reasons
from magpie.runs.sealing import (
    REUSED,
    RUN_MANIFEST,
    checksum,
    read_run_manifest,
    recorded,
    recovered_record,
    write_run_manifest,
)
from magpie.steps.base import REJECTED
from magpie.storage.sealed import inspect_shard, read_shard


def verify(run: Run) -> list[str]:
    """Everything that is wrong with a run, a line each, naming the file; empty when it is whole.

    Checks every byte of every shard, that each was made from the one before it, that ids are complete and unique, and
    that at every step rows in = rows out + rows rejected, down to the dataset.
    """
    return list(_problems(run))


def quarantined(run: Run) -> list[str]:
    """Where damaged files lie that earlier builds moved away."""
    return [run.storage.place(name) for name in run.storage.names(QUARANTINE)]


def _problems(run: Run) -> Iterator[str]:
    manifest, damaged = Manifest.scan(run)
    for _, _, error in damaged:
        yield str(error)
    yield from _missing_shards(run)
    yield from (stray_problem(run, name) for name in strays(run))
    yield from _wrong_seals(run, manifest)
    yield from _wrong_stamps(run, manifest)
    if manifest.end is not None:
        yield from _wrong_rows(run)
        yield from _wrong_dataset(run, manifest.end)


def _missing_shards(run: Run) -> Iterator[str]:
    for run_step in run.steps:
        missing = [shard for shard in range(run.shards) if not run.has_shard(run_step, shard)]
        if missing:
            more = f" and {len(missing) - 1} more of the step" if len(missing) > 1 else ""
            first = run.shard_place(run_step, missing[0])
            yield f"{first}{more}: not there; run the build again to go on"


def strays(run: Run) -> Iterator[str]:
    """The names of what lies among the shards and is none of them."""
    expected = {run.shard_name(run_step, shard) for run_step in run.steps for shard in range(run.shards)}
    for name in run.storage.names(STEPS):
        if name not in expected and name.rpartition("/")[0] not in expected:
            yield name


def stray_problem(run: Run, name: str) -> str:
    """What to say of a file that is none of the run's."""
    return f"{run.storage.place(name)}: not a file of this run; it is left alone, move it away"


def seal(run: Run, shards: Mapping[str, str]) -> None:
    """Write the manifest of a finished run, whose `shards` have these checksums. Raises StorageError."""
    storage, dataset = run.storage, run.dataset_files
    manifest = dataset.manifest()
    contents = {} if manifest is None else {f"{DATASET}{file.name}": file.content for file in manifest.files}
    names = [RECIPE, FINGERPRINTS, SUMMARY, REUSED, *dataset.inner_names()]
    written = {name: checksum(data) for name in names if (data := recorded(storage, name)) is not None}
    write_run_manifest(storage, {**shards, **contents, **written})


def not_sealed(run: Run) -> str | None:
    """What to say of a finished run of an earlier version, which has no manifest; None of all others."""
    if run.storage.exists(RUN_MANIFEST) or recovered_record(run.storage) is not None:
        return None
    return "it is not sealed, as an earlier version made it: build it again with its recipe, which makes nothing anew"


def _wrong_seals(run: Run, manifest: Manifest) -> Iterator[str]:
    try:
        files = read_run_manifest(run.storage)
    except RunError as error:
        yield str(error)
        files = None
    if files is None:
        yield from run.notes
        if (
            manifest.end is not None
            and not run.storage.exists(RUN_MANIFEST)
            and recovered_record(run.storage)
        ):
            yield f"{run.storage.place(RUN_MANIFEST)}: not there; run the build again to write it"
        return
    whole = {run.shard_name(*place): manifest.get(*place) for place in manifest.places()}
    for name, expected in files.items():
        place = run.storage.place(name)
        if name in whole:
            committed = whole[name]
            if committed is not None and committed.seal != expected:
                yield f"{place}: not the file that the run's manifest names; run the build again"
        elif not name.endswith(".parquet"):  # those of the dataset are checked by its own manifest
            data = recorded(run.storage, name)
            if data is None:
                yield f"{place}: not there; run the build again with the same recipe to write it"
            elif checksum(data) != expected:
                yield f"{place}: not what the build wrote; run the build again with the same recipe to mend it"


def _wrong_stamps(run: Run, manifest: Manifest) -> Iterator[str]:
    fingerprints: dict[int, str] = {}
    for run_step, shard in manifest.places():
        committed = manifest.get(run_step, shard)
        if committed is None:
            continue
        place, positions, stamp = run.shard_place(run_step, shard), run.shard_range(shard), committed.stamp
        stamped = (stamp.step, stamp.shard, stamp.first, stamp.rows)
        # A run that has grown has shards of when it was smaller.
        if (
            stamped != (run_step.name, shard, positions.start, len(positions))
            or stamp.total > run.recipe.rows
        ):
            yield f"{place}: stamped as shard {stamp.shard} of {stamp.step}; run the build again to make it anew"
        if fingerprints.setdefault(run_step.number, stamp.fingerprint) != stamp.fingerprint:
            yield f"{place}: made by other settings than the rest of its step; run the build again to make it anew"
        if manifest.source(run_step, shard) not in {None, stamp.made_from}:
            yield f"{place}: made from an earlier version of the step before it; run the build again to make it anew"


def _wrong_rows(run: Run) -> Iterator[str]:
    prefix = None
    for shard in range(run.shards):
        reasons: list[Any] = []
        positions = run.shard_range(shard)
        for run_step in run.steps:
            rejects = run_step.step.rejects
            table = run.read(run_step, shard, ["id", *([REJECTED.name] if rejects else [])])
            place = run.shard_place(run_step, shard)
            ids = table["id"].to_pylist()
            prefix = prefix_of(ids[0]) if prefix is None and ids else prefix
            if ids != row_ids(str(prefix), positions):
                yield f"{place}: its ids are not rows {positions.start} to {positions.stop - 1} of this run, each once"
            if rejects:
                earlier = merge_reasons(reasons, len(positions))
                twice = pc.and_(pc.is_valid(earlier), pc.is_valid(table[REJECTED.name]))
                if pc.any(twice).as_py():
                    yield f"{place}: rejects rows that were out already, so rows in is not rows out + rejected"
                reasons.append(table[REJECTED.name])


def _wrong_dataset(run: Run, source: str) -> Iterator[str]:
    files = run.dataset_files
    try:
        manifest = files.manifest()
        if manifest is None:
            yield f"{files.place}: no dataset yet; run the build again to write it"
            return
        for name in files.strays():
            yield f"{run.storage.place(name)}: not a file of this dataset; run the build again to write it anew"
        ids: list[str] = []
        for file in manifest.files:
            name = f"{files.prefix}{file.name}"
            committed = inspect_shard(run.storage, name)
            if committed.stamp.made_from != source:
                yield f"{run.storage.place(name)}: made from earlier shards; run the build again to write it anew"
                continue
            if committed.content != file.content:
                yield f"{run.storage.place(name)}: not the file that the manifest names; run the build again"
            ids += read_shard(run.storage, name, ["id"])["id"].to_pylist()
    except DamagedShardError as error:
        yield str(error)
        return
    kept = [row_id for shard in range(run.shards) for row_id in _kept_ids(run, shard)]
    if ids != kept:
        yield f"{files.place}: holds {len(ids)} rows, the steps kept {len(kept)}; run the build again"


def _kept_ids(run: Run, shard: int) -> list[str]:
    rows = run.rows(shard, [], check=False)
    return [str(row_id) for row_id in rows["id"].filter(pc.is_null(rows[REJECTED.name])).to_pylist()]

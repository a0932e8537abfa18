"""A run as it was before it was changed in place: kept in `replaced/NNNN/` until what replaces it stands.

It is a whole run, which `magpie show` and `verify` read. Its files are those of the run under a second name, so that
it takes no room on a local disk until they are replaced. `recipe.yaml` is put there last: what has none is not whole,
and nothing of the run has been changed yet.
"""

from __future__ import annotations

from magpie.errors import MagpieError
from magpie.runs.record import recorded_ingredients
from magpie.runs.run import DATASET, FINGERPRINTS, RECIPE, REPORT, STEPS, SUMMARY, Run
from magpie.runs.sealing import REUSED, RUN_MANIFEST
from magpie.steps import Method
from magpie.storage import Storage, open_storage

REPLACED = "replaced/"
_KEPT = "kept"  # a file of this name says that the earlier run stays when the new one stands
_BESIDE = (FINGERPRINTS, SUMMARY, REPORT, REUSED, RUN_MANIFEST)


def put_aside(storage: Storage, *, keep: bool) -> str:
    """Keep the run as it is now, and say where; `keep` does so for good. Raises StorageError.

    After a crash, what was put aside and not changed yet is what is there.
    """
    numbers = _numbers(storage)
    newest = _place(numbers[-1]) if numbers else ""
    names = [*storage.names(STEPS), *storage.names(DATASET)]
    if not is_change_begun(storage):
        is_whole = bool(numbers) and storage.exists(f"{newest}{RECIPE}")
        # One that is not whole yet is gone on with.
        newest = _place(1 if not numbers else numbers[-1] + is_whole)
        names += [*filter(storage.exists, _BESIDE), RECIPE]
    for name in names:
        storage.take_over(storage, name, f"{newest}{name}")
    if keep:
        storage.replace(f"{newest}{_KEPT}", b"")
    return storage.place(newest.rstrip("/"))


def earlier_runs(run: Run, method: Method | None = None) -> list[Run]:
    """The runs that this one was before, the latest first. What cannot be read is left out."""
    found = []
    for number in _numbers(run.storage)[::-1]:
        place = _place(number)
        if not run.storage.exists(f"{place}{RECIPE}"):
            continue
        try:
            found.append(Run.open(open_storage(f"{run.storage.location}/{place.rstrip('/')}"), method))
        except MagpieError:
            continue
    return found


def drop_earlier(storage: Storage, *, keep: bool) -> None:
    """Take away what was replaced, now that the new run stands; `keep` leaves it for good. Raises StorageError."""
    for number in _numbers(storage):
        place = _place(number)
        if storage.exists(f"{place}{_KEPT}"):
            continue
        if keep:
            storage.replace(f"{place}{_KEPT}", b"")
            continue
        # The recipe first: what is left after a crash is no run any more.
        for name in [f"{place}{RECIPE}", *storage.names(place)]:
            storage.delete(name)
        storage.tidy(place.rstrip("/"))
    if not _numbers(storage):
        storage.tidy(REPLACED.rstrip("/"))


def names_put_aside(storage: Storage) -> frozenset[str]:
    """The names of all files of earlier runs that were put aside whole, as they were called in the run."""
    places = [_place(number) for number in _numbers(storage)]
    return frozenset(
        name.removeprefix(place)
        for place in places
        if storage.exists(f"{place}{RECIPE}")
        for name in storage.names(place)
    )


def is_change_begun(storage: Storage) -> bool:
    """Whether the run was put aside as its fingerprints are now: a change was agreed to, and not recorded whole."""
    numbers = _numbers(storage)
    if not numbers:
        return False
    newest = _place(numbers[-1])
    return storage.exists(f"{newest}{RECIPE}") and _is_as_now(storage, newest)


def _is_as_now(storage: Storage, place: str) -> bool:
    return recorded_ingredients(storage) == recorded_ingredients(
        open_storage(f"{storage.location}/{place.rstrip('/')}")
    )


def _numbers(storage: Storage) -> list[int]:
    tops = {name.removeprefix(REPLACED).partition("/")[0] for name in storage.names(REPLACED)}
    return sorted(int(top) for top in tops if top.isdecimal())


def _place(number: int) -> str:
    return f"{REPLACED}{number:04d}/"

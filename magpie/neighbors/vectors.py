"""Vectors of length 1, and what can be said of two of them without rounding getting in the way.

Distances are squared L2: 0 for the same direction, 2 for unrelated ones, and 2 - 2 cos in between.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]
Distances = np.ndarray[Any, np.dtype[np.float64]]
Positions = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Watch = Callable[[str, int, int], None]
"""Told what is being done, and how much of how much of it is done. What it raises ends the search."""

Task = TypeVar("Task")
Found = TypeVar("Found")

LARGE = 8192
"""So many vectors are worth PyTorch, which takes seconds to import, and threads. Fewer are left to numpy."""

_AT_ONCE = 4096
_UNSURE = 1e-9


class NoDirectionError(ValueError):
    """The vector at `position` is zero or not finite, and cannot be made length 1."""

    def __init__(self, position: int) -> None:
        super().__init__(f"vector {position} is zero or not finite")
        self.position = position


class UnitVectors:
    """`count` vectors as they were stored (float16 or float32), given out in float32 with length 1.

    What is stored is not converted as a whole: float16 takes half the memory of what it is read as.
    """

    def __init__(self, stored: np.ndarray[Any, Any], lengths: Floats) -> None:
        self.stored = stored
        self._lengths = lengths

    @classmethod
    def of(cls, stored: np.ndarray[Any, Any]) -> UnitVectors:
        """Vectors (rows, dimensions). Raises NoDirectionError when one is zero or not finite."""
        lengths = np.empty(len(stored), np.float32)
        for start in range(0, len(stored), _AT_ONCE):
            some = _single(stored[start : start + _AT_ONCE])
            lengths[start : start + len(some)] = np.linalg.norm(some, axis=1)
        sound = np.isfinite(lengths) & (lengths > 0)
        if not sound.all():
            raise NoDirectionError(int(np.argmin(sound)))
        return cls(stored, lengths)

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def width(self) -> int:
        """How many dimensions the vectors have."""
        return int(self.stored.shape[1])

    def __getitem__(self, at: slice | Positions | Mask) -> Floats:
        """The vectors at these positions, float32 and of length 1 to float32's precision."""
        some = _single(self.stored[at])
        some /= self._lengths[at, None]
        return some

    def take(self, at: Positions) -> UnitVectors:
        """The vectors at these positions, by themselves."""
        return UnitVectors(self.stored[at], self._lengths[at])

    def keep_only(self, at: Positions) -> None:
        """Leave only the vectors at these positions, which rise. Takes no further memory: they move up in place."""
        for start in range(0, len(at), _AT_ONCE):
            some = at[start : start + _AT_ONCE]
            self.stored[start : start + len(some)] = self.stored[some]
            self._lengths[start : start + len(some)] = self._lengths[some]
        self.stored, self._lengths = self.stored[: len(at)], self._lengths[: len(at)]

    def blocks(self, rows: int = _AT_ONCE) -> Iterator[tuple[slice, Floats]]:
        """All of them in order, so many at a time, with the place of each block."""
        for start in range(0, len(self), rows):
            here = slice(start, min(start + rows, len(self)))
            yield here, self[here]


def squared_distances(a: Floats, b: Floats) -> Distances:
    """Squared L2 distances over the last axis, by subtraction: exact near zero, where dot products are not."""
    apart = np.subtract(a, b, dtype=np.float64)
    return np.asarray(np.einsum("...d,...d->...", apart, apart))


def pair_distances(units: UnitVectors, rows: Positions, others: Positions) -> Distances:
    """The squared distance of each pair (rows[n], others[n]), by subtraction."""
    distances = np.empty(len(rows))
    for start in range(0, len(rows), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        distances[some] = squared_distances(units[rows[some]], units[others[some]])
    return distances


def tile_distances(a: Floats, b: Floats) -> Distances:
    """The squared distances of all of `a` from all of `b`, by dot products in float64: within 1e-12."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    dots = left @ right.T
    return np.asarray(np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1) - 2 * dots)


def nearer(distances: Distances, a: Floats, b: Floats, threshold: float) -> Mask:
    """Which of `tile_distances` are below `threshold`; where rounding could decide, subtraction does."""
    near: Mask = distances < threshold
    rows, columns = np.nonzero(np.abs(distances - threshold) < _UNSURE)
    for start in range(0, len(rows), _AT_ONCE):
        row, column = rows[start : start + _AT_ONCE], columns[start : start + _AT_ONCE]
        near[row, column] = squared_distances(a[row], b[column]) < threshold
    return near


def twins(units: UnitVectors) -> Positions:
    """For each vector the first position that holds the very same bytes: its own, where it is the first of its kind."""
    bytes_each = units.width * units.stored.itemsize
    words = np.ascontiguousarray(units.stored).view(np.uint16 if bytes_each % 8 else np.uint64)
    keys = np.random.default_rng(0).integers(1, 2**63, words.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(len(words), np.uint64)
    for start in range(0, len(words), _AT_ONCE):
        some = words[start : start + _AT_ONCE].astype(np.uint64)
        hashes[start : start + len(some)] = (some * keys).sum(axis=1, dtype=np.uint64)
    _, first, kind = np.unique(hashes, return_index=True, return_inverse=True)
    firsts = first[kind]
    for start in range(0, len(words), _AT_ONCE):  # two vectors of one hash need not be the same
        here = np.arange(start, min(start + _AT_ONCE, len(words)))
        here = here[firsts[here] != here]
        other = (words[here] != words[firsts[here]]).any(axis=1)
        firsts[here[other]] = here[other]
    return np.asarray(firsts, np.int64)


def in_parallel(work: Callable[[Task], Found], tasks: Iterable[Task], *, rows: int) -> Iterator[Found]:
    """What `work` makes of each task, in order, on a thread for each core and a few tasks ahead.

    Inside, PyTorch computes each product on the one core of its thread: threads that wait for each other after every
    small product stand still whenever another process takes a core. Fewer than LARGE `rows` are worth no threads.
    """
    if rows < LARGE:
        yield from map(work, tasks)
        return
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    before = torch.get_num_threads()
    stopped = threading.Event()

    def unless_stopped(task: Task) -> Found | None:
        return None if stopped.is_set() else work(task)

    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(cores, "neighbors", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(unless_stopped, task))
                if len(waiting) > 2 * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            stopped.set()
            torch.set_num_threads(before)


def unwatched(what: str, done: int, total: int) -> None:
    """A Watch that tells nobody."""


def _single(stored: np.ndarray[Any, Any]) -> Floats:
    """A float32 copy. PyTorch, where it is loaded, converts float16 many at a time, and numpy one by one."""
    if stored.dtype == np.float32:
        return np.array(stored)
    torch = sys.modules.get("torch")
    if torch is None:
        return stored.astype(np.float32)
    return np.asarray(torch.from_numpy(np.ascontiguousarray(stored)).float().numpy())

"""Vectors of length 1, and distances between them that rounding errors do not spoil.

Distances are squared L2: 0 for the same direction, 2 for orthogonal vectors, and 2 - 2 cos in general.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from magpie import machine

Floats = np.ndarray[Any, np.dtype[np.float32]]
Distances = np.ndarray[Any, np.dtype[np.float64]]
Positions = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Pairs = tuple[Positions, Positions, Distances]
"""Positions i and j of each pair, and its squared distance: three arrays of one length."""
ProgressCallback = Callable[[str, int, int], None]
"""Called with what is being done, the units of work done and their total. An exception it raises ends the search."""

Task = TypeVar("Task")
Result = TypeVar("Result")

LARGE = 8192
"""From this many vectors on, PyTorch (which takes seconds to import) and threads are used. Below it, numpy alone."""

_BLOCK_ROWS = 4096
_UNSURE = 1e-9


class NoDirectionError(ValueError):
    """The vector at `position` is zero or not finite, and cannot be made length 1."""

    def __init__(self, position: int) -> None:
        super().__init__(f"vector {position} is zero or not finite")
        self.position = position


class UnitVectors:
    """Vectors as they were stored (float16 or float32), read as float32 with length 1.

    Only what is read is converted: float16 vectors take half the memory of float32 ones.
    """

    def __init__(self, stored: np.ndarray[Any, Any], lengths: Floats) -> None:
        self.stored = stored
        self._lengths = lengths

    @classmethod
    def of(cls, stored: np.ndarray[Any, Any]) -> UnitVectors:
        """Vectors (rows, dimensions). Raises NoDirectionError when one is zero or not finite."""
        lengths = np.empty(len(stored), np.float32)
        for start in range(0, len(stored), _BLOCK_ROWS):
            block = _as_float32(stored[start : start + _BLOCK_ROWS])
            lengths[start : start + len(block)] = np.linalg.norm(block, axis=1)
        has_direction = np.isfinite(lengths) & (lengths > 0)
        if not has_direction.all():
            raise NoDirectionError(int(np.argmin(has_direction)))
        return cls(stored, lengths)

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def width(self) -> int:
        """How many dimensions the vectors have."""
        return int(self.stored.shape[1])

    def __getitem__(self, at: slice | Positions | Mask) -> Floats:
        """A copy of the vectors at these positions: float32, and of length 1 to float32's precision."""
        block = _as_float32(self.stored[at])
        block /= self._lengths[at, None]
        return block

    def take(self, at: Positions) -> UnitVectors:
        """A copy that holds only the vectors at these positions."""
        return UnitVectors(self.stored[at], self._lengths[at])

    def keep_only(self, at: Positions) -> None:
        """Drop all vectors but those at these positions, which must rise. Works in place, without a copy."""
        # Positions rise, so a vector only ever moves to a place at or before its own: none is overwritten unread.
        for start in range(0, len(at), _BLOCK_ROWS):
            block = at[start : start + _BLOCK_ROWS]
            self.stored[start : start + len(block)] = self.stored[block]
            self._lengths[start : start + len(block)] = self._lengths[block]
        self.stored, self._lengths = self.stored[: len(at)], self._lengths[: len(at)]

    def blocks(self, rows: int = _BLOCK_ROWS) -> Iterator[tuple[slice, Floats]]:
        """All vectors in order, `rows` at a time, with the slice each block was read from."""
        for start in range(0, len(self), rows):
            block = slice(start, min(start + rows, len(self)))
            yield block, self[block]


def squared_distances(a: Floats, b: Floats) -> Distances:
    """Squared L2 distances over the last axis, by subtraction: exact near zero, where dot products are not."""
    difference = np.subtract(a, b, dtype=np.float64)
    return np.asarray(np.einsum("...d,...d->...", difference, difference))


def pair_distances(units: UnitVectors, rows: Positions, others: Positions) -> Distances:
    """The squared distance of each pair (rows[n], others[n]), by subtraction."""
    distances = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        distances[block] = squared_distances(units[rows[block]], units[others[block]])
    return distances


def tile_distances(a: Floats, b: Floats) -> Distances:
    """The squared distances of all of `a` from all of `b`, by dot products in float64: within 1e-12."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    dots = left @ right.T
    # The lengths are computed and not taken as 1: they are 1 to float32's precision only.
    return np.asarray(np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1) - 2 * dots)


def nearer(distances: Distances, a: Floats, b: Floats, threshold: float) -> Mask:
    """Which of `tile_distances` are below `threshold`; subtraction decides those too close to it to tell."""
    near: Mask = distances < threshold
    rows, columns = np.nonzero(np.abs(distances - threshold) < _UNSURE)
    for start in range(0, len(rows), _BLOCK_ROWS):
        row, column = rows[start : start + _BLOCK_ROWS], columns[start : start + _BLOCK_ROWS]
        near[row, column] = squared_distances(a[row], b[column]) < threshold
    return near


def first_occurrences(units: UnitVectors) -> Positions:
    """For each vector the first position that holds the very same bytes: its own, where it is the first."""
    # Whole words are hashed, eight bytes at a time where the vectors allow it: a sum of words times random odd keys.
    bytes_each = units.width * units.stored.itemsize
    words = np.ascontiguousarray(units.stored).view(np.uint16 if bytes_each % 8 else np.uint64)
    keys = np.random.default_rng(0).integers(1, 2**63, words.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(len(words), np.uint64)
    for start in range(0, len(words), _BLOCK_ROWS):
        block = words[start : start + _BLOCK_ROWS].astype(np.uint64)
        hashes[start : start + len(block)] = (block * keys).sum(axis=1, dtype=np.uint64)
    _, first_of_hash, group = np.unique(hashes, return_index=True, return_inverse=True)
    firsts = first_of_hash[group]
    # Two vectors of one hash need not be equal. One that differs from the first of its hash is kept as distinct.
    for start in range(0, len(words), _BLOCK_ROWS):
        rows = np.arange(start, min(start + _BLOCK_ROWS, len(words)))
        rows = rows[firsts[rows] != rows]
        differs = (words[rows] != words[firsts[rows]]).any(axis=1)
        firsts[rows[differs]] = rows[differs]
    return np.asarray(firsts, np.int64)


def in_parallel(work: Callable[[Task], Result], tasks: Iterable[Task], *, rows: int) -> Iterator[Result]:
    """The results of `work` on each task, in order, on one thread per core, a few tasks ahead of the reader.

    With fewer than LARGE `rows` of vectors there are no threads. An exception in `work` is raised here, and the tasks
    that have not begun are dropped.
    """
    if rows < LARGE:
        yield from map(work, tasks)
        return
    import torch

    cores = machine.processors()
    threads_before = torch.get_num_threads()
    stopped = threading.Event()

    def unless_stopped(task: Task) -> Result | None:
        return None if stopped.is_set() else work(task)

    waiting: deque[Future[Any]] = deque()
    # Each thread computes its products on its own core. PyTorch's threads would wait for each other after every small
    # product, and all stand still whenever another process takes one core.
    with ThreadPoolExecutor(cores, "neighbors", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(unless_stopped, task))
                # Results can be large: only a few may wait to be read.
                if len(waiting) > 2 * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Also reached when the reader stops early: leaving the pool waits for every task that was submitted.
            stopped.set()
            torch.set_num_threads(threads_before)


def no_progress(what: str, done: int, total: int) -> None:
    """A ProgressCallback that does nothing."""


def _as_float32(stored: np.ndarray[Any, Any]) -> Floats:
    """A float32 copy."""
    if stored.dtype == np.float32:
        return np.array(stored)
    # PyTorch converts float16 with vector instructions, numpy one number at a time. It is not imported only for this.
    torch = sys.modules.get("torch")
    if torch is None:
        return stored.astype(np.float32)
    # PyTorch warns of an array that cannot be written to, such as Arrow's own.
    block = np.require(stored, requirements=["C", "W"])
    return np.asarray(torch.from_numpy(block).float().numpy())

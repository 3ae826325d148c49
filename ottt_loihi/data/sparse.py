"""Frames of events, kept as events: the memory grows with the events, not with pixels times time steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

from ottt_loihi.data.compact import CompactArray

BLOCK = 1 << 16  # values of a sample whose places fit into uint16
AT_ONCE = 1 << 20  # values


class SparseArray(CompactArray):
    """Samples uint8 ``(n, *shape)``, mostly 0. The values that are not 0 are stored with 2 or 3 bytes each.

    An index of the first axis (``x[3]``, ``x[8:16]``, ``x[[5, 2]]``) expands these samples alone.

    Parameters
    ----------
    places
        uint16, of the values that are not 0, in order: within its block of 65,536 values of a sample
    starts
        int64 ``(n·blocks + 1,)``, where each block begins in ``places``
    values
        uint8 like ``places``; None: all are 1
    shape
        ``(n, *shape)``
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, places: np.ndarray, starts: np.ndarray, values: np.ndarray | None, shape: tuple[int, ...]
    ) -> None:
        self.places, self.starts, self.values, self.shape = places, starts, values, tuple(shape)

    @property
    def nbytes(self) -> int:
        """Return the number of bytes in memory."""
        return sum(a.nbytes for a in (self.places, self.starts, self.values) if a is not None)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return an array of the samples that the key names."""
        if isinstance(key, tuple):
            if key and isinstance(key[0], slice):
                return self[key[0]][(slice(None), *key[1:])]
            return self[key[0]][key[1:]] if key and isinstance(key[0], (int, np.integer)) else np.asarray(self)[key]
        chosen = np.arange(len(self))[key]
        return self._expanded(np.atleast_1d(chosen)).reshape(*np.shape(chosen), *self.shape[1:])

    def mean(self, *args: Any, **options: Any) -> Any:
        """Return the mean of all values; with arguments as an array does."""
        if args or options:
            return np.asarray(self).mean(*args, **options)
        return np.float64(self._values().sum(dtype=np.int64)) / self.size

    def only(self, chosen: Any) -> SparseArray:
        """Return some of the samples, in the order of their numbers, still sparse."""
        rows = np.arange(len(self))[chosen]
        parts = [slice(*self.starts[[row * self._blocks, (row + 1) * self._blocks]]) for row in rows]
        lengths = np.diff(self.starts).reshape(len(self), -1)[rows].ravel()
        places, values = (
            None if a is None else np.concatenate([a[part] for part in parts]) if parts else a[:0]
            for a in (self.places, self.values)
        )
        return SparseArray(places, np.concatenate([[0], np.cumsum(lengths)]), values, (len(rows), *self.shape[1:]))

    def _extreme(self, name: str) -> Any:
        if name == "min" and len(self.places) < self.size:
            return np.uint8(0)
        return getattr(self._values(), name)(initial=255 if name == "min" else 0)

    def _in_shape(self, shape: tuple[int, ...]) -> SparseArray:
        return SparseArray(self.places, self.starts, self.values, shape)

    @property
    def _blocks(self) -> int:
        return -(-math.prod(self.shape[1:]) // BLOCK)

    def _values(self) -> np.ndarray:
        return np.ones(len(self.places), np.uint8) if self.values is None else self.values

    def _expanded(self, samples: np.ndarray) -> np.ndarray:
        found = np.zeros((len(samples), math.prod(self.shape[1:])), np.uint8)
        for row, sample in zip(found, samples * self._blocks):
            for block in range(self._blocks):
                chosen = slice(*self.starts[sample + block : sample + block + 2])
                row[block * BLOCK : (block + 1) * BLOCK][self.places[chosen]] = (
                    1 if self.values is None else self.values[chosen]
                )
        return found.reshape(len(samples), *self.shape[1:])


SampleArray: TypeAlias = np.ndarray | CompactArray


def collected(samples: Iterable[np.ndarray], shape: tuple[int, ...]) -> SampleArray:
    """Return uint8 samples of one shape, one at a time, as a :class:`SparseArray`; as an array if that is smaller."""
    ends = np.arange(1, -(-math.prod(shape) // BLOCK) + 1) * BLOCK
    places, values, starts, total = [], [], [np.zeros(1, np.int64)], 0
    for sample in samples:
        flat = sample.reshape(-1)
        found = np.flatnonzero(flat)
        places.append((found % BLOCK).astype(np.uint16))
        values.append(flat[found])
        starts.append(total + np.searchsorted(found, ends))
        total += len(found)
    joined = np.concatenate([np.zeros(0, np.uint8), *values])
    kept = None if joined.max(initial=1) == 1 else joined
    found = SparseArray(
        np.concatenate([np.zeros(0, np.uint16), *places]), np.concatenate(starts), kept, (len(places), *shape)
    )
    return found if found.nbytes < found.size else np.asarray(found)


def sparse(x: SampleArray) -> SampleArray:
    """Return uint8 samples sparse where this needs at most half the memory, else x itself."""
    if isinstance(x, SparseArray) or x.dtype != np.uint8 or x.ndim < 2 or 4 * np.count_nonzero(x) > x.size:
        return x
    found = collected(x, x.shape[1:])
    return found if 2 * found.nbytes <= x.nbytes else x


def some(x: Any, chosen: Any) -> Any:
    """Return some of the samples, in the form that x has: compact, or on demand."""
    return x[chosen] if isinstance(x, np.ndarray) else x.only(chosen)


def pieces(x: SampleArray) -> Iterator[slice]:
    """Yield slices of samples ``(n, …)`` of about a million values, so that temporary arrays stay small."""
    step = max(1, AT_ONCE // max(1, math.prod(x.shape[1:])))
    for start in range(0, len(x), step):
        yield slice(start, start + step)

"""Samples that are coded when they are indexed, so that a coded data set is never complete in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

BATCH_BYTES = 1 << 24  # of the samples that are in memory together
KEPT_BYTES = 1 << 28  # up to which samples that are used again and again are computed once

Array: TypeAlias = "np.ndarray | OnDemand"


class OnDemand:
    """Samples ``(n, *shape)`` that a function computes from their numbers.

    An index of the first axis (``x[3]``, ``x[8:16]``, ``x[[5, 2]]``) computes these samples and gives an ordinary
    array. Iterated it is a loader: it yields all samples, in batches that fit into :data:`BATCH_BYTES`.

    Parameters
    ----------
    function
        sample numbers int64 ``(k,)`` → array ``(k, *shape)``, of each number the same one every time
    count
        n ≥ 1
    """

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], count: int) -> None:
        first = function(np.arange(1))
        self._function, self.dtype, self.shape = function, first.dtype, (count, *first.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return an array of the samples that the key names."""
        chosen = np.arange(len(self))[key]
        return self._function(np.atleast_1d(chosen)).reshape(*np.shape(chosen), *self.shape[1:])

    def __iter__(self) -> Iterator[np.ndarray]:
        step = max(1, BATCH_BYTES * len(self) // max(1, self.nbytes))
        return (self[start : start + step] for start in range(0, len(self), step))

    @property
    def nbytes(self) -> int:
        """Return the number of bytes that all samples together would take."""
        return math.prod(self.shape) * self.dtype.itemsize

    def only(self, chosen: Any) -> OnDemand:
        """Return some of the samples, still on demand."""
        places = np.arange(len(self))[chosen]
        return OnDemand(lambda some: self._function(places[some]), len(places))

    def kept(self) -> Array:
        """Return an array of all samples where it takes at most :data:`KEPT_BYTES`, else the samples on demand."""
        return self[:] if self.nbytes <= KEPT_BYTES else self


def batches(x: Array) -> Iterable[np.ndarray]:
    """Return all samples in arrays that fit into memory: those of an array at once."""
    return x if isinstance(x, OnDemand) else (x,)


def joined(first: Array, second: Array) -> Array:
    """Return the samples of both, one after the other; on demand where one of them is."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return np.concatenate([first, second])

    def of(places: np.ndarray) -> np.ndarray:
        late = places >= len(first)
        found = np.empty((len(places), *first.shape[1:]), first.dtype)
        found[~late], found[late] = first[places[~late]], second[places[late] - len(first)]
        return found

    return OnDemand(of, len(first) + len(second))

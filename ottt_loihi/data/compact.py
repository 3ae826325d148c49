"""Samples that are kept in fewer bytes than the array has that they are read as."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np


class CompactArray(np.lib.mixins.NDArrayOperatorsMixin, ABC):
    """Samples ``(n, *shape)`` that can be indexed like an array. An index returns an ordinary array.

    Everything else that an array has expands all samples for the moment.
    """

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Return the number of bytes in memory."""

    @abstractmethod
    def __getitem__(self, key: Any) -> Any:
        """Return an array of the samples that the key names."""

    @abstractmethod
    def only(self, chosen: Any) -> CompactArray:
        """Return some of the samples, in the order of their numbers, still compact."""

    @abstractmethod
    def _in_shape(self, shape: tuple[int, ...]) -> CompactArray:
        """Return the same n samples in a shape ``(n, …)``."""

    @abstractmethod
    def _extreme(self, name: str) -> Any:
        """Return the ``"min"`` or ``"max"`` of all values, without expanding them."""

    @property
    def ndim(self) -> int:
        """Return the number of axes, that of the samples included."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Return the number of values of all samples."""
        return math.prod(self.shape)

    def min(self, *args: Any, **options: Any) -> Any:
        """Return the smallest value; with arguments as an array does."""
        return np.asarray(self).min(*args, **options) if args or options else self._extreme("min")

    def max(self, *args: Any, **options: Any) -> Any:
        """Return the largest value; with arguments as an array does."""
        return np.asarray(self).max(*args, **options) if args or options else self._extreme("max")

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self[:]
        return found if dtype is None else found.astype(dtype, copy=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = (np.asarray(i) if isinstance(i, CompactArray) else i for i in inputs)
        return getattr(ufunc, method)(*arrays, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # NumPy's, copy's and pickle's questions have no answer here
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def reshape(self, *shape: Any) -> CompactArray | np.ndarray:
        """Return the same values in another shape, compact while they stay n samples."""
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        if -1 in shape:
            known = -math.prod(shape)
            shape = tuple(self.size // known if length == -1 else length for length in shape)
        if shape[0] == len(self) and math.prod(shape) == self.size:
            return self._in_shape(shape)
        return np.asarray(self).reshape(shape)

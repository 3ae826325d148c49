"""The running mean of weights that learn at rates which do not fall to 0: they keep moving around what they should be.

Source: Polyak and Juditsky 1992.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING

import numpy as np

from ottt_loihi import safe_hdf5
from ottt_loihi.errors import FileError

if TYPE_CHECKING:
    import h5py

FRACTION_BITS = 12  # of the mean
WINDOW = 16  # points
LIMIT = 256 << FRACTION_BITS
LOSSLESS = 127  # up to here inference weights hold every learning weight, above the even ones


class RunningMean:
    """A mean of weights over their points: at point n they move it by 1/n of the way, later by 1/16.

    Attributes
    ----------
    points
        how many there were
    weights
        of every connection, int32 ``(post, pre)`` in 1/2^12 steps; empty before the first point
    """

    def __init__(self) -> None:
        self.points, self.weights = 0, []  # type: int, list[np.ndarray]

    def copy(self) -> RunningMean:
        """Return the same mean, which moves on without this one."""
        return copy(self)  # ``move`` makes new weights

    def move(self, weights: Sequence[np.ndarray]) -> None:
        """Move the mean towards the present weights, integers −256 … 255."""
        wide = [w.astype(np.int32) << FRACTION_BITS for w in weights]
        self.points += 1
        part = min(self.points, WINDOW)
        self.weights = wide if part == 1 else [mean + (w - mean) // part for mean, w in zip(self.weights, wide)]

    def rounded(self) -> list[np.ndarray]:
        """Return the mean as learning weights, int32, that inference weights hold without loss."""
        found = []
        for mean in self.weights:
            step = 1 if np.abs(mean).max() <= LOSSLESS << FRACTION_BITS else 2
            found.append(step * np.clip(np.round(mean / (step << FRACTION_BITS)), -128, 127).astype(np.int32))
        return found

    def save(self, file: h5py.File) -> None:
        """Write it into a state's file."""
        file.attrs["points"] = self.points
        for index, mean in enumerate(self.weights):
            file.create_dataset(f"mean{index}", data=mean, fletcher32=True, compression="gzip", shuffle=True)

    @classmethod
    def load(cls, file: h5py.File, shapes: Sequence[tuple[int, ...]]) -> RunningMean:
        """Return what :meth:`save` wrote; of a file from before there were means, a new one.

        Raises
        ------
        FileError
            for other numbers than a mean of weights in these shapes
        """
        found = cls()
        if "points" not in file.attrs:
            return found
        found.points = safe_hdf5.attribute(file, "points", int)
        if found.points < 0:
            raise FileError(f"points: expected 0 or more points of a mean, found {found.points}")
        if found.points:
            found.weights = [safe_hdf5.integers(file, f"mean{index}") for index in range(len(shapes))]
        for mean, shape in zip(found.weights, shapes):
            if mean.shape != shape or mean.dtype != np.int32 or np.abs(mean.astype(np.int64)).max() > LIMIT:
                raise FileError(f"a mean of weights {shape} is damaged: {mean.dtype} {mean.shape}")
        return found

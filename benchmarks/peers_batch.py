"""A batch of ``benchmarks/peers.py`` and one contender's work on it; the networks have no biases and a decay of 0.5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

LAMBDA, SLOPE = 0.5, 4.0  # decay of the membrane; steepness of the sigmoid surrogate


@dataclass
class Batch:
    """A batch, with the weights that a contender begins with; the parent process writes it into a file.

    Attributes
    ----------
    x
        ``(batch, T, *shape)`` spikes, or ``(batch, *shape)`` where one frame is shown T times
    labels
        ``(batch,)`` int64
    weights
        one array a layer, as torch has them: ``(out, in)`` or ``(out, in, 3, 3)``
    steps
        T
    constant
        whether x is one frame
    dtype
        ``"float32"`` or ``"float64"``
    """

    x: np.ndarray
    labels: np.ndarray
    weights: list[np.ndarray]
    steps: int
    constant: bool
    dtype: str

    @classmethod
    def read(cls, path: str, dtype: str) -> Batch:
        """Return the batch of a file, its floats as ``dtype``."""
        with np.load(path) as file:
            weights = [file[f"weight{i}"].astype(dtype) for i in range(int(file["layers"]))]
            steps, constant = int(file["steps"]), bool(file["constant"])
            return cls(file["x"].astype(dtype), file["labels"], weights, steps, constant, dtype)


@dataclass
class Job:
    """The work of a contender on one batch.

    Attributes
    ----------
    run
        trains: neurons begin at rest, and the gradients of the weights are computed
    gradients
        returns the gradients of the last run, one array a layer, shaped as ``Batch.weights``
    """

    run: Callable[[], Any]
    gradients: Callable[[], list[np.ndarray]]

"""Latency coding: one spike per value, the earlier the larger it is (time to first spike)."""

from __future__ import annotations

import numpy as np


def latency(values: np.ndarray, seed: int, indices: np.ndarray) -> np.ndarray:
    """Return one spike per value at step ``round((1 − x)·(T − 1))``, none for x = 0; uint8 ``(n, T, *shape)``.

    values: in [0, 1], the same at all steps.
    """
    steps = values.shape[1]
    first = np.asarray(values[:, 0], np.float64)
    due = np.rint((1 - first) * (steps - 1)).astype(np.int64)
    due[first == 0] = -1
    time = np.arange(steps).reshape(1, -1, *[1] * (first.ndim - 1))
    return (due[:, None] == time).astype(np.uint8)

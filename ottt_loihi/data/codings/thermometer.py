"""Thermometer coding: K neurons per value, the more of them fire the larger it is. The same at equal values."""

from __future__ import annotations

import numpy as np

from ottt_loihi import checks

MOST = 256


def thermometer(values: np.ndarray, seed: int, indices: np.ndarray, *, levels: int = 8) -> np.ndarray:
    """Return spikes uint8 ``(n, T, K, *shape)``; neuron k fires where ``x[t] ≥ (k + 1/2) / K``, k = 0 … K − 1.

    Parameters
    ----------
    values
        ``(n, T, *shape)`` in [0, 1]
    levels
        K in 1 … 256
    """
    count = checks.integer(levels, "thermometer.levels", 1, MOST)
    steps = ((np.arange(count) + 0.5) / count).reshape(-1, *[1] * (values.ndim - 2))
    return (np.asarray(values[:, :, None], np.float64) >= steps).astype(np.uint8)

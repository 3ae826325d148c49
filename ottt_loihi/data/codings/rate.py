"""Rate coding: a spike with probability x, drawn anew at every time step."""

from __future__ import annotations

import numpy as np


def rate(values: np.ndarray, seed: int, indices: np.ndarray) -> np.ndarray:
    """Return ``s_i[t] ~ Bernoulli(x_i[t])``, uint8 of the shape of ``values``, ``(n, T, *shape)`` in [0, 1]."""
    spikes = np.empty(values.shape, np.uint8)
    for of_one, value, index in zip(spikes, values, indices):
        uniform = np.random.default_rng([seed, int(index)]).random(of_one.shape, np.float32)
        of_one[...] = uniform < value
    return spikes

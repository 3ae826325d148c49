"""Rate coding: a spike with probability x, drawn anew at every time step."""

from __future__ import annotations

import numpy as np

from ottt_loihi.data.codings.chance import uniform
from ottt_loihi.data.sparse import pieces


def rate(values: np.ndarray, seed: int, indices: np.ndarray) -> np.ndarray:
    """Return ``s_i[t] ~ Bernoulli(x_i[t])``, uint8 of the shape of ``values``, ``(n, T, *shape)`` in [0, 1]."""
    spikes = np.empty(values.shape, np.uint8)
    for part in pieces(values):
        np.less(uniform(seed, indices[part], values.shape[1:]), values[part], out=spikes[part], casting="unsafe")
    return spikes

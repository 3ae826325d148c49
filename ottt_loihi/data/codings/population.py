"""Population coding: each value is seen by K neurons, of which each prefers another value."""

from __future__ import annotations

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.codings.regular import regular

MOST = 256


def population(
    values: np.ndarray,
    seed: int,
    indices: np.ndarray,
    *,
    neurons: int = 8,
    width: float = 1.0,
    phase: str = "random",
) -> np.ndarray:
    """Return spikes uint8 ``(n, T, K, *shape)``; neuron k fires regularly with the rate ``exp(−(x − μ_k)² / 2σ²)``.

    Parameters
    ----------
    values
        ``(n, T, *shape)`` in [0, 1]
    neurons
        K in 2 … 256; they prefer ``μ_k = k / (K − 1)``
    width
        σ in distances between two neighbours, > 0
    phase
        of :func:`~ottt_loihi.data.codings.regular.regular`
    """
    count = checks.integer(neurons, "population.neurons", 2, MOST)
    sigma = checks.number(width, "population.width", 0, above=True) / (count - 1)
    preferred = (np.arange(count) / (count - 1)).reshape(-1, *[1] * (values.ndim - 2))
    distance = np.asarray(values[:, :, None], np.float64) - preferred
    return regular(np.exp(-(distance**2) / (2 * sigma**2)), seed, indices, phase=phase)

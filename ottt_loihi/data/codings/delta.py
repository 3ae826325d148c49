"""Send-on-delta: a spike says that the value has moved by a threshold, up or down. A constant value is silent."""

from __future__ import annotations

import numpy as np

from ottt_loihi import checks


def delta(values: np.ndarray, seed: int, indices: np.ndarray, *, threshold: float = 0.1) -> np.ndarray:
    """Return spikes uint8 ``(n, T, 2, *shape)``; channel 0 up, 1 down.

    A reference r begins at ``x[0]``. Where ``x[t] − r ≥ θ`` an up spike is sent and r grows by θ, where
    ``r − x[t] ≥ θ`` a down spike and r shrinks: one spike per value and step, so a large step is made up for later.

    Parameters
    ----------
    values
        ``(n, T, *shape)``, any numbers
    threshold
        θ > 0, in the values' unit
    """
    checks.number(threshold, "delta.threshold", 0, above=True)
    spikes = np.empty((*values.shape[:2], 2, *values.shape[2:]), np.uint8)
    reference = np.array(values[:, 0], np.float64)
    for t in range(values.shape[1]):
        moved = values[:, t] - reference
        up, down = moved >= threshold, -moved >= threshold
        spikes[:, t, 0], spikes[:, t, 1] = up, down
        reference += threshold * (up.astype(np.float64) - down)
    return spikes

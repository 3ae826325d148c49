"""Regular rate coding: accumulate and fire. T·x spikes, evenly spaced, where rate coding draws their number."""

from __future__ import annotations

import numpy as np

from ottt_loihi import checks

PHASES = ("random", "fixed")


def regular(values: np.ndarray, seed: int, indices: np.ndarray, *, phase: str = "random") -> np.ndarray:
    """Return spikes uint8 ``(n, T, *shape)``: ``s[t] = ⌊c[t]⌋ − ⌊c[t − 1]⌋``, ``c[t] = c[t − 1] + x[t]``.

    Parameters
    ----------
    values
        ``(n, T, *shape)`` in [0, 1]
    phase
        c before the first step: ``"random"``, a number in [0, 1) for each value of each sample, which a later layer
        cannot mistake for a common rhythm; ``"fixed"``: 1/2, the same spikes whatever the seed
    """
    checks.one_of(phase, "regular.phase", PHASES)
    spikes = np.empty(values.shape, np.uint8)
    for of_one, value, index in zip(spikes, values, indices):
        shape = of_one.shape[1:]
        start = np.full(shape, 0.5)
        if phase == "random":
            start = np.random.default_rng([seed, int(index)]).random(shape, np.float32).astype(np.float64)
        reached = np.floor(start + np.cumsum(value, axis=0, dtype=np.float64))
        before = np.concatenate([np.zeros((1, *shape)), reached[:-1]])
        of_one[...] = np.minimum(reached - before, 1)  # a sum that is rounded up to an integer counts once
    return spikes

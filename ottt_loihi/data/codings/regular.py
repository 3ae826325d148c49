"""Regular rate coding: accumulate and fire. T·x spikes, evenly spaced, where rate coding draws their number."""

from __future__ import annotations

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.codings.chance import uniform
from ottt_loihi.data.sparse import pieces

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
    for part in pieces(values):
        reached = np.cumsum(values[part], axis=1, dtype=np.float64)
        reached += uniform(seed, indices[part], values.shape[2:])[:, None] if phase == "random" else 0.5
        np.floor(reached, out=reached)
        reached[:, 1:] -= reached[:, :-1].copy()
        spikes[part] = np.minimum(reached, 1)  # a sum that is rounded up to an integer counts once
    return spikes

"""Delayed copies: spikes are sent again some steps later on lines of their own, so that a neuron sees order in time."""

from __future__ import annotations

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.codings.graded import frames

MOST, COPIES, APART = 256, 4, 4


def delays(
    values: np.ndarray, seed: int, indices: np.ndarray, *, copies: int = COPIES, apart: int = APART
) -> np.ndarray:
    """Return spikes uint8 ``(n, T, K, *shape)``; line k has at step t what the data have at step ``t − k·apart``.

    A layer without recurrence forgets the order of its inputs at the rate of its leak; with these lines it compares
    steps that are up to ``(K − 1)·apart`` apart. Each copy costs as many spikes again.

    Parameters
    ----------
    values
        ``(n, T, *shape)``, 0 and 1 in any dtype
    copies
        K in 1 … 256
    apart
        steps between two copies, ≥ 1. :func:`~ottt_loihi.data.encode` refuses lines that no sample reaches
    """
    count = checks.integer(copies, "delays.copies", 1, MOST)
    distance = checks.integer(apart, "delays.apart")
    spikes, steps = frames(values, seed, indices), values.shape[1]
    found = np.zeros((*values.shape[:2], count, *values.shape[2:]), np.uint8)
    for line in range(min(count, -(-steps // distance))):
        found[:, line * distance :, line] = spikes[:, : steps - line * distance]
    return found


def copies_steps(copies: int = COPIES, apart: int = APART) -> int:
    """Return the fewest time steps of a sample whose last line can fire: ``(K − 1)·apart + 1``."""
    return (copies - 1) * apart + 1

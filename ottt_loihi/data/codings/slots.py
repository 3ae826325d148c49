"""Slots of time: the spikes of each part of a sample come on lines of their own, so that a weight knows the time."""

from __future__ import annotations

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.codings.graded import frames

MOST, PARTS = 256, 8


def slots(values: np.ndarray, seed: int, indices: np.ndarray, *, parts: int = PARTS) -> np.ndarray:
    """Return spikes uint8 ``(n, T, K, *shape)``; line ``⌊t·K/T⌋`` has at step t what the data have, others nothing.

    For samples whose beginning is known, such as a touch, a beat or a spoken word: the sum of what a neuron receives
    then depends on when it was sent, and no memory of the neuron is needed. It costs lines, and not one spike more.

    Parameters
    ----------
    values
        ``(n, T, *shape)``, 0 and 1 in any dtype
    parts
        K in 1 … 256, parts of about equal length. :func:`~ottt_loihi.data.encode` refuses more parts than steps
    """
    count = checks.integer(parts, "slots.parts", 1, MOST)
    spikes, steps = frames(values, seed, indices), values.shape[1]
    found = np.zeros((*values.shape[:2], count, *values.shape[2:]), np.uint8)
    time = np.arange(steps)
    found[:, time, time * count // steps] = spikes
    return found


def parts_steps(parts: int = PARTS) -> int:
    """Return the fewest time steps of a sample in which every part has one: K."""
    return parts

"""Test, then learn: a sample is presented once with a closed gate, and again to learn from it if the answer was wrong.

The speed of learning follows from the share of wrong answers. A network that is as accurate as before hardly changes,
and a network whose data have changed learns at its full rate. m is the moving average of wrong answers and m₀ the usual
share, both in 1/2^15. For each sample that is presented the second time::

    m ← m + ((2^15·[answer ≠ label] − m) >> 6)         over about 64 samples
    halvings = max(0, 12 − bits(max(m − m₀, 1)))       of the error, and so of all rates; 0 if m − m₀ ≥ 1/16

Only the readout computes it, from two numbers beside the network: the last answer and m. Hidden layers receive an error
that is smaller by the same factor.
"""

from __future__ import annotations

import numpy as np

UNITY_BITS = 15
UNITY = 1 << UNITY_BITS
AVERAGED_BITS = 6
FULL_BITS = UNITY_BITS - 3


def fresh_trial(usual: int) -> np.ndarray:
    """Return the state before the first sample, int64 ``(2,)``: the last answer, none, and the average m = m₀."""
    return np.array([-1, usual], np.int64)


def judged(trial: np.ndarray, label: int) -> np.ndarray:
    """Return the state after the answer to a sample was compared with its label."""
    answer, average = (int(number) for number in trial)
    average += (((answer != label) << UNITY_BITS) - average) >> AVERAGED_BITS
    return np.array([answer, average], np.int64)


def halvings(average: int, usual: int) -> int:
    """Return how often the error is halved at given present and usual shares of wrong answers, in 1/2^15."""
    return max(0, FULL_BITS - max(int(average) - usual, 1).bit_length())

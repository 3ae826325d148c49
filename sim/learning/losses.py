"""The readout's error: squared, or cross-entropy from a table; in the chip's integers and in floating point.

With v the readout's membrane, y the label and ``s``, the logit scale, what stands for a logit of 1 (``target = s << 6``
aligned to the state), the error ``e = s · ∂L/∂o``, o = v/s, is

===========  ==========================================  ===========================================================
loss         L                                           e_k
===========  ==========================================  ===========================================================
``mse``      ``½·Σ_k (o_k − [k = y])²``                  ``v_k − s·[k = y]``
``softmax``  ``−log softmax(o)_y``                       ``s·(softmax(v/s)_k − [k = y])``
===========  ==========================================  ===========================================================

Softmax in integers: no float, one table, shifts, and an integer division per class::

    q_k = ( (max v − v_k)·m + 2^(s−1) ) >> s          steps of 1/32 logit, rounded; m/2^s = 32/target
    x_k = EXP[q_k]                                     round(2^15·e^(−q/32)), 0 beyond the table's end
    p_k = ( (x_k << 12) + Σ/2 ) ÷ Σ,  Σ = Σ_k x_k      probabilities in 1/4096
    e_k = ( (p_k − 4096·[k = y])·target + 2^11 ) >> 12

A difference of logits is rounded by at most 1/64: p deviates from the true softmax by less than 0.004
(``tests/test_learning_losses.py`` measures it).
"""

from __future__ import annotations

import numpy as np
from ottt_loihi.sim.learning import integers

STEPS_PER_LOGIT = 32
EXP_BITS = 15
PROBABILITY_BITS = 12
EXP_TABLE = np.round(2.0**EXP_BITS * np.exp(-np.arange(355) / STEPS_PER_LOGIT)).astype(np.int64)  # the next would be 0


def logit_steps(target: int) -> tuple[int, int]:
    """(m, s) with ``m/2^s = 32/target``: a difference of membranes in steps of the table."""
    return integers.mantissa_and_shift(STEPS_PER_LOGIT / target, "logit_scale")


def probabilities(v: np.ndarray, target: int) -> np.ndarray:
    """softmax(v/target) in 1/4096, int64; v: integers of the state."""
    mantissa, shift = logit_steps(target)
    below = int(v.max()) - v.astype(np.int64)
    steps = (below * mantissa + (1 << (shift - 1))) >> shift
    x = np.where(steps < len(EXP_TABLE), EXP_TABLE[np.minimum(steps, len(EXP_TABLE) - 1)], 0)
    return ((x << PROBABILITY_BITS) + x.sum() // 2) // x.sum()


def integer_error(loss: str, v: np.ndarray, label: int, target: int) -> np.ndarray:
    """e of the table above, int64 ``(classes,)``; v: integers of the state, target: ``logit_scale << 6``."""
    v = v.astype(np.int64)
    if loss == "softmax":
        p = probabilities(v, target)
        p[label] -= 1 << PROBABILITY_BITS
        return (p * target + (1 << (PROBABILITY_BITS - 1))) >> PROBABILITY_BITS
    v[label] -= target
    return v


def float_error(loss: str, v: np.ndarray, label: int, logit_scale: float) -> np.ndarray:
    """e of the table above, float64 ``(classes,)``."""
    right = logit_scale * (np.arange(len(v)) == label)
    if loss == "softmax":
        x = np.exp((v - v.max()) / logit_scale)
        return logit_scale * x / x.sum() - right
    return v - right

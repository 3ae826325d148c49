"""The forms in which surrogate times error reaches the synapses: y1 of either sign, unsigned traces, or two factors.

Lava's engine takes signed y1 as long as no bap fires; the chip's traces are unsigned. With y = −η·f(u)·δ rounded, f the
surrogate (0 or 1) and r = −η·δ rounded, the neuron sends and the connection computes, per learning epoch,

============  =======================================  =====================================  ==========================
encoding      messages                                 dw                                     range, and what the engine
                                                                                              adds to w << 7
============  =======================================  =====================================  ==========================
``signed``    y1 = y                                   ``2^-7*u0*x1*y1``                      ±127, ``x1·y >> 3``
``split``     y1 = max(y, 0), y2 = max(−y, 0)          ``2^-7*u0*x1*y1-2^-7*u0*x1*y2``        ±127, ``x1·y >> 3``
``factored``  y1 = 64·f, y3 = r                        ``2*2^-7*u0*x1*y1*y3``                 ±127, ``x1·f·r >> 3``
============  =======================================  =====================================  ==========================

All three learn the very weights of ``signed``. ``factored`` is the default: one factor a message, and a chip's traces
hold each of them. Three 7-bit factors and the mantissa make Lava drop ten bits in place of three: 64·f and the mantissa
2 give back exactly seven. (With y1 = f and ``u0*x1*y1*y3``, the same on paper, every update is floored to whole weight
steps.) In floating point there is nothing to drop: ``u0*x1*y1*y3`` with y1 = f, and no 2^-7 anywhere.

Source: ``lava/magma/core/learning/learning_rule_applier.py``, widths in ``constants.py``.
"""

from __future__ import annotations

import numpy as np
from ottt_loihi.sim.learning.integers import ENGINE_SHIFT

ENCODINGS = ("factored", "signed", "split")
PORTS = {"signed": ("y1",), "split": ("y1", "y2"), "factored": ("y1", "y3")}
FIXED_RULES = {
    "signed": "2^-7*u0*x1*y1",
    "split": "2^-7*u0*x1*y1-2^-7*u0*x1*y2",
    "factored": "2*2^-7*u0*x1*y1*y3",
}
FLOAT_RULES = {
    "signed": "u0*x1*y1",
    "split": "u0*x1*y1-u0*x1*y2",
    "factored": "u0*x1*y1*y3",
}
SPIKE_RULES = {  # of a trace that is the step's spike alone, without one: x0 is 0 or 1 (integers.SPIKE_IMPULSE)
    "signed": "2^-4*x0*y1",
    "split": "2^-4*x0*y1-2^-4*x0*y2",
    "factored": "2^-7*x0*y1*y3",
}
SURROGATE = 64  # y1 of a surrogate of 1, times the mantissa 2: the seven bits that a third factor costs
FACTORED_SHIFT = 10


def messages(
    encoding: str, y: np.ndarray, surrogate: np.ndarray, reward: np.ndarray, one: int = SURROGATE
) -> dict[str, np.ndarray]:
    """Return the neurons' messages, by port: of y, f and r above; one: y1 of a surrogate of 1 (1 in floating point)."""
    if encoding == "split":
        return {"y1": np.maximum(y, 0), "y2": np.maximum(-y, 0)}
    if encoding == "factored":
        return {"y1": surrogate.astype(y.dtype) * one, "y3": reward}
    return {"y1": y}


def engine_change(encoding: str, x1: np.ndarray, sent: dict[str, np.ndarray], half: int = 0) -> np.ndarray:
    """Return what Lava's engine adds to ``w << 7``, int64 ``(post, pre)``; x1 int64 ``(pre,)``, messages ``(post,)``.

    half: ``integers.HALF`` rounds products to nearest, 0 floors them, as the engine does.
    """
    y = {port: value.astype(np.int64)[:, np.newaxis] for port, value in sent.items()}
    if encoding == "split":
        return ((x1 * y["y1"] + half) >> ENGINE_SHIFT) + ((half - x1 * y["y2"]) >> ENGINE_SHIFT)
    if encoding == "factored":
        return (2 * x1 * y["y1"] * y["y3"] + 2 * SURROGATE * half) >> FACTORED_SHIFT
    return (x1 * y["y1"] + half) >> ENGINE_SHIFT

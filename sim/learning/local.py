"""TESS's learning signal: every hidden layer has its own class neurons, and learns from their error.

::

    B_ck = sign(sin(ω_c·k)), ω_c = 50 … 512 in C equal steps        z = (κ/N)·B·s[t]        p = clip(z/4 + ½, 0, 1)
    e = p − y                                                       m = Bᵀ·e, in units that the learning rate holds

Nothing passes between layers backwards, so an error is there two Lava steps after the spikes, however deep the network
is. The softmax of the paper needs an exponential; this is the line of the authors' variant in integers. The default of
κ is N/4. B is 0 at k = 0: the first neuron of a layer never learns. B is computed in float64, because sin(512·k)
needs its digits (arXiv 2502.01837; ``ottt_loihi/rules/tess.py`` is the rule in torch).

In integers the signs are ±2, because Lava's connections with weights of both signs have even ones, and p and e count
1/64: ``e = clip(32 + ((2·B·s·m + 2^(q−1)) >> q), 0, 64) − 64·y`` with ``m/2^q = 64·κ/(8·N)``.
"""

from __future__ import annotations

import math

import numpy as np
from ottt_loihi.sim.learning import integers

ONE = 64  # of p and e: the message of an error of 1
WEIGHT = 2  # of a sign


def signs(classes: int, size: int) -> np.ndarray:
    """Return B, int32 ``(classes, size)`` of −1, 0, 1."""
    omega = np.linspace(50.0, 512.0, classes)
    return np.sign(np.sin(omega[:, np.newaxis] * np.arange(size))).astype(np.int32)


def slope(kappa: float | None, size: int) -> float:
    """Return the change of p for each unit of B·s."""
    return 1 / 16 if kappa is None else kappa / (4 * size)


def scale(kappa: float | None, size: int) -> tuple[int, int]:
    """Return (m, q) of the integers."""
    return integers.mantissa_and_shift(ONE * slope(kappa, size) / WEIGHT, "kappa")


def units(classes: int) -> float:
    """Return the units of m per error of 1: those of fixed random feedback, uniform in ±1/√classes."""
    return WEIGHT * math.sqrt(3 * classes)


def errors(z: np.ndarray, label: int, mantissa: int, shift: int) -> np.ndarray:
    """Return e, int32 ``(classes,)``; z: 2·B·s, integers."""
    p = np.clip(ONE // 2 + ((z.astype(np.int64) * mantissa + (1 << shift >> 1)) >> shift), 0, ONE)
    p[label] -= ONE
    return p.astype(np.int32)


def float_errors(z: np.ndarray, label: int, kappa: float | None, size: int) -> np.ndarray:
    """Return e, float64 ``(classes,)``; z: B·s."""
    p = np.clip(0.5 + slope(kappa, size) * z, 0, 1)
    p[label] -= 1
    return p

"""Integer arithmetic of the learning neurons: scaling by a mantissa and a shift, with stochastic rounding.

Everything here is integer multiply, add, shift, xor and compare, so that it can become microcode.
"""

from __future__ import annotations

import math

import numpy as np

from ottt_loihi.errors import UsageError

MANTISSA_BITS = 12
MAX_SHIFT = 31


def xorshift32(state: np.ndarray) -> np.ndarray:
    """The next state of Marsaglia's 32-bit xorshift generator, one per neuron; uint32, never 0.

    ``x ^= x << 13; x ^= x >> 17; x ^= x << 5`` (J. Stat. Software 8 (14), 2003). The new state is the random number.
    """
    state = state ^ (state << np.uint32(13))
    state = state ^ (state >> np.uint32(17))
    return state ^ (state << np.uint32(5))


def xorshift32_seeds(seed: int, size: int) -> np.ndarray:
    """Start states for ``size`` neurons, uint32, none of them 0."""
    return np.random.default_rng([seed, size]).integers(1, 2**32, size, dtype=np.uint32)


def mantissa_and_shift(scale: float, where: str) -> tuple[int, int]:
    """``scale ≈ mantissa / 2^shift`` with a 12-bit mantissa, 0 ≤ shift ≤ 31; relative error at most 2^−12.

    Raises :class:`UsageError` for a scale so small that it becomes 0 or so large that it does not fit.
    """
    if not 0 < scale < math.inf:
        raise UsageError(f"{where}: expected a scale > 0, got {scale}")
    shift = min(MAX_SHIFT, MANTISSA_BITS - 1 - math.floor(math.log2(scale)))
    mantissa = round(scale * 2.0**shift) if shift >= 0 else 0
    if shift < 0 or mantissa < 1:
        size = "large" if shift < 0 else "small"
        raise UsageError(f"{where}: a scale of {scale:.3g} is too {size} for a 12-bit mantissa and a shift of 0 … 31")
    return mantissa, shift


def scale_stochastically(x: np.ndarray, mantissa: int, shift: int, random: np.ndarray) -> np.ndarray:
    """``⌊(x·mantissa + r) / 2^shift⌋`` with r uniform in [0, 2^shift): x·mantissa/2^shift on average.

    x: integers · random: uint32 of the same shape, whose upper ``shift`` bits are r · result: int64.
    """
    r = random.astype(np.int64) >> (32 - shift)
    return (x.astype(np.int64) * mantissa + r) >> shift


def saturate(x: np.ndarray, limit: int) -> tuple[np.ndarray, int]:
    """(x clipped to ±limit as int32, how many were outside)."""
    outside = int(np.count_nonzero(np.abs(x) > limit))
    return np.clip(x, -limit, limit).astype(np.int32), outside

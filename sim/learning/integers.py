"""Integer arithmetic of learning: scales with stochastic rounding, traces, and the random numbers of both.

A neuron only multiplies, adds, shifts, xors and compares integers, so that this can become microcode.
"""

from __future__ import annotations

import math

import numpy as np

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

MANTISSA_BITS = 12
MAX_SHIFT = 31
MESSAGE_MAX = 127  # y1 and error messages
MOMENTUM_MAX = 255  # OPZO's feedback weights
ERROR_STEPS = 64  # of an error message per error of 1: ±127 is the end of 8 bits

TRACE_MAX = 127  # traces have 7 bits
FIXED_SHIFT = 10  # dw = 2^-7·u0·x1·y1, and the engine drops three more bits: Δw = x1·y1 / 2^10 LSB
SPIKE_IMPULSE = 64  # 2^-4·x0·y1 is (64·y1) >> 3 in units of 2^-7 LSB: what a trace of 64 would give
ENGINE_SHIFT = 3  # the three bits that the engine drops, by flooring, before it adds to the weight << FRACTION_BITS
HALF = 1 << (ENGINE_SHIFT - 1)  # added before they are dropped, it rounds to nearest: what HLOP's connections do
FRACTION_BITS = 7  # of a weight in the engine's accumulator: they are rounded away at random
FOREVER = 1e18  # Lava's own 65535 decays y by 1.5e-5 per step; 0 would give NaN


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
    """Return ``scale ≈ mantissa / 2^shift`` with a 12-bit mantissa, 0 ≤ shift ≤ 31; relative error at most 2^−12.

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


def scale(value: float | tuple[int, int], where: str) -> tuple[float, int, int]:
    """Return a scale as (number, mantissa, shift), of a number or of (mantissa, shift)."""
    if isinstance(value, tuple):
        return value[0] / 2.0 ** value[1], *value
    return value, *mantissa_and_shift(value, where)


def scale_stochastically(x: np.ndarray, mantissa: int, shift: int, random: np.ndarray) -> np.ndarray:
    """``⌊(x·mantissa + r) / 2^shift⌋``, int64, of integers x: x·mantissa/2^shift on average.

    r, uniform in [0, 2^shift), is the upper ``shift`` bits of ``random``, uint32 of the same shape.
    """
    r = random.astype(np.int64) >> (32 - shift)
    return (x.astype(np.int64) * mantissa + r) >> shift


def halvings(count: int, halve_every: int) -> int:
    """Return how often the learning rate has been halved after ``count`` samples or steps; ``halve_every`` 0: never."""
    return count // halve_every if halve_every else 0


def saturate(x: np.ndarray, limit: int) -> tuple[np.ndarray, int]:
    """(x clipped to ±limit as int32, how many were outside)."""
    outside = int(np.count_nonzero(np.abs(x) > limit))
    return np.clip(x, -limit, limit).astype(np.int32), outside


def message(
    x: np.ndarray, scale: tuple[int, int], halvings: int, rng: np.ndarray
) -> tuple[np.ndarray, int, np.ndarray]:
    """Return x by a scale that is halved so often, rounded at random and clipped to ±127, int32.

    Also how many were outside, and the neurons' next random states.
    """
    (mantissa, shift), rng = scale, xorshift32(rng)
    scaled = scale_stochastically(x, mantissa, min(MAX_SHIFT, shift + halvings), rng)
    return *saturate(scaled, MESSAGE_MAX), rng


def default_impulse(decay: float, stock: bool = False) -> int:
    """The largest integer impulse whose trace stays within 7 bits when the neuron fires at every time step.

    stock: for Lava's own connection, which has no reset; a trace of the step's spike alone is its ``x0`` there, 0 or 1,
    and the rule's ``2^-4`` makes it this much.
    """
    if stock and not decay:
        return SPIKE_IMPULSE
    impulse = int(TRACE_MAX * (1 - decay))
    if impulse < 1:
        raise UsageError(f"decay: λ = {decay} leaves no room for a trace of 7 bits; at most {1 - 1 / TRACE_MAX:.4f}")
    return impulse


def trace_time_constant(decay: float, epoch: int) -> float:
    """τ in Lava steps, so that ``(e^(−1/τ))^epoch = decay``; 0: the trace stays until it is reset."""
    return -1 / math.log(decay ** (1 / epoch)) if decay else FOREVER


def kept_per_step(decay: float, epoch: int) -> float:
    """Return e^(−1/τ), the share of a trace that a Lava step keeps.

    As Lava computes it: of an array, whose exp may differ from a single number's in the last bit.
    """
    tau = np.array([[trace_time_constant(decay, epoch)], [FOREVER]])
    return float(np.exp(-1 / tau)[0, 0])


def impulse_left(decay: float, epoch: int, pre_phase: int) -> float:
    """``d^(K − p)``, d = λ^(1/K): part of an impulse of phase p that is left when the epoch of K steps ends."""
    return (decay ** (1 / epoch)) ** (epoch - pre_phase) if decay else 1.0


def mix32(x: np.ndarray) -> np.ndarray:
    """A hash of uint32 in which every bit of the input changes every bit of the output half of the time.

    ``x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15; x *= 0x846ca68b; x ^= x >> 16``: "lowbias32" of C. Wellons' hash
    prospector, a bijection with 0 → 0.
    """
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def synapse_hash(seed: int, epoch: int, shape: tuple[int, int]) -> np.ndarray:
    """One random number per synapse ``(post, pre)`` and learning epoch, uint32.

    ``mix(mix(mix(mix(seed) + epoch) + pre) + post)``. A number depends on where and when it is used and on nothing
    else, so that a simulator needs to make only those it uses, in any order.
    """
    post, pre = (np.arange(n, dtype=np.uint32) for n in shape)
    start = mix32(mix32(np.array([seed], np.uint32)) + np.uint32(epoch & 0xFFFFFFFF))
    return mix32(mix32(start + pre)[np.newaxis, :] + post[:, np.newaxis])


def synapse_draws(seed: int, epoch: int, shape: tuple[int, int], share: int = 4) -> np.ndarray:
    """Return one number 0 … 127 per synapse ``(post, pre)``; w + k/128 is rounded up where it is below k.

    share 4, rounding ``"per-synapse"``: postsynaptic neurons 4n … 4n + 3 take the upper 7 bits of the four bytes, the
    lowest first, of :func:`synapse_hash` of n. share 1, ``"per-synapse-1"``: the upper 7 bits of a hash each.
    """
    post, pre = shape
    hashes = synapse_hash(seed, epoch, (-(-post // share), pre))
    shifts = np.arange(32 // share - FRACTION_BITS, 32, 32 // share, dtype=np.uint32)
    draws = (hashes[:, np.newaxis] >> shifts[:, np.newaxis]) & np.uint32((1 << FRACTION_BITS) - 1)
    return draws.reshape(-1, pre)[:post]


def check_averaging(averaging: int, where: str) -> None:
    """Refuse a momentum of 1 − 2^−averaging outside 1 … 24."""
    checks.integer(averaging, f"{where}.averaging", 1, 24)


def momentum_step(
    weights: np.ndarray, product: np.ndarray, mantissa: int, shift: int, averaging: int, random: np.ndarray
) -> np.ndarray:
    """``M + (gain·product − M)/2^averaging``, gain = mantissa/2^shift, rounded stochastically by ``random``; int64.

    ``M + ⌊(product·mantissa − (M << shift) + r) / 2^n⌋`` with n = min(31, shift + averaging) and r the upper n bits of
    the uint32 ``random``.
    """
    total = min(MAX_SHIFT, shift + averaging)
    r = random.astype(np.int64) >> (32 - total)
    wide = weights.astype(np.int64)
    return wide + ((product.astype(np.int64) * mantissa - (wide << shift) + r) >> total)


def noise_signs(state: np.ndarray) -> np.ndarray:
    """±1 from the highest bit of an xorshift state, int8."""
    return np.where(state >> np.uint32(31), 1, -1).astype(np.int8)

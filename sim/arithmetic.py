"""The chip's integer arithmetic as pure functions: what Lava 0.10 ``fixed_pt`` computes, to the last bit.

Symbols (all integers): ``u`` synaptic current, ``v`` membrane, ``a`` synaptic input, ``du``, ``dv`` decays in
1/4096, ``vth`` threshold mantissa, ``>>`` arithmetic shift (floor), ``tz(x) = sign(x)·(|x| >> 12)`` (towards zero).
Arrays are ``int32`` wherever Lava's are, because Lava's sums wrap around at 32 bits.
"""

from __future__ import annotations

import numpy as np

DECAY_SHIFT = 12  # decays are given in 1/4096
DECAY_UNITY = 1 << DECAY_SHIFT
STATE_SHIFT = 6  # a and vth are aligned to the state's most significant bits
STATE_LIMIT = 1 << 23  # u and v are 24-bit signed
VTH_MAX = (1 << 17) - 1
WEIGHT_BITS = 8


def truncate_towards_zero(x: np.ndarray) -> np.ndarray:
    """``tz(x) = sign(x)·(|x| >> 12)``, int64 in, int32 out."""
    return (np.sign(x) * (np.abs(x) >> DECAY_SHIFT)).astype(np.int32)


def wrap_int32(x: np.ndarray) -> np.ndarray:
    """Reduce an int64 array to int32 modulo 2³², as NumPy's int32 sums do inside Lava."""
    return np.asarray(x, np.int64).astype(np.int32)


def wrap24(x: np.ndarray) -> np.ndarray:
    """``(x + 2²³) mod 2²⁴ − 2²³``, int32: what Lava's Conv sends (``lava/proc/conv/utils.py``)."""
    return ((x + STATE_LIMIT) % (2 * STATE_LIMIT) - STATE_LIMIT).astype(np.int32)


def shift(x: np.ndarray, exponent: int) -> np.ndarray:
    """``x << exponent`` if positive, else ``x >> −exponent`` (floor). Source: ``lava/proc/dense/models.py``."""
    return np.left_shift(x, exponent) if exponent > 0 else np.right_shift(x, -exponent)


def effective_bias(bias_mant: np.ndarray, bias_exp: int) -> np.ndarray:
    """``beff = bias_mant · 2^bias_exp`` (floor if the exponent is negative), int32."""
    return shift(np.asarray(bias_mant, np.int32), int(bias_exp))


def synaptic_input(accumulated: np.ndarray, weight_exp: int) -> np.ndarray:
    """``a = acc · 2^weight_exp``: what a Dense, Sparse or Diagonal connection sends, int32 with wrap-around."""
    return shift(wrap_int32(accumulated), weight_exp)


def decayed(x: np.ndarray, keep: np.ndarray | int) -> np.ndarray:
    """``tz(x·keep)``, int32, for a state x and what it keeps, in 1/4096."""
    return truncate_towards_zero(x.astype(np.int64) * np.asarray(keep, np.int64))


def current_step(u: np.ndarray, a: np.ndarray, du: np.ndarray | int) -> np.ndarray:
    """One step of the synaptic current.

    ``d = tz(u·(4096 − (du + 1))) + (a << 6)``; if ``d > 2²³``: ``d − 2²⁴``; if then ``≤ −2²³``: ``d + 2²⁴``.
    ``du = 4095`` forgets u at once, ``du = −1`` keeps it for ever. u, a: int32 of one shape. Source:
    ``AbstractPyLifModelFixed.subthr_dynamics`` in ``lava/proc/lif/models.py``.
    """
    d = unwrapped_current(u, a, du)
    with np.errstate(over="ignore"):
        wrapped = np.where(d > STATE_LIMIT, d - np.int32(2 * STATE_LIMIT), d)
        return np.where(wrapped <= -STATE_LIMIT, d + np.int32(2 * STATE_LIMIT), wrapped).astype(np.int32)


def unwrapped_current(u: np.ndarray, a: np.ndarray, du: np.ndarray | int) -> np.ndarray:
    """d of :func:`current_step`, int32 with wrap-around."""
    with np.errstate(over="ignore"):
        keep = DECAY_UNITY - (np.asarray(du, np.int64) + 1)
        return decayed(u, keep) + np.left_shift(a.astype(np.int32), STATE_SHIFT)


def voltage_step(v: np.ndarray, u: np.ndarray, dv: np.ndarray | int, bias: np.ndarray) -> np.ndarray:
    """One step of the membrane: ``v = clip(tz(v·(4096 − dv)) + u + beff, ±(2²³ − 1))``, int32."""
    return np.clip(unclipped_voltage(v, u, dv, bias), -STATE_LIMIT + 1, STATE_LIMIT - 1).astype(np.int32)


def unclipped_voltage(v: np.ndarray, u: np.ndarray, dv: np.ndarray | int, bias: np.ndarray) -> np.ndarray:
    """The sum in :func:`voltage_step`, int32 with wrap-around."""
    with np.errstate(over="ignore"):
        return decayed(v, DECAY_UNITY - np.asarray(dv, np.int64)) + u + bias


def spikes(v: np.ndarray, vth: np.ndarray | int) -> np.ndarray:
    """``s = v > (vth << 6)``, strictly; bool."""
    return v > np.left_shift(np.asarray(vth, np.int32), STATE_SHIFT)


def sign_mode(weight: np.ndarray) -> str:
    """``"excitatory"`` if no weight is negative, ``"inhibitory"`` if none is positive, else ``"mixed"``.

    An all-zero matrix is excitatory. Source: ``determine_sign_mode`` in ``lava/utils/weightutils.py``.
    """
    if weight.size == 0 or weight.min() >= 0:
        return "excitatory"
    return "inhibitory" if weight.max() <= 0 else "mixed"


def truncate_weight(weight: np.ndarray, num_weight_bits: int = WEIGHT_BITS) -> np.ndarray:
    """The weights Lava really uses after clipping to 8 bits and dropping the bits that are not there.

    mixed: clip to [−256, 255], floor to multiples of ``2^(9 − bits)``; excitatory: clip to [0, 255], floor to
    multiples of ``2^(8 − bits)``; inhibitory: the same on the magnitude. Source: ``lava/utils/weightutils.py``.
    """
    weight = np.asarray(weight, np.int32)
    mode = sign_mode(weight)
    k = WEIGHT_BITS - num_weight_bits + (mode == "mixed")
    if mode == "mixed":
        return (np.clip(weight, -256, 255) >> k) << k
    magnitude = np.clip(np.abs(weight), 0, 255)
    return ((magnitude >> k) << k) * (-1 if mode == "inhibitory" else 1)

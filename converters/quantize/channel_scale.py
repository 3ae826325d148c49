"""Weights of one size in each channel: ±1 on the chip, and the size in the channel's threshold.

Where w = a_c·B with B of −1, 0 and 1, as one-bit networks are trained (``ottt_loihi.nn.weights.binarize``), a channel
may be divided by its a_c, and no spike changes::

    v/a_c = λ·v/a_c + B·s + b_c/a_c        fires above θ/a_c, where θ/a_c is subtracted (or v set to 0)

so such a layer has a scale for each channel, S_c = G/a_c. The integer weights are ±G for one G = 2^k: the stored
mantissa is ±1, in 2 bits. Lava places a weight of b bits and both signs at multiples of 2^(9 − b), ±1 of 2 bits at
±128, and ``weight_exp`` = k − 7 brings that to ±G; Lava's Conv has no exponent, its weights are written as ±G.

G is the largest power of two with which thresholds, resets and biases fit, and with which no input at all can make u
wrap around or v clip: what is left to rounding is half a unit of a threshold of hundreds or thousands of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ottt_loihi.converters.quantize.float_connection import FloatConnection
from ottt_loihi.converters.quantize.float_network import FloatNetwork
from ottt_loihi.sim.network import Conv

from ottt_loihi.errors import ChipError

MANTISSA, BITS = 128, 2  # ±1 of 2 bits, where Lava places it
MAX_POWER = 14  # of G: the largest exponent on top of 128
MAX_CONV_POWER = 7  # ±128 are the largest powers of two in a Conv's weights
KEPT = 0.7  # ternary weights below so much of the mean size become 0


@dataclass(frozen=True)
class Unit:
    """±G as the chip holds it: the integer weight, its bits, and the exponent that brings it to G."""

    weight: int
    bits: int
    exponent: int


def sizes(c: FloatConnection, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return a of every neuron of a layer, float64 ``shape``; None where a neuron's weights have several sizes.

    Weights of 0 count for nothing.
    """
    size = np.abs(c.weight)
    if size.ndim == 1:
        largest = np.zeros(c.geometry["size"][0])
        np.maximum.at(largest, c.geometry["rows"], size)
    else:
        largest = size.reshape(len(size), -1).max(axis=1)
    found = spread(largest, shape)
    if not ((size == 0) | (size == rows(c, found))).all():
        return None
    return np.where(found > 0, found, largest.max())


def is_pattern(c: FloatConnection) -> bool:
    """Whether neurons have several weights: of one weight alone any size would be the one."""
    neurons = c.geometry["size"][0] if c.weight.ndim == 1 else len(c.weight)
    return bool(np.count_nonzero(c.weight) >= 2 * neurons)


def fold(c: FloatConnection, others: Sequence[FloatConnection], shape: tuple[int, ...]) -> np.ndarray | None:
    """:func:`sizes` of a layer's main connection, if the layer's other connections can have such a scale."""
    found = sizes(c, shape)
    if found is None:
        return None
    for other in others:
        # a convolution's kernel is one for all places
        if other.kind is Conv and np.ptp(found.reshape(len(other.weight), -1), axis=1).any():
            return None
    return found


def levelled(c: FloatConnection, kind: str, per_channel: bool) -> FloatConnection:
    """Weights of −a, 0 and a ("ternary") or −a and a ("binary"), closest to the given ones; a for each channel or all.

    a is the mean ``|w|`` of those that are kept: not 0, and if ternary above 0.7 times their mean.
    """
    size = np.abs(c.weight)
    kept = size > 0
    if kind == "ternary":
        kept = size > KEPT * _means(c, size, kept, per_channel)
    return replace(c, weight=np.sign(c.weight) * kept * _means(c, size, kept, per_channel))


def _means(c: FloatConnection, size: np.ndarray, kept: np.ndarray, per_channel: bool) -> np.ndarray:
    """Return the mean of the kept sizes of each row, or of all, in the shape of the weights."""
    if not per_channel:
        return np.full(size.shape, size[kept].mean())
    if size.ndim == 1:
        index, count = c.geometry["rows"], c.geometry["size"][0]
    else:
        index, count = np.broadcast_to(np.arange(len(size)).reshape(-1, *(1,) * (size.ndim - 1)), size.shape), len(size)
    total = np.bincount(index[kept], size[kept], count)
    return (total / np.maximum(np.bincount(index[kept], minlength=count), 1))[index]


def rows(c: FloatConnection, values: np.ndarray | float) -> np.ndarray | float:
    """Values of the postsynaptic neurons as factors of ``c.weight``; of a channel those of its first place."""
    if np.ndim(values) == 0:
        return values
    if c.weight.ndim == 1:
        return np.reshape(values, -1)[c.geometry["rows"]]
    return np.reshape(values, (len(c.weight), -1))[:, 0].reshape(-1, *(1,) * (c.weight.ndim - 1))


def row_sums(c: FloatConnection, values: np.ndarray) -> np.ndarray:
    """Return the sums of values of the shape of ``c.weight`` over the inputs of each row."""
    if values.ndim == 1:
        return np.bincount(c.geometry["rows"], values, c.geometry["size"][0])
    return values.reshape(len(values), -1).sum(axis=1)


def largest_sums(c: FloatConnection) -> np.ndarray:
    """Return the larger of Σ positive and Σ negative weights of each row, in absolute value."""
    return np.maximum(*(row_sums(c, np.maximum(sign * c.weight, 0)) for sign in (1, -1)))


def spread(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Values of the rows of a weight at each neuron of ``shape``: those of a channel at all its places."""
    return np.repeat(values, math.prod(shape) // len(values)).reshape(shape)


def choose(kind: type, limit: float, for_netx: bool, name: str) -> Unit:
    """The largest ±G up to ``limit`` that a connection of this kind can hold.

    Raises :class:`ChipError` where ±1 is too large already.
    """
    highest = MAX_CONV_POWER if kind is Conv or for_netx else MAX_POWER
    power = min(math.floor(math.log2(limit)), highest)
    if power < (lowest := int(for_netx and kind is not Conv)):
        raise ChipError(
            f"{name}: weights of ±{2**lowest} leave no room for what arrives, its thresholds and biases (at most "
            f"{limit:.3g}): make the layer before it smaller, or train with smaller biases and larger weights"
        )
    if kind is Conv:
        return Unit(2**power, BITS, 0)
    if for_netx:  # .net has no exponents: more bits place the same ±1 lower
        return Unit(2**power, 9 - power, 0)
    return Unit(MANTISSA, BITS, power - int(math.log2(MANTISSA)))


def folds(net: FloatNetwork, index: int, bits: int | str) -> bool:
    """Whether a layer may have a threshold per channel; a readout's classes are compared with one another."""
    main, *others = net.inputs_of(index)
    layer = net.layers[index]
    if layer.reset is None:
        return False
    if isinstance(bits, str):
        main = levelled(main, bits, per_channel=True)
    elif not is_pattern(main):
        return False
    return fold(main, others, layer.shape) is not None

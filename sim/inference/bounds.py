"""Proofs, from weights alone, that the sums of a layer fit: in int32, or in the 24 bits of its states."""

from __future__ import annotations

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.network import INPUT, ChipNetwork, Connection, Conv, Dense, Diagonal

SAFE_INT32 = (1 << 31) - (1 << 25)  # leaves room for a decayed u, v and bias


def leaves_int32(chip: ChipNetwork, index: int) -> bool:
    """True unless it is proven that no sum of a layer leaves int32, and no output of a convolution 24 bits.

    With ``|a| ≤ A`` the current stays within U = max(2²³, 64·A, 4096·(64·A − 2²⁴) / (du + 1)): beyond 2²³ a wrap takes
    2²⁴ off. Proven means U + 64·A < 2³¹ less a margin for the decayed membrane and the bias.
    """
    total = np.zeros(chip.size(index), np.int64)
    for c in chip.inputs_of(index):
        largest = weight_sums(c, signed=c.num_message_bits == 0 or c.pre != INPUT) << message_bits(c)
        if int(largest.max()) << max(c.weight_exp, 0) >= SAFE_INT32:
            return True
        if isinstance(c, Conv) and largest.max() >= arithmetic.STATE_LIMIT:
            return True
        total += arithmetic.shift(largest, c.weight_exp) + 1
    a = int(total.max()) << arithmetic.STATE_SHIFT
    excess = max(a - 2 * arithmetic.STATE_LIMIT, 0)
    du = chip.layers[index].du
    if excess and du < 0:
        return True
    u = max(arithmetic.STATE_LIMIT, a, arithmetic.DECAY_UNITY * excess // (du + 1) if excess else 0)
    return u + a >= SAFE_INT32


def keeps_24_bits(chip: ChipNetwork, index: int) -> bool:
    """True if it is proven that no current of a layer wraps and no membrane is clipped.

    With ``|a| ≤ A`` at each of n steps, ``|u| ≤ |u_init| + 64·A·min(n, 1/(1 − keep_u))``, and ``|v|`` likewise of
    ``|u| + |bias|``: rounding towards zero makes them smaller.
    """
    layer, steps = chip.layers[index], chip.num_steps + len(chip.layers)
    a = 0
    for c in chip.inputs_of(index):
        largest = weight_sums(c, signed=c.num_message_bits == 0 or c.pre != INPUT) << message_bits(c)
        a += int(arithmetic.shift(largest, c.weight_exp).max()) + 1
    lost_u, lost_v = (layer.du + 1) / arithmetic.DECAY_UNITY, layer.dv / arithmetic.DECAY_UNITY
    u = int(np.abs(layer.u_init).max()) + (a << arithmetic.STATE_SHIFT) * min(steps, 1 / lost_u if lost_u else steps)
    v = (u + int(np.abs(layer.effective_bias).max())) * min(steps, 1 / lost_v if lost_v else steps)
    return max(u, v) < arithmetic.STATE_LIMIT - 1


def message_bits(c: Connection) -> int:
    return c.num_message_bits if c.pre == INPUT else 0  # a layer sends 0 or 1 whatever the connection can carry


def weight_sums(c: Connection, signed: bool = False) -> np.ndarray:
    """Σ|w| over the synapses of each postsynaptic neuron, int64; signed: the larger of Σ max(w, 0), Σ max(−w, 0)."""
    positive, negative = np.maximum(c.weight, 0).astype(np.int64), np.maximum(-c.weight, 0).astype(np.int64)

    def per_neuron(w: np.ndarray) -> np.ndarray:
        if isinstance(c, Dense):
            return w.sum(axis=1)
        if isinstance(c, Conv):
            return np.repeat(w.sum(axis=(1, 2, 3)), c.output_shape[1] * c.output_shape[2])
        return w if isinstance(c, Diagonal) else np.bincount(c.rows, w, c.shape[0]).astype(np.int64)

    if signed:
        return np.maximum(per_neuron(positive), per_neuron(negative))
    return per_neuron(positive + negative)

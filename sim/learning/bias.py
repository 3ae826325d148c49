"""Biases that learn in their neurons: ``Δb = y1·Λ_t``, the rule of a weight whose presynaptic neuron always fires.

OTTT's gradient of a bias has the trace ``Λ_t = Σ_{τ≤t} λ^{t−τ}`` in place of â (arXiv 2210.04195, eq. 4); the readout's
is 1. It is the same for all neurons of a layer and depends on the time step alone, so a neuron needs no synapse for it:
the message y1 that it sends to its weights, times a number from a table of T numbers, moves its own bias.

In integers the bias is ``beff = mantissa << exponent`` of ``sim.network.LIF``, and what is learnt is its mantissa::

    mantissa += ⌊ (y1·m_t + r) / 2^s ⌋        m_t/2^s = Λ_t · I_eff/2^10 · 2^(6 + weight_exp − exponent) · c

with r uniform in [0, 2^s), from the neuron's own generator, and clipped to 13 bits. That is a weight's own rule, its
trace exact, in the mantissa's unit. Where the membrane lives in u (reset by subtraction), a bias b sits as b/(1 − λ) on
v: c = 1/(1 − λ), and what the bias gains u and its start lose, so that no membrane jumps. Else c = 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning import integers
from ottt_loihi.sim.network import LIF

EXPONENT = 6  # of a bias that starts at 0: one step is then one of the weights
MANTISSA_MIN, MANTISSA_MAX = -4096, 4095


@dataclass(frozen=True)
class BiasLearning:
    """The learning of one layer's biases."""

    gains: tuple[float, ...]  # change of the mantissa (in floating point: of the bias) per y1, for each time step
    exponent: int = 0  # of the bias
    in_u: bool = False  # the membrane lives in u, which loses what the bias gains

    @cached_property
    def scale(self) -> tuple[np.ndarray, int]:
        """Return m_t, int64 ``(T,)``, and the shift s; raises :class:`UsageError` for gains too small or too large."""
        _, shift = integers.mantissa_and_shift(max(self.gains), "bias: change per y1")
        return np.round(np.array(self.gains) * 2.0**shift).astype(np.int64), shift

    def change(self, bias: np.ndarray, y1: np.ndarray, t: int, random: np.ndarray) -> np.ndarray:
        """Return the change of beff, int32 ``(neurons,)``; random: uint32 per neuron."""
        mantissas, shift = self.scale
        old = bias.astype(np.int64) >> self.exponent
        moved = old + integers.scale_stochastically(y1, int(mantissas[t]), shift, random)
        return ((np.clip(moved, MANTISSA_MIN, MANTISSA_MAX) - old) << self.exponent).astype(np.int32)


def bias_learning(
    layer: LIF, decay: float, num_steps: int, per_y1: float, *, traced: bool = True, slow: float | None = None
) -> BiasLearning:
    """Return the learning of a layer's biases.

    Parameters
    ----------
    decay
        λ; 0: the readout
    per_y1
        change of the input to a neuron, in units of the state, per y1 and trace of 1
    traced
        False: Λ_t = 1, as in S-TLLR
    slow
        the other decay of current-based neurons
    """
    in_u, exponent = lives_in_u(layer), learnt_exponent(layer)
    return BiasLearning(lengths(decay, num_steps, per_y1 / 2.0**exponent, in_u, traced, slow), exponent, in_u)


def lengths(
    decay: float, num_steps: int, gain: float, in_u: bool, traced: bool = True, slow: float | None = None
) -> tuple[float, ...]:
    """Return ``gain·c·Λ_t`` of t = 0 … T − 1; traced False: Λ_t = 1; slow: Λ of a current, e[t] = slow·e[t−1] + Λ_t."""
    trace, membrane, found = 0.0, 0.0, []
    for _ in range(num_steps):
        trace = decay * trace * traced + 1
        membrane = trace if slow is None else slow * membrane + trace
        found.append(gain * membrane / (1 - decay if in_u else 1))
    return tuple(found)


def lives_in_u(layer: LIF) -> bool:
    """Whether u is the membrane; a memoryless layer has none."""
    return layer.dv == arithmetic.DECAY_UNITY and layer.du != arithmetic.DECAY_UNITY - 1


def learnt_exponent(layer: LIF) -> int:
    """Return the layer's own exponent, or where all biases are 0 one that gives the mantissa steps of a weight."""
    return layer.bias_exp if layer.bias_mant.any() else EXPONENT


def with_bias(layer: LIF, bias: np.ndarray) -> LIF:
    """Return the layer with learnt effective biases, int32 ``(neurons,)``."""
    exponent, new = learnt_exponent(layer), bias.reshape(layer.shape)
    gained = new - layer.effective_bias.reshape(layer.shape)
    start = layer.u_init - gained if lives_in_u(layer) else layer.u_init
    return replace(layer, bias_mant=new >> exponent, bias_exp=exponent, u_init=start)

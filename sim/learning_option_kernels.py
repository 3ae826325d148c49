"""The learning rule's options, compiled: what ``sim/learning_kernels.py`` needs beyond the plain rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim import learning_integers as integers
from ottt_loihi.sim.kernels import called
from ottt_loihi.sim.learning_bias import MANTISSA_MAX, MANTISSA_MIN
from ottt_loihi.sim.learning_encodings import largest
from ottt_loihi.sim.learning_losses import EXP_TABLE, PROBABILITY_BITS, logit_steps
from ottt_loihi.sim.learning_options import LOSSES
from ottt_loihi.sim.random_kernels import mix, scaled

if TYPE_CHECKING:
    from ottt_loihi.sim.learning import LearningNetwork

SOFTMAX, HINGE = LOSSES.index("softmax"), LOSSES.index("hinge")


class Chosen(NamedTuple):
    """Options as numbers. loss: its place in ``LOSSES`` · only_wrong: ``learn_when`` is ``wrong`` · logit_mantissa,
    logit_shift: of ``learning_losses.logit_steps`` · learn_bias · bias_gain: int64 ``(layers, T)``, bias_shift,
    bias_exponent, bias_in_u: int64 ``(layers,)``, of ``learning_bias.BiasLearning`` · decay_every: in epochs ·
    decay_shift · decay_key, decay_feedback_key: uint32 per layer, ``mix32`` of the seeds of decay of the weights and
    of their twin · factored: the encoding · y1_max: where y1 saturates.
    """

    loss: int
    only_wrong: bool
    logit_mantissa: int
    logit_shift: int
    learn_bias: bool
    bias_gain: np.ndarray
    bias_shift: np.ndarray
    bias_exponent: np.ndarray
    bias_in_u: np.ndarray
    decay_every: int
    decay_shift: int
    decay_key: np.ndarray
    decay_feedback_key: np.ndarray
    factored: bool
    y1_max: int


def choose(network: LearningNetwork) -> Chosen:
    """The options of a network."""
    options, count = network.options, len(network.layers)
    gains, numbers = np.zeros((count, network.num_steps), np.int64), np.zeros((3, count), np.int64)
    for index, layer in enumerate(network.layers):
        if layer.bias is not None:
            gains[index], shift = layer.bias.scale
            numbers[:, index] = shift, layer.bias.exponent, layer.bias.in_u
    return Chosen(
        LOSSES.index(options.loss),
        options.learn_when == "wrong",
        *logit_steps(network.unit << arithmetic.STATE_SHIFT),
        options.learn_bias,
        gains,
        *numbers,
        options.decay_every * network.epochs_per_sample,
        options.decay_shift,
        _decay_keys([layer.weight_seed for layer in network.layers]),
        _decay_keys([0, *(0 if layer.feedback is None else layer.feedback.seed for layer in network.layers[:-1])]),
        options.encoding == "factored",
        largest(options.encoding),
    )


def _decay_keys(seeds: list[int]) -> np.ndarray:
    return integers.mix32(np.array([seed + integers.DECAY_SEED for seed in seeds], np.uint32))


@called
def write_error(chosen, v, label, target, e):
    """``learning_losses.integer_error`` of membranes v, int32, into e, int64, both ``(classes,)``."""
    if chosen.loss == SOFTMAX:
        softmax_error(chosen, v, label, target, e)
    elif chosen.loss == HINGE:
        hinge_error(v, label, target, e)
    else:
        for k in range(len(v)):
            e[k] = np.int64(v[k]) - (target if k == label else 0)


@called
def softmax_error(chosen, v, label, target, e):
    """Cross-entropy from the table."""
    largest, total = np.int64(v[0]), np.int64(0)
    for k in range(len(v)):
        largest = max(largest, np.int64(v[k]))
    half = np.int64(1) << (chosen.logit_shift - 1)
    for k in range(len(v)):
        steps = ((largest - v[k]) * chosen.logit_mantissa + half) >> chosen.logit_shift
        e[k] = EXP_TABLE[steps] if steps < len(EXP_TABLE) else 0
        total += e[k]
    for k in range(len(v)):
        p = ((e[k] << PROBABILITY_BITS) + total // 2) // total
        p -= (1 << PROBABILITY_BITS) if k == label else 0
        e[k] = (p * target + (1 << (PROBABILITY_BITS - 1))) >> PROBABILITY_BITS


@called
def hinge_error(v, label, target, e):
    """Crammer and Singer's hinge."""
    rival = 1 if label == 0 else 0
    for k in range(len(v)):
        e[k] = 0
        if k != label and v[k] > v[rival]:
            rival = k
    if np.int64(v[label]) - v[rival] < target:
        e[label], e[rival] = -target, target


@called
def learn_bias(chosen, layer, index, t, state):
    """``learning_bias.BiasLearning.change`` of one layer's biases."""
    gain, shift, exponent = chosen.bias_gain[index, t], chosen.bias_shift[index], chosen.bias_exponent[index]
    for n in range(layer.neuron, layer.neuron + layer.size):
        old = np.int64(state.bias[n]) >> exponent
        moved = old + scaled(n, np.int64(state.y1[n]), gain, shift, state.rng)
        change = np.int32((min(max(moved, MANTISSA_MIN), MANTISSA_MAX) - old) << exponent)
        state.bias[n] += change
        if chosen.bias_in_u[index]:
            state.u[n] -= change
            state.u_init[n] -= change


@called
def decay_weights(chosen, layer, start, key, frame, weights):
    """``learning_integers.decay_step`` of the weights from ``start`` on."""
    key = mix(np.uint32(key + np.uint32(frame & 0xFFFFFFFF)))
    for i in range(layer.inputs):
        row_key = mix(np.uint32(key + np.uint32(i)))
        for j in range(layer.size):
            at = start + i * layer.width + j
            w, r = np.int64(weights[at]), np.int64(mix(np.uint32(row_key + np.uint32(j)))) >> (32 - chosen.decay_shift)
            weights[at] = w - ((w + r) >> chosen.decay_shift)


@called
def decay_connection(index, layers, chosen, state, frame):
    """Weight decay of a connection and its twin, at the end of the epochs it is due in."""
    if (frame + 1) % chosen.decay_every == 0:
        layer = layers[index]
        decay_weights(chosen, layer, layer.weight, chosen.decay_key[index], frame, state.weights)
        if layer.twin >= 0:
            decay_weights(chosen, layer, layer.twin, chosen.decay_feedback_key[index], frame, state.weights)

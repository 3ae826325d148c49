"""The learning rule's options, compiled: what ``sim/learning/kernels.py`` needs beyond the plain rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.inference.kernels import called
from ottt_loihi.sim.learning import integers
from ottt_loihi.sim.learning.bias import MANTISSA_MAX, MANTISSA_MIN
from ottt_loihi.sim.learning.encodings import largest
from ottt_loihi.sim.learning.losses import EXP_TABLE, PROBABILITY_BITS, logit_steps
from ottt_loihi.sim.learning.options import LOSSES
from ottt_loihi.sim.learning.random_kernels import mix, scaled

if TYPE_CHECKING:
    from ottt_loihi.sim.learning.learner import LearningNetwork

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
def write_error(loss, mantissa, shift, v, label, target, e):
    """``learning_losses.integer_error`` of membranes v, int32, into e, int64, both ``(classes,)``.

    loss: its place in ``LOSSES`` · mantissa, shift: of ``learning_losses.logit_steps``.
    """
    if loss == SOFTMAX:
        softmax_error(mantissa, shift, v, label, target, e)
    elif loss == HINGE:
        hinge_error(v, label, target, e)
    else:
        for k in range(len(v)):
            e[k] = np.int64(v[k]) - (target if k == label else 0)


@called
def softmax_error(mantissa, shift, v, label, target, e):
    """Cross-entropy from the table."""
    largest, total = np.int64(v[0]), np.int64(0)
    for k in range(len(v)):
        largest = max(largest, np.int64(v[k]))
    half = np.int64(1) << (shift - 1)
    for k in range(len(v)):
        steps = ((largest - v[k]) * mantissa + half) >> shift
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
def learn_bias(numbers, y1, rng, bias, u, u_init):
    """``learning_bias.BiasLearning.change`` of one layer's biases; the arrays are its own.

    numbers: gain of the time step, shift, exponent, in_u.
    """
    gain, shift, exponent, in_u = numbers
    for n in range(len(bias)):
        old = np.int64(bias[n]) >> exponent
        moved = old + scaled(n, np.int64(y1[n]), gain, shift, rng)
        change = np.int32((min(max(moved, MANTISSA_MIN), MANTISSA_MAX) - old) << exponent)
        bias[n] += change
        if in_u:
            u[n] -= change
            u_init[n] -= change


@called
def decay_weights(weights, size, key, epoch, shift):
    """``learning_integers.decay_step`` of the weights, int16 ``(inputs, width)``, the first ``size`` of each row."""
    key = mix(np.uint32(key + np.uint32(epoch & 0xFFFFFFFF)))
    for i in range(len(weights)):
        row_key = mix(np.uint32(key + np.uint32(i)))
        for j in range(size):
            w, r = np.int64(weights[i, j]), np.int64(mix(np.uint32(row_key + np.uint32(j)))) >> (32 - shift)
            weights[i, j] = w - ((w + r) >> shift)


@called
def move_biases(layer, index, t, chosen, state):
    """Bias learning of one layer."""
    first, end = layer.neuron, layer.neuron + layer.size
    gain = chosen.bias_gain[index, t]
    numbers = gain, chosen.bias_shift[index], chosen.bias_exponent[index], chosen.bias_in_u[index]
    y1, rng, bias = state.y1[first:end], state.rng[first:end], state.bias[first:end]
    learn_bias(numbers, y1, rng, bias, state.u[first:end], state.u_init[first:end])


@called
def decay_connection(layer, index, chosen, state, epoch):
    """Weight decay of a connection and its twin."""
    count, shape, shift = layer.inputs * layer.width, (layer.inputs, layer.width), chosen.decay_shift
    own = state.weights[layer.weight : layer.weight + count].reshape(shape)
    decay_weights(own, layer.size, chosen.decay_key[index], epoch, shift)
    if layer.twin >= 0:
        twin = state.weights[layer.twin : layer.twin + count].reshape(shape)
        decay_weights(twin, layer.size, chosen.decay_feedback_key[index], epoch, shift)

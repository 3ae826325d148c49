"""The pipelined schedule, compiled: every Lava step a learning epoch, all layers at work on different time steps.

What ``sim/learning/pipelined_reference.py`` says, with the parts of ``sim/learning/kernels.py``.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from ottt_loihi.sim.inference.kernels import called, compiled
from ottt_loihi.sim.learning import kernels as learning_kernels
from ottt_loihi.sim.learning import option_kernels as learning_option_kernels
from ottt_loihi.sim.learning import random_kernels, subspace_kernels
from ottt_loihi.sim.learning.integers import TRACE_MAX
from ottt_loihi.sim.learning.kernels import (
    answer,
    answer_errors,
    best,
    change_weights,
    compare,
    fire,
    forget,
    read,
    receive,
    third_factor,
)
from ottt_loihi.sim.learning.option_kernels import decay_connection, move_biases


@partial(compiled, parts=(learning_kernels, learning_option_kernels, random_kernels, subspace_kernels))
def learn(constants, state, packed, labels, gate, first, trace_random, weight_random, predictions):
    """Learn from samples; arguments as in ``learning_kernels.learn``, a random number for each of n·(T + K − 1) steps.

    Within a sample ``state.spikes`` is what is sent in a step, ``held`` what neurons remember of their own last spikes.
    """
    layers, frames, last = constants.layers, constants.steps, len(constants.layers) - 1
    chosen = constants.chosen
    only_wrong, learns_bias = chosen.only_wrong, chosen.learn_bias
    widest = 0
    for index in range(len(layers)):
        widest = max(widest, layers[index].width, layers[index].inputs)
    active, sums = np.empty(widest + 1, np.int64), np.empty((len(layers), widest), np.int32)
    decayed, errors = np.empty(TRACE_MAX + 1, np.int32), np.empty(layers[-1].size, np.int64)
    lateral, lateral_keys = np.empty((4, widest), np.int32), np.empty(widest, np.uint32)
    held, thirds = np.empty_like(state.spikes), np.empty_like(state.error)
    latency = 2
    if last > 0:
        latency = last + 3 if layers[0].direct else 2 * last + 2
    period = latency + frames - 1
    for sample in range(len(packed)):
        forget(state, True)
        held[:], sums[:], thirds[:] = 0, 0, 0
        halved = 0
        if constants.halve_every > 0:
            halved = (first + sample) * frames // constants.halve_every
        for step in range(period):
            local = sample * period + step
            state.spikes[:] = 0
            state.y1[:], state.reward[:], state.error[:] = 0, 0, 0
            if step < frames:
                read(packed, sample, step, state.spikes, layers[0].inputs)
            for index in range(last):
                if 0 <= step - index - 1 < frames:
                    target, size = layers[index + 1].source, layers[index].size
                    state.spikes[target : target + size] = held[target : target + size]
                    fire(layers[index], target, constants, state, sums[index])
                    held[target : target + size] = state.spikes[target : target + size]
                t = step - latency + 1 + (0 if layers[index].direct else index)
                if 0 <= t < frames:
                    answer_errors(layers[index], index, constants, state, thirds, halved)
                    if learns_bias:
                        move_biases(layers[index], index, t, chosen, state)
            t = step - last - 1
            if 0 <= t < frames:
                answer(layers[last], state, sums[last])
                wanted = gate[sample]
                if only_wrong:
                    wanted = wanted and best(layers[last].size, state.scores) != labels[sample]
                compare(layers[last], last, constants, labels[sample], wanted, halved, state, errors)
                if wanted and learns_bias:
                    move_biases(layers[last], last, t, chosen, state)
            for index in range(len(layers)):
                receive(layers[index], state, active, sums[index])
            for index in range(last):
                write_thirds(index, constants, state, thirds)
            for index in range(len(layers)):
                if layers[index].plastic:
                    epoch = first * period + local
                    random = trace_random[index, local], weight_random[local]
                    change_weights(index, constants, state, epoch, random, decayed, active, lateral, lateral_keys)
                    if chosen.decay_every > 0 and (epoch + 1) % chosen.decay_every == 0:
                        decay_connection(layers[index], index, chosen, state, epoch)
        for index in range(last):
            target, size = layers[index + 1].source, layers[index].size
            state.spikes[target : target + size] = held[target : target + size]
        predictions[sample] = best(layers[last].size, state.scores)
        state.correct[0] += predictions[sample] == labels[sample]


@called
def write_thirds(index, constants, state, thirds):
    """What will arrive at a hidden layer in the next step."""
    layers = constants.layers
    layer, above, last = layers[index], layers[index + 1], layers[len(layers) - 1]
    width, sender = (last.width, last.neuron) if layer.direct else (above.width, above.neuron)
    for j in range(layer.size):
        start = layer.feedback + j * width
        thirds[layer.neuron + j] = third_factor(state.weights, start, width, state.error, sender)

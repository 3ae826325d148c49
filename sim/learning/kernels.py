"""The learning loop, compiled by numba: samples, time steps, layers and synapses in one call.

All layers lie one behind the other in flat arrays. *Sources* are the input and the hidden layers: they have spikes and
traces. *Neurons* are the hidden layers and the readout, each padded to ``width``, a multiple of :data:`BLOCK`. Weights
are stored presynaptic side first, int16 rows of ``width``, so that a spike adds a row and a trace changes one.

Indices of inner loops are unsigned, which spares numba's test for negative ones, and sums are cut to 32 bits at once:
otherwise nothing vectorises, and a row takes fifteen times as long.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from ottt_loihi.sim.inference.kernels import called, compiled
from ottt_loihi.sim.learning import option_kernels as learning_option_kernels
from ottt_loihi.sim.learning import random_kernels, subspace_kernels
from ottt_loihi.sim.learning.integers import (
    ENGINE_SHIFT,
    FRACTION_BITS,
    HALF,
    MAX_SHIFT,
    MESSAGE_MAX,
    MOMENTUM_MAX,
    TRACE_MAX,
)
from ottt_loihi.sim.learning.option_kernels import Chosen, decay_connection, move_biases, write_error
from ottt_loihi.sim.learning.random_kernels import mix, next_random, scaled
from ottt_loihi.sim.learning.subspace_kernels import follow, project, put_back

BLOCK = 16

LAYER = np.dtype(
    [
        (name, np.int64)
        for name in (
            "source", "inputs",  # where its sources start, and their number
            "neuron", "size", "width",  # where its neurons start, their number, and the padded number
            "weight", "exponent",  # where its weights start; their exponent
            "plastic", "impulse", "pre_phase", "keeps_trace",  # keeps_trace: 0 if the trace is the step's spike alone
            "vth", "half_width",  # aligned to the state
            "y1_mantissa", "y1_shift", "error_mantissa", "error_shift",  # error_mantissa 0: sends no error
            "feedback", "direct",  # where its feedback weights start; direct: they meet the readout's error, not
            # that of the layer above
            "twin",  # where weights start that learn as its own do (Kolen–Pollack), or NONE
            "mask",  # sparse: where its mask starts, or NONE
            "noise", "gain_mantissa", "gain_shift", "averaging",  # OPZO; noise aligned to the state, 0: none
            "subspace", "rows", "fixed", "row_shift",  # HLOP: where its rows start, their number, the old ones
        )
    ]
    + [(name, np.float64) for name in ("trace_decay", "keep_u", "keep_v")]
    + [(name, np.uint32) for name in ("key", "feedback_key", "row_key")]  # mix32 of the seeds of weights' rounding
)  # fmt: skip
NONE = -1


class Constants(NamedTuple):
    """What learning does not change.

    layers: :data:`LAYER`, the readout last · epoch: K · steps: T · silent: epochs without spikes after a sample ·
    target: what the right class's membrane should be, aligned to the state · halve_every: in frames, 0: never ·
    independent: rounding ``per-synapse`` · loop: int32 per neuron, what its own spike adds one step later · chosen: the
    options · masks: int16, of sparse connections, in the order of their weights: −1 where a synapse is, else 0.
    """

    layers: np.ndarray
    epoch: int
    steps: int
    silent: int
    target: int
    halve_every: int
    independent: bool
    loop: np.ndarray
    chosen: Chosen
    masks: np.ndarray


class State(NamedTuple):
    """What learning changes.

    weights: int16, of all connections, then of feedback, a row per hidden neuron · spikes: uint8, trace: int32, per
    source · u, v, membrane (v before its reset), y1, error: int32, noise: int8, rng: uint32 and reward (y1 before the
    surrogate): int32, per neuron · bias, u_init: int32 per neuron, which only bias learning changes · scores: int64 per
    neuron of the readout · y1_saturated, error_saturated, feedback_saturated: int64 per layer · correct: int64 (1,) ·
    subspaces: int16, HLOP's rows of all layers that have any.
    """

    weights: np.ndarray
    spikes: np.ndarray
    trace: np.ndarray
    u: np.ndarray
    v: np.ndarray
    membrane: np.ndarray
    y1: np.ndarray
    error: np.ndarray
    noise: np.ndarray
    rng: np.ndarray
    reward: np.ndarray
    bias: np.ndarray
    u_init: np.ndarray
    scores: np.ndarray
    y1_saturated: np.ndarray
    error_saturated: np.ndarray
    feedback_saturated: np.ndarray
    correct: np.ndarray
    subspaces: np.ndarray


@partial(compiled, parts=(learning_option_kernels, random_kernels, subspace_kernels))
def learn(constants, state, packed, labels, gate, first, trace_random, weight_random, predictions):
    """Learn from samples, one after the other.

    packed: uint8 ``(n, T, ⌈inputs/8⌉)`` of ``np.packbits`` · labels, gate: ``(n,)`` · first: number of the first
    sample · trace_random: float64 ``(layers, epochs)``, of trace decay · weight_random: int32 ``(epochs,)``, 0 … 127,
    of ``"lava"`` rounding: a weight w + k/128 is rounded up where ``k + number ≥ 128`` · predictions: int32 ``(n,)``,
    filled.
    """
    layers, chosen = constants.layers, constants.chosen
    only_wrong, learns_bias = chosen.only_wrong, chosen.learn_bias
    widest = 0
    for index in range(len(layers)):
        widest = max(widest, layers[index].width, layers[index].inputs)
    active, sums = np.empty(widest + 1, np.int64), np.empty(widest, np.int32)
    decayed, errors = np.empty(TRACE_MAX + 1, np.int32), np.empty(layers[-1].size, np.int64)
    lateral, lateral_keys = np.empty((4, widest), np.int32), np.empty(widest, np.uint32)
    thirds, epochs = np.empty_like(state.error), constants.steps + constants.silent
    for sample in range(len(packed)):
        forget(state, constants.silent == 0)
        for t in range(constants.steps):
            local = sample * epochs + t
            frame = first * epochs + local
            read(packed, sample, t, state.spikes, layers[0].inputs)
            for index in range(len(layers)):
                receive(layers[index], state, active, sums)
                if index < len(layers) - 1:
                    fire(layers[index], layers[index + 1].source, constants, state, sums)
                else:
                    answer(layers[index], state, sums)
            halved = 0
            if constants.halve_every > 0:
                halved = ((first + sample) * constants.steps + t) // constants.halve_every
            last = len(layers) - 1
            wanted = gate[sample]
            if only_wrong:
                wanted = wanted and best(layers[last].size, state.scores) != labels[sample]
            compare(layers[last], last, constants, labels[sample], wanted, halved, state, errors)
            if wanted and learns_bias:
                move_biases(layers[last], last, t, chosen, state)
            for index in range(last - 1, -1, -1):
                feed_back(index, constants, state, thirds, halved)
                if learns_bias:
                    move_biases(layers[index], index, t, chosen, state)
                if layers[index].averaging > 0:
                    follow_noise(index, constants, state, frame)
            for index in range(len(layers)):
                if layers[index].plastic:
                    random = trace_random[index, local], weight_random[local]
                    change_weights(index, constants, state, frame, random, decayed, active, lateral, lateral_keys)
                    if chosen.decay_every > 0 and (frame + 1) % chosen.decay_every == 0:
                        decay_connection(layers[index], index, chosen, state, frame)
        for local in range(sample * epochs + constants.steps, (sample + 1) * epochs):
            rest(constants, state, trace_random[:, local], decayed)
        predictions[sample] = best(layers[len(layers) - 1].size, state.scores)
        state.correct[0] += predictions[sample] == labels[sample]


@called
def forget(state, traces):
    """Every state as it is before a sample; traces: those too."""
    state.spikes[:] = 0
    if traces:
        state.trace[:] = 0
    state.v[:] = 0
    state.u[:] = state.u_init
    state.scores[:] = 0


@called
def rest(constants, state, random, decayed):
    """A learning epoch without spikes: traces decay, and nothing is sent."""
    state.y1[:] = 0
    state.reward[:] = 0
    state.error[:] = 0
    for index in range(len(constants.layers)):
        layer = constants.layers[index]
        if layer.plastic:
            tabulate_decay(layer, random[index], decayed)
            for i in range(layer.source, layer.source + layer.inputs):
                x = np.int64(state.trace[i]) if layer.keeps_trace else np.int64(0)
                for _ in range(constants.epoch):
                    x = np.int64(decayed[np.uint64(x)])
                state.trace[i] = x


@called
def read(packed, sample, t, spikes, inputs):
    """Unpack the spikes of a frame."""
    whole = inputs >> 3
    for k in range(np.uint64(whole)):
        byte = packed[sample, t, k]
        for bit in range(np.uint64(8)):
            spikes[(k << np.uint64(3)) + bit] = (byte >> (np.uint64(7) - bit)) & np.uint64(1)
    for k in range(8 * whole, inputs):
        spikes[k] = (packed[sample, t, whole] >> (7 - (k & 7))) & 1


@called
def receive(layer, state, active, sums):
    """``sums = Σ_i W[:, i]`` over the spikes i of a layer's sources."""
    count = np.uint64(0)
    for i in range(layer.inputs):
        active[count] = i
        count += np.uint64(state.spikes[layer.source + i])
    weights, width, start = state.weights, np.uint64(layer.width), np.uint64(layer.weight)
    for j in range(width):
        sums[j] = 0
    one, four, k = np.uint64(1), np.uint64(4), np.uint64(0)
    while k + four <= count:  # four rows for each time the sums are read and written
        a, b = start + np.uint64(active[k]) * width, start + np.uint64(active[k + one]) * width
        c = start + np.uint64(active[k + np.uint64(2)]) * width
        d = start + np.uint64(active[k + np.uint64(3)]) * width
        for j in range(width):
            ab = np.int16(weights[a + j] + weights[b + j])
            cd = np.int16(weights[c + j] + weights[d + j])
            sums[j] += np.int32(np.int16(ab + cd))
        k += four
    while k < count:
        a = start + np.uint64(active[k]) * width
        for j in range(width):
            sums[j] += np.int32(weights[a + j])
        k += one


@called
def shifted(x, exponent):
    """``x·2^exponent`` (floor), int32."""
    return np.int32(x << exponent) if exponent > 0 else np.int32(x >> -exponent)


@called
def wrapped(d):
    """What a current of more than 24 bits becomes (``arithmetic.current_step``)."""
    limit = np.int32(1 << 23)
    d = np.int32(d - 2 * limit) if d > limit else d
    return np.int32(d + 2 * limit) if d <= -limit else d


@called
def clipped(v):
    """A membrane at the ends of its 24 bits (``arithmetic.voltage_step``)."""
    limit = np.int32((1 << 23) - 1)
    return min(max(v, np.int32(-limit)), limit)


@called
def fire(layer, target, constants, state, sums):
    """One step of hidden neurons (the equations of ``sim.network.LIF``); ``target``: where their spikes go."""
    u, v, membrane, spikes, loop, bias = state.u, state.v, state.membrane, state.spikes, constants.loop, state.bias
    first, target, exponent, vth = np.uint64(layer.neuron), np.uint64(target), layer.exponent, np.int32(layer.vth)
    keep_u, keep_v = layer.keep_u, layer.keep_v
    for j in range(np.uint64(layer.size)):
        n = first + j
        a = np.int32(shifted(sums[j], exponent) + (loop[n] if spikes[target + j] else np.int32(0)))
        x = wrapped(np.int32(np.int32(np.float64(u[n]) * keep_u) + np.int32(a << 6)))
        m = clipped(np.int32(np.int32(np.int32(np.float64(v[n]) * keep_v) + x) + bias[n]))
        threshold = vth
        if layer.noise > 0:
            next_random(n, state.rng)
            state.noise[n] = 1 if state.rng[n] >> np.uint32(31) else -1
            threshold = np.int32(vth - np.int32(layer.noise * state.noise[n]))
        fires = m > threshold
        u[n], membrane[n] = x, m
        spikes[target + j] = fires
        v[n] = np.int32(0) if fires else m


@called
def answer(layer, state, sums):
    """One step of the memoryless readout, and its scores."""
    for j in range(layer.size):
        n = layer.neuron + j
        x = wrapped(np.int32(shifted(sums[j], layer.exponent) << 6))
        m = clipped(np.int32(x + state.bias[n]))
        state.v[n] = np.int32(0) if m > layer.vth else m
        state.scores[j] += state.v[n]


@called
def compare(layer, index, constants, label, gate, halved, state, errors):
    """The readout's error, to be sent back, and its y1."""
    shift, limit = min(MAX_SHIFT, layer.y1_shift + halved), constants.chosen.y1_max
    if gate:
        chosen, v = constants.chosen, state.v[layer.neuron : layer.neuron + layer.size]
        write_error(chosen.loss, chosen.logit_mantissa, chosen.logit_shift, v, label, constants.target, errors)
    for j in range(layer.size):
        n = layer.neuron + j
        state.y1[n] = state.error[n] = 0
        if gate:
            e = errors[j]
            y = scaled(n, -e, layer.y1_mantissa, shift, state.rng)
            state.y1_saturated[index] += abs(y) > limit
            state.y1[n] = min(max(y, -limit), limit)
            if layer.error_mantissa > 0:
                y = scaled(n, e, layer.error_mantissa, layer.error_shift, state.rng)
                state.error_saturated[index] += abs(y) > MESSAGE_MAX
                state.error[n] = min(max(y, -MESSAGE_MAX), MESSAGE_MAX)


@called
def third_factor(rows, start, width, error, source):
    """``Σ_j rows[start + j]·error[source + j]``, int32."""
    total, start, source = np.int32(0), np.uint64(start), np.uint64(source)
    for j in range(np.uint64(width)):
        total = np.int32(total + np.int32(np.int32(rows[start + j]) * error[source + j]))
    return total


@called
def feed_back(index, constants, state, thirds, halved):
    """y1 = −η·f(u)·δ of a hidden layer, and the error it sends on."""
    layers, factored = constants.layers, constants.chosen.factored
    layer, above, last = layers[index], layers[index + 1], layers[len(layers) - 1]
    width, sender = (last.width, last.neuron) if layer.direct else (above.width, above.neuron)
    for j in range(layer.size):
        n = layer.neuron + j
        thirds[n] = 0
        if factored or abs(state.membrane[n] - layer.vth) < layer.half_width:
            thirds[n] = third_factor(state.weights, layer.feedback + j * width, width, state.error, sender)
    answer_errors(layer, index, constants, state, thirds, halved)


@called
def answer_errors(layer, index, constants, state, thirds, halved):
    """y1 of a hidden layer, of the errors that reached it, and the errors it sends on."""
    shift, limit = min(MAX_SHIFT, layer.y1_shift + halved), constants.chosen.y1_max
    factored = constants.chosen.factored
    for n in range(layer.neuron, layer.neuron + layer.size):
        passes = abs(state.membrane[n] - layer.vth) < layer.half_width
        g = np.int64(thirds[n]) if passes else np.int64(0)
        y = scaled(n, -np.int64(thirds[n]) if factored else -g, layer.y1_mantissa, shift, state.rng)
        state.y1_saturated[index] += abs(y) > limit
        state.reward[n] = min(max(y, -limit), limit)
        state.y1[n] = state.reward[n] if passes else np.int32(0)
        if layer.error_mantissa > 0:
            y = scaled(n, g, layer.error_mantissa, layer.error_shift, state.rng)
            state.error_saturated[index] += abs(y) > MESSAGE_MAX
            state.error[n] = min(max(y, -MESSAGE_MAX), MESSAGE_MAX)


@called
def follow_noise(index, constants, state, frame):
    """``learning_integers.momentum_step`` of OPZO's M: ``M += (gain·z·eᵀ − M) / 2^averaging``, if there is an error."""
    layers = constants.layers
    layer, last = layers[index], layers[len(layers) - 1]
    if nothing_to_learn(last, state.error):
        return
    weights, shift = state.weights, layer.gain_shift
    total = min(MAX_SHIFT, shift + layer.averaging)
    key = mix(np.uint32(layer.feedback_key + np.uint32(frame & 0xFFFFFFFF)))
    for c in range(last.size):
        error, column = np.int64(state.error[last.neuron + c]), mix(np.uint32(key + np.uint32(c)))
        for j in range(layer.size):
            at = layer.feedback + j * last.width + c
            wide, product = np.int64(weights[at]), error * state.noise[layer.neuron + j]
            r = np.int64(mix(np.uint32(column + np.uint32(j)))) >> (32 - total)
            moved = wide + ((product * layer.gain_mantissa - (wide << shift) + r) >> total)
            state.feedback_saturated[index] += abs(moved) > MOMENTUM_MAX
            weights[at] = min(max(moved, -MOMENTUM_MAX), MOMENTUM_MAX)


@called
def tabulate_decay(layer, random, decayed):
    """What each value of a trace becomes in a step of an epoch: ``D`` of :func:`decay_traces`."""
    for x in range(len(decayed)):
        exact = layer.trace_decay * x
        floor = np.floor(exact)
        decayed[x] = np.int32(floor) + np.int32(random < exact - floor)


@called
def decay_traces(layer, epoch, random, state, decayed, active):
    """The traces at the end of an epoch; lists those that are not 0 in ``active`` and returns their number.

    ``x1 = D^(K − p)( min(127, D^p(x1) + impulse·s) )`` with the pre spike in phase p and the rounded decay
    ``D(x) = ⌊d·x⌋``, and 1 more where ``random`` is below what was cut off: the same for all synapses, hence a table.
    """
    tabulate_decay(layer, random, decayed)
    trace, spikes, first, impulse = state.trace, state.spikes, np.uint64(layer.source), layer.impulse
    before, after = layer.pre_phase, epoch - layer.pre_phase
    count, limit = np.uint64(0), np.int64(TRACE_MAX)
    for i in range(np.uint64(layer.inputs)):
        x = np.int64(0)
        if layer.keeps_trace:
            x = np.int64(trace[first + i])
            for _ in range(before):
                x = np.int64(decayed[np.uint64(x)])
        x = min(x + impulse * np.int64(spikes[first + i]), limit)
        for _ in range(after):
            x = np.int64(decayed[np.uint64(x)])
        trace[first + i] = x
        active[count] = i
        count += np.uint64(x > 0)
    return np.int64(count)


@called
def change_weights(index, constants, state, epoch, random, decayed, active, lateral, lateral_keys):
    """The end of a learning epoch for a connection and its twin; random: of the trace, and of ``lava`` rounding."""
    layer = constants.layers[index]
    live = decay_traces(layer, constants.epoch, random[0], state, decayed, active)
    key = layer.key
    if layer.fixed > 0:
        live = project(layer, state, lateral, active)
    for start in (layer.weight, layer.twin):
        if start == NONE:
            continue
        if constants.independent:
            key = mix(np.uint32(key + np.uint32(epoch & 0xFFFFFFFF)))
            update_independently(layer, start, key, state, active, live)
            key = layer.feedback_key
        else:
            update(layer, start, random[1], state, active, live)
        if layer.mask != NONE:
            keep_synapses(layer, start, constants.masks, state, active, live)
    if layer.fixed > 0:
        put_back(layer, state, lateral)
    if layer.rows > layer.fixed:
        key = mix(np.uint32(layer.row_key + np.uint32(epoch & 0xFFFFFFFF)))
        for i in range(layer.inputs):
            lateral_keys[i] = mix(np.uint32(key + np.uint32(i)))
        follow(layer, state, lateral, lateral_keys)


@called
def nothing_to_learn(layer, y1):
    """True if no neuron of a layer has a y1 (an error)."""
    found = 0
    for j in range(layer.neuron, layer.neuron + layer.width):
        found |= y1[j]
    return found == 0


@called
def half(layer):
    """``subspace.half``: what rounds the products of a layer that learns from projected traces."""
    return np.int32(HALF) if layer.fixed > 0 else np.int32(0)


@called
def learnt(w, x, y1, half, random):
    """``w + ⌊(x1·y1 + half) / 8⌋ / 128``, rounded and clipped to 9 bits: what Lava's engine does in five steps."""
    change = np.int32(np.int32(np.int32(x * y1) + half) >> np.int32(ENGINE_SHIFT))
    total = np.int32(np.int32(np.int32(w) << np.int32(FRACTION_BITS)) + np.int32(change + random))
    return np.int16(min(max(np.int32(total >> np.int32(FRACTION_BITS)), np.int32(-256)), np.int32(255)))


@called
def update(layer, start, random, state, active, count):
    """``Δw = x1·y1`` of the weights from ``start`` on, with one random number for all synapses."""
    weights, y1, neuron, added = state.weights, state.y1, np.uint64(layer.neuron), half(layer)
    if nothing_to_learn(layer, y1):
        return
    for k in range(count):
        x = state.trace[layer.source + active[k]]
        row = np.uint64(start + active[k] * layer.width)
        for j in range(np.uint64(layer.width)):
            weights[row + j] = learnt(weights[row + j], x, y1[neuron + j], added, random)


@called
def update_independently(layer, start, key, state, active, count):
    """The same with a random number for each synapse (``learning_integers.synapse_draws``)."""
    weights, y1, neuron, added = state.weights, state.y1, np.uint64(layer.neuron), half(layer)
    if nothing_to_learn(layer, y1):
        return
    for k in range(count):
        x = state.trace[layer.source + active[k]]
        row = np.uint64(start + active[k] * layer.width)
        row_key = mix(np.uint32(key + np.uint32(active[k])))
        for j in range(np.uint64(layer.width)):
            draw = mix(np.uint32(row_key + np.uint32(j))) >> np.uint32(32 - FRACTION_BITS)
            weights[row + j] = learnt(weights[row + j], x, y1[neuron + j], added, np.int32(127) - np.int32(draw))


@called
def keep_synapses(layer, start, masks, state, active, count):
    """0 where no synapse is: an update reaches whole rows, which is faster than picking synapses."""
    weights = state.weights
    for k in range(count):
        row, mask = np.uint64(start + active[k] * layer.width), np.uint64(layer.mask + active[k] * layer.width)
        for j in range(np.uint64(layer.width)):
            weights[row + j] &= masks[mask + j]


@called
def best(size, scores):
    """The place of the largest score, the first of equals."""
    place = 0
    for j in range(1, size):
        if scores[j] > scores[place]:
            place = j
    return place

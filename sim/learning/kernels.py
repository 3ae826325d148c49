"""Learning, compiled by numba: one loop over a list of actions (``program.py``), and a function for each operation.

All layers lie one behind the other in flat arrays. *Sources* are the input and the hidden layers: they have spikes and
traces. *Neurons* are the hidden layers and the readout, each padded to ``width``, a multiple of :data:`BLOCK`. Weights
are stored presynaptic side first, int16 rows of ``width``, so that a spike adds a row and a trace changes one.

Indices of inner loops are unsigned, which spares numba's test for negative ones, and sums are cut to 32 bits at once:
otherwise nothing vectorises, and a row takes fifteen times as long.

All compiled code of learning is in this file, and so are the numbers that are compiled into it: numba's cache looks at
the file alone. Where they are defined for the oracle :func:`_check_numbers` compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ottt_loihi.sim.inference.kernels import called, compiled, inlined
from ottt_loihi.sim.learning import bias, integers, losses, options, subspace
from ottt_loihi.sim.learning.program import Op

ENGINE_SHIFT, FRACTION_BITS, HALF, MAX_SHIFT, MESSAGE_MAX, MOMENTUM_MAX, TRACE_MAX = 3, 7, 4, 31, 127, 255, 127
MANTISSA_MIN, MANTISSA_MAX = -4096, 4095
PROBABILITY_BITS = 12
ROW_MAX, TO_MESSAGE, TO_TRACE = 32767, 8, 20
SOFTMAX, HINGE = 1, 2  # places in options.LOSSES
NEXT = 18  # Op.NEXT
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

    Attributes
    ----------
    layers
        :data:`LAYER`, the readout last
    epoch, epochs
        K; learning epochs of a sample
    target
        what the right class's membrane should be, aligned to the state
    halve_every
        samples, 0: never
    independent
        rounding ``per-synapse``
    loop
        int32 per neuron: what its own spike adds one step later
    masks
        int16, of sparse connections, in the order of their weights: −1 where a synapse is, else 0
    loss, logit_mantissa, logit_shift, exp_table
        place in ``LOSSES``; of ``losses.logit_steps``; ``losses.EXP_TABLE``
    only_wrong
        ``learn_when`` is ``wrong``
    bias_gain, bias_shift, bias_exponent, bias_in_u
        int64 ``(layers, T)`` and ``(layers,)``, of ``bias.BiasLearning``
    decay_every, decay_shift, decay_key, decay_feedback_key
        epochs; uint32 per layer, ``mix32`` of the seeds of decay of the weights and of their twin
    factored
        the encoding
    """

    layers: np.ndarray
    epoch: int
    epochs: int
    target: int
    halve_every: int
    independent: bool
    loop: np.ndarray
    masks: np.ndarray
    loss: int
    logit_mantissa: int
    logit_shift: int
    exp_table: np.ndarray
    only_wrong: bool
    bias_gain: np.ndarray
    bias_shift: np.ndarray
    bias_exponent: np.ndarray
    bias_in_u: np.ndarray
    decay_every: int
    decay_shift: int
    decay_key: np.ndarray
    decay_feedback_key: np.ndarray
    factored: bool


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


class Scratch(NamedTuple):
    """What actions leave for later ones of the same sample.

    Attributes
    ----------
    sent
        uint8 per source: spikes of this step; ``State.spikes`` are each neuron's own last ones
    sums
        int32 ``(layers, widest)``: what a connection has made of them
    thirds
        int32 per neuron: errors that feedback has brought
    errors
        int64 ``(classes,)``
    wanted
        bool ``(1,)``: the readout learns from this time step
    active, live
        int64: inputs whose trace is not 0, and ``(1,)`` their number, of the connection that learns
    decayed
        int32, of each trace
    lateral, keys
        int32 and uint32, of HLOP
    """

    sent: np.ndarray
    sums: np.ndarray
    thirds: np.ndarray
    errors: np.ndarray
    wanted: np.ndarray
    active: np.ndarray
    live: np.ndarray
    decayed: np.ndarray
    lateral: np.ndarray
    keys: np.ndarray


class Now(NamedTuple):
    """The sample and the learning epoch.

    Attributes
    ----------
    frames
        uint8 ``(T, ⌈inputs/8⌉)`` of ``np.packbits``
    label, gate, halved
        of the sample; how often the rate has been halved
    epoch
        learning epochs before this one, since the network was made
    trace_random, weight_random
        of this epoch: float64 ``(layers,)``, of trace decay; 0 … 127, of ``"lava"`` rounding: a weight w + k/128 is
        rounded up where ``k + number ≥ 128``
    """

    frames: np.ndarray
    label: int
    gate: bool
    halved: int
    epoch: int
    trace_random: np.ndarray
    weight_random: int


@called
def mix(x):
    """``learning_integers.mix32`` of one number."""
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@called
def next_random(n, rng):
    """``learning_integers.xorshift32`` of neuron n."""
    r = rng[n]
    r = np.uint32(r ^ np.uint32(r << np.uint32(13)))
    r = np.uint32(r ^ np.uint32(r >> np.uint32(17)))
    rng[n] = np.uint32(r ^ np.uint32(r << np.uint32(5)))


@called
def scaled(n, x, mantissa, shift, rng):
    """``learning_integers.scale_stochastically`` with neuron n's next random number."""
    next_random(n, rng)
    return (x * mantissa + (np.int64(rng[n]) >> (32 - shift))) >> shift


@called
def start(index, t, constants, state, scratch, now):
    """Forget the spikes, y1 and errors of the step before."""
    scratch.sent[:] = 0
    state.y1[:], state.reward[:], state.error[:] = 0, 0, 0


@called
def read(index, t, constants, state, scratch, now):
    """Unpack the input's spikes."""
    inputs, spikes, frame = constants.layers[0].inputs, scratch.sent, now.frames[t]
    whole = inputs >> 3
    for k in range(np.uint64(whole)):
        byte = frame[k]
        for bit in range(np.uint64(8)):
            spikes[(k << np.uint64(3)) + bit] = (byte >> (np.uint64(7) - bit)) & np.uint64(1)
    for k in range(8 * whole, inputs):
        spikes[k] = (frame[whole] >> (7 - (k & 7))) & 1


@called
def receive(index, t, constants, state, scratch, now):
    """``sums = Σ_i W[:, i]`` over the spikes i of a layer's sources."""
    layer, active, sums, sent = constants.layers[index], scratch.active, scratch.sums[index], scratch.sent
    count = np.uint64(0)
    for i in range(layer.inputs):
        active[count] = i
        count += np.uint64(sent[layer.source + i])
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
def fire(index, t, constants, state, scratch, now):
    """One step of hidden neurons (the equations of ``sim.network.LIF``)."""
    layer, target, sums = constants.layers[index], constants.layers[index + 1].source, scratch.sums[index]
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
        spikes[target + j] = scratch.sent[target + j] = fires
        v[n] = np.int32(0) if fires else m


@called
def answer(index, t, constants, state, scratch, now):
    """One step of the memoryless readout, and its scores."""
    layer, sums = constants.layers[index], scratch.sums[index]
    for j in range(layer.size):
        n = layer.neuron + j
        x = wrapped(np.int32(shifted(sums[j], layer.exponent) << 6))
        m = clipped(np.int32(x + state.bias[n]))
        state.v[n] = np.int32(0) if m > layer.vth else m
        state.scores[j] += state.v[n]


@called
def compare(index, t, constants, state, scratch, now):
    """The readout's error, to be sent back, and its y1."""
    layer = constants.layers[index]
    shift = min(MAX_SHIFT, layer.y1_shift + now.halved)
    wanted = now.gate
    if constants.only_wrong:
        wanted = wanted and best(layer.size, state.scores) != now.label
    scratch.wanted[0] = wanted
    if wanted:
        write_error(constants, state.v[layer.neuron : layer.neuron + layer.size], now.label, scratch.errors)
    for j in range(layer.size):
        n = layer.neuron + j
        state.y1[n] = state.error[n] = 0
        if wanted:
            e = scratch.errors[j]
            y = scaled(n, -e, layer.y1_mantissa, shift, state.rng)
            state.y1_saturated[index] += abs(y) > MESSAGE_MAX
            state.y1[n] = min(max(y, -MESSAGE_MAX), MESSAGE_MAX)
            if layer.error_mantissa > 0:
                y = scaled(n, e, layer.error_mantissa, layer.error_shift, state.rng)
                state.error_saturated[index] += abs(y) > MESSAGE_MAX
                state.error[n] = min(max(y, -MESSAGE_MAX), MESSAGE_MAX)


@called
def best(size, scores):
    """The place of the largest score, the first of equals."""
    place = 0
    for j in range(1, size):
        if scores[j] > scores[place]:
            place = j
    return place


@called
def write_error(constants, v, label, e):
    """``losses.integer_error`` of membranes v, int32, into e, int64, both ``(classes,)``."""
    if constants.loss == SOFTMAX:
        softmax_error(constants, v, label, e)
    elif constants.loss == HINGE:
        hinge_error(v, label, constants.target, e)
    else:
        for k in range(len(v)):
            e[k] = np.int64(v[k]) - (constants.target if k == label else 0)


@called
def softmax_error(constants, v, label, e):
    """Cross-entropy from the table."""
    mantissa, shift, target, table = (
        constants.logit_mantissa,
        constants.logit_shift,
        constants.target,
        constants.exp_table,
    )
    largest, total = np.int64(v[0]), np.int64(0)
    for k in range(len(v)):
        largest = max(largest, np.int64(v[k]))
    half = np.int64(1) << (shift - 1)
    for k in range(len(v)):
        steps = ((largest - v[k]) * mantissa + half) >> shift
        e[k] = table[steps] if steps < len(table) else 0
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
def third(index, t, constants, state, scratch, now):
    """The error that feedback brings to a hidden layer."""
    layers = constants.layers
    layer, above, last = layers[index], layers[index + 1], layers[len(layers) - 1]
    width, sender = (last.width, last.neuron) if layer.direct else (above.width, above.neuron)
    for j in range(layer.size):
        first = layer.feedback + j * width
        scratch.thirds[layer.neuron + j] = product(state.weights, first, width, state.error, sender)


@called
def product(rows, start, width, error, source):
    """``Σ_j rows[start + j]·error[source + j]``, int32."""
    total, start, source = np.int32(0), np.uint64(start), np.uint64(source)
    for j in range(np.uint64(width)):
        total = np.int32(total + np.int32(np.int32(rows[start + j]) * error[source + j]))
    return total


@called
def send(index, t, constants, state, scratch, now):
    """y1 of a hidden layer, of the errors that reached it, and the errors it sends on."""
    layer, thirds, factored = constants.layers[index], scratch.thirds, constants.factored
    shift, limit = min(MAX_SHIFT, layer.y1_shift + now.halved), MESSAGE_MAX
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
def move_biases(index, t, constants, state, scratch, now):
    """``bias.BiasLearning.change`` of one layer's biases; the readout's only where it learns."""
    layer = constants.layers[index]
    if index == len(constants.layers) - 1 and not scratch.wanted[0]:
        return
    gain, shift = constants.bias_gain[index, t], constants.bias_shift[index]
    exponent, in_u = constants.bias_exponent[index], constants.bias_in_u[index]
    for n in range(layer.neuron, layer.neuron + layer.size):
        old = np.int64(state.bias[n]) >> exponent
        moved = old + scaled(n, np.int64(state.y1[n]), gain, shift, state.rng)
        change = np.int32((min(max(moved, MANTISSA_MIN), MANTISSA_MAX) - old) << exponent)
        state.bias[n] += change
        if in_u:
            state.u[n] -= change
            state.u_init[n] -= change


@called
def follow_noise(index, t, constants, state, scratch, now):
    """``learning_integers.momentum_step`` of OPZO's M: ``M += (gain·z·eᵀ − M) / 2^averaging``, if there is an error."""
    layers = constants.layers
    layer, last = layers[index], layers[len(layers) - 1]
    if nothing_to_learn(last, state.error):
        return
    weights, shift = state.weights, layer.gain_shift
    total = min(MAX_SHIFT, shift + layer.averaging)
    key = mix(np.uint32(layer.feedback_key + np.uint32(now.epoch & 0xFFFFFFFF)))
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
def decay_trace(index, t, constants, state, scratch, now):
    """The traces at the end of an epoch; lists those that are not 0.

    ``x1 = D^(K − p)( min(127, D^p(x1) + impulse·s) )`` with the pre spike in phase p and the rounded decay
    ``D(x) = ⌊d·x⌋``, and 1 more where ``random`` is below what was cut off: the same for all synapses, hence a table.
    """
    layer, decayed, active = constants.layers[index], scratch.decayed, scratch.active
    random = now.trace_random[index]
    for x in range(len(decayed)):
        exact = layer.trace_decay * x
        floor = np.floor(exact)
        decayed[x] = np.int32(floor) + np.int32(random < exact - floor)
    trace, spikes, first, impulse = state.trace, scratch.sent, np.uint64(layer.source), layer.impulse
    before, after = layer.pre_phase, constants.epoch - layer.pre_phase
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
    scratch.live[0] = count


@called
def respond(rows, start, count, inputs, x, messages):
    """``subspace.responses`` of ``count`` rows from ``start`` on to the traces x, into ``messages``."""
    for k in range(count):
        total, row = np.int32(0), np.uint64(start + k * inputs)
        for i in range(np.uint64(inputs)):
            total = np.int32(total + np.int32(np.int32(rows[row + i]) * x[i]))
        messages[k] = total >> np.int32(TO_MESSAGE)


@called
def lacking(rows, start, count, inputs, x, messages, sums, out):
    """``x − x̂`` of the first ``count`` rows, clipped to ±127, into ``out``; ``sums`` is scratch."""
    for i in range(np.uint64(inputs)):
        sums[i] = np.int32(1 << (TO_TRACE - 1))
    for k in range(count):
        m, row = messages[k], np.uint64(start + k * inputs)
        for i in range(np.uint64(inputs)):
            sums[i] = np.int32(sums[i] + np.int32(np.int32(rows[row + i]) * m))
    limit = np.int32(TRACE_MAX)
    for i in range(np.uint64(inputs)):
        e = np.int32(x[i] - (sums[i] >> np.int32(TO_TRACE)))
        out[i] = min(max(e, -limit), limit)


@called
def project(index, t, constants, state, scratch, now):
    """Put the projected traces in place of a layer's own, which are kept; lists those that are not 0."""
    layer, active, lateral = constants.layers[index], scratch.active, scratch.lateral
    inputs, source = layer.inputs, np.uint64(layer.source)
    kept, messages, sums = lateral[0], lateral[1], lateral[2]
    for i in range(np.uint64(inputs)):
        kept[i] = state.trace[source + i]
    respond(state.subspaces, layer.subspace, layer.fixed, inputs, kept, messages)
    lacking(state.subspaces, layer.subspace, layer.fixed, inputs, kept, messages, sums, state.trace[layer.source :])
    count = np.uint64(0)
    for i in range(np.uint64(inputs)):
        active[count] = i
        count += np.uint64(state.trace[source + i] != 0)
    scratch.live[0] = count


@called
def update(index, t, constants, state, scratch, now):
    """The weights of a connection learn."""
    layer = constants.layers[index]
    change(layer, layer.weight, layer.key, constants, state, scratch, now)


@called
def update_twin(index, t, constants, state, scratch, now):
    """The feedback from a layer learns as its connection does."""
    layer = constants.layers[index]
    change(layer, layer.twin, layer.feedback_key, constants, state, scratch, now)


@called
def change(layer, first, key, constants, state, scratch, now):
    """``Δw = x1·y1`` of the weights from ``first`` on."""
    if nothing_to_learn(layer, state.y1):
        return
    if constants.independent:
        key = mix(np.uint32(key + np.uint32(now.epoch & 0xFFFFFFFF)))
        change_independently(layer, first, key, state, scratch.active, scratch.live[0])
    else:
        change_alike(layer, first, now.weight_random, state, scratch.active, scratch.live[0])
    if layer.mask != NONE:
        keep_synapses(layer, first, constants.masks, state, scratch.active, scratch.live[0])


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
def change_alike(layer, start, random, state, active, count):
    """``Δw = x1·y1`` of the weights from ``start`` on, with one random number for all synapses."""
    weights, y1, neuron, added = state.weights, state.y1, np.uint64(layer.neuron), half(layer)
    for k in range(count):
        x = state.trace[layer.source + active[k]]
        row = np.uint64(start + active[k] * layer.width)
        for j in range(np.uint64(layer.width)):
            weights[row + j] = learnt(weights[row + j], x, y1[neuron + j], added, random)


@called
def change_independently(layer, start, key, state, active, count):
    """The same with a random number for each synapse (``learning_integers.synapse_draws``)."""
    weights, y1, neuron, added = state.weights, state.y1, np.uint64(layer.neuron), half(layer)
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
def restore(index, t, constants, state, scratch, now):
    """The traces themselves, after :func:`project`."""
    layer = constants.layers[index]
    for i in range(layer.inputs):
        state.trace[layer.source + i] = scratch.lateral[0, i]


@called
def follow_traces(index, t, constants, state, scratch, now):
    """``subspace.moved``."""
    layer, lateral, keys = constants.layers[index], scratch.lateral, scratch.keys
    key = mix(np.uint32(layer.row_key + np.uint32(now.epoch & 0xFFFFFFFF)))
    for i in range(layer.inputs):
        keys[i] = mix(np.uint32(key + np.uint32(i)))
    rows, inputs, shift = state.subspaces, np.uint64(layer.inputs), layer.row_shift
    messages, sums, e = lateral[1], lateral[2], lateral[3]
    x = state.trace[layer.source :]
    respond(rows, layer.subspace, layer.rows, layer.inputs, x, messages)
    lacking(rows, layer.subspace, layer.rows, layer.inputs, x, messages, sums, e)
    limit = np.int64(ROW_MAX)
    for k in range(layer.fixed, layer.rows):
        m, row = np.int64(messages[k]), np.uint64(layer.subspace + k * layer.inputs)
        for i in range(inputs):
            r = np.int64(mix(np.uint32(keys[i] + np.uint32(k)))) >> (32 - shift)
            w = np.int64(rows[row + i]) + ((m * np.int64(e[i]) + r) >> shift)
            rows[row + i] = min(max(w, -limit), limit)


@called
def decay_weights(index, t, constants, state, scratch, now):
    """Weight decay of a connection and its twin, at the end of every so many samples."""
    layer = constants.layers[index]
    if (now.epoch + 1) % constants.decay_every != 0:
        return
    decay(layer, layer.weight, constants.decay_key[index], constants.decay_shift, state.weights, now.epoch)
    if layer.twin != NONE:
        decay(layer, layer.twin, constants.decay_feedback_key[index], constants.decay_shift, state.weights, now.epoch)


@called
def decay(layer, first, key, shift, weights, epoch):
    """``integers.decay_step`` of the weights from ``first`` on."""
    key = mix(np.uint32(key + np.uint32(epoch & 0xFFFFFFFF)))
    for i in range(layer.inputs):
        row, row_key = first + i * layer.width, mix(np.uint32(key + np.uint32(i)))
        for j in range(layer.size):
            w, r = np.int64(weights[row + j]), np.int64(mix(np.uint32(row_key + np.uint32(j)))) >> (32 - shift)
            weights[row + j] = w - ((w + r) >> shift)


@called
def forget_traces(index, t, constants, state, scratch, now):
    """The presynaptic traces are 0."""
    layer = constants.layers[index]
    state.trace[layer.source : layer.source + layer.inputs] = 0


OPERATIONS = (
    start,
    read,
    receive,
    fire,
    answer,
    compare,
    third,
    send,
    move_biases,
    follow_noise,
    decay_trace,
    project,
    update,
    update_twin,
    restore,
    follow_traces,
    decay_weights,
    forget_traces,
)  # in the order of program.Op, which ends with NEXT


def _either(number: int, operation: Callable[..., None], others: Callable[..., None] | None) -> Any:
    """Return what calls one operation for its number, and others for theirs."""

    @inlined
    def last(op, index, t, constants, state, scratch, now):
        operation(index, t, constants, state, scratch, now)

    @inlined
    def act(op, index, t, constants, state, scratch, now):
        if op == number:
            operation(index, t, constants, state, scratch, now)
        else:
            others(op, index, t, constants, state, scratch, now)

    return last if others is None else act


def dispatch(operations: Sequence[Callable[..., None]]) -> Any:
    """Return a compiled function that does the operation of a number, its place in ``operations``."""
    found = None
    for number in reversed(range(len(operations))):
        found = _either(number, operations[number], found)
    return found


act = dispatch(OPERATIONS)


@called
def forget(state, scratch):
    """Every state but the traces as it is before a sample."""
    state.spikes[:] = 0
    state.v[:] = 0
    state.u[:] = state.u_init
    state.scores[:] = 0
    scratch.sent[:], scratch.sums[:], scratch.thirds[:] = 0, 0, 0


@called
def empty_scratch(constants, state):
    """The memory of :class:`Scratch`."""
    layers, widest = constants.layers, 0
    for index in range(len(layers)):
        widest = max(widest, layers[index].width, layers[index].inputs)
    return Scratch(
        np.empty_like(state.spikes),
        np.empty((len(layers), widest), np.int32),
        np.empty_like(state.error),
        np.empty(layers[len(layers) - 1].size, np.int64),
        np.zeros(1, np.bool_),
        np.empty(widest + 1, np.int64),
        np.zeros(1, np.int64),
        np.empty(TRACE_MAX + 1, np.int32),
        np.empty((4, widest), np.int32),
        np.empty(widest, np.uint32),
    )


@compiled
def learn(actions, constants, state, packed, labels, gate, first, trace_random, weight_random, predictions):
    """Learn from samples, one after the other.

    Parameters
    ----------
    actions
        of one sample, int64 ``(actions, 3)`` (``program.py``)
    constants, state
        :class:`Constants`, :class:`State`
    packed
        uint8 ``(n, T, ⌈inputs/8⌉)`` of ``np.packbits``
    labels, gate
        int64 and bool ``(n,)``
    first
        number of the first sample
    trace_random, weight_random
        float64 ``(n·epochs, layers)`` and int32 ``(n·epochs,)``: :class:`Now` says what they are
    predictions
        int32 ``(n,)``, filled
    """
    scratch, epochs, size = empty_scratch(constants, state), constants.epochs, constants.layers[-1].size
    for sample in range(len(packed)):
        forget(state, scratch)
        halved = (first + sample) // constants.halve_every if constants.halve_every > 0 else 0
        local, before = sample * epochs, first * epochs
        random = trace_random[local], weight_random[local]
        now = Now(packed[sample], labels[sample], gate[sample], halved, before + local, random[0], random[1])
        for k in range(len(actions)):
            if actions[k, 0] != NEXT:
                act(actions[k, 0], actions[k, 1], actions[k, 2], constants, state, scratch, now)
                continue
            local += 1
            if local < len(weight_random):
                random = trace_random[local], weight_random[local]
            now = Now(packed[sample], labels[sample], gate[sample], halved, before + local, random[0], random[1])
        predictions[sample] = best(size, state.scores)
        state.correct[0] += predictions[sample] == labels[sample]


def _check_numbers() -> None:
    """Compare the numbers that are compiled with those of the oracle: change them here as well."""
    there = {**vars(integers), **vars(bias), **vars(losses), **vars(subspace)}
    names = ("ENGINE_SHIFT", "FRACTION_BITS", "HALF", "MAX_SHIFT", "MESSAGE_MAX", "MOMENTUM_MAX", "TRACE_MAX")
    names += ("MANTISSA_MIN", "MANTISSA_MAX", "PROBABILITY_BITS", "ROW_MAX", "TO_MESSAGE", "TO_TRACE")
    wrong = [name for name in names if globals()[name] != there[name]]
    wrong += ["SOFTMAX"] * (options.LOSSES[SOFTMAX] != "softmax") + ["HINGE"] * (options.LOSSES[HINGE] != "hinge")
    wrong += ["NEXT"] * (int(Op.NEXT) != NEXT or len(OPERATIONS) != NEXT)
    if wrong:
        raise AssertionError(f"sim/learning/kernels.py: {', '.join(wrong)}: another number than elsewhere")


_check_numbers()

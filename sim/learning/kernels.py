"""Learning, compiled by numba: one loop over a list of actions (``program.py``), and a function for each operation.

All layers lie one behind the other in flat arrays. *Sources* are the input and the hidden layers: they have spikes and
traces. *Neurons* are the hidden layers and the readout, each padded to ``width``, a multiple of :data:`BLOCK`. Weights
are stored presynaptic side first, int16 rows of ``width``, so that a spike adds a row and a trace changes one.

Indices of inner loops are unsigned, which spares numba's test for negative ones, and sums are cut to 32 bits at once:
otherwise nothing vectorises, and a row takes fifteen times as long. A function gets the arrays that it needs and no
others: an array is seven arguments to LLVM, and forty of them a call made compiling three times as long.

All compiled code of learning is in this file, and so are the numbers that are compiled into it: numba's cache looks at
the file alone. Where they are defined for the oracle :func:`_check_numbers` compares them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ottt_loihi.sim.inference.kernels import called, compiled
from ottt_loihi.sim.learning import bias, eligibility, integers, local, losses, subspace, trial
from ottt_loihi.sim.learning.program import Op
from ottt_loihi.sim.learning.rule import LOSSES

ENGINE_SHIFT, FRACTION_BITS, HALF, MAX_SHIFT, MESSAGE_MAX, MOMENTUM_MAX, TRACE_MAX = 3, 7, 4, 31, 127, 255, 127
MANTISSA_MIN, MANTISSA_MAX = -4096, 4095
PROBABILITY_BITS = 12
UNITY_BITS, AVERAGED_BITS, FULL_BITS = 15, 6, 12
ROW_MAX, TO_MESSAGE, TO_TRACE = 32767, 8, 20
SOFTMAX = 1  # its place in rule.LOSSES
START, READ, RECEIVE, FIRE, ANSWER, COMPARE, THIRD, SEND, MOVE_BIASES, FOLLOW_NOISE = range(10)  # program.Op
DECAY_TRACE, PROJECT, UPDATE, UPDATE_TWIN, FOLLOW_TRACES, FORGET_TRACES, NEXT_EPOCH, SEND_AFTER = range(10, 18)
RECEIVE_LOCAL, COMPARE_LOCAL, THIRD_LOCAL = range(18, 21)
ONE = 64  # local.ONE
LOWEST, HIGHEST = -(1 << 15) - 1, (1 << 15) - 1  # eligibility.ACCUMULATOR
SPIKE_SHIFT = 3
BLOCK = 16
NONE = -1

LAYER = np.dtype(
    [
        (name, np.int64)
        for name in (
            "source", "inputs",  # where its sources start, and their number
            "neuron", "size", "width",  # where its neurons start, their number, and the padded number
            "weight", "exponent",  # where its weights start; their exponent
            "impulse", "pre_phase", "keeps_trace",  # keeps_trace: 0 if the trace is the step's spike alone
            "vth", "half_width",  # aligned to the state; half_width: everywhere at the readout
            "y1_mantissa", "y1_shift", "error_mantissa", "error_shift",  # error_mantissa 0: sends no error
            "feedback", "direct",  # where its feedback weights start; direct: they meet the readout's error, not
            # that of the layer above
            "twin",  # where weights start that learn as its own do (Kolen–Pollack), or NONE
            "mask",  # sparse: where its mask starts, or NONE
            "noise", "gain_mantissa", "gain_shift", "averaging",  # OPZO; noise aligned to the state, 0: none; the gain
            # of TESS as well
            "subspace", "rows", "fixed", "row_shift",  # HLOP: where its rows start, their number, the old ones
            "bias_shift", "bias_exponent", "bias_in_u",  # of bias.BiasLearning
            "h_impulse", "h_keep", "y2_sign", "y2_left", "y2_mantissa", "y2_shift",  # of eligibility.After
            "slow_impulse",  # of current-based neurons, 0: none
        )
    ]
    + [(name, np.float64) for name in ("trace_decay", "slow_decay", "keep_u", "keep_v")]
    + [  # mix32 of seeds: of the rounding of weights, feedback and rows
        (name, np.uint32) for name in ("key", "feedback_key", "twin_key", "row_key")
    ]
)  # fmt: skip
RULE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "epoch", "epochs",  # K; learning epochs of a sample
            "target",  # of the right class's membrane, aligned to the state
            "halve_every",  # samples, 0: never
            "share",  # synapses that share a random number's hash, 0: all share one number (rule.SHARES)
            "loss", "logit_mantissa", "logit_shift",  # place in LOSSES; of losses.logit_steps
            "only_mistaken", "usual",  # learn_when; of trial.halvings
            "factored",  # the encoding
        )
    ]
)  # fmt: skip
NOW = np.dtype(
    [
        (name, np.int64)
        for name in (
            "label", "gate", "halved", "slower",  # of the sample; how often rates, and its error, are halved
            "epoch",  # learning epochs before this one, since the network was made
            "live",  # traces that are not 0, of the connection that learns
        )
    ]
)  # fmt: skip


class Constants(NamedTuple):
    """The constants of a network that learns."""

    layers: np.ndarray  # LAYER, the readout last
    rule: np.ndarray  # RULE (1,)
    loop: np.ndarray  # int32 per neuron: the input from its own spike one step later
    masks: np.ndarray  # int16, of sparse connections, in the order of their weights: −1 where a synapse is, else 0
    exp_table: np.ndarray  # losses.EXP_TABLE
    bias_gain: np.ndarray  # int64 (layers, T), of bias.BiasLearning


class State(NamedTuple):
    """The variables of a network that learns; of neurons and sources int32 where nothing else is said."""

    weights: np.ndarray  # int16, of all connections, then of feedback, a row per hidden neuron
    spikes: np.ndarray  # uint8 per source
    trace: np.ndarray  # per source
    u: np.ndarray  # per neuron, as all up to u_init
    v: np.ndarray
    membrane: np.ndarray  # v before its reset
    y1: np.ndarray
    error: np.ndarray
    noise: np.ndarray  # int8
    rng: np.ndarray  # uint32
    reward: np.ndarray  # y1 before the surrogate
    bias: np.ndarray
    u_init: np.ndarray
    scores: np.ndarray  # int64 per neuron of the readout
    y1_saturated: np.ndarray  # int64 per layer, as the next two
    error_saturated: np.ndarray
    feedback_saturated: np.ndarray
    correct: np.ndarray  # int64 (1,)
    trial: np.ndarray  # int64 (2,), of trial.py
    subspaces: np.ndarray  # int16, HLOP's rows of all layers that have any
    h: np.ndarray  # per neuron, of S-TLLR (eligibility.py), as y2
    y2: np.ndarray
    slow: np.ndarray  # per source, the slower trace of current-based neurons (currents.py)


@called
def mix(x):
    """``integers.mix32`` of one number."""
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@called
def keyed(key, epoch):
    """The key of a learning epoch's random numbers."""
    return mix(np.uint32(key + np.uint32(epoch & 0xFFFFFFFF)))


@called
def next_random(n, rng):
    """``integers.xorshift32`` of neuron n, int64."""
    r = rng[n]
    r = np.uint32(r ^ np.uint32(r << np.uint32(13)))
    r = np.uint32(r ^ np.uint32(r >> np.uint32(17)))
    rng[n] = np.uint32(r ^ np.uint32(r << np.uint32(5)))
    return np.int64(rng[n])


@called
def scaled(n, x, mantissa, shift, rng):
    """``integers.scale_stochastically`` with neuron n's next random number."""
    return (np.int64(x) * mantissa + (next_random(n, rng) >> (32 - shift))) >> shift


@called
def message(n, x, mantissa, shift, rng, index, saturated):
    """x by a scale, rounded at random and clipped to a message, int32; counts those that do not fit."""
    y = scaled(n, x, mantissa, shift, rng)
    saturated[index] += abs(y) > MESSAGE_MAX
    return np.int32(min(max(y, -MESSAGE_MAX), MESSAGE_MAX))


@called
def clear(array):
    """Write zeros."""
    for k in range(len(array)):
        array[k] = 0


@called
def read(packed, inputs, sent):
    """Unpack the input's spikes."""
    whole = inputs >> 3
    for k in range(np.uint64(whole)):
        byte = packed[k]
        for bit in range(np.uint64(8)):
            sent[(k << np.uint64(3)) + bit] = (byte >> (np.uint64(7) - bit)) & np.uint64(1)
    for k in range(8 * whole, inputs):
        sent[k] = (packed[whole] >> (7 - (k & 7))) & 1


@called
def receive(layer, sent, weights, active, sums):
    """``sums = Σ_i W[:, i]`` over the spikes i of a layer's sources."""
    count = np.uint64(0)
    for i in range(layer.inputs):
        active[count] = i
        count += np.uint64(sent[layer.source + i])
    width, start = np.uint64(layer.width), np.uint64(layer.weight)
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
    """Wrap a current to 24 bits (``arithmetic.current_step``)."""
    limit = np.int32(1 << 23)
    d = np.int32(d - 2 * limit) if d > limit else d
    return np.int32(d + 2 * limit) if d <= -limit else d


@called
def clipped(v):
    """A membrane at the ends of its 24 bits (``arithmetic.voltage_step``)."""
    limit = np.int32((1 << 23) - 1)
    return min(max(v, np.int32(-limit)), limit)


@called
def fire(layer, target, sums, loop, bias, u, v, membrane, noise, rng, spikes, sent):
    """Compute one time step of a layer's neurons, by the equations of ``sim.network.LIF``.

    ``target`` is the index of the layer's first neuron in the array of spikes.
    """
    first, target, exponent, vth = np.uint64(layer.neuron), np.uint64(target), layer.exponent, np.int32(layer.vth)
    keep_u, keep_v, loud = layer.keep_u, layer.keep_v, layer.noise
    for j in range(np.uint64(layer.size)):
        n = first + j
        a = np.int32(shifted(sums[j], exponent) + (loop[n] if spikes[target + j] else np.int32(0)))
        x = wrapped(np.int32(np.int32(np.float64(u[n]) * keep_u) + np.int32(a << 6)))
        m = clipped(np.int32(np.int32(np.int32(np.float64(v[n]) * keep_v) + x) + bias[n]))
        threshold = vth
        if loud > 0:
            noise[n] = 1 if next_random(n, rng) >> 31 else -1
            threshold = np.int32(vth - np.int32(loud * noise[n]))
        fires = m > threshold
        u[n], membrane[n] = x, m
        spikes[target + j] = sent[target + j] = fires
        v[n] = np.int32(0) if fires else m


@called
def best(scores):
    """The place of the largest score, the first of equals."""
    place = 0
    for j in range(1, len(scores)):
        if scores[j] > scores[place]:
            place = j
    return place


@called
def judge(rule, now, trial):
    """``trial.judged`` and ``trial.halvings``: whether the sample's answer was wrong, and how fast it is learnt."""
    now.slower = 0
    if rule.only_mistaken and now.gate:
        now.gate = trial[0] != now.label
        trial[1] += ((now.gate << UNITY_BITS) - trial[1]) >> AVERAGED_BITS
        more, now.slower = max(trial[1] - rule.usual, 1), FULL_BITS
        while more > 0 and now.slower > 0:
            more, now.slower = more >> 1, now.slower - 1


@called
def compare(rule, label, table, v, e):
    """``losses.integer_error`` of membranes v, int32, into e, int64, both ``(classes,)``."""
    if rule.loss == SOFTMAX:
        softmax_error(rule, label, table, v, e)
    else:
        for k in range(len(v)):
            e[k] = np.int64(v[k]) - (rule.target if k == label else 0)


@called
def softmax_error(rule, label, table, v, e):
    """Cross-entropy from the table."""
    largest, total, half = np.int64(v[best(v)]), np.int64(0), np.int64(1) << (rule.logit_shift - 1)
    for k in range(len(v)):
        steps = ((largest - v[k]) * rule.logit_mantissa + half) >> rule.logit_shift
        e[k] = table[steps] if steps < len(table) else 0
        total += e[k]
    for k in range(len(v)):
        p = ((e[k] << PROBABILITY_BITS) + total // 2) // total
        p -= (1 << PROBABILITY_BITS) if k == label else 0
        e[k] = (p * rule.target + (1 << (PROBABILITY_BITS - 1))) >> PROBABILITY_BITS


@called
def third(layer, width, source, weights, error, thirds):
    """The error that feedback brings to a hidden layer, of ``width`` errors from ``source`` on."""
    width, source = np.uint64(width), np.uint64(source)
    for j in range(layer.size):
        total, row = np.int32(0), np.uint64(layer.feedback) + np.uint64(j) * width
        for k in range(width):
            total = np.int32(total + np.int32(np.int32(weights[row + k]) * error[source + k]))
        thirds[layer.neuron + j] = total


@called
def send(layer, index, rule, halved, slower, thirds, membrane, rng, reward, y1, error, y1_saturated, error_saturated):
    """y1 of a layer, of the errors that reached it, and the errors it sends on: scales are halved so often."""
    shift, error_shift = min(MAX_SHIFT, layer.y1_shift + halved), min(MAX_SHIFT, layer.error_shift + slower)
    for n in range(layer.neuron, layer.neuron + layer.size):
        near = abs(membrane[n] - layer.vth) < layer.half_width
        g = thirds[n] if near else np.int64(0)
        rounded = thirds[n] if rule.factored else g
        reward[n] = message(n, -rounded, layer.y1_mantissa, shift, rng, index, y1_saturated)
        y1[n] = reward[n] if near else np.int32(0)
        if layer.error_mantissa > 0:
            error[n] = message(n, g, layer.error_mantissa, error_shift, rng, index, error_saturated)


@called
def receive_local(layer, target, last, sent, weights, z):
    """TESS: twice B·s of a hidden layer, whose spikes start at ``target``."""
    for c in range(last.size):
        z[c] = 0
    for j in range(layer.size):
        if sent[target + j]:
            for c in range(last.size):
                z[c] += weights[layer.feedback + j * last.width + c]


@called
def compare_local(layer, now, z, e):
    """``local.errors`` of a hidden layer's class neurons."""
    half = np.int64(1) << layer.gain_shift >> 1
    for c in range(len(z)):
        p = ONE // 2 + ((np.int64(z[c]) * layer.gain_mantissa + half) >> layer.gain_shift)
        e[c] = (min(max(p, 0), ONE) - (ONE if c == now.label else 0)) if now.gate else 0


@called
def send_after(layer, index, rule, now, thirds, membrane, h, y2, rng, y1_saturated):
    """S-TLLR: y2 of h[t − 1], then h[t]."""
    shift = min(MAX_SHIFT, layer.y2_shift + now.halved)
    for n in range(layer.neuron, layer.neuron + layer.size):
        y2[n] = h[n] >> 6
        if not rule.factored:
            product = -layer.y2_sign * thirds[n] * y2[n]
            y2[n] = message(n, product, layer.y2_mantissa, shift, rng, index, y1_saturated)
        near = abs(membrane[n] - layer.vth) < layer.half_width
        h[n] = (np.int64(h[n]) * layer.h_keep >> 12) + (layer.h_impulse if near else 0)


@called
def move_biases(layer, gain, y1, rng, bias, u, u_init):
    """``bias.BiasLearning.change`` of one layer's biases."""
    exponent = layer.bias_exponent
    for n in range(layer.neuron, layer.neuron + layer.size):
        old = np.int64(bias[n]) >> exponent
        moved = old + scaled(n, y1[n], gain, layer.bias_shift, rng)
        change = np.int32((min(max(moved, MANTISSA_MIN), MANTISSA_MAX) - old) << exponent)
        bias[n] += change
        if layer.bias_in_u:
            u[n] -= change
            u_init[n] -= change


@called
def follow_noise(layer, last, index, epoch, noise, error, weights, saturated):
    """OPZO: ``integers.momentum_step`` of a hidden layer's feedback."""
    if nothing_to_learn(last, error):
        return
    shift, total = layer.gain_shift, layer.gain_shift + layer.averaging
    key = keyed(layer.feedback_key, epoch)
    for c in range(last.size):
        sent, column = np.int64(error[last.neuron + c]), mix(np.uint32(key + np.uint32(c)))
        for j in range(layer.size):
            at = layer.feedback + j * last.width + c
            wide, product = np.int64(weights[at]), sent * noise[layer.neuron + j]
            r = np.int64(mix(np.uint32(column + np.uint32(j)))) >> (32 - total)
            moved = wide + ((product * layer.gain_mantissa - (wide << shift) + r) >> total)
            saturated[index] += abs(moved) > MOMENTUM_MAX
            weights[at] = min(max(moved, -MOMENTUM_MAX), MOMENTUM_MAX)


@called
def tabulate(layer, per_step, impulse, random, epoch, table):
    """Tabulate the trace after an epoch, of a trace x and a spike s, 0 or 1, at ``table[1 + s, x]``; row 0 is scratch.

    ``x1 = D^(K − p)( min(127, D^p(x1) + impulse·s) )`` with the pre spike in phase p and the rounded decay
    ``D(x) = ⌊d·x⌋``, and 1 more where ``random`` is below what was cut off: the same for all synapses, hence a table.
    """
    decayed = table[0]
    for x in range(TRACE_MAX + 1):
        exact = per_step * x
        floor = np.floor(exact)
        decayed[x] = np.int32(floor) + np.int32(random < exact - floor)
    for x in range(TRACE_MAX + 1):
        before = x if layer.keeps_trace else 0
        for _ in range(layer.pre_phase):
            before = decayed[before]
        for s in range(2):
            left = min(before + s * impulse, TRACE_MAX)
            for _ in range(epoch - layer.pre_phase):
                left = decayed[left]
            table[1 + s, x] = left


@called
def decay_trace(layer, per_step, impulse, trace, random, rule, now, sent, table, active):
    """Traces at the end of an epoch; lists those that are not 0, which :func:`update` needs."""
    tabulate(layer, per_step, impulse, random, rule.epoch, table)
    count, first = np.uint64(0), np.uint64(layer.source)
    for i in range(np.uint64(layer.inputs)):
        x = table[np.uint64(1) + np.uint64(sent[first + i]), np.uint64(trace[first + i])]
        trace[first + i] = x
        active[count] = i
        count += np.uint64(x > 0)
    now.live = count


@called
def respond(rows, start, count, x, messages):
    """``subspace.responses`` of ``count`` rows from ``start`` on to the traces x, into ``messages``."""
    for k in range(count):
        total, row = np.int32(0), np.uint64(start + k * len(x))
        for i in range(np.uint64(len(x))):
            total = np.int32(total + np.int32(np.int32(rows[row + i]) * x[i]))
        messages[k] = total >> np.int32(TO_MESSAGE)


@called
def lacking(rows, start, count, x, messages, sums, out):
    """``x − x̂`` of the first ``count`` rows, clipped to ±127, into ``out``; ``sums`` is scratch."""
    inputs = np.uint64(len(x))
    for i in range(inputs):
        sums[i] = np.int32(1 << (TO_TRACE - 1))
    for k in range(count):
        m, row = messages[k], np.uint64(start + k * len(x))
        for i in range(inputs):
            sums[i] = np.int32(sums[i] + np.int32(np.int32(rows[row + i]) * m))
    limit = np.int32(TRACE_MAX)
    for i in range(inputs):
        e = np.int32(x[i] - (sums[i] >> np.int32(TO_TRACE)))
        out[i] = min(max(e, -limit), limit)


@called
def project(layer, now, rows, trace, lateral, active):
    """The projected traces of a layer, into ``lateral[0]``; lists those that are not 0."""
    x, projected = trace[layer.source : layer.source + layer.inputs], lateral[0]
    respond(rows, layer.subspace, layer.fixed, x, lateral[1])
    lacking(rows, layer.subspace, layer.fixed, x, lateral[1], lateral[2], projected)
    now.live = 0
    for i in range(len(x)):
        active[now.live] = i
        now.live += projected[i] != 0


@called
def follow_traces(layer, epoch, trace, lateral, keys, rows):
    """``subspace.moved``."""
    key, shift = keyed(layer.row_key, epoch), layer.row_shift
    for i in range(layer.inputs):
        keys[i] = mix(np.uint32(key + np.uint32(i)))
    messages, e, x = lateral[1], lateral[3], trace[layer.source : layer.source + layer.inputs]
    respond(rows, layer.subspace, layer.rows, x, messages)
    lacking(rows, layer.subspace, layer.rows, x, messages, lateral[2], e)
    limit = np.int64(ROW_MAX)
    for k in range(layer.fixed, layer.rows):
        m, row = np.int64(messages[k]), np.uint64(layer.subspace + k * layer.inputs)
        for i in range(np.uint64(layer.inputs)):
            r = np.int64(mix(np.uint32(keys[i] + np.uint32(k)))) >> (32 - shift)
            w = np.int64(rows[row + i]) + ((m * np.int64(e[i]) + r) >> shift)
            rows[row + i] = min(max(w, -limit), limit)


@called
def nothing_to_learn(layer, y1):
    """True if no neuron of a layer has a y1 (an error)."""
    found = 0
    for j in range(layer.neuron, layer.neuron + layer.width):
        found |= y1[j]
    return found == 0


@called
def update(layer, x1, start, key, random, rule, now, y1, active, narrow, hashes, masks, weights):
    """``Δw = x1·y1`` of the weights from ``start`` on; x1: the layer's traces.

    ``w + ⌊(⌊(x1·y1 + half) / 8⌋ + r) / 128⌋``, clipped to 9 bits, is what Lava's engine does in five steps. r:
    ``random``, or 127 − ``integers.synapse_draws``. 16 bits hold all of it, and arrays of 16 bits alone let LLVM do 32
    synapses at a time: ``narrow`` holds r and y1.
    """
    if nothing_to_learn(layer, y1):
        return
    half = np.int16(HALF if layer.fixed > 0 else 0)  # rounds the products of projected traces
    width, key, draws, y = np.uint64(layer.width), keyed(key, now.epoch), narrow[0], narrow[1]
    share, parts, most = rule.share, hashes.view(np.uint8), np.int16((1 << FRACTION_BITS) - 1)  # the lowest byte first
    for j in range(width):
        draws[j], y[j] = random, y1[np.uint64(layer.neuron) + j]
    for k in range(now.live):
        x, row = np.int16(x1[active[k]]), np.uint64(start + active[k] * layer.width)
        row_key = mix(np.uint32(key + np.uint32(active[k])))
        if share == 1:
            for j in range(width):
                bits = mix(np.uint32(row_key + np.uint32(j))) >> np.uint32(32 - FRACTION_BITS)
                draws[j] = np.int16(most - np.int16(bits))
        elif share == 4:  # a hash for four synapses takes a quarter of the time, which is most of it
            for n in range(width >> np.uint64(2)):
                hashes[n] = mix(np.uint32(row_key + np.uint32(n)))
            for j in range(width):
                draws[j] = np.int16(most - np.int16(parts[j] >> np.uint8(8 - FRACTION_BITS)))
        for j in range(width):
            change = np.int16(np.int16(np.int16(x * y[j]) + half) >> np.int16(ENGINE_SHIFT))
            carried = np.int16(np.int16(change + draws[j]) >> np.int16(FRACTION_BITS))
            weights[row + j] = min(max(np.int16(weights[row + j] + carried), np.int16(-256)), np.int16(255))
        if layer.mask != NONE:  # whole rows learn, which is faster than picking synapses: 0 where none is
            mask = np.uint64(layer.mask + active[k] * layer.width)
            for j in range(width):
                weights[row + j] &= masks[mask + j]


@called
def accumulate(total, change):
    """One product more in the engine's accumulator (``eligibility.accumulated``)."""
    return min(max(total + min(max(change, LOWEST), HIGHEST), LOWEST), HIGHEST)


@called
def update_by_two(layer, x1, start, key, random, rule, now, sent, y1, y2, reward, slow, hashes, masks, weights):
    """:func:`update` by two products: S-TLLR's second is of the spikes x0 and y2; of current-based neurons x2 − x1."""
    if nothing_to_learn(layer, y1) and nothing_to_learn(layer, reward if rule.factored else y2):
        return
    two = layer.slow_impulse > 0
    key, share, parts = keyed(key, now.epoch), rule.share, hashes.view(np.uint8)
    for i in range(layer.inputs):
        x, spike, row = np.int64(x1[i]), sent[layer.source + i], start + i * layer.width
        x2 = np.int64(slow[layer.source + i]) if two else np.int64(0)
        if x == 0 and x2 == 0 and not spike:
            continue
        row_key = mix(np.uint32(key + np.uint32(i)))
        for n in range(layer.width >> 2 if share == 4 else 0):
            hashes[n] = mix(np.uint32(row_key + np.uint32(n)))
        for j in range(layer.size):
            n, draw = layer.neuron + j, np.int64(random)
            if share == 4:
                draw = 127 - np.int64(parts[j] >> np.uint8(8 - FRACTION_BITS))
            elif share == 1:
                draw = 127 - np.int64(mix(np.uint32(row_key + np.uint32(j))) >> np.uint32(32 - FRACTION_BITS))
            first = x2 if two else x
            total = accumulate(np.int64(weights[row + j]) << FRACTION_BITS, first * y1[n] >> ENGINE_SHIFT)
            if two:
                total = accumulate(total, -x * y1[n] >> ENGINE_SHIFT)
            elif spike and rule.factored:
                product = np.int64(layer.y2_sign) * y2[n] * reward[n]
                total = accumulate(total, (product >> ENGINE_SHIFT) << layer.y2_left)
            elif spike:
                total = accumulate(total, np.int64(y2[n]) << SPIKE_SHIFT)
            weights[row + j] = min(max((total + draw) >> FRACTION_BITS, -256), 255)
            if layer.mask != NONE:
                weights[row + j] &= masks[layer.mask + i * layer.width + j]


@compiled
def learn(actions, constants, state, moment, packed, labels, gate, first, trace_random, weight_random, predictions):
    """Learn from samples, one after the other.

    Parameters
    ----------
    actions
        of one sample, int64 ``(actions, 3)`` (``program.py``)
    constants, state
        :class:`Constants`, :class:`State`
    moment
        :data:`NOW` ``(1,)``, scratch that has to outlive the call: a record does not own its memory
    packed
        uint8 ``(n, T, ⌈inputs/8⌉)`` of ``np.packbits``
    labels, gate
        int64 and bool ``(n,)``
    first
        number of the first sample
    trace_random, weight_random
        of each epoch: float64 ``(n·epochs, layers)``, of trace decay; int32 ``(n·epochs,)``, 0 … 127, of ``"lava"``
        rounding: a weight w + k/128 is rounded up where ``k + number ≥ 128``
    predictions
        int32 ``(n,)``, filled
    """
    s, layers, rule, now = state, constants.layers, constants.rule[0], moment[0]
    last, widest, begun = layers[len(layers) - 1], 0, first * rule.epochs
    for index in range(len(layers)):
        widest = max(widest, layers[index].width, layers[index].inputs)
    sent = np.empty_like(s.spikes)  # spikes of this step; state.spikes are each neuron's own last ones
    sums = np.empty((len(layers), widest), np.int32)
    thirds, answering = np.empty(len(s.error), np.int64), slice(last.neuron, last.neuron + last.size)
    z, own = np.empty((len(layers), last.size), np.int32), np.empty((len(layers), last.width), np.int32)
    neurons, nowhere = (constants.loop, s.bias, s.u, s.v, s.membrane, s.noise, s.rng), np.zeros(last.size, np.uint8)
    active, narrow = np.empty(widest + 1, np.int64), np.empty((2, widest), np.int16)
    lateral, keys, table = np.empty((4, widest), np.int32), np.empty(widest, np.uint32), np.empty((3, 128), np.int32)
    answers = thirds, s.membrane, s.rng, s.reward, s.y1, s.error, s.y1_saturated, s.error_saturated
    traces = rule, now, sent, table, active
    learns = s.y1, active, narrow, keys, constants.masks, s.weights
    two = sent, s.y1, s.y2, s.reward, s.slow, keys, constants.masks, s.weights
    for sample in range(len(packed)):
        for spikes in (s.spikes, sent):
            clear(spikes)
        for numbers in (s.v, s.h, s.y2, sums.ravel(), z.ravel(), own.ravel()):
            clear(numbers)
        for wide in (s.scores, thirds):
            clear(wide)
        for n in range(len(s.u)):
            s.u[n] = s.u_init[n]
        local, now.label, now.gate = sample * rule.epochs, labels[sample], gate[sample]
        judge(rule, now, s.trial)
        now.halved = (first + sample) // rule.halve_every if rule.halve_every > 0 else 0
        now.epoch = begun + local
        for action in range(len(actions)):
            op, index, t = actions[action, 0], actions[action, 1], actions[action, 2]
            layer = layers[index]
            if op == START:
                clear(sent)
                for numbers in (s.reward, s.y1, s.y2, s.error, own.ravel()):
                    clear(numbers)
            elif op == READ:
                read(packed[sample, t], layer.inputs, sent)
            elif op == RECEIVE:
                receive(layer, sent, s.weights, active, sums[index])
            elif op == FIRE:
                fire(layer, layers[index + 1].source, sums[index], *neurons, s.spikes, sent)
            elif op == ANSWER:
                fire(layer, 0, sums[index], *neurons, nowhere, nowhere)  # it sends no spikes
                for j in range(layer.size):
                    s.scores[j] += s.v[layer.neuron + j]
            elif op == COMPARE:
                if now.gate:
                    compare(rule, now.label, constants.exp_table, s.v[answering], thirds[answering])
                    send(layer, index, rule, now.halved + now.slower, now.slower, *answers)
                else:
                    for numbers in (s.reward, s.y1, s.error):
                        clear(numbers[answering])
            elif op == THIRD:
                above = len(layers) - 1 if layer.direct else index + 1
                third(layer, layers[above].width, layers[above].neuron, s.weights, s.error, thirds)
            elif op == SEND:
                send(layer, index, rule, now.halved, 0, *answers)
            elif op == MOVE_BIASES:
                if now.gate or index < len(layers) - 1:
                    move_biases(layer, constants.bias_gain[index, t], s.y1, s.rng, s.bias, s.u, s.u_init)
            elif op == FOLLOW_NOISE:
                follow_noise(layer, last, index, now.epoch, s.noise, s.error, s.weights, s.feedback_saturated)
            elif op == DECAY_TRACE:
                random = trace_random[local, index]
                if layer.slow_impulse > 0:
                    decay_trace(layer, layer.slow_decay, layer.slow_impulse, s.slow, random, *traces)
                decay_trace(layer, layer.trace_decay, layer.impulse, s.trace, random, *traces)
            elif op == PROJECT:
                project(layer, now, s.subspaces, s.trace, lateral, active)
            elif op in (UPDATE, UPDATE_TWIN):
                start, key = (layer.weight, layer.key) if op == UPDATE else (layer.twin, layer.twin_key)
                x1 = lateral[0] if layer.fixed > 0 else s.trace[layer.source : layer.source + layer.inputs]
                if layer.h_impulse > 0 or layer.slow_impulse > 0:
                    update_by_two(layer, x1, start, key, weight_random[local], rule, now, *two)
                else:
                    update(layer, x1, start, key, weight_random[local], rule, now, *learns)
            elif op == FOLLOW_TRACES:
                follow_traces(layer, now.epoch, s.trace, lateral, keys, s.subspaces)
            elif op == FORGET_TRACES:
                for numbers in (s.trace, s.slow):
                    clear(numbers[layer.source : layer.source + layer.inputs])
            elif op == NEXT_EPOCH:
                local, now.epoch = local + 1, now.epoch + 1
            elif op == SEND_AFTER:
                send_after(layer, index, rule, now, thirds, s.membrane, s.h, s.y2, s.rng, s.y1_saturated)
            elif op == RECEIVE_LOCAL:
                receive_local(layer, layers[index + 1].source, last, sent, s.weights, z[index])
            elif op == COMPARE_LOCAL:
                compare_local(layer, now, z[index], own[index])
            elif op == THIRD_LOCAL:
                third(layer, last.width, 0, s.weights, own[index], thirds)
        predictions[sample] = best(s.scores)
        if rule.only_mistaken:
            s.trial[0] = predictions[sample]
        s.correct[0] += predictions[sample] == labels[sample]


def _check_numbers() -> None:
    """Compare the numbers that are compiled with those of the oracle: change them here as well."""
    there = {**vars(integers), **vars(bias), **vars(losses), **vars(subspace), **vars(eligibility), **vars(local)}
    there |= vars(trial) | dict(zip(("LOWEST", "HIGHEST"), eligibility.ACCUMULATOR))
    there |= {op.name: int(op) for op in Op} | {name.upper(): n for n, name in enumerate(LOSSES)}
    mine = {name: value for name, value in globals().items() if isinstance(value, int)}
    wrong = [name for name in mine.keys() - {"BLOCK", "NONE"} if mine[name] != there.get(name)]
    if wrong:
        raise AssertionError(f"sim/learning/kernels.py: {', '.join(wrong)}: another number than elsewhere")


_check_numbers()

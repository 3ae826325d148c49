"""The arithmetic of ``subspace.py``, compiled by numba: rows lie one behind the other in one flat int16 array."""

from __future__ import annotations

import numpy as np
from ottt_loihi.sim.inference.kernels import called
from ottt_loihi.sim.learning.integers import TRACE_MAX
from ottt_loihi.sim.learning.random_kernels import mix
from ottt_loihi.sim.learning.subspace import ROW_MAX, TO_MESSAGE, TO_TRACE


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
def project(layer, state, scratch, active):
    """Put the projected traces in place of a layer's own, which ``scratch[0]`` keeps; lists those that are not 0."""
    inputs, source = layer.inputs, np.uint64(layer.source)
    kept, messages, sums = scratch[0], scratch[1], scratch[2]
    for i in range(np.uint64(inputs)):
        kept[i] = state.trace[source + i]
    respond(state.subspaces, layer.subspace, layer.fixed, inputs, kept, messages)
    lacking(state.subspaces, layer.subspace, layer.fixed, inputs, kept, messages, sums, state.trace[layer.source :])
    count = np.uint64(0)
    for i in range(np.uint64(inputs)):
        active[count] = i
        count += np.uint64(state.trace[source + i] != 0)
    return np.int64(count)


@called
def put_back(layer, state, scratch):
    """The traces themselves, after :func:`project`."""
    for i in range(layer.inputs):
        state.trace[layer.source + i] = scratch[0, i]


@called
def follow(layer, state, scratch, keys):
    """``subspace.moved``; ``keys``: for each input the hash that its synapses' random numbers begin with."""
    rows, inputs, shift = state.subspaces, np.uint64(layer.inputs), layer.row_shift
    messages, sums, e = scratch[1], scratch[2], scratch[3]
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

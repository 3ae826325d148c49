"""The simulator's inner loops, compiled by numba: a sample at a time, every time step of a block in one call.

Messages arrive as bytes, 0 or 1, in arrays ``(samples, history + steps, bytes)`` whose rows are whole blocks of 64;
step t of a block of steps reads row ``first + t``. Synaptic input is ``a``, int32 ``(samples, steps, neurons)``, which
the first connection of a layer fills (``fresh``) and the others add to. The ``last`` one advances the neurons in the
same loop, so that it may come from the very layer it leads to.

Event-driven accumulation adds one contiguous row of narrow weights per spike. Weights are int8 or int16, sums int16
until ``limit`` rows have been added, so that no sum can leave int16 (``limit = 32767 // max|w|``), then int32. Weights
that are all even are stored halved, which ``exponent`` makes up for.

All kernels release the GIL: threads run them on different samples. (numba's own threads are OpenMP's, after which a
process must not fork; Lava forks.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

BLOCK = 64  # bytes of messages whose non-zero ones are found at once
LANES = 128  # sums that stay in registers while the weights of many spikes are added
LISTED = 8  # places of non-zero bytes that are written at once, without a branch


@intrinsic
def non_zero(typingctx: Any, messages: Any, offset: Any) -> Any:
    """The set of non-zero bytes, a bit each, of the :data:`BLOCK` bytes from ``offset`` bytes on: one comparison."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        vector = ir.VectorType(ir.IntType(8), BLOCK)
        at = builder.bitcast(builder.gep(data, [arguments[1]]), vector.as_pointer())
        different = builder.icmp_unsigned("!=", builder.load(at, align=1), ir.Constant(vector, None))
        return builder.bitcast(different, ir.IntType(BLOCK))

    return types.uint64(messages, types.uint64), codegen


@intrinsic
def lowest(typingctx: Any, bits: Any) -> Any:
    """The place of the lowest bit that is set; 64 where none is."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), codegen


@intrinsic
def number(typingctx: Any, bits: Any) -> Any:
    """The number of bits that are set."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), codegen


@intrinsic
def add_rows(typingctx: Any, sums: Any, to: Any, weight: Any, index: Any, begin: Any, end: Any, pitch: Any, at: Any):
    """``sums[to + j] += Σ_k weight[index[k]·pitch + at + j]``, j below :data:`LANES`, k from ``begin`` to ``end``."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, begin, end, pitch, at = arguments[1], *arguments[4:]
        sums, weight, index = (
            context.make_array(signature.args[k])(context, builder, arguments[k]).data for k in (0, 2, 3)
        )

        def vector(array: Any, place: Any) -> Any:
            kind = ir.VectorType(array.type.pointee, LANES)
            return builder.bitcast(builder.gep(array, [place]), kind.as_pointer())

        target = vector(sums, to)
        total = cgutils.alloca_once_value(builder, builder.load(target, align=2))
        with cgutils.for_range_slice(builder, begin, end, ir.Constant(begin.type, 1), begin.type) as (k, _):
            row = builder.sext(builder.load(builder.gep(index, [k])), at.type)
            added = builder.load(vector(weight, builder.add(builder.mul(row, pitch), at)), align=1)
            added = builder.sext(added, target.type.pointee) if added.type != target.type.pointee else added
            builder.store(builder.add(builder.load(total), added), total)
        builder.store(builder.load(total), target, align=2)
        return context.get_dummy_value()

    return types.void(sums, types.int64, weight, index, *[types.int64] * 4), codegen


def compiled(function: Callable[..., Any]) -> Any:
    """``njit`` without the GIL, and with a cache on disk where there is a place for one.

    numba's cache looks at a kernel's own file alone, so all that it calls, and every number that is compiled into it,
    has to stand in that file.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no writable folder
        return njit(nogil=True)(function)


def called(function: Callable[..., Any]) -> Any:
    """Part of a kernel, compiled once for all that call it, and never from Python; what is small LLVM inlines."""
    return njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Part of a kernel that runs for few neurons at a time: a call with three arrays costs as much as twenty of them.

    Its code is compiled anew wherever it is used, which takes seconds in a kernel of many parts.
    """
    return njit(nogil=True, inline="always")(function)


class Constants(NamedTuple):
    """The constants of a layer's neurons."""

    keep_u: float  # the share of u and v that a step keeps, multiples of 1/4096
    keep_v: float
    bounded: bool  # no current wraps and no membrane is clipped, whatever arrives
    bias: np.ndarray  # int32 (neurons,), like vth aligned to the state
    vth: np.ndarray
    loop: np.ndarray  # int32 (neurons,) or empty: the input from a neuron's own spike one step later


class Neurons(NamedTuple):
    """The neurons of one layer over one block of time steps."""

    constants: Constants
    u: np.ndarray  # states, int32 (samples, neurons), updated
    v: np.ndarray
    messages: np.ndarray  # uint8 (samples, history + steps, ≥ neurons), whole blocks of 64; receives the spikes
    first: int  # row of ``messages`` of the block's first step; step t is row ``first + t``
    kept_u: np.ndarray  # the states after each step, int32 (samples, steps, neurons), or empty
    kept_v: np.ndarray
    scores: np.ndarray  # int64 (samples, neurons), updated
    readout: int  # 1: scores are Σ v, 2: the last v, 3: Σ s, 4: the largest v, 0: left alone
    counts: np.ndarray  # int64 (5,), added to: [0] spikes, [3] currents that wrapped, [4] membranes that were clipped


@inlined
def active(messages, s, row, index):
    """Write the places of the non-zero bytes of ``messages[s, row]`` into ``index``; returns their number.

    ``index`` needs room for :data:`LISTED` more. So many are written without a branch: hardly a misprediction up to a
    density of 10 %. Unsigned arithmetic spares numba's test for negative indices.
    """
    one, count = np.uint64(1), np.uint64(0)
    start = np.uint64(s * messages.strides[0] + row * messages.strides[1])
    for block in range(0, messages.shape[2], BLOCK):
        base = np.uint64(block)
        bits = non_zero(messages, start + base)
        at, count = count, count + number(bits)
        while True:
            for k in range(LISTED):
                index[at + np.uint64(k)] = base + lowest(bits)
                bits &= bits - one
            at += np.uint64(LISTED)
            if at >= count:
                break
    return np.int64(count)


@inlined
def move(narrow, wide):
    """Add the int16 sums to the int32 ones and clear them."""
    for j in range(narrow.size):
        wide[j] += np.int32(narrow[j])
        narrow[j] = 0


@inlined
def deliver(narrow, wide, exponent, fresh, a, s, t, total):
    """``total = (narrow + wide) · 2^exponent`` (floor), plus ``a[s, t]`` unless ``fresh``; no wide: none was moved."""
    # a product of int32 takes half a shift's time
    times, right = np.int32(1 << max(exponent, 0)), np.int32(max(-exponent, 0))
    if wide.size == 0 and fresh and exponent >= 0:  # nearly always
        for j in range(total.size):
            total[j] = np.int32(np.int32(narrow[j]) * times)
    else:
        for j in range(total.size):
            x = np.int32(narrow[j])
            if wide.size > 0:
                x = np.int32(x + wide[j])
            x = np.int32(np.int32(x * times) >> right)
            total[j] = x if fresh else np.int32(a[s, t, j] + x)


@called
def wrapped(d):
    """A current cut to 24 bits (``arithmetic.current_step``)."""
    limit = np.int32(1 << 23)
    x = np.int32(d - 2 * limit) if d > limit else d
    return np.int32(x + 2 * limit) if x <= -limit else x


@called
def clipped(y):
    """A membrane at the ends of its 24 bits (``arithmetic.voltage_step``)."""
    limit = np.int32((1 << 23) - 1)
    return min(max(y, np.int32(-limit)), limit)


# Kernels index with (s, t, j) throughout: a view of a row costs as much as ten neurons.


@inlined
def fire(total, s, t, row, neurons):
    """One step of a layer with synaptic input ``total`` (the equations of :class:`~ottt_loihi.sim.network.LIF`).

    ``tz(x·k)`` is computed as ``int32(float64(x)·(k / 4096))``: the product of 32 and 13 bits is exact in float64, and
    the conversion truncates towards zero; it vectorises where a 64-bit integer product does not. ``bounded`` layers,
    nearly all, need no test of 24 bits, and without synaptic decay no u: that takes less than half the time. Counts
    are of 32 bits because the lanes are: one step of a layer cannot exceed them.
    """
    keep_u, keep_v, bounded, bias, vth, loop = neurons.constants
    _, u, v, messages, _, kept_u, kept_v, scores, readout, counts = neurons
    spikes, wraps, clips = np.int32(0), np.int32(0), np.int32(0)
    if loop.size > 0:
        for j in range(total.size):
            total[j] += loop[j] if messages[s, row - 1, j] else np.int32(0)
    if bounded and keep_u == 0.0:
        for j in range(total.size):
            x = np.int32(total[j] << 6)
            y = np.int32(np.int32(np.int32(np.float64(v[s, j]) * keep_v) + x) + bias[j])
            fires = y > vth[j]
            spikes += np.int32(fires)
            messages[s, row, j] = fires
            v[s, j] = np.int32(0) if fires else y
        if kept_u.size > 0:
            for j in range(total.size):
                u[s, j] = np.int32(total[j] << 6)
    elif bounded:
        for j in range(total.size):
            x = np.int32(np.int32(np.float64(u[s, j]) * keep_u) + np.int32(total[j] << 6))
            u[s, j] = x
            y = np.int32(np.int32(np.int32(np.float64(v[s, j]) * keep_v) + x) + bias[j])
            fires = y > vth[j]
            spikes += np.int32(fires)
            messages[s, row, j] = fires
            v[s, j] = np.int32(0) if fires else y
    else:
        for j in range(total.size):
            d = np.int32(np.int32(np.float64(u[s, j]) * keep_u) + np.int32(total[j] << 6))
            x = wrapped(d)
            wraps += np.int32(x != d)
            u[s, j] = x
            y = np.int32(np.int32(np.int32(np.float64(v[s, j]) * keep_v) + x) + bias[j])
            z = clipped(y)
            clips += np.int32(z != y)
            fires = z > vth[j]
            spikes += np.int32(fires)
            messages[s, row, j] = fires
            v[s, j] = np.int32(0) if fires else z
    counts[0] += spikes
    counts[3] += wraps
    counts[4] += clips
    if kept_u.size > 0:
        for j in range(total.size):
            kept_u[s, t, j] = u[s, j]
    if kept_v.size > 0:
        for j in range(total.size):
            kept_v[s, t, j] = v[s, j]
    if readout == 1:
        for j in range(total.size):
            scores[s, j] += v[s, j]
    elif readout == 2:
        for j in range(total.size):
            scores[s, j] = v[s, j]
    elif readout == 3:
        for j in range(total.size):
            scores[s, j] += messages[s, row, j]
    elif readout == 4:
        for j in range(total.size):
            scores[s, j] = max(scores[s, j], v[s, j])


@inlined
def finish(total, s, t, last, a, neurons):
    """Advance the neurons after the ``last`` connection; before it keep the sum in ``a`` for the next one."""
    if last:
        fire(total, s, t, neurons.first + t, neurons)
    else:
        for j in range(total.size):
            a[s, t, j] = total[j]


@compiled
def scan(a, neurons):
    """Advance neurons whose synaptic input has been added up, or add nothing to."""
    total = np.empty(a.shape[2], np.int32)
    for s in range(a.shape[0]):
        for t in range(a.shape[1]):
            for j in range(total.size):
                total[j] = a[s, t, j]
            finish(total, s, t, True, a, neurons)


@compiled
def rows(sent, first, table, limit, exponent, fresh, last, a, neurons):
    """A matrix: spike i adds ``table[i]``. table: ``(pre, ≥ neurons)``, zeros beyond."""
    samples, steps, size = a.shape
    width = table.shape[1]
    index = np.empty(sent.shape[2] + LISTED, np.int32)
    narrow, total = np.empty(width, np.int16), np.empty(size, np.int32)
    wide, nothing = np.empty(width, np.int32), np.empty(0, np.int32)
    for s in range(samples):
        for t in range(steps):
            count = active(sent, s, first + t, index)
            narrow[:] = 0
            if count > limit:
                wide[:] = 0
            begin = 0
            while begin < count:
                end = min(count, begin + limit)
                for to in range(0, width, LANES):
                    add_rows(narrow, to, table, index, begin, end, width, to)
                begin = end
                if begin < count:
                    move(narrow, wide)
            deliver(narrow, wide if count > limit else nothing, exponent, fresh, a, s, t, total)
            finish(total, s, t, last, a, neurons)


@compiled
def tiles(sent, first, tiles, strides, weight, limit, exponent, fresh, last, a, neurons):
    """A convolution: each spike adds a tile of ``weight`` to a tile of the output.

    tiles: uint32 ``(pre, 4)``: where a neuron's tile starts in the output and in ``weight``, its number of rows and
    their length. strides: from row to row, in the output and in ``weight``.
    """
    samples, steps, size = a.shape
    index = np.empty(sent.shape[2] + LISTED, np.int32)
    narrow, total = np.empty(size, np.int16), np.empty(size, np.int32)
    wide, nothing = np.empty(size, np.int32), np.empty(0, np.int32)
    out_stride, weight_stride = np.uint64(strides[0]), np.uint64(strides[1])
    for s in range(samples):
        for t in range(steps):
            count = active(sent, s, first + t, index)
            narrow[:] = 0
            if count > limit:
                wide[:] = 0
            full = limit
            for k in range(count):
                if k == full:
                    move(narrow, wide)
                    full += limit
                i = index[k]
                to, at, length = np.uint64(tiles[i, 0]), np.uint64(tiles[i, 1]), np.uint64(tiles[i, 3])
                for _ in range(tiles[i, 2]):
                    for j in range(length):
                        narrow[to + j] += np.int16(weight[at + j])
                    to += out_stride
                    at += weight_stride
            deliver(narrow, wide if count > limit else nothing, exponent, fresh, a, s, t, total)
            finish(total, s, t, last, a, neurons)


@inlined
def rank(position, bits, before):
    """The number of non-zero bytes before ``position``; bits and before: of each block (:func:`windows`)."""
    block, rest = np.uint64(position) // np.uint64(BLOCK), np.uint64(position) % np.uint64(BLOCK)
    return before[block] + np.int64(number(bits[block] & ((np.uint64(1) << rest) - np.uint64(1))))


@compiled
def windows(sent, first, base, chunks, width, weight, limit, exponent, fresh, last, a, neurons):
    """A convolution between layers that are channel last: each chunk of the output adds the spikes of its window.

    base: int32 ``(≥ pre,)``, where the weights of a neuron's spikes begin. width: neurons in a row of the source.
    chunks: int32 ``(n, 7)``, at most :data:`LANES` neurons of one row of the output each:

    - the first neuron, the number of neurons, and the offset that is added to ``base``;
    - the window in the source: its first row, the row behind its last one, and where it begins and ends in a row.

    A chunk may write past its end. The next chunk clears those sums, because chunks are in the order of their neurons.
    """
    samples, steps, size = a.shape
    index = np.empty(sent.shape[2] + LISTED, np.int32)
    bits, before = np.zeros(sent.shape[2] // BLOCK + 1, np.uint64), np.zeros(sent.shape[2] // BLOCK + 1, np.int64)
    narrow, total = np.empty(size + LANES, np.int16), np.empty(size, np.int32)
    wide, nothing = np.empty(size, np.int32), np.empty(0, np.int32)
    for s in range(samples):
        for t in range(steps):
            count = active(sent, s, first + t, index)
            for k in range(count):
                index[k] = base[index[k]]
            start = np.uint64(s * sent.strides[0] + (first + t) * sent.strides[1])
            for block in range(bits.size - 1):
                bits[block] = non_zero(sent, start + np.uint64(block * BLOCK))
                before[block + 1] = before[block] + np.int64(number(bits[block]))
            moved = False
            for c in range(len(chunks)):
                to, lanes, at = chunks[c, 0], chunks[c, 1], chunks[c, 2]
                narrow[to : to + LANES] = 0
                added = 0
                for y in range(chunks[c, 3], chunks[c, 4]):
                    begin = rank(y * width + chunks[c, 5], bits, before)
                    end = rank(y * width + chunks[c, 6], bits, before)
                    while begin < end:
                        together = min(end - begin, limit - added)
                        add_rows(narrow, to, weight, index, begin, begin + together, 1, at)
                        begin += together
                        added += together
                        if added == limit:
                            if not moved:
                                wide[:] = 0
                                moved = True
                            move(narrow[to : to + lanes], wide[to : to + lanes])
                            added = 0
            deliver(narrow, wide if moved else nothing, exponent, fresh, a, s, t, total)
            finish(total, s, t, last, a, neurons)


@compiled
def lists(sent, first, pointers, targets, weight, exponent, fresh, last, a, neurons):
    """Single synapses: spike i adds ``weight[k]`` to ``targets[k]``, k from ``pointers[i]`` to ``pointers[i + 1]``."""
    samples, steps, size = a.shape
    index = np.empty(sent.shape[2] + LISTED, np.int32)
    sums, total, nothing = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(0, np.int32)
    for s in range(samples):
        for t in range(steps):
            count = active(sent, s, first + t, index)
            sums[:] = 0
            for k in range(count):
                i = index[k]
                for synapse in range(pointers[i], pointers[i + 1]):
                    sums[targets[synapse]] += weight[synapse]
            deliver(sums, nothing, exponent, fresh, a, s, t, total)
            finish(total, s, t, last, a, neurons)


@compiled
def copy(x, begin, end, messages, first):
    """Copy steps ``begin`` to ``end`` of x, uint8 ``(samples, steps, size)``, to rows from ``first`` on; returns the
    union of all bits.
    """
    found = np.uint8(0)
    for s in range(x.shape[0]):
        for t in range(end - begin):
            row, target = x[s, begin + t], messages[s, first + t]
            for j in range(row.size):
                target[j] = row[j]
                found = np.uint8(found | row[j])  # |= is of 64 bits
    return found

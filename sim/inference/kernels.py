"""The simulator's inner loops, compiled by numba: a sample at a time, every time step of a block in one call.

Messages arrive as bytes, 0 or 1, eight to a ``uint64`` word, in arrays ``(samples, history + steps, words)``; step t of
a block reads row ``first + t``. Synaptic input leaves as ``out``, int32 ``(samples, steps, neurons)``, which the first
connection of a layer fills (``fresh``) and the others add to.

Event-driven accumulation adds one contiguous row of narrow weights per spike. Weights are int8 or int16, sums int16
until ``limit`` rows have been added, so that no sum can leave int16 (``limit = 32767 // max|w|``), then int32. Weights
that are all even are stored halved, which ``exponent`` makes up for.

All kernels release the GIL: threads run them on different samples. (numba's own threads are OpenMP's, after which a
process must not fork; Lava forks.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numba import njit

WORD = 8  # messages in a uint64
BYTE_OFFSETS = np.zeros((256, WORD), np.int32)  # for each set of non-zero bytes of a word: their places …
BYTE_COUNTS = np.zeros(256, np.uint64)  # … and their number
for _mask in range(256):
    _set = [bit for bit in range(WORD) if _mask >> bit & 1]
    BYTE_OFFSETS[_mask, : len(_set)] = _set
    BYTE_COUNTS[_mask] = len(_set)


def compiled(function: Callable[..., Any], parts: Sequence[ModuleType] = ()) -> Any:
    """``njit`` without the GIL, and with a cache on disk where there is a place for one.

    parts: other modules whose functions it calls. numba's cache knows a kernel's own file alone: without this, a change
    in theirs would leave old code running.
    """
    try:
        kernel = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no writable folder
        return njit(nogil=True)(function)
    if parts:
        index = kernel._cache._cache_file
        index._source_stamp = (index._source_stamp, *(_stamp(part) for part in parts))
    return kernel


def _stamp(module: ModuleType) -> tuple[int, int]:
    """Of a module's file, as numba stamps a kernel's own."""
    status = os.stat(str(module.__file__))
    return status.st_mtime_ns, status.st_size


def called(function: Callable[..., Any]) -> Any:
    """Part of a kernel, compiled once for all that call it; what is small LLVM inlines."""
    return njit(nogil=True)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Part of a kernel that runs for few neurons at a time: a call with three arrays costs as much as twenty of them.

    Its code is compiled anew wherever it is used, which takes seconds in a kernel of many parts.
    """
    return njit(nogil=True, inline="always")(function)


@inlined
def active(words, s, row, index):
    """Write the places of the non-zero bytes of ``words[s, row]`` into ``index``; returns their number.

    ``index`` needs room for one word more. Multiplying by 0x0102040810204080 gathers the lowest bits of a word's eight
    bytes in its top byte, whose table tells where they are. Four are written without a branch: no misprediction below
    half density. Unsigned arithmetic spares numba's test for negative indices.
    """
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    count = np.uint64(0)
    for k in range(words.shape[2]):
        mask = (words[s, row, k] * np.uint64(0x0102040810204080)) >> np.uint64(56)
        base = np.int32(WORD * k)
        a, b, c, d = BYTE_OFFSETS[mask, 0], BYTE_OFFSETS[mask, 1], BYTE_OFFSETS[mask, 2], BYTE_OFFSETS[mask, 3]
        index[count] = base + a
        index[count + one] = base + b
        index[count + two] = base + c
        index[count + three] = base + d
        found = BYTE_COUNTS[mask]
        if found > four:
            for bit in range(4, WORD):
                index[count + np.uint64(bit)] = base + BYTE_OFFSETS[mask, bit]
        count += found
    return np.int64(count)


@inlined
def move(narrow, wide):
    """Add the int16 sums to the int32 ones and clear them."""
    for j in range(narrow.size):
        wide[j] += np.int32(narrow[j])
        narrow[j] = 0


@inlined
def deliver(narrow, wide, exponent, fresh, out, s, t):
    """``out[s, t] = (narrow + wide) · 2^exponent`` (floor), or ``+=`` unless ``fresh``; no wide: nothing was moved."""
    left, right = np.int32(max(exponent, 0)), np.int32(max(-exponent, 0))
    if wide.size == 0 and fresh and exponent >= 0:  # nearly always
        for j in range(out.shape[2]):
            out[s, t, j] = np.int32(narrow[j]) << left
    else:
        for j in range(out.shape[2]):
            total = np.int32(narrow[j])
            if wide.size > 0:
                total = np.int32(total + wide[j])
            total = np.int32(np.int32(total << left) >> right)
            out[s, t, j] = total if fresh else np.int32(out[s, t, j] + total)


# Kernels index with (s, t, j) throughout: a view of a row costs as much as ten neurons.


@compiled
def accumulate_rows(words, first, rows, limit, exponent, fresh, out):
    """``out[s, t] = (Σ_i rows[i] over spikes i) · 2^exponent``: a matrix. rows: ``(pre, ≥ neurons)``, zeros beyond."""
    samples, steps, _ = out.shape
    width = rows.shape[1]
    index = np.empty(WORD * words.shape[2] + WORD, np.uint32)
    narrow = np.empty(width, np.int16)
    wide, nothing = np.empty(width, np.int32), np.empty(0, np.int32)
    for s in range(samples):
        for t in range(steps):
            count = active(words, s, first + t, index)
            narrow[:] = 0
            if count > limit:
                wide[:] = 0
            begin = 0
            while begin < count:
                end = min(count, begin + limit)
                k = begin
                while k + 4 <= end:  # four rows for each time the sums are read and written
                    a, b, c, d = index[k], index[k + 1], index[k + 2], index[k + 3]
                    for j in range(width):
                        ab = np.int16(np.int16(rows[a, j]) + np.int16(rows[b, j]))
                        cd = np.int16(np.int16(rows[c, j]) + np.int16(rows[d, j]))
                        narrow[j] += np.int16(ab + cd)
                    k += 4
                while k < end:
                    a = index[k]
                    for j in range(width):
                        narrow[j] += np.int16(rows[a, j])
                    k += 1
                begin = end
                if begin < count:
                    move(narrow, wide)
            deliver(narrow, wide if count > limit else nothing, exponent, fresh, out, s, t)


@compiled
def accumulate_tiles(words, first, tiles, strides, weight, limit, exponent, fresh, out):
    """A convolution: each spike adds a tile of ``weight`` to a tile of the output.

    tiles: uint32 ``(pre, 4)``: where a neuron's tile starts in the output and in ``weight``, its number of rows and
    their length; strides: from row to row, in the output and in ``weight``.
    """
    samples, steps, neurons = out.shape
    index = np.empty(WORD * words.shape[2] + WORD, np.uint32)
    narrow = np.empty(neurons, np.int16)
    wide, nothing = np.empty(neurons, np.int32), np.empty(0, np.int32)
    out_stride, weight_stride = np.uint64(strides[0]), np.uint64(strides[1])
    for s in range(samples):
        for t in range(steps):
            count = active(words, s, first + t, index)
            narrow[:] = 0
            if count > limit:
                wide[:] = 0
            for k in range(count):
                if k > 0 and k % limit == 0:
                    move(narrow, wide)
                i = index[k]
                to, at, length = np.uint64(tiles[i, 0]), np.uint64(tiles[i, 1]), np.uint64(tiles[i, 3])
                for _ in range(tiles[i, 2]):
                    for j in range(length):
                        narrow[to + j] += np.int16(weight[at + j])
                    to += out_stride
                    at += weight_stride
            deliver(narrow, wide if count > limit else nothing, exponent, fresh, out, s, t)


@compiled
def accumulate_lists(words, first, pointers, targets, weight, exponent, fresh, out):
    """Single synapses: spike i adds ``weight[k]`` to ``targets[k]``, k from ``pointers[i]`` to ``pointers[i + 1]``."""
    samples, steps, neurons = out.shape
    index = np.empty(WORD * words.shape[2] + WORD, np.uint32)
    sums, nothing = np.empty(neurons, np.int32), np.empty(0, np.int32)
    for s in range(samples):
        for t in range(steps):
            count = active(words, s, first + t, index)
            sums[:] = 0
            for k in range(count):
                i = index[k]
                for synapse in range(pointers[i], pointers[i + 1]):
                    sums[targets[synapse]] += weight[synapse]
            deliver(sums, nothing, exponent, fresh, out, s, t)


@compiled
def scan(a, u, v, messages, first, decay, bias, vth, loop, kept_u, kept_v, scores, readout, counts):
    """LIF neurons over a block of time steps (the equations of :class:`~ottt_loihi.sim.network.LIF`).

    ==============  ====================================  =========================================================
    a               int32 ``(samples, steps, neurons)``   synaptic input
    u, v            int32 ``(samples, neurons)``          states, updated
    messages        uint8 ``(samples, history + steps,    row ``first + t`` receives the spikes
                    ≥ neurons)``
    decay           two float64                           what u and v keep, multiples of 1/4096
    bias, vth       int32 ``(neurons,)``                  aligned to the state
    loop            int32 ``(neurons,)`` or empty         what a neuron's own spike adds to its input one step later
    kept_u, kept_v  int32, like ``a``, or empty           the states after each step
    scores          int64 ``(samples, neurons)``          readout 1: Σ v, 2: last v, 3: Σ s, 0: left alone
    counts          int64 ``(3,)``                        + spikes, currents that wrapped, membranes that were clipped
    ==============  ====================================  =========================================================

    ``tz(x·k)`` is computed as ``int32(float64(x)·(k / 4096))``: the product of 32 and 13 bits is exact in float64, and
    the conversion truncates towards zero; it vectorises where a 64-bit integer product does not.
    """
    samples, steps, neurons = a.shape
    keep_u, keep_v = decay
    limit = np.int32(1 << 23)
    spikes, wraps, clips = 0, 0, 0
    for s in range(samples):
        for t in range(steps):
            row = first + t
            if loop.size > 0:
                for j in range(neurons):
                    a[s, t, j] += loop[j] if messages[s, row - 1, j] else np.int32(0)
            for j in range(neurons):
                d = np.int32(np.int32(np.float64(u[s, j]) * keep_u) + np.int32(a[s, t, j] << 6))
                x = np.int32(d - 2 * limit) if d > limit else d
                x = np.int32(d + 2 * limit) if x <= -limit else x
                wraps += x != d
                u[s, j] = x
                y = np.int32(np.int32(np.int32(np.float64(v[s, j]) * keep_v) + x) + bias[j])
                z = min(max(y, np.int32(1 - limit)), np.int32(limit - 1))
                clips += z != y
                fires = z > vth[j]
                spikes += fires
                messages[s, row, j] = fires
                v[s, j] = np.int32(0) if fires else z
            if kept_u.size > 0:
                for j in range(neurons):
                    kept_u[s, t, j] = u[s, j]
            if kept_v.size > 0:
                for j in range(neurons):
                    kept_v[s, t, j] = v[s, j]
            if readout == 1:
                for j in range(neurons):
                    scores[s, j] += v[s, j]
            elif readout == 2:
                for j in range(neurons):
                    scores[s, j] = v[s, j]
            elif readout == 3:
                for j in range(neurons):
                    scores[s, j] += messages[s, row, j]
    counts[0] += spikes
    counts[1] += wraps
    counts[2] += clips

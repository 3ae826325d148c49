"""Products with inputs of which few are not 0, on the CPU: rows of weights are added up, zeros cost next to nothing.

The float32 product of a library works at the machine's peak, so these loops win by what they leave out: below about 0.3
in fully connected layers, 0.4 in convolutions (``benchmarks/events.py``). All of them consist of :func:`_add_events`,
whose sums stay in registers until the last event. All release the GIL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

ROWS_AT_ONCE = 128  # of add_rows and add_outer; measured: 64 makes no difference, 256 cost up to 15 % more
_COMPILED = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract"}}
# sums in registers at the same time; together they are the row of a patch of 3 × 32 weights, and fit AVX2's registers
_BLOCK, _FEWER = np.uint64(96), np.uint64(32)


@intrinsic(prefer_literal=True)
def _add_block(
    typingctx: Any, out: Any, at: Any, rows: Any, first: Any, place: Any, value: Any, begin: Any, end: Any, n: Any
):
    """As :func:`_add_events` for ``n`` neighbouring sums in registers, 32 or 96: LLVM takes vectors of 2^k numbers."""
    lanes = {96: (64, 32), 32: (32,)}[n.literal_value]

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at, first, begin, end = (arguments[k] for k in (1, 3, 6, 7))
        out, rows, place, value = (
            context.make_array(signature.args[k])(context, builder, arguments[k]).data for k in (0, 2, 4, 5)
        )
        align = signature.args[0].dtype.bitwidth // 8

        def vectors(array: Any, index: Any) -> list[Any]:
            kinds = [ir.VectorType(array.type.pointee, count) for count in lanes]
            starts = [builder.gep(array, [builder.add(index, index.type(offset))]) for offset in (0, 64)]
            return [builder.bitcast(start, kind.as_pointer()) for start, kind in zip(starts, kinds)]

        targets = vectors(out, at)
        sums = [cgutils.alloca_once_value(builder, builder.load(target, align=align)) for target in targets]
        with cgutils.for_range_slice(builder, begin, end, begin.type(1), begin.type) as (k, _):
            factor = builder.load(builder.gep(value, [k]))
            place_k = builder.add(builder.load(builder.gep(place, [k])), first)
            for total, row, count in zip(sums, vectors(rows, place_k), lanes):
                added = builder.load(row, align=align)
                one = builder.insert_element(ir.Constant(added.type, ir.Undefined), factor, ir.IntType(32)(0))
                each = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), count), None))
                product = builder.fmul(each, added, ("contract",))
                builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
        for total, target in zip(sums, targets):
            builder.store(builder.load(total), target, align=align)
        return context.get_dummy_value()

    return types.void(out, at, rows, first, place, value, begin, end, n), codegen


@njit(inline="always", **_COMPILED)
def _add_events(out, at, rows, first, place, value, begin, end, length):
    """``out[at + j] += Σ_k value[k]·rows[place[k] + first + j]`` for k from ``begin`` to ``end``, and j < ``length``.

    All arrays are flat, and all numbers uint64.
    """
    j = np.uint64(0)
    while j + _BLOCK <= length:
        _add_block(out, at + j, rows, first + j, place, value, begin, end, 96)
        j += _BLOCK
    while j + _FEWER <= length:
        _add_block(out, at + j, rows, first + j, place, value, begin, end, 32)
        j += _FEWER
    if j < length:
        for k in range(begin, end):
            of, factor = place[k] + first, value[k]
            for i in range(j, length):
                out[at + i] += factor * rows[of + i]


@njit(**_COMPILED)
def count(x):
    """Return the number of values of a flat array that are not 0; torch's ``count_nonzero`` took 90 times as long."""
    found = np.int64(0)
    for i in range(np.uint64(x.size)):
        found += np.int64(x[i] != 0)
    return found


@njit(**_COMPILED)
def add_rows(x, weights, bias, out):
    """``out[r] = bias + Σ_i x[r, i]·weights[i]`` over the i whose x is not 0.

    It takes ``ROWS_AT_ONCE`` rows for ``_BLOCK`` columns at a time, so that these weights stay in the core's cache.
    """
    inputs, width = np.uint64(x.shape[1]), np.uint64(weights.shape[1])
    most = np.uint64(min(x.shape[0], ROWS_AT_ONCE)) * inputs + np.uint64(1)
    place, value, ends = np.empty(most, np.uint64), np.empty(most, x.dtype), np.zeros(ROWS_AT_ONCE + 1, np.uint64)
    flat_weights, flat_out = weights.reshape(-1), out.reshape(-1)
    for first in range(0, x.shape[0], ROWS_AT_ONCE):
        rows, n = min(x.shape[0] - first, ROWS_AT_ONCE), np.uint64(0)
        for r in range(rows):
            for i in range(inputs):  # without a branch, which would be mispredicted at every event
                place[n], value[n] = i * width, x[first + r, i]
                n += np.uint64(x[first + r, i] != 0)
            ends[r + 1] = n
            out[first + r] = bias
        for j in range(np.uint64(0), width, _BLOCK):
            length = min(width - j, _BLOCK)
            for r in range(rows):
                at = np.uint64(first + r) * width + j
                _add_events(flat_out, at, flat_weights, j, place, value, ends[r], ends[r + 1], length)


@njit(**_COMPILED)
def add_outer(x, g, out):
    """``out[i] += Σ_r x[r, i]·g[r]`` over the r whose x is not 0.

    So many rows at once as a core's own cache holds.
    """
    for first in range(0, x.shape[0], ROWS_AT_ONCE):
        last = min(first + ROWS_AT_ONCE, x.shape[0])
        _add_outer(x[first:last], g[first:last].reshape(-1), out.reshape(-1), np.uint64(out.shape[1]))


@njit(**_COMPILED)
def _add_outer(x, g, out, width):
    rows, inputs = np.uint64(x.shape[0]), np.uint64(x.shape[1])
    one, two = np.uint64(1), np.uint64(2)
    column = np.empty(rows * inputs + one, np.uint32)  # of each event, row after row
    ends, n = np.empty(rows, np.uint64), np.uint64(0)
    for r in range(rows):
        for i in range(inputs):  # without a branch, which would be mispredicted at every event
            column[n] = i
            n += np.uint64(x[r, i] != 0)
        ends[r] = n
    start = np.zeros(inputs + two, np.uint64)  # of each input's events, once they are sorted by inputs
    for k in range(n):
        start[column[k] + two] += one
    for i in range(inputs):
        start[i + two] += start[i + one]
    place, value, k = np.empty(n, np.uint64), np.empty(n, x.dtype), np.uint64(0)
    for r in range(rows):
        while k < ends[r]:
            i = column[k] + one
            place[start[i]], value[start[i]] = r * width, x[r, column[k]]
            start[i] += one
            k += one
    for j in range(np.uint64(0), width, _BLOCK):
        length = min(width - j, _BLOCK)
        for i in range(inputs):
            _add_events(out, i * width + j, g, j, place, value, start[i], start[i + one], length)


@njit(**_COMPILED)
def add_patches(x, weights, out, images, size, kernel, padding):
    """A convolution of stride 1: every event adds its patch of weights to the outputs around it.

    Parameters
    ----------
    x
        flat ``(images, height, width, inputs)``, ``size`` = (height, width, inputs, outputs)
    weights
        flat ``(kernel, inputs, kernel·outputs)``, :func:`patches`
    out
        flat ``(images, out_height, out_width, outputs)``, filled
    """
    height, width, inputs, outputs = size
    reach = kernel - 1
    wide, cut = np.uint64((width + reach) * outputs), np.uint64(reach - padding)
    rows, row = height + 2 * padding - reach, np.uint64((width + 2 * padding - reach) * outputs)
    length, plane, none = np.uint64(kernel * outputs), np.uint64(inputs * kernel * outputs), np.uint64(0)
    sums = np.empty((height + reach) * (width + reach) * outputs, x.dtype)  # with the outputs beyond the image's edge
    patch, value = np.empty(inputs + 1, np.uint64), np.empty(inputs + 1, x.dtype)
    of, to = np.uint64(0), np.uint64(0)
    for _ in range(images):
        sums[:] = 0
        for y in range(np.uint64(height)):
            for column in range(np.uint64(width)):
                n = np.uint64(0)
                for c in range(np.uint64(inputs)):  # without a branch, which would be mispredicted at every event
                    patch[n], value[n] = c * length, x[of + c]
                    n += np.uint64(x[of + c] != 0)
                of += np.uint64(inputs)
                at, first = y * wide + column * np.uint64(outputs), np.uint64(0)
                for _ in range(kernel if n > 0 else 0):
                    _add_events(sums, at, weights, first, patch, value, none, n, length)
                    at += wide
                    first += plane
        for y in range(np.uint64(rows)):
            at = (y + cut) * wide + cut * np.uint64(outputs)
            for j in range(row):
                out[to + j] = sums[at + j]
            to += row


@njit(**_COMPILED)
def add_patch_gradients(x, g, out, images, size, kernel, padding):
    """``∂L/∂weights`` of :func:`add_patches`, added to ``out`` in the order of its weights; g: ∂L/∂out, flat."""
    height, width, inputs, outputs = size
    reach = kernel - 1
    wide, cut = np.uint64((width + reach) * outputs), np.uint64(reach - padding)
    rows, row = height + 2 * padding - reach, np.uint64((width + 2 * padding - reach) * outputs)
    length, depth, none = np.uint64(kernel * outputs), np.uint64(inputs), np.uint64(0)
    edged = np.zeros((height + reach) * (width + reach) * outputs, x.dtype)  # g, and zeros around it
    place, value = np.empty(height * width + 1, np.uint64), np.empty(height * width + 1, x.dtype)
    of, to = np.uint64(0), np.uint64(0)
    for _ in range(images):
        for y in range(np.uint64(rows)):
            at = (y + cut) * wide + cut * np.uint64(outputs)
            for j in range(row):
                edged[at + j] = g[to + j]
            to += row
        for c in range(depth):
            n, pixel = np.uint64(0), of + c
            for y in range(np.uint64(height)):
                for column in range(np.uint64(width)):  # without a branch, which would be mispredicted at every event
                    place[n], value[n] = y * wide + column * np.uint64(outputs), x[pixel]
                    n += np.uint64(x[pixel] != 0)
                    pixel += depth
            for y in range(np.uint64(kernel)):
                _add_events(out, (y * depth + c) * length, edged, y * wide, place, value, none, n, length)
        of += np.uint64(height * width) * depth


def patches(weight: np.ndarray) -> np.ndarray:
    """A convolution's weight ``(out, in, k, k)`` as the patch an event adds: ``(k, in, k·out)``, turned by 180°."""
    turned = weight[:, :, ::-1, ::-1].transpose(2, 1, 3, 0)
    return np.ascontiguousarray(turned).reshape(weight.shape[2], weight.shape[1], -1)


def of_patches(patch: np.ndarray, outputs: int) -> np.ndarray:
    """The inverse of :func:`patches`."""
    kernel, inputs, _ = patch.shape
    return patch.reshape(kernel, inputs, kernel, outputs).transpose(3, 1, 0, 2)[:, :, ::-1, ::-1]

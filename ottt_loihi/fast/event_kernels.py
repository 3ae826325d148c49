"""Products with inputs of which few are not 0, on the CPU: rows of weights are added up, zeros cost next to nothing.

The float32 product of a library works at the machine's peak, so these loops win by what they leave out: below about 0.3
in fully connected layers, 0.15 in convolutions (``benchmarks/events.py``). Everything inside the inner loops
is contiguous; four rows are added at a time, so that sums are read and written once for four. All release the GIL.
"""

from __future__ import annotations

import numpy as np
from numba import njit

ROWS_AT_ONCE = 128  # of add_outer; measured: 64 to 256 make no difference, 1,024 cost half as much again
_COMPILED = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract"}}


@njit(**_COMPILED)
def count(x):
    """Return the number of values of a flat array that are not 0; torch's ``count_nonzero`` took 90 times as long."""
    found = np.int64(0)
    for i in range(np.uint64(x.size)):
        found += np.int64(x[i] != 0)
    return found


@njit(**_COMPILED)
def add_rows(x, weights, bias, out):
    """``out[r] = bias + Σ_i x[r, i]·weights[i]`` over the i whose x is not 0."""
    inputs, width = np.uint64(x.shape[1]), np.uint64(weights.shape[1])
    index = np.empty(inputs + np.uint64(1), np.uint64)
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    for r in range(x.shape[0]):
        n = np.uint64(0)
        for i in range(inputs):  # without a branch, which would be mispredicted at every event
            index[n] = i
            n += np.uint64(x[r, i] != 0)
        k = np.uint64(0)
        to = out[r]
        for j in range(width):
            to[j] = bias[j]
        while k + four <= n:
            a, b, c, d = index[k], index[k + one], index[k + two], index[k + three]
            xa, xb, xc, xd = x[r, a], x[r, b], x[r, c], x[r, d]
            wa, wb, wc, wd = weights[a], weights[b], weights[c], weights[d]
            for j in range(width):
                to[j] += (xa * wa[j] + xb * wb[j]) + (xc * wc[j] + xd * wd[j])
            k += four
        while k < n:
            xa, wa = x[r, index[k]], weights[index[k]]
            for j in range(width):
                to[j] += xa * wa[j]
            k += one


@njit(**_COMPILED)
def add_outer(x, g, out):
    """``out[i] += Σ_r x[r, i]·g[r]`` over the r whose x is not 0.

    So many rows at once as a core's own cache holds.
    """
    for first in range(0, x.shape[0], ROWS_AT_ONCE):
        last = min(first + ROWS_AT_ONCE, x.shape[0])
        _add_outer(x[first:last], g[first:last], out)


@njit(**_COMPILED)
def _add_outer(x, g, out):
    rows, inputs, width = np.uint64(x.shape[0]), np.uint64(x.shape[1]), np.uint64(g.shape[1])
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
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
    row, k = np.empty(n, np.uint32), np.uint64(0)
    for r in range(rows):
        while k < ends[r]:
            i = column[k] + one
            row[start[i]] = r
            start[i] += one
            k += one
    for i in range(inputs):
        k, end = start[i], start[i + one]
        to = out[i]
        while k + four <= end:
            a, b, c, d = row[k], row[k + one], row[k + two], row[k + three]
            xa, xb, xc, xd = x[a, i], x[b, i], x[c, i], x[d, i]
            ga, gb, gc, gd = g[a], g[b], g[c], g[d]
            for j in range(width):
                to[j] += (xa * ga[j] + xb * gb[j]) + (xc * gc[j] + xd * gd[j])
            k += four
        while k < end:
            xa, ga = x[row[k], i], g[row[k]]
            for j in range(width):
                to[j] += xa * ga[j]
            k += one


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
    length, plane = np.uint64(kernel * outputs), np.uint64(inputs * kernel * outputs)
    sums = np.empty((height + reach) * (width + reach) * outputs, x.dtype)  # with the outputs beyond the image's edge
    patch, value = np.empty(inputs + 1, np.uint64), np.empty(inputs + 1, x.dtype)
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
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
                    k = np.uint64(0)
                    while k + four <= n:
                        a, b, c, d = patch[k], patch[k + one], patch[k + two], patch[k + three]
                        a, b, c, d = a + first, b + first, c + first, d + first
                        xa, xb, xc, xd = value[k], value[k + one], value[k + two], value[k + three]
                        for j in range(length):
                            near, far = (
                                xa * weights[a + j] + xb * weights[b + j],
                                xc * weights[c + j] + xd * weights[d + j],
                            )
                            sums[at + j] += near + far
                        k += four
                    while k < n:
                        a, xa = patch[k] + first, value[k]
                        for j in range(length):
                            sums[at + j] += xa * weights[a + j]
                        k += one
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
    length = np.uint64(kernel * outputs)
    edged = np.zeros((height + reach) * (width + reach) * outputs, x.dtype)  # g, and zeros around it
    place = np.empty((inputs, height * width + 4), np.uint64)
    value = np.empty((inputs, height * width + 4), x.dtype)
    count = np.empty(inputs, np.uint64)
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    of, to = np.uint64(0), np.uint64(0)
    for _ in range(images):
        for y in range(np.uint64(rows)):
            at = (y + cut) * wide + cut * np.uint64(outputs)
            for j in range(row):
                edged[at + j] = g[to + j]
            to += row
        count[:] = 0
        for y in range(np.uint64(height)):
            for column in range(np.uint64(width)):
                at = y * wide + column * np.uint64(outputs)
                for c in range(np.uint64(inputs)):
                    n = count[c]
                    place[c, n], value[c, n] = at, x[of + c]
                    count[c] = n + np.uint64(x[of + c] != 0)
                of += np.uint64(inputs)
        for c in range(np.uint64(inputs)):
            n = count[c]
            while n & three:  # whole groups of four; what fills them up counts 0
                place[c, n], value[c, n] = place[c, np.uint64(0)], 0
                n += one
            for y in range(np.uint64(kernel)):
                first, at = (y * np.uint64(inputs) + c) * length, y * wide
                k = np.uint64(0)
                while k < n:
                    a, b = place[c, k] + at, place[c, k + one] + at
                    e, d = place[c, k + two] + at, place[c, k + three] + at
                    xa, xb, xe, xd = value[c, k], value[c, k + one], value[c, k + two], value[c, k + three]
                    for j in range(length):
                        near = xa * edged[a + j] + xb * edged[b + j]
                        out[first + j] += near + (xe * edged[e + j] + xd * edged[d + j])
                    k += four


def patches(weight: np.ndarray) -> np.ndarray:
    """A convolution's weight ``(out, in, k, k)`` as the patch an event adds: ``(k, in, k·out)``, turned by 180°."""
    turned = weight[:, :, ::-1, ::-1].transpose(2, 1, 3, 0)
    return np.ascontiguousarray(turned).reshape(weight.shape[2], weight.shape[1], -1)


def of_patches(patch: np.ndarray, outputs: int) -> np.ndarray:
    """The inverse of :func:`patches`."""
    kernel, inputs, _ = patch.shape
    return patch.reshape(kernel, inputs, kernel, outputs).transpose(3, 1, 0, 2)[:, :, ::-1, ::-1]

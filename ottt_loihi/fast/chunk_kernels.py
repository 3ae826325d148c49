"""Neurons and traces over several time steps at once, on the CPU: each value is read once and written once.

Arrays are flat. A layer's states lie as ``(samples, steps, height, width, channels)``, channels last; neurons without
an image have height = width = 1. ``shape`` is ``(height, width, channels, pool_height, pool_width)``: spikes leave
averaged over windows of the last two, the error comes back at that resolution, and rows and columns that fill no window
have no effect. The loops run over whole rows of an image, so that they vectorise; all release the GIL.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

_COMPILED = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract"}}


@intrinsic
def _float_of_bits(typingctx: Any, bits: Any) -> Any:
    """The float32 whose bits an int32 holds."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), codegen


def _exp_of_minus(a):  # type: ignore[no-untyped-def]
    """``e^−a`` for 0 ≤ a ≤ 80."""
    raise NotImplementedError  # compiled code only


@overload(_exp_of_minus, inline="always")
def _choose_exp_of_minus(a):  # type: ignore[no-untyped-def]
    """float32: ``2^n·e^r``, n an integer, |r| ≤ ½·ln 2, e^r its Taylor polynomial: within 2 ulp, and vectorises."""
    if a is not types.float32:
        return lambda a: math.exp(-a)

    def of_float32(a):  # type: ignore[no-untyped-def]
        n = np.int32(np.float32(-1.44269504) * a - np.float32(0.5))  # towards 0: the nearest integer
        r = -a - np.float32(n) * np.float32(0.693359375) + np.float32(n) * np.float32(2.12194440e-4)
        e = np.float32(1 / 720) * r + np.float32(1 / 120)
        e = e * r + np.float32(1 / 24)
        e = e * r + np.float32(1 / 6)
        e = e * r + np.float32(0.5)
        e = e * r + np.float32(1)
        e = e * r + np.float32(1)
        return e * _float_of_bits(np.int32((n + np.int32(127)) << np.int32(23)))

    return of_float32


@njit(**_COMPILED)
def fire(current, u, v, mask, out, samples, steps, shape, constants, zero_reset):
    """Charge, fire, reset and pool (``neurons.LIF``).

    Parameters
    ----------
    current
        I of all steps where it is constant; empty where u holds I of every step
    u
        becomes u before the reset
    v
        ``(samples, …)``, v[t−1], becomes that of the last step
    mask
        of the dropout, like v, or empty
    out
        filled with the pooled spikes
    constants
        λ, Vth, largest u that does not fire
    """
    height, width, channels, down, across = shape
    beta, v_threshold, above = constants
    one, zero = u.dtype.type(1), u.dtype.type(0)
    row, size = np.uint64(width * channels), np.uint64(height * width * channels)
    columns, depth = np.uint64(width // across), np.uint64(channels)
    pooled_row = columns * depth
    spikes = np.empty(width * channels, u.dtype)
    factor = u.dtype.type(1 / (down * across))
    pools, masked, constant = down * across > 1, mask.size > 0, current.size > 0
    place = np.uint64(0)
    for i in range(np.uint64(samples)):
        for t in range(np.uint64(steps)):
            for y in range(height):
                to = (i * np.uint64(steps) + t) * size + np.uint64(y) * row
                at = i * size + np.uint64(y) * row
                if constant:
                    for j in range(row):
                        u[to + j] = current[at + j]
                if zero_reset:  # apart: with one loop for both, short rows took up to a fifth longer
                    for j in range(row):
                        membrane = beta * v[at + j] + u[to + j]
                        s = one if membrane > above else zero
                        u[to + j] = membrane
                        spikes[j] = s
                        v[at + j] = membrane * (one - s)
                else:
                    for j in range(row):
                        membrane = beta * v[at + j] + u[to + j]
                        s = one if membrane > above else zero
                        u[to + j] = membrane
                        spikes[j] = s
                        v[at + j] = membrane - v_threshold * s
                if masked:
                    for j in range(row):
                        spikes[j] *= mask[at + j]
                if not pools:
                    for j in range(row):
                        out[place + j] = spikes[j]
                    place += row
                elif y < height // down * down:
                    if y % down == 0:
                        for j in range(pooled_row):
                            out[place + j] = zero
                    for x in range(columns):
                        for dx in range(np.uint64(across)):
                            for c in range(depth):
                                out[place + x * depth + c] += spikes[(x * np.uint64(across) + dx) * depth + c]
                    if y % down == down - 1:
                        for j in range(pooled_row):
                            out[place + j] *= factor
                        place += pooled_row


@njit(**_COMPILED)
def error(u, g, mask, lengths, total, samples, steps, shape, v_threshold, kind, parameter):
    """``∂L/∂I = ∂L/∂s·f(u)``, written over u; g: of the pooled spikes, its windows' mean still to be taken.

    Parameters
    ----------
    total
        ``(samples, …)``, ``Σ_t lengths[t]·∂L/∂I[t]`` is added to it; or empty
    kind, parameter
        of the surrogate (``lif.surrogate_constants``)
    """
    height, width, channels, down, across = shape
    one, zero = u.dtype.type(1), u.dtype.type(0)
    row, size = np.uint64(width * channels), np.uint64(height * width * channels)
    columns, depth = np.uint64(width // across), np.uint64(channels)
    pooled_row = columns * depth
    spread = np.zeros(width * channels, u.dtype)
    factor = u.dtype.type(1 / (down * across))
    pools, masked, sums = down * across > 1, mask.size > 0, total.size > 0
    place = np.uint64(0)
    for i in range(np.uint64(samples)):
        for t in range(np.uint64(steps)):
            for y in range(height):
                to = (i * np.uint64(steps) + t) * size + np.uint64(y) * row
                at = i * size + np.uint64(y) * row
                if not pools:
                    for j in range(row):
                        spread[j] = g[place + j]
                    place += row
                elif y >= height // down * down:
                    for j in range(row):
                        spread[j] = zero
                elif y % down == 0:
                    for x in range(columns):
                        for dx in range(np.uint64(across)):
                            for c in range(depth):
                                spread[(x * np.uint64(across) + dx) * depth + c] = factor * g[place + x * depth + c]
                    place += pooled_row
                if kind == 0:
                    for j in range(row):
                        e = _exp_of_minus(min(parameter * abs(u[to + j] - v_threshold), u.dtype.type(80)))
                        u[to + j] = spread[j] * (parameter * e / ((one + e) * (one + e)))
                elif kind == 1:
                    for j in range(row):
                        u[to + j] = spread[j] if abs(u[to + j] - v_threshold) < parameter else zero
                else:
                    for j in range(row):
                        slope = one - abs(u[to + j] - v_threshold) / v_threshold
                        u[to + j] = spread[j] * slope if slope > zero else zero
                if masked:
                    for j in range(row):
                        u[to + j] *= mask[at + j]
                if sums:
                    for j in range(row):
                        total[at + j] += lengths[t] * u[to + j]


@njit(**_COMPILED)
def follow(x, trace, out, beta, samples, steps, size):
    """``â[t] = λ·â[t−1] + x[t]`` for every step, into ``out``; not kept where that is empty.

    trace: ``(samples, size)``, â of the step before, becomes that of the last one
    """
    keeps = out.size > 0
    for i in range(np.uint64(samples)):
        at = i * np.uint64(size)
        for t in range(np.uint64(steps)):
            to = (i * np.uint64(steps) + t) * np.uint64(size)
            for j in range(np.uint64(size)):
                now = beta * trace[at + j] + x[to + j]
                trace[at + j] = now
                if keeps:
                    out[to + j] = now


@njit(**_COMPILED)
def look_ahead(g, beta, samples, steps, size):
    """``G[t] = g[t] + λ·G[t+1]``, from the last step to the first, over g.

    With it ``Σ_t g[t]·â[t]ᵀ = Σ_t G[t]·x[t]ᵀ + λ·G[first]·â[before]ᵀ``: the products with the trace, which has hardly a
    zero, become products with the spikes, which are mostly zeros.
    """
    for i in range(np.uint64(samples)):
        for back in range(1, steps):
            to = (i * np.uint64(steps) + np.uint64(steps - 1 - back)) * np.uint64(size)
            for j in range(np.uint64(size)):
                g[to + j] += beta * g[to + np.uint64(size) + j]

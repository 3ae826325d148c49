"""The LIF step in one pass over memory, on the CPU: what online rules spend most of a convolutional network's time on.

Compiled with numba, bit for bit :class:`~ottt_loihi.nn.neurons.LIF`. The loops work on flat memory, so any dense
layout does, channels-last too. They run on one core: a loop takes a tenth of a millisecond for half a million neurons,
less than torch's own threads need to make room for others.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from ottt_loihi.fast.lif import KINDS, like, surrogate_constants
from ottt_loihi.nn.surrogates import Rectangle, Sigmoid


@numba.njit(nogil=True, cache=True)
def _subtract(u, v, s, beta, v_threshold, above):  # type: ignore[no-untyped-def]
    one, zero = s.dtype.type(1), s.dtype.type(0)
    for i in range(u.size):
        membrane = beta * v[i] + u[i]
        fired = one if membrane > above else zero
        u[i] = membrane
        s[i] = fired
        v[i] = membrane - v_threshold * fired


@numba.njit(nogil=True, cache=True)
def _to_zero(u, v, s, beta, v_threshold, above):  # type: ignore[no-untyped-def]
    one, zero = s.dtype.type(1), s.dtype.type(0)
    for i in range(u.size):
        membrane = beta * v[i] + u[i]
        fired = one if membrane > above else zero
        u[i] = membrane
        s[i] = fired
        v[i] = membrane * (one - fired)


@numba.njit(nogil=True, cache=True)
def _times_rectangle(u, g, v_threshold, reach):  # type: ignore[no-untyped-def]
    for i in range(u.size):
        u[i] = g[i] if abs(u[i] - v_threshold) < reach else u.dtype.type(0)


@numba.njit(nogil=True, cache=True)
def _times_triangle(u, g, v_threshold):  # type: ignore[no-untyped-def]
    for i in range(u.size):
        slope = u.dtype.type(1) - abs(u[i] - v_threshold) / v_threshold
        u[i] = g[i] * slope if slope > 0 else u.dtype.type(0)


@numba.njit(nogil=True, cache=True)
def _times_logistic(sigma, g, alpha):  # type: ignore[no-untyped-def]
    for i in range(sigma.size):
        sigma[i] = g[i] * (alpha * sigma[i] * (sigma.dtype.type(1) - sigma[i]))


def charge_fire_reset(u: Tensor, v: Tensor, s: Tensor, neuron: Any) -> None:
    """One step, in place: u is I[t] and becomes u[t], v is v[t−1] and becomes v[t], s[t] is written into s."""
    loop = _subtract if neuron.reset == "subtract" else _to_zero
    loop(_flat(u), _flat(v), _flat(s), *constants(u, neuron))


def constants(u: Tensor, neuron: Any) -> tuple[Any, Any, Any]:
    """λ, Vth, and the largest u that does not fire, of u's type."""
    kind = np.float32 if u.dtype == torch.float32 else np.float64
    v_threshold = kind(neuron.v_threshold)
    above = np.nextafter(v_threshold, kind(-np.inf)) if neuron.convention == "authors" else v_threshold  # u ≥ Vth too
    return kind(neuron.beta), v_threshold, above


def times_surrogate(g: Tensor, u: Tensor, neuron: Any) -> Tensor:
    """``g·f(u)``, written over u."""
    g, number = like(g, u), np.float32 if u.dtype == torch.float32 else np.float64
    kind, parameter = surrogate_constants(neuron, number)
    if KINDS[kind] is Sigmoid:
        u.sub_(neuron.v_threshold).mul_(neuron.surrogate.slope).sigmoid_()  # torch's is vectorised
        _times_logistic(_flat(u), _flat(g), parameter)
    elif KINDS[kind] is Rectangle:
        _times_rectangle(_flat(u), _flat(g), number(neuron.v_threshold), parameter)
    else:
        _times_triangle(_flat(u), _flat(g), number(neuron.v_threshold))
    return u


def _flat(x: Tensor) -> np.ndarray:
    """The memory of a dense tensor, whatever its axes' order."""
    return torch.as_strided(x.detach(), (x.numel(),), (1,), x.storage_offset()).numpy()

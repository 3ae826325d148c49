"""The LIF step in one pass over memory, on a GPU: what :mod:`ottt_loihi.fast.lif_kernels` is on the CPU, in Triton.

Triton comes with torch's builds for GPUs. float32 only. A compiler may contract λ·v + I to one operation that rounds
once; where λ is a power of two that changes nothing, and u and s are :class:`~ottt_loihi.nn.neurons.LIF`'s bit for
bit.
"""

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from ottt_loihi.fast.lif import constants, like, surrogate_constants

BLOCK = 1024


@triton.jit
def _charge_fire_reset(u_ptr, v_ptr, s_ptr, n, beta, v_threshold, above, TO_ZERO: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    u = beta * tl.load(v_ptr + i, mask=inside) + tl.load(u_ptr + i, mask=inside)
    fired = tl.where(u > above, 1.0, 0.0)
    tl.store(u_ptr + i, u, mask=inside)
    tl.store(s_ptr + i, fired, mask=inside)
    v = u * (1.0 - fired) if TO_ZERO else u - v_threshold * fired
    tl.store(v_ptr + i, v, mask=inside)


@triton.jit
def _times_surrogate(g_ptr, u_ptr, n, v_threshold, parameter, KIND: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    g = tl.load(g_ptr + i, mask=inside)
    beyond = tl.load(u_ptr + i, mask=inside) - v_threshold
    if KIND == 0:
        sigma = 1.0 / (1.0 + tl.exp(-parameter * beyond))
        slope = parameter * sigma * (1.0 - sigma)
    elif KIND == 1:
        slope = tl.where(tl.abs(beyond) < parameter, 1.0, 0.0)
    else:
        slope = 1.0 - tl.abs(beyond) / v_threshold
        slope = tl.where(slope > 0.0, slope, 0.0)
    tl.store(u_ptr + i, g * slope, mask=inside)


def charge_fire_reset(u: Tensor, v: Tensor, s: Tensor, neuron: Any) -> None:
    """One step, in place: u is I[t] and becomes u[t], v is v[t−1] and becomes v[t], s[t] is written into s."""
    with torch.cuda.device_of(u):
        _charge_fire_reset[_grid(u)](
            u, v, s, u.numel(), *map(float, constants(neuron, np.float32)), TO_ZERO=neuron.reset == "zero", BLOCK=BLOCK
        )


def times_surrogate(g: Tensor, u: Tensor, neuron: Any) -> Tensor:
    """``g·f(u)``, written over u."""
    kind, parameter = surrogate_constants(neuron, np.float32)
    with torch.cuda.device_of(u):
        _times_surrogate[_grid(u)](
            like(g, u), u, u.numel(), neuron.v_threshold, float(parameter), KIND=kind, BLOCK=BLOCK
        )
    return u


def _grid(u: Tensor) -> tuple[int]:
    return (triton.cdiv(u.numel(), BLOCK),)

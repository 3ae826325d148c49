"""The neuron's step in one pass over memory: for rules whose every step has its backward pass at once."""

from __future__ import annotations

import warnings
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ottt_loihi.nn.neurons import LIF
from ottt_loihi.nn.surrogates import Rectangle, Sigmoid, Triangle

KINDS = (Sigmoid, Rectangle, Triangle)  # the surrogates that the kernels know, by index


class LeanStep(torch.autograd.Function):
    """The step of :class:`LIF` for online rules: one pass over memory (:func:`kernels`).

    v becomes the membrane after the reset. The current's memory becomes u, unless ``keeps`` asks for the current after
    the step. The backward pass overwrites u with the current's gradient: do not read this step's u after it.
    """

    @staticmethod
    def forward(ctx: Any, current: Tensor, v: Tensor, keeps: bool, neuron: LIF) -> Tensor:
        u, s = current.clone() if keeps else current.detach(), torch.empty_like(v)
        kernels(u).charge_fire_reset(u, v, s, neuron)
        ctx.u, ctx.neuron = u, neuron
        return s

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        u, ctx.u = ctx.u, None  # the spikes live on as state, and this node with them
        return kernels(u).times_surrogate(g, u, ctx.neuron), None, None, None


def kernels(x: Tensor) -> ModuleType:
    """The module whose loops work on x: numba's on the CPU, Triton's on a GPU."""
    if x.is_cuda:
        from ottt_loihi.fast import triton_kernels

        return triton_kernels
    from ottt_loihi.fast import lif_kernels  # numba takes half a second to import

    return lif_kernels


def has_kernels(x: Tensor) -> bool:
    """Whether there are :func:`kernels` for x: on the CPU, and on a GPU where Triton works."""
    if x.is_cuda:
        return x.dtype == torch.float32 and x.numel() < 2**31 and _triton_works(x.device)
    return is_on_cpu(x)


def knows_surrogate(surrogate: Any) -> bool:
    """Whether the kernels have this surrogate: one of ours, no subclass."""
    return type(surrogate) in KINDS


def surrogate_constants(neuron: LIF, number: Any) -> tuple[int, Any]:
    """Return the index of a neuron's surrogate in :data:`KINDS`, and its parameter as a ``number``, NumPy's float type.

    The parameter is the sigmoid's slope, or the least ``|u − Vth|`` at which the rectangle is 0: Vth, or the next
    larger number where the rectangle is closed.
    """
    surrogate, reach = neuron.surrogate, number(neuron.v_threshold)
    if isinstance(surrogate, Rectangle) and surrogate.closed:
        reach = np.nextafter(reach, number(np.inf))
    return KINDS.index(type(surrogate)), number(surrogate.slope) if isinstance(surrogate, Sigmoid) else reach


def constants(neuron: LIF, number: Any) -> tuple[Any, Any, Any]:
    """Return λ, Vth, and the largest u that does not fire, each as a ``number``, NumPy's float type."""
    v_threshold = number(neuron.v_threshold)
    fires_at = neuron.convention == "authors"  # u = Vth too
    return number(neuron.beta), v_threshold, np.nextafter(v_threshold, number(-np.inf)) if fires_at else v_threshold


def is_on_cpu(x: Tensor) -> bool:
    """Whether numba's loops can work on it."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


@lru_cache
def _triton_works(device: torch.device) -> bool:
    try:
        from ottt_loihi.fast import triton_kernels as lif_triton

        lif_triton.charge_fire_reset(*(torch.zeros(1024, device=device) for _ in range(3)), LIF())
    except Exception as error:  # not installed, no C compiler, a GPU it does not know, and whatever else it needs
        reason = (str(error).splitlines() or [""])[0]
        warnings.warn(
            f"the neurons' kernels do not run on {device} ({type(error).__name__}: {reason}); torch's own operators "
            "compute the same, more slowly",
            stacklevel=2,
        )
        return False
    return True


def like(x: Tensor, model: Tensor) -> Tensor:
    """``x`` in the memory layout of ``model``."""
    return x if x.stride() == model.stride() else torch.empty_like(model).copy_(x)

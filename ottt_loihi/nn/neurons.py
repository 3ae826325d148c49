"""The leaky integrate-and-fire neuron of OTTT: a pure step function, and a thin module that holds its constants."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ottt_loihi import checks
from ottt_loihi.nn.paths import BPTT, CONVENTIONS, GradientPaths
from ottt_loihi.nn.surrogates import Surrogate, describe, make_surrogate

RESETS = ("zero", "subtract")


class LIFStep(NamedTuple):
    """One step's result, all of the current's shape and dtype: spikes s (0 or 1), u before and v after the reset."""

    s: Tensor
    u: Tensor
    v: Tensor


def lif_step(
    current: Tensor,
    v: Tensor | None,
    *,
    beta: float,
    v_threshold: float,
    reset: str,
    surrogate: Surrogate,
    convention: str = "paper",
    paths: GradientPaths = BPTT,
) -> LIFStep:
    """Charge, fire, reset.

    ::

        u[t] = λ·v[t−1] + I[t]                                                    charge
        s[t] = H(u[t] − Vth)       H(0) = 0; convention="authors": H(0) = 1       fire
        v[t] = u[t] − Vth·s[t]     reset="subtract"                               reset
        v[t] = u[t]·(1 − s[t])     reset="zero"

    ∂s/∂u is the surrogate f(u). Without ``paths.membrane`` the returned v is a constant to autograd, without
    ``paths.reset`` the s in it is.

    Parameters
    ----------
    current
        I[t] = W·s_pre[t] + b, floating point, any shape
    v
        v[t−1] of the same shape; None: at rest, 0
    beta, v_threshold
        λ and Vth

    Source: OTTT (arXiv 2210.04195) eq. 2, where ``u[t] = λ·(u[t−1] − Vth·s[t−1]) + I[t]``. The released code fires at
    u = Vth, Loihi only above it.
    """
    u = current if v is None else beta * v + current
    s = _Fire.apply(u, v_threshold, surrogate, convention == "authors")
    kept = u if paths.membrane else u.detach()
    fired = s if paths.membrane and paths.reset else s.detach()
    return LIFStep(s, u, kept - v_threshold * fired if reset == "subtract" else kept * (1 - fired))


class LIF(nn.Module):
    """A layer of LIF neurons with common constants, :func:`lif_step` with its arguments filled in.

    ============  =========================  ==================================
    attribute     range                      meaning
    ============  =========================  ==================================
    beta         0 ≤ λ ≤ 1                  what the membrane keeps of itself
    v_threshold   > 0                        Vth
    reset         ``"zero" | "subtract"``
    surrogate     ``ottt_loihi.nn.surrogates``  f(u)
    convention    ``"paper" | "authors"``    fires above, or already at, Vth
    v_init        < Vth                      v before the first step, default 0
    ============  =========================  ==================================
    """

    lean = True  # Block.fire_lean knows these neurons
    amplitude = 1.0  # what a spike sends

    def __init__(
        self,
        beta: float = 0.5,
        v_threshold: float = 1.0,
        reset: str = "subtract",
        surrogate: str | Mapping[str, Any] | Surrogate = "sigmoid",
        convention: str = "paper",
        v_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.beta = checks.number(beta, "beta", 0, 1)
        self.v_threshold = checks.number(v_threshold, "v_threshold", 0, 1e30, above=True)
        self.reset = checks.one_of(reset, "reset", RESETS)
        self.surrogate = make_surrogate(surrogate)
        self.convention = checks.one_of(convention, "convention", CONVENTIONS)
        self.v_init = checks.number(v_init, "v_init", -self.v_threshold, self.v_threshold)

    def forward(self, current: Tensor, v: Tensor | None = None, paths: GradientPaths = BPTT) -> LIFStep:
        if v is None and self.v_init:
            v = torch.full_like(current.detach(), self.v_init)
        return lif_step(
            current,
            v,
            beta=self.beta,
            v_threshold=self.v_threshold,
            reset=self.reset,
            surrogate=self.surrogate,
            convention=self.convention,
            paths=paths,
        )

    def extra_repr(self) -> str:
        return (
            f"beta={self.beta}, v_threshold={self.v_threshold}, reset={self.reset!r}, "
            f"surrogate={describe(self.surrogate)}, convention={self.convention!r}"
        )


class LeanStep(torch.autograd.Function):
    """:func:`lif_step` for online rules: one pass over memory (:func:`kernels`), and no new memory.

    v becomes the membrane after the reset; s is written into the tensor given, which may hold earlier values, and u
    into the current or into another tensor given. The backward pass overwrites u with the current's gradient: nobody
    may read this step's u after it.
    """

    @staticmethod
    def forward(ctx: Any, current: Tensor, v: Tensor, u: Tensor, s: Tensor, neuron: LIF) -> Tensor:
        if u.data_ptr() != current.data_ptr():
            u.copy_(current)
        kernels(u).charge_fire_reset(u, v, s, neuron)
        ctx.u, ctx.neuron = u, neuron
        return s.view_as(s)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None, None]:
        u, ctx.u = ctx.u, None  # the spikes live on as state, and this node with them
        return kernels(u).times_surrogate(g, u, ctx.neuron), None, None, None, None


class LeanAccumulation(torch.autograd.Function):
    """The neuron's step in its accumulated form (``rules/saf.py``), in the memory of Û[t] and â[t−1].

    ::

        u[t] = Û[t] − Vth·λ·â[t−1]        â[t] = λ·â[t−1] + H(u[t] − Vth)        ∂L/∂Û = ∂L/∂â · f(u)
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, trace: Tensor, neuron: LIF) -> Tensor:
        kernels(u).accumulate(u, trace, neuron)
        ctx.u, ctx.neuron = u.detach(), neuron
        return trace.view_as(trace)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        u, ctx.u = ctx.u, None
        return kernels(u).times_surrogate(g, u, ctx.neuron), None, None


def kernels(x: Tensor) -> ModuleType:
    """The module whose loops work on x: numba's on the CPU, Triton's on a GPU."""
    if x.is_cuda:
        from ottt_loihi.fast import triton_kernels as lif_triton

        return lif_triton
    from ottt_loihi.fast import lif_kernels  # numba takes half a second to import

    return lif_kernels


def has_kernels(x: Tensor) -> bool:
    """Whether there are :func:`kernels` for x: on the CPU, and on a GPU where Triton works."""
    if x.is_cuda:
        return x.dtype == torch.float32 and x.numel() < 2**31 and _triton_works(x.device)
    return is_on_cpu(x)


def is_on_cpu(x: Tensor) -> bool:
    """Whether numba's loops can work on it."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


@lru_cache
def _triton_works(device: torch.device) -> bool:
    try:
        from ottt_loihi.fast import triton_kernels as lif_triton

        lif_triton.accumulate(torch.zeros(1024, device=device), torch.zeros(1024, device=device), LIF())
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


def fire(u: Tensor, neuron: LIF) -> Tensor:
    """The spikes of membranes u, with the neuron's surrogate as derivative."""
    return _Fire.apply(u, neuron.v_threshold, neuron.surrogate, neuron.convention == "authors")


class _Fire(torch.autograd.Function):
    """``s = H(u − Vth)`` forwards, ``∂L/∂u = ∂L/∂s · f(u)`` backwards."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, v_threshold: float, surrogate: Surrogate, at_threshold: bool) -> Tensor:
        ctx.save_for_backward(u)
        ctx.v_threshold, ctx.surrogate = v_threshold, surrogate
        return (u >= v_threshold if at_threshold else u > v_threshold).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad_s: Tensor) -> tuple[Tensor, None, None, None]:
        (u,) = ctx.saved_tensors
        return grad_s * ctx.surrogate(u, ctx.v_threshold), None, None, None

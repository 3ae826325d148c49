"""Neurons: OTTT's leaky integrate-and-fire neuron, and the base class of all; a step is a function of its arguments."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.part import Part
from ottt_loihi.nn.paths import BPTT, CONVENTIONS, GradientPaths
from ottt_loihi.nn.surrogates import Rectangle, Surrogate, describe, make_surrogate

RESETS = ("zero", "subtract")


class LIFStep(NamedTuple):
    """One step's result, all of the current's shape and dtype: spikes s (0 or 1), u before and v after the reset."""

    s: Tensor
    u: Tensor
    v: Tensor


class LongStep(NamedTuple):
    """:class:`LIFStep` of neurons that carry more than v to the next step, which gets ``memory`` as an argument."""

    s: Tensor
    u: Tensor
    v: Tensor
    memory: Any


class Trace(NamedTuple):
    """The traces of a connection's input, from which its parameters learn; the neurons behind it keep them."""

    value: Tensor  # â[t], or e[t] of current-based neurons, of the input's shape, without a graph
    length: float = 1.0  # Λ_t, the same of a constant input 1, at least 1
    arrived: Tensor | None = None  # a[t] of current-based neurons, and the same of a constant input 1
    arrived_length: float = 1.0
    # 1 for the neurons that learn from it, else 0, of a shape that broadcasts to theirs; None: all
    mask: Tensor | None = None


def fire(
    u: Tensor, v_threshold: float | Tensor, surrogate: Callable[[Tensor, float], Tensor], convention: str = "paper"
) -> Tensor:
    """Return the spikes ``H(u − Vth)``, with the surrogate as their derivative; towards a Vth that learns, too."""
    return _Fire.apply(u, v_threshold, surrogate, convention == "authors")


class _Fire(torch.autograd.Function):
    """``s = H(u − Vth)`` forwards, ``∂L/∂u = ∂L/∂s · f(u)`` backwards."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, v_threshold: float, surrogate: Any, at_threshold: bool) -> Tensor:
        ctx.save_for_backward(u)
        ctx.v_threshold = v_threshold.detach() if isinstance(v_threshold, Tensor) else v_threshold
        ctx.surrogate = surrogate
        return (u >= v_threshold if at_threshold else u > v_threshold).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad_s: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (u,) = ctx.saved_tensors
        derivative = ctx.surrogate(u, ctx.v_threshold)
        if not isinstance(derivative, (Tensor, int, float)) or (
            isinstance(derivative, Tensor) and derivative.ndim and derivative.shape != u.shape
        ):
            found = tuple(derivative.shape) if isinstance(derivative, Tensor) else type(derivative).__name__
            raise UsageError(f"surrogate: expected f(u) of u's shape {tuple(u.shape)}, got {found}")
        g = grad_s * derivative
        of_threshold = -g.sum_to_size(ctx.v_threshold.shape) if ctx.needs_input_grad[1] else None
        return g, of_threshold, None, None


class Neuron(Part):
    """A layer of neurons: the base class for your own neurons.

    ``forward(current, v, paths) -> LIFStep`` computes one time step, as a function of its arguments. v is what the
    previous step returned, and None in the first step; the ``memory`` of a :class:`LongStep` is passed as a fourth
    argument. ``beta`` is the share of the membrane that is left after a step; traces decay with it.

    A ``state_dict`` contains the attributes that ``constants`` names. Loading it into neurons with other constants is
    refused, because the network would compute something else with these weights.
    """

    spiking: ClassVar[bool] = True  # sends events; a readout behind it may have a trace
    beta: float

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_without_constants)

    def forward(self, current: Tensor, v: Tensor | None = None, paths: GradientPaths = BPTT) -> LIFStep:
        raise NotImplementedError

    def follow(self, x: Tensor, before: Trace | None) -> Trace:
        """Return the trace of an input: ``â[t] = λ·â[t−1] + x[t]``, ``Λ_t = λ·Λ_{t−1} + 1`` (eq. 4)."""
        return follow(x, before, self.beta)

    def get_extra_state(self) -> Tensor:
        """Return the constants as JSON text in bytes: state dictionaries hold tensors."""
        values = {name: getattr(self, name) for name in self.constants}
        text = json.dumps({name: value for name, value in values.items() if not isinstance(value, Tensor)})
        return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        try:
            found = dict(json.loads(bytes(state.to("cpu", torch.uint8).tolist())))
        except (AttributeError, TypeError, ValueError):
            raise UsageError("load_state_dict: the constants of the neurons are damaged") from None
        for name, value in found.items():
            own = getattr(self, name) if name in self.constants else value
            if isinstance(own, Tensor) or own != value:
                has = f"a tensor of shape {tuple(own.shape)}" if isinstance(own, Tensor) else repr(own)
                raise UsageError(
                    f"load_state_dict: these weights belong to neurons with {name} = {value!r}, this network's have "
                    f"{has}; make the network with the same constants"
                )


def follow(x: Tensor, before: Trace | None, beta: float | Tensor) -> Trace:
    """Return the leaky trace of an input."""
    if isinstance(beta, Tensor) and beta.numel() != 1:
        raise UsageError(
            f"beta: a trace decays with one number for all neurons of a layer, got a tensor {tuple(beta.shape)}; use "
            "CubaLIF, or define follow"
        )
    x = x.detach()
    return Trace(x, 1.0) if before is None else Trace(beta * before.value + x, beta * before.length + 1.0)


def _without_constants(module: nn.Module, incompatible: Any) -> None:
    """State dictionaries of earlier versions have no constants."""
    missing = incompatible.missing_keys
    missing[:] = [key for key in missing if not key.endswith("_extra_state")]


class LIF(Neuron):
    """A layer of OTTT's leaky integrate-and-fire neurons with common constants.

    ::

        u[t] = λ·v[t−1] + I[t]                                                    charge
        s[t] = H(u[t] − Vth)       H(0) = 0; convention="authors": H(0) = 1       fire
        v[t] = u[t] − Vth·s[t]     reset="subtract"                               reset
        v[t] = u[t]·(1 − s[t])     reset="zero"

    ∂s/∂u is the surrogate f(u). Without ``paths.membrane`` the returned v is a constant to autograd, without
    ``paths.reset`` the s in it is.

    ============  ====================================  ================================================
    attribute     range                                 meaning
    ============  ====================================  ================================================
    beta          0 ≤ λ ≤ 1                             share of the membrane left after a step
    v_threshold   > 0                                   Vth
    reset         ``"zero" | "subtract"``
    surrogate     ``ottt_loihi.nn.surrogates``, or any  f(u)
                  ``f(u, v_threshold) -> Tensor``
    convention    ``"paper" | "authors"``               fires above, or already at, Vth; ``"authors"``
                                                        also closes the rectangle's interval
    v_init        −Vth … Vth                            v before the first step, default 0
    ============  ====================================  ================================================

    Source: OTTT (arXiv 2210.04195) eq. 2, where ``u[t] = λ·(u[t−1] − Vth·s[t−1]) + I[t]``. The released code fires at
    u = Vth, Loihi only above it.
    """

    constants = ("beta", "v_threshold", "reset", "convention", "v_init")
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
        self.convention = checks.one_of(convention, "convention", CONVENTIONS)
        self.surrogate = make_surrogate(surrogate)
        if convention == "authors" and self.surrogate == Rectangle():
            self.surrogate = Rectangle(closed=True)
        self.v_init = checks.number(v_init, "v_init", -self.v_threshold, self.v_threshold)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "surrogate": describe(self.surrogate)}

    def forward(self, current: Tensor, v: Tensor | None = None, paths: GradientPaths = BPTT) -> LIFStep:
        if v is None and self.v_init:
            v = torch.full_like(current.detach(), self.v_init)
        u = current if v is None else self.beta * v + current
        s = fire(u, self.v_threshold, self.surrogate, self.convention)
        kept = u if paths.membrane else u.detach()
        fired = s if paths.membrane and paths.reset else s.detach()
        return LIFStep(s, u, kept - self.v_threshold * fired if self.reset == "subtract" else kept * (1 - fired))


class Stream(Neuron):
    """No neurons: sends its current as it is, the real values of a residual stream that a readout reads.

    ``beta``: λ of the traces that the connections in front of it keep.
    """

    constants = ("beta",)
    spiking = False

    def __init__(self, beta: float = 0.5) -> None:
        super().__init__()
        self.beta = checks.number(beta, "beta", 0, 1)

    def forward(self, current: Tensor, v: Tensor | None = None, paths: GradientPaths = BPTT) -> LIFStep:
        return LIFStep(current, current, current.detach())


class DSRNeuron(Neuron):
    """A layer of DSR's neurons (:mod:`ottt_loihi.rules.dsr`).

    It sends the spike times its amplitude, V (IF) or V/dt (LIF).

    ============  =================  =====================================================
    attribute     range              meaning
    ============  =================  =====================================================
    kind          ``"if" | "lif"``
    v_threshold   parameter > 0      V: what a spike subtracts, a scalar
    alpha         0 < α ≤ 1          fires above α·V
    tau, dt       > 0                of the LIF, in the same unit
    beta          0 < β ≤ 1          exp(−dt/τ); IF: 1
    ============  =================  =====================================================

    On a chip with one threshold: u(0) = (1 − α)·V, threshold and reset V, for the LIF with a constant input (1 − α)·V.
    """

    constants = ("kind", "alpha", "tau", "dt")
    reset = "subtract"
    v_init = 0.0

    def __init__(
        self, kind: str = "if", v_threshold: float = 6.0, alpha: float = 0.5, tau: float = 1.0, dt: float = 0.05
    ) -> None:
        super().__init__()
        self.kind = checks.one_of(kind, "kind", ("if", "lif"))
        for name, value in (("v_threshold", v_threshold), ("alpha", alpha), ("tau", tau), ("dt", dt)):
            checks.number(value, name, 0, 1 if name == "alpha" else 1e30, above=True)
        self.v_threshold = nn.Parameter(torch.full((), float(v_threshold)))
        self.alpha, self.tau, self.dt = float(alpha), float(tau), float(dt)
        self.beta = 1.0 if kind == "if" else math.exp(-self.dt / self.tau)
        self.charge = 1.0 if kind == "if" else 1 - self.beta  # the gain from a current to the membrane
        self.gain = 1.0 if kind == "if" else 1 / self.tau  # of the clamp: dô/dÎ between its bounds

    @property
    def amplitude(self) -> Tensor:
        """The value of a spike."""
        return self.v_threshold if self.kind == "if" else self.v_threshold / self.dt

    def forward(self, current: Tensor, v: Tensor | None = None, paths: GradientPaths = BPTT) -> LIFStep:
        """Compute one time step. s is 0 or the amplitude of a spike, and carries no gradient."""
        if self.training and current.requires_grad:
            raise UsageError('DSR neurons have no surrogate gradient; use --rule dsr, or rule.name = "dsr"')
        with torch.no_grad():
            charge = self.charge * current
            u = charge if v is None else self.beta * v + charge
            s = (u > self.alpha * self.v_threshold).to(u)
            return LIFStep(s * self.amplitude, u, u - self.v_threshold * s)

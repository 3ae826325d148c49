"""The current-based LIF neuron, Loihi's own, with constants of a layer, a channel or a neuron, learnable or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.neurons import LIF, LongStep, Neuron, Trace, fire
from ottt_loihi.nn.paths import BPTT, CONVENTIONS, GradientPaths
from ottt_loihi.nn.surrogates import Rectangle, Surrogate, describe, make_surrogate
from ottt_loihi.nn.trace import SynapseTrace, gradient_only, with_bias_input

RESETS = ("zero", "subtract", "delayed", "none")
TRACES = ("exact", "mean", "synapse")
LEARNABLE = ("alpha", "beta", "v_threshold")
ANY = (-1e30, 1e30)
RANGES = {"alpha": (0.0, 1.0), "beta": (0.0, 1.0), "v_threshold": (0.0, 1e30), "v_reset": ANY, "v_init": ANY}
MOST_TRACES = 8  # pairs of traces that a connection keeps
LEAST_THRESHOLD = 1e-3  # of a learnt threshold, which is used as at least this


class Memory(NamedTuple):
    """The state of current-based neurons besides v, of v's shape."""

    c: Tensor  # synaptic current
    s: Tensor  # spikes of this step
    p: Tensor | None = None  # ∂c/∂α; None unless an online rule learns α
    q: Tensor | None = None  # ∂u/∂α, likewise
    r: Tensor | None = None  # ∂u/∂β; None unless an online rule learns β
    z: Tensor | None = None  # ∂u/∂Vth without the direct −1; None unless an online rule learns Vth


class CurrentBased(Neuron):
    """Base of neurons with a current and a membrane: traces of their inputs, ∂u/∂α, ∂u/∂β and ∂u/∂Vth.

    ``reset``, ``trace`` and ``learn`` are those of :class:`CubaLIF`; :meth:`decays` returns α and β, a number or a
    tensor that broadcasts to the neurons' shape.
    """

    reset: str
    trace: str
    learn: list[str]
    approximate: ClassVar[str] = "trace='mean' or 'synapse', or train with BPTT"

    def decays(self) -> tuple[float | Tensor, float | Tensor]:
        """Return α and β as they are used."""
        raise NotImplementedError

    @torch.no_grad()
    def sensitivities(self, past: Memory, v: Tensor) -> Memory:
        """Advance p, q, r and z by one step; v, c and s are the values before this step."""
        alpha, beta = self.decays()
        zero = torch.zeros_like(v)
        if self._clears():
            beta = beta * (1 - past.s)
        p = q = r = z = None
        if "alpha" in self.learn:
            p = alpha * (zero if past.p is None else past.p) + past.c
            q = beta * (zero if past.q is None else past.q) + p
        if "beta" in self.learn:
            r = beta * (zero if past.r is None else past.r) + v
        if "v_threshold" in self.learn:
            z = zero if past.z is None else past.z
            subtracted = {"subtract": beta * past.s, "delayed": past.s}.get(self.reset)
            z = zero if subtracted is None else beta * z - subtracted
        return past._replace(p=p, q=q, r=r, z=z)

    @torch.no_grad()
    def follow(self, x: Tensor, before: Any) -> Any:
        """Return the trace of an input: ``a[t] = α·a[t−1] + x[t]``, ``e[t] = β·e[t−1] + a[t]``."""
        if self.trace == "synapse":
            return self._follow_synapses(with_bias_input(x), before)
        pairs, masks = self._pairs()
        if len(pairs) == 1:
            return follow_both(x.detach(), before, *pairs[0])
        if len(pairs) > MOST_TRACES:
            raise UsageError(
                f"{type(self).__name__}: {len(pairs)} different decays, and an online rule keeps one trace for each, "
                f"at most {MOST_TRACES}; draw them from fewer groups, or use {self.approximate}"
            )
        old = [None] * len(pairs) if before is None else before
        groups = zip(old, pairs, masks, strict=True)
        return tuple(follow_both(x.detach(), b, *pair)._replace(mask=mask) for b, pair, mask in groups)

    def _follow_synapses(self, x: Tensor, before: SynapseTrace | None) -> SynapseTrace:
        if before is None:
            return SynapseTrace(x, x)
        alpha, beta = (d[:, None] if isinstance(d, Tensor) and d.ndim else d for d in self.decays())
        arrived = alpha * before.arrived + x
        return SynapseTrace(beta * before.value + arrived, arrived)

    def _clears(self) -> bool:
        """Whether a spike ends what was before it, to the gradient too."""
        return self.trace == "synapse" and self.reset == "zero"

    @torch.no_grad()
    def after_reset(self, traces: tuple[Any, ...], s: Tensor) -> tuple[Any, ...]:
        """Return the traces of the inputs after the neurons have fired."""
        if not self._clears():
            return traces
        kept = (1 - s)[:, :, None]
        return tuple(None if trace is None else trace._replace(value=kept * trace.value) for trace in traces)

    def _pairs(self) -> tuple[list[tuple[float, float]], tuple[Tensor, ...]]:
        """Distinct pairs of α and β, and the neurons of each."""
        alpha, beta = self.decays()
        if not isinstance(alpha, Tensor) and not isinstance(beta, Tensor):
            return [(alpha, beta)], ()
        if self.trace == "mean":
            return [(float(torch.as_tensor(alpha).mean()), float(torch.as_tensor(beta).mean()))], ()
        both = torch.stack(torch.broadcast_tensors(*(torch.as_tensor(d).detach() for d in (alpha, beta))))
        pairs, index = torch.unique(both.reshape(2, -1), dim=1, return_inverse=True)
        masks = tuple((index == i).view(both.shape[1:]).to(both.dtype) for i in range(pairs.shape[1]))
        return [(float(a), float(b)) for a, b in pairs.t()], masks


class CubaLIF(CurrentBased):
    """A layer of current-based LIF neurons.

    ::

        c[t] = α·c[t−1] + I[t]                                         synaptic current
        u[t] = β·v[t−1] + c[t]                                         charge
        s[t] = H(u[t] − Vth)          H(0) = 0; at_threshold: 1        fire
        v[t] = u[t] − Vth·s[t]                    "subtract"           reset
        v[t] = u[t]·(1 − s[t]) + v_reset·s[t]     "zero"
        v[t] = u[t]                               "none", "delayed"

    ``"delayed"`` subtracts one step late, as snnTorch does: u[t] = β·v[t−1] + c[t] − Vth·s[t−1].

    The reset is a constant for OTTT's gradient: with ``"zero"`` the whole term u·s, as for LIF neurons. With
    ``trace="synapse"`` only s is a constant, as in BPTT. A spike then ends the influence of earlier steps, and β is
    replaced by k[t] = β·(1 − s[t−1]) in e, q and r. As e then depends on the neuron, there is one for every synapse
    and sample (dense layers only).

    With α = 0 it is :class:`~ottt_loihi.nn.neurons.LIF`. OTTT's gradient of W, b and the learnt constants of a layer
    is exact for the recurrence inside the layer (with the reset as a constant)::

        a[t] = α·a[t−1] + x[t]                e[t] = β·e[t−1] + a[t]             ∇W = Σ (f·δ)⊗e
        p[t] = α·p[t−1] + c[t−1]              q[t] = β·q[t−1] + p[t]             ∇α = Σ f·δ·q
        r[t] = β·r[t−1] + v[t−1]                                                 ∇β = Σ f·δ·r
        z[t] = β·z[t−1] − β·s[t−1]  ("subtract"; "delayed": − s[t−1]; else 0)    ∇Vth = Σ f·δ·(z − 1)

    ============  =========================  =====================================================================
    attribute     range                      meaning
    ============  =========================  =====================================================================
    alpha         0 ≤ α ≤ 1                  share of the synaptic current left after a step
    beta          0 ≤ β ≤ 1                  share of the membrane left after a step
    v_threshold   > 0                        Vth
    v_reset       finite                     membrane after a reset with ``"zero"``
    v_init        finite                     v before the first step
    reset         ``"zero" | "subtract" |
                  "delayed" | "none"``
    surrogate     any ``f(u, v_threshold)``
    at_threshold  bool                       fires at u = Vth too
    learn         some of :data:`LEARNABLE`  constants that are parameters. They are clamped where they are used: α and
                                             β to 0 … 1, and Vth to at least 0.001
    trace         ``"exact" | "mean" |       neurons with unequal decays: one trace for each distinct pair of α and β
                  "synapse"``                (at most 8); one at their mean, an approximation; one for every synapse
    ============  =========================  =====================================================================

    The first five are a number, or a tensor that broadcasts to the neurons' shape: ``(C, 1, 1)`` is one per channel.

    Source: OTTT (arXiv 2210.04195) eq. 4, carried over to a neuron of two states.
    """

    constants = (*RANGES, "reset", "at_threshold", "trace", "learn")
    amplitude = 1.0

    def __init__(
        self,
        alpha: float | Tensor | Mapping[str, Any] = 0.5,
        beta: float | Tensor | Mapping[str, Any] = 0.5,
        v_threshold: float | Tensor | Mapping[str, Any] = 1.0,
        reset: str = "subtract",
        surrogate: str | Mapping[str, Any] | Surrogate = "sigmoid",
        *,
        v_reset: float | Tensor | Mapping[str, Any] = 0.0,
        v_init: float | Tensor | Mapping[str, Any] = 0.0,
        at_threshold: bool = False,
        learn: Iterable[str] = (),
        trace: str = "exact",
    ) -> None:
        super().__init__()
        self.reset = checks.one_of(reset, "reset", RESETS)
        self.surrogate = make_surrogate(surrogate)
        self.at_threshold = checks.flag(at_threshold, "at_threshold")
        self.learn = [checks.one_of(name, "learn", LEARNABLE) for name in checks.items(learn, "learn", str)]
        self.trace = checks.one_of(trace, "trace", TRACES)
        for name, value in zip(RANGES, (alpha, beta, v_threshold, v_reset, v_init)):
            self._hold(name, value)
        self.check()

    def _hold(self, name: str, value: Any) -> None:
        """Keep a constant: a number as it is, an array as a buffer, a learnt one as a parameter."""
        if isinstance(value, Mapping):  # of a description: its shape, the values are among the weights
            value = torch.ones(checks.sizes(value.get("shape"), f"{name}.shape", 0))
        if not isinstance(value, Tensor):
            value = checks.number(value, name)
            if name not in self.learn:
                setattr(self, name, value)
                return
            value = torch.tensor(value, dtype=torch.get_default_dtype())
        if not value.is_floating_point():
            raise UsageError(f"{name}: expected real numbers, got a tensor of {value.dtype}")
        value = value.detach().clone()
        if name in self.learn:
            setattr(self, name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    def check(self) -> None:
        """Refuse constants outside their ranges; parameters may have left them, and are clamped where they are used."""
        for name, (low, high) in RANGES.items():
            value = torch.as_tensor(getattr(self, name))
            if value.is_meta or not value.numel():
                continue
            outside = (value <= low) if name == "v_threshold" else (value < low)
            if bool((outside | (value > high) | ~value.isfinite()).any()):
                bounds = "> 0" if name == "v_threshold" else f"in [{low:g}, {high:g}]"
                raise UsageError(f"{name}: expected numbers {bounds}, got {value.detach().reshape(-1)[:4].tolist()} …")
        if self.reset != "zero" and (isinstance(self.v_reset, Tensor) or self.v_reset):
            raise UsageError(f"v_reset: only reset='zero' goes to a potential, got reset={self.reset!r}")

    def settings(self) -> dict[str, Any]:
        """Return the arguments as JSON values; tensors by their shape."""
        values = super().settings()
        shapes = {name: {"shape": list(value.shape)} for name, value in values.items() if isinstance(value, Tensor)}
        return {**values, **shapes, "surrogate": describe(self.surrogate)}

    def decays(self) -> tuple[float | Tensor, float | Tensor]:
        return _clamped(self.alpha, 0.0, 1.0), _clamped(self.beta, 0.0, 1.0)

    def threshold(self) -> float | Tensor:
        """Return Vth as it is used."""
        return _clamped(self.v_threshold, LEAST_THRESHOLD, None) if "v_threshold" in self.learn else self.v_threshold

    def forward(
        self, current: Tensor, v: Tensor | None = None, paths: GradientPaths = BPTT, memory: Memory | None = None
    ) -> LongStep:
        learnt = *self.decays(), self.threshold()
        if v is None:
            v = torch.zeros_like(current) + self.v_init
        online = not paths.membrane and torch.is_grad_enabled() and bool(self.learn)
        # an online rule carries the derivatives of the constants itself
        alpha, beta, threshold = (c.detach() if online and isinstance(c, Tensor) else c for c in learnt)
        past = memory or Memory(torch.zeros_like(current), torch.zeros_like(current))
        c = alpha * past.c + current
        u = beta * v + c
        if self.reset == "delayed":
            u = u - threshold * past.s
        if online:
            past = self.sensitivities(past, v)
            for parameter, of_u in zip(learnt, (past.q, past.r, past.z), strict=True):
                if of_u is not None:
                    u = u + gradient_only(parameter) * of_u  # adds 0 to the value
        s = fire(u, learnt[2], self.surrogate, "authors" if self.at_threshold else "paper")
        kept = u if paths.membrane else u.detach()
        fired = s if paths.membrane and paths.reset else s.detach()
        if self.reset == "subtract":
            kept = kept - threshold * fired
        elif self.reset == "zero":
            kept = kept * (1 - fired) + self.v_reset * fired
        return LongStep(s, u, kept, past._replace(c=c if paths.membrane else c.detach(), s=fired))


class Membrane(CubaLIF):
    """The same neurons, which send u[t] in place of their spikes: the last block of a network that reads membranes.

    With ``reset="none"`` it is a leaky integrator. A readout without weights, ``SpikeCount``, stands behind it.
    """

    spiking = False

    def forward(
        self, current: Tensor, v: Tensor | None = None, paths: GradientPaths = BPTT, memory: Memory | None = None
    ) -> LongStep:
        step = super().forward(current, v, paths, memory)
        return step._replace(s=step.u)

    def fired(self, u: Tensor) -> Tensor:
        """Return where a membrane before its reset has fired, a bool tensor."""
        return u >= self.threshold() if self.at_threshold else u > self.threshold()

    def after_reset(self, traces: tuple[Any, ...], s: Tensor) -> tuple[Any, ...]:
        return super().after_reset(traces, self.fired(s).to(s.dtype))


def lif_or_cuba(constants: Mapping[str, Any], alpha: float, learn: Iterable[str], trace: str = "exact") -> Neuron:
    """Return neurons with the arguments of a LIF: CubaLIF if they have a current, learnt constants or other traces."""
    if isinstance(learn, str):
        raise UsageError(f"learn: expected a list of names, got {learn!r}; write [{learn!r}]")
    checks.one_of(trace, "trace", TRACES)
    if not checks.number(alpha, "alpha", 0, 1) and not learn and trace == "exact":
        return LIF(**constants)
    own = dict(constants)
    at_threshold = checks.one_of(own.pop("convention"), "convention", CONVENTIONS) == "authors"
    if at_threshold and own["surrogate"] == Rectangle():
        own["surrogate"] = Rectangle(closed=True)
    return CubaLIF(alpha, **own, at_threshold=at_threshold, learn=learn, trace=trace)


def follow_both(x: Tensor, before: Trace | None, alpha: float, beta: float) -> Trace:
    """Return the traces of an input x without a graph, for one α and one β."""
    if before is None:
        return Trace(x, 1.0, x, 1.0)
    arrived = alpha * before.arrived + x
    length = alpha * before.arrived_length + 1.0
    return Trace(beta * before.value + arrived, beta * before.length + length, arrived, length)


def _clamped(value: Any, low: float, high: float | None) -> Any:
    return value.clamp(low, high) if isinstance(value, nn.Parameter) else value

"""DSR: differentiation on spike representation (Meng et al., CVPR 2022, arXiv 2205.00459).

A layer's weighted firing rate ô is, up to a rest of 1/T, a clamp of its weighted input Î; the gradient is the clamp's.

::

    IF   u += I[t]                s = H(u − α·V)   u −= V·s   out = V·s         ô ≈ clamp(Î, 0, V)
    LIF  u = β·u + (1 − β)·I[t]   s, u likewise               out = V·s/dt      ô ≈ clamp(Î/τ, 0, V/dt)

β = exp(−dt/τ); Î = Σ w_t·I[t], ô = Σ w_t·out[t], w_t = β^(T−t)/Σ_k β^(T−k). V is learned, one per layer.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ottt_loihi import checks
from ottt_loihi.errors import TrainingError, UsageError
from ottt_loihi.nn.connections import with_trace
from ottt_loihi.nn.inputs import Input, frames
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIFStep, Neuron
from ottt_loihi.nn.paths import BPTT, GradientPaths
from ottt_loihi.nn.precision import no_graph
from ottt_loihi.rules.base import Accumulated, Rule, require_finite
from ottt_loihi.rules.losses import Loss, instantaneous

KINDS = ("if", "lif")
GRADIENTS = ("exact", "released")


class DSRNeuron(Neuron):
    """A layer of DSR's neurons; what it sends is the spike times its amplitude, V (IF) or V/dt (LIF).

    ============  =================  =====================================================
    attribute     range              meaning
    ============  =================  =====================================================
    kind          ``"if" | "lif"``
    v_threshold   parameter > 0      V: what a spike subtracts, a scalar
    alpha         0 < α ≤ 1          fires above α·V
    tau, dt       > 0                of the LIF, in the same unit
    beta         0 < β ≤ 1          exp(−dt/τ); IF: 1
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
        self.kind = checks.one_of(kind, "kind", KINDS)
        for name, value in (("v_threshold", v_threshold), ("alpha", alpha), ("tau", tau), ("dt", dt)):
            checks.number(value, name, 0, 1 if name == "alpha" else 1e30, above=True)
        self.v_threshold = nn.Parameter(torch.full((), float(v_threshold)))
        self.alpha, self.tau, self.dt = float(alpha), float(tau), float(dt)

    @property
    def beta(self) -> float:
        return 1.0 if self.kind == "if" else math.exp(-self.dt / self.tau)

    @property
    def charge(self) -> float:
        """What the membrane gets of a current of 1."""
        return 1.0 if self.kind == "if" else 1 - self.beta

    @property
    def gain(self) -> float:
        """Of the clamp: dô/dÎ between its bounds."""
        return 1.0 if self.kind == "if" else 1 / self.tau

    @property
    def amplitude(self) -> Tensor:
        """What a spike sends."""
        return self.v_threshold if self.kind == "if" else self.v_threshold / self.dt

    def forward(self, current: Tensor, v: Tensor | None = None, paths: GradientPaths = BPTT) -> LIFStep:
        """One step; s holds 0 or the amplitude, and no gradient runs through it."""
        if self.training and current.requires_grad:
            raise UsageError('these neurons have no surrogate gradient: train them with rule = "dsr"')
        with torch.no_grad():
            charge = self.charge * current
            u = charge if v is None else self.beta * v + charge
            s = (u > self.alpha * self.v_threshold).to(u)
            return LIFStep(s * self.amplitude, u, u - self.v_threshold * s)

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}, alpha={self.alpha}, tau={self.tau}, dt={self.dt}"


class DSR(Rule):
    """One backward pass per batch through the clamps, at the Î that the spikes gave; memory constant in T.

    ``gradients="exact"``: that of the clamp network at Î: ∂ô/∂V = 1 (LIF 1/dt) where saturated.
    ``"released"``: as the authors' code: a hidden layer's weights see the plain mean of their input instead of the
    weighted one, and the LIF's ∂ô/∂V is dt. (That the readout keeps the weighted mean is our reading of it.)
    """

    name: ClassVar[str] = "dsr"

    def __init__(self, gradients: str = "exact") -> None:
        self.gradients = checks.one_of(gradients, "gradients", GRADIENTS)

    def check(self, net: Network) -> None:
        check_network(net)

    def accumulate(self, net: Network, x: Input, labels: Tensor, loss: Loss) -> Accumulated:
        weighted, plain, masks = _means(net, x)
        a, mean = weighted[0], plain[0]
        for index, (block, mask) in enumerate(zip(net.blocks, masks)):
            pre = mean if self.gradients == "released" else a.detach()
            current = with_trace(block.connection, a, pre)
            a = _Rate.apply(current, weighted[index + 1], block.neuron.v_threshold, block.neuron, self.gradients)
            a, mean = (a, plain[index + 1]) if mask is None else (a * mask, plain[index + 1] * mask)
        o = net.read(a, None)[0]
        total = instantaneous(loss, o, labels, 1)
        require_finite(net, total.detach(), first=x.shape[1] - 1)
        total.backward()
        return Accumulated(total.detach(), o.detach())

    def after_step(self, net: Network) -> None:
        for index, block in enumerate(net.blocks):
            if not (threshold := float(block.neuron.v_threshold.detach())) > 0:
                raise TrainingError(
                    f"block {index + 1}: its learned threshold is {threshold:g}, expected above 0; "
                    "start from a larger v_threshold"
                )

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "gradients": self.gradients}


def check_network(net: Network) -> None:
    """Refuse a network without DSR's neurons, or with more than a row of layers."""
    if not len(net.blocks) or any(not isinstance(block.neuron, DSRNeuron) for block in net.blocks):
        raise UsageError('dsr: expected hidden layers of DSR neurons, network.name = "dsr"')
    if any(len(block.branches) or block.skip is not None for block in net.blocks):
        raise UsageError("dsr: expected a feed-forward network without branches and skips")
    if len({block.neuron.beta for block in net.blocks}) > 1:
        raise UsageError("dsr: expected one beta for all neurons, because all layers share the weights w_t")


@no_graph()
def _means(net: Network, x: Input) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
    """Weighted and plain means over time of the input and of what every block sends (before its dropout), the masks."""
    beta, state = net.blocks[0].neuron.beta, None
    weighted, plain, length = [], [], 0.0
    for t, frame in enumerate(frames(x)):
        _, state = net.step(frame, state)
        now = [frame, *(block.s for block in state.blocks)]
        weighted = [w * beta + n for w, n in zip(weighted, now)] if t else now
        plain = [p + n for p, n in zip(plain, now)] if t else now
        length = 1 + beta * length
    return [w / length for w in weighted], [p / x.shape[1] for p in plain], [block.mask for block in state.blocks]


class _Rate(torch.autograd.Function):
    """Forwards the weighted rate that the spikes gave; backwards the clamp's derivatives at Î."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, rate: Tensor, v: Tensor, neuron: DSRNeuron, gradients: str) -> Tensor:
        ctx.save_for_backward(current, neuron.amplitude.detach())
        ctx.gain = neuron.gain
        exact = 1.0 if neuron.kind == "if" else 1 / neuron.dt
        ctx.per_v = 1 / exact if gradients == "released" else exact
        return rate.view_as(rate)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        current, top = ctx.saved_tensors
        z = ctx.gain * current
        return g * ctx.gain * ((z > 0) & (z < top)), None, ctx.per_v * (g * (z >= top)).sum(), None, None

"""DSR: differentiation on spike representation (Meng et al., CVPR 2022, arXiv 2205.00459).

A layer's weighted firing rate ô is, up to a rest of 1/T, a clamp of its weighted input Î; the gradient is the clamp's.

::

    IF   u += I[t]                s = H(u − α·V)   u −= V·s   out = V·s         ô ≈ clamp(Î, 0, V)
    LIF  u = β·u + (1 − β)·I[t]   s, u likewise               out = V·s/dt      ô ≈ clamp(Î/τ, 0, V/dt)

β = exp(−dt/τ); Î = Σ w_t·I[t], ô = Σ w_t·out[t], w_t = β^(T−t)/Σ_k β^(T−k). V is learned, one per layer.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.errors import TrainingError, UsageError
from ottt_loihi.nn.inputs import Input
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import DSRNeuron, Trace
from ottt_loihi.nn.trace import with_trace
from ottt_loihi.rules.base import Accumulated, Rule
from ottt_loihi.rules.equilibrium import Clamped, evaluate_loss, simulate
from ottt_loihi.rules.losses import Loss

GRADIENTS = ("exact", "released")


class DSR(Rule):
    """One backward pass per batch through the clamps, at the Î that the spikes gave; memory constant in T.

    ``gradients="exact"`` is the gradient of the clamp network at Î: ∂ô/∂V = 1 (for LIF 1/dt) where it is saturated.
    ``"released"`` follows the authors' code: the weights of a hidden layer see the plain mean of their input instead of
    the weighted mean, and ∂ô/∂V of LIF is dt. (That the readout has the weighted mean is our
    reading of the code.)
    """

    name: ClassVar[str] = "dsr"
    settings = ("gradients",)

    def __init__(self, gradients: str = "exact") -> None:
        self.gradients = checks.one_of(gradients, "gradients", GRADIENTS)

    def check(self, net: Network) -> None:
        if not len(net.blocks) or any(not isinstance(block.neuron, DSRNeuron) for block in net.blocks):
            raise UsageError(
                'rule dsr: expected hidden layers of DSR neurons; use --network dsr, or network.name = "dsr"'
            )
        if any(len(block.branches) or block.skip is not None for block in net.blocks):
            raise UsageError("dsr: expected a feed-forward network without branches and skips")
        if len({block.neuron.beta for block in net.blocks}) > 1:
            raise UsageError("dsr: expected one beta for all neurons, because all layers share the weights w_t")

    def accumulate(self, net: Network, x: Input, labels: Tensor, loss: Loss) -> Accumulated:
        weighted, plain = simulate(net, x, net.blocks[0].neuron.beta, 1.0)
        a, mean = weighted.x, plain.x
        for index, (block, mask) in enumerate(zip(net.blocks, weighted.masks)):
            pre = mean if self.gradients == "released" else a.detach()
            current = with_trace(block.connection, a, Trace(pre))
            neuron = block.neuron
            exact, top = 1.0 if neuron.kind == "if" else 1 / neuron.dt, neuron.amplitude.detach()
            per_v = 1 / exact if self.gradients == "released" else exact
            a = Clamped.apply(current, weighted.blocks[index], top, neuron.gain, neuron.v_threshold, per_v)
            a, mean = (part if mask is None else part * mask for part in (a, plain.blocks[index]))
        o = net.read(a, None)[0]
        total = evaluate_loss(net, o, labels, loss, x.shape[1])
        total.backward()
        return Accumulated(total.detach(), o.detach())

    def after_step(self, net: Network) -> None:
        for index, block in enumerate(net.blocks):
            if not (threshold := float(block.neuron.v_threshold.detach())) > 0:
                raise TrainingError(
                    f"block {index + 1}: its learned threshold is {threshold:g}, expected above 0; "
                    "start from a larger v_threshold"
                )

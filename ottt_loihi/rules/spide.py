"""SPIDE: IDE whose backward pass is spikes too (Xiao et al., Neural Networks 2023, arXiv 2302.00232)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.errors import TrainingError
from ottt_loihi.nn.inputs import Input
from ottt_loihi.nn.network import Network
from ottt_loihi.rules import equilibrium
from ottt_loihi.rules.base import Accumulated
from ottt_loihi.rules.ide import WHEN_NOT_CONVERGED
from ottt_loihi.rules.losses import Loss

MAX_SATURATED = 0.01  # share of error neurons at their largest rate


class Backward(NamedTuple):
    """The result of the backward phase."""

    beta: tuple[Tensor, ...]  # mean ternary spikes of every block
    u: tuple[Tensor, ...]  # membranes at the end
    last: tuple[Tensor, ...]  # spikes of the last step
    spikes: int  # how many there were, of both signs
    saturated: float  # share of the neurons that fired with one sign at every step


class SPIDE(equilibrium.EquilibriumRule):
    """IDE's equation for β, solved by a second phase of neurons that fire −θ_b, 0 or θ_b.

    ::

        u += Jᵀ·s[t−1] + g      s = θ_b·(H(u − θ_b/2) − H(−u − θ_b/2))      u −= s      β = mean_t s

    The second phase has ``backward_steps`` steps. g is the gradient of a sample's loss times ``loss_scale``; β is
    divided by ``loss_scale`` at the end. ``∂L/∂W = (m⊙β/θ)·a_preᵀ`` is a product of the rates of both phases. A chip
    would need a neuron for each sign, the transposed forward weights, the gate m (1 where 0 < a < 1) and two counters.

    In the paper, forward neurons fire at θ/2 and subtract θ. ``v_init = v_threshold/2`` gives the same spikes (exactly
    for λ = 1). The attribute ``spikes`` has the numbers of spikes of the last batch, forward and backward.

    Parameters
    ----------
    backward_steps
        number of steps of the backward phase
    loss_scale
        factor of g. The 100 of the released code multiplies the mean over 128 samples, which is 0.8 here
    backward_threshold
        θ_b/2
    max_norm
        as in IDE
    not_converged
        ``"stop"``, or ``"continue"`` with a warning, if too many neurons fire at every step, or none fires
    """

    name: ClassVar[str] = "spide"
    settings = ("backward_steps", "loss_scale", "backward_threshold", "max_norm", "not_converged")

    def __init__(
        self,
        backward_steps: int = 100,
        loss_scale: float = 1.0,
        backward_threshold: float = 0.5,
        max_norm: float = 0.5,
        not_converged: str = "stop",
    ) -> None:
        self.backward_steps = checks.integer(backward_steps, "backward_steps")
        self.loss_scale = checks.number(loss_scale, "loss_scale", 1e-9, 1e9)
        self.backward_threshold = checks.number(backward_threshold, "backward_threshold", 1e-9, 1e9)
        super().__init__(max_norm)
        self.not_converged = checks.one_of(not_converged, "not_converged", WHEN_NOT_CONVERGED)
        self.spikes: dict[str, float] = {}

    def accumulate(self, net: Network, x: Input, labels: Tensor, loss: Loss) -> Accumulated:
        self.require_contraction(net)
        (rates,) = equilibrium.simulate(net, x, net.blocks[0].neuron.beta)
        found = equilibrium.equilibrium(net, rates, by_rate=True)
        total = equilibrium.evaluate_loss(net, found.o, labels, loss, x.shape[1])
        back = self.run_backward(found, found.output_error(total * (self.loss_scale * len(x))))
        self._require_room(back)
        forward = float(sum(a.sum() for a in rates.blocks)) * x.shape[1]
        self.spikes = {"forward": forward, "backward": float(back.spikes)}
        found.add_gradients(net, total, [b / (self.loss_scale * len(x)) for b in back.beta])
        return Accumulated(total.detach(), found.o.detach())

    @torch.no_grad()
    def run_backward(self, found: equilibrium.Equilibrium, g: Sequence[Tensor]) -> Backward:
        """The backward phase; between neurons there are only spikes."""
        top = 2 * self.backward_threshold
        u = [torch.zeros_like(part) for part in g]
        s = [torch.zeros_like(part) for part in g]
        sums = [torch.zeros_like(part) for part in g]
        spikes = g[0].new_zeros((), dtype=torch.int64)
        for _ in range(self.backward_steps):
            for i, arriving in enumerate(found.transposed(s)):
                u[i] += arriving + g[i]
                s[i] = top * ((u[i] > self.backward_threshold).to(u[i]) - (u[i] < -self.backward_threshold).to(u[i]))
                u[i] -= s[i]
                sums[i] += s[i]
                spikes += s[i].count_nonzero()
        full = top * self.backward_steps * (1 - 1e-6)
        neurons = sum(total.numel() for total in sums)
        saturated = int(sum((total.abs() >= full).sum() for total in sums)) / neurons
        return Backward(tuple(t / self.backward_steps for t in sums), tuple(u), tuple(s), int(spikes), saturated)

    def _require_room(self, back: Backward) -> None:
        message = ""
        if back.saturated > MAX_SATURATED:
            message = f"{back.saturated:.1%} of the error neurons fire at every step; lower loss_scale"
        elif not back.spikes:
            message = "no error neuron fires; raise loss_scale or backward_steps"
        if message and self.not_converged == "stop":
            raise TrainingError(
                f"{self.name}: loss_scale {self.loss_scale:g} does not fit {self.backward_steps} steps: {message}"
            )
        if message:
            warnings.warn(f"{self.name}: {message}", stacklevel=3)

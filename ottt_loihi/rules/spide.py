"""SPIDE: IDE whose backward pass is spikes too (Xiao et al., Neural Networks 2023, arXiv 2302.00232)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.nn.inputs import Input
from ottt_loihi.rules.equilibrium import Equilibrium, EquilibriumRule

MAX_SATURATED = 0.01  # share of error neurons at their largest rate


class Backward(NamedTuple):
    """The result of the backward phase."""

    beta: Tensor  # mean ternary spikes, ``(batch, neurons)``
    u: Tensor  # membranes at the end
    last: Tensor  # spikes of the last step
    spikes: int  # how many there were, of both signs
    saturated: float  # share of the neurons that fired with one sign at every step


class SPIDE(EquilibriumRule):
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
    by_rate = True
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
        super().__init__(max_norm, not_converged)
        self.spikes: dict[str, float] = {}

    def error(self, found: Equilibrium, loss: Tensor, x: Input) -> Tensor:
        scale = self.loss_scale * len(x)
        back = self.run_backward(found, found.output_error(loss * scale))
        problem = ""
        if back.saturated > MAX_SATURATED:
            problem = f"{back.saturated:.1%} of the error neurons fire at every step; lower loss_scale"
        elif not back.spikes:
            problem = "no error neuron fires; raise loss_scale or backward_steps"
        if problem:
            self.complain(f"loss_scale {self.loss_scale:g} does not fit {self.backward_steps} steps: {problem}")
        forward = float(sum(a.detach().sum() for a in found.rates)) * x.shape[1]
        self.spikes = {"forward": forward, "backward": float(back.spikes)}
        return back.beta / scale

    @torch.no_grad()
    def run_backward(self, found: Equilibrium, g: Tensor) -> Backward:
        """The backward phase; between neurons there are only spikes."""
        threshold = self.backward_threshold
        u, s, total = torch.zeros_like(g), torch.zeros_like(g), torch.zeros_like(g)
        spikes = g.new_zeros((), dtype=torch.int64)
        for _ in range(self.backward_steps):
            u += found.transposed(s) + g
            s = 2 * threshold * ((u > threshold).to(u) - (u < -threshold).to(u))
            u -= s
            total += s
            spikes += s.count_nonzero()
        full = 2 * threshold * self.backward_steps * (1 - 1e-6)
        saturated = int((total.abs() >= full).sum()) / total.numel()
        return Backward(total / self.backward_steps, u, s, int(spikes), saturated)

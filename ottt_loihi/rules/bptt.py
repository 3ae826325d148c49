"""Backpropagation through time with surrogate gradients: the baseline that every online rule is compared with."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.nn.inputs import Input, frames
from ottt_loihi.nn.network import Network, gathered
from ottt_loihi.nn.paths import GradientPaths
from ottt_loihi.rules.base import Accumulated, Rule, membranes, require_gradient
from ottt_loihi.rules.losses import Loss, instantaneous

RESETS = ("detached", "attached")


class BPTT(Rule):
    """``∇W = Σ_t ∂L/∂I[t]·x[t]ᵀ`` with ``∂L/∂I`` through all layers and time steps; its memory grows with T.

    ``reset="detached"``: the spike in the reset is a constant to the gradient (OTTT is closest to that);
    ``"attached"``: the gradient runs through it too. Source: Neftci, Mostafa & Zenke, IEEE SPM 2019 (arXiv 1901.09948).
    """

    name: ClassVar[str] = "bptt"
    trains_modules: ClassVar[bool] = True
    settings = ("reset",)

    def __init__(self, reset: str = "detached") -> None:
        self.reset = checks.one_of(reset, "reset", RESETS)
        self.paths = GradientPaths(reset=reset == "attached")

    def why_not_captured(self) -> str:
        return ""

    def accumulate(self, net: Network, x: Input, labels: Tensor, loss: Loss) -> Accumulated:
        state, losses, scores = None, [], None
        for frame in frames(x):
            o, state = net.step(frame, state, self.paths)
            losses.append(instantaneous(loss, o, labels, x.shape[1]))
            scores = gathered(net, scores, o.detach())
        require_gradient(net, state)
        both = torch.stack(losses)
        both.sum().backward()
        return Accumulated(both.detach(), scores, membranes(state))

"""OPZO: online pseudo-zeroth-order training (Xiao et al. 2024, arXiv 2407.12516)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.network import Network, NetworkState
from ottt_loihi.nn.neurons import LIF
from ottt_loihi.nn.paths import CONVENTIONS, ottt_paths
from ottt_loihi.rules.base import Error, OnlineRule, Rule, with_graph
from ottt_loihi.rules.eligibility import random_matrix

FEEDBACK = ("estimated", "random")


class OPZO(OnlineRule):
    """Errors reach each hidden layer directly, through a matrix that follows from noise: no backward pass.

    ::

        e = ∂L[t]/∂o[t]          g = M·e          ∇W[t] = (f(u[t]) ⊙ g)·â_pre[t]ᵀ
        M ← λ_M·M + (1 − λ_M)·mean_batch z·(õ[t] − o[t])ᵀ/α

    õ is the readout of a second run of this step with α·z added to the spikes of every hidden layer, z = ±1; the
    readout's own gradient uses e itself. M begins at 0, and its mean is divided by 1 − λ_M^k after k steps. The
    two-point difference is the paper's variant with less variance; the division is ours.

    ===========  ===========================  ===================================================================
    setting      range                        meaning
    ===========  ===========================  ===================================================================
    noise        > 0                          α
    momentum     0 … 1                        λ_M
    feedback     ``"estimated" | "random"``   random: M is drawn once and stays (direct feedback alignment)
    update       ``"step" | "sequence"``      as in OTTT
    convention   ``"paper" | "authors"``      as in OTTT; the network's
    seed         ≥ 0                          of a random M, together with the layer's number
    ===========  ===========================  ===================================================================

    Networks that are a row of layers. ``matrices``: M of every block, ``(neurons, classes)``.
    """

    name: ClassVar[str] = "opzo"
    settings = ("noise", "momentum", "feedback", "update", "convention", "seed")

    def __init__(
        self,
        noise: float = 0.2,
        momentum: float = 0.999,
        feedback: str = "estimated",
        update: str = "sequence",
        convention: str = "paper",
        seed: int = 0,
    ) -> None:
        super().__init__(ottt_paths(convention), update)
        self.noise = checks.number(noise, "noise", 0, 1e6, above=True)
        self.momentum = checks.number(momentum, "momentum", 0, 1, below=True)
        self.feedback = checks.one_of(feedback, "feedback", FEEDBACK)
        self.convention = checks.one_of(convention, "convention", CONVENTIONS)
        self.seed = checks.integer(seed, "seed", 0)
        self.matrices: list[Tensor] = []
        self.steps = 0

    def step(self, net: Network, x: Tensor, state: NetworkState | None) -> tuple[Tensor, NetworkState]:
        if self.feedback == "estimated":
            signs = (torch.randint(2, (len(x), *block.shape), device=x.device).to(x) * 2 - 1 for block in net.blocks)
            noisy = [z * self.noise for z in signs]  # α·z of every block
            with torch.no_grad():
                perturbed, _ = net.step(x, state, self.paths, sent=lambda i, out: out + noisy[i])
        o, state = net.step(x, state, self.paths, sent=lambda _, out: out.detach())  # no error comes back
        if self.feedback == "estimated":
            self._follow(noisy, perturbed - o.detach())
        return o, state

    def check(self, net: Network) -> None:
        if any(len(block.branches) or block.skip is not None for block in net.blocks):
            raise UsageError("opzo: expected a row of layers without branches and skips")
        if any(not isinstance(block.neuron, LIF) for block in net.blocks):
            raise UsageError("opzo: expected LIF neurons, whose surrogate it multiplies the feedback by")
        if net.convention != self.convention:
            raise UsageError(f"opzo: the rule has convention={self.convention!r}, the network {net.convention!r}")
        shapes = [(math.prod(block.shape), net.num_classes) for block in net.blocks]
        if not self.matrices:
            like, drawn = net.readout.weight, self.feedback == "random"
            self.matrices = [
                random_matrix(shape, self.seed, layer, like) if drawn else like.new_zeros(shape)
                for layer, shape in enumerate(shapes)
            ]
        elif [tuple(matrix.shape) for matrix in self.matrices] != shapes:
            raise UsageError("opzo: its matrices are another network's; make a new rule")

    def why_not_captured(self) -> str:
        return Rule.why_not_captured(self)

    def tensors(self) -> dict[str, Tensor]:
        kept = {str(index): matrix for index, matrix in enumerate(self.matrices)}
        return kept | {"steps": torch.tensor(float(self.steps), dtype=torch.float64)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        names = ["steps", *map(str, range(len(tensors) - 1))]
        if sorted(tensors) != sorted(names) or not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise ValueError(f"opzo: its matrices are damaged, found {', '.join(tensors) or 'none'}")
        self.steps = int(tensors["steps"])
        self.matrices = [tensors[name].clone() for name in names[1:]]

    def _follow(self, noisy: list[Tensor], change: Tensor) -> None:
        self.steps += 1
        for matrix, added in zip(self.matrices, noisy):
            product = added.flatten(1).t() @ change / (self.noise**2 * len(change))
            matrix.mul_(self.momentum).add_(product, alpha=1 - self.momentum)

    def teach(self, net: Network, now: Tensor, o: Tensor, state: NetworkState, error: Error) -> None:
        (e,) = torch.autograd.grad(now, o, retain_graph=True)
        scale = 1 / (1 - self.momentum**self.steps) if self.feedback == "estimated" else 1.0
        posts = []
        for block, after, matrix in zip(net.blocks, state.blocks, self.matrices):
            g = scale * (e @ matrix.t()).view_as(after.u)
            g = g if after.mask is None else g * after.mask
            posts.append(g * block.neuron.surrogate(after.u.detach(), block.neuron.v_threshold))
        currents = [after.current for after in state.blocks]
        torch.autograd.backward(*with_graph([now, *currents], [torch.ones_like(now), *posts]))

"""IDE: implicit differentiation on the equilibrium state (Xiao et al., NeurIPS 2021, arXiv 2109.14247)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.nn.inputs import Input
from ottt_loihi.rules.equilibrium import Equilibrium, EquilibriumRule

SOLVERS = ("broyden", "damped")


class Solution(NamedTuple):
    """The solution of the implicit equation for β, and how close it is."""

    beta: Tensor  # ``(batch, neurons)``
    residual: float  # ‖Jᵀβ − β + g‖/‖g‖ over the batch
    iterations: int  # products Jᵀβ


class IDE(EquilibriumRule):
    """The gradient of the equilibrium a = clamp(I(a)/θ, 0, 1), by the implicit function theorem.

    ::

        β = Jᵀβ + g,  g = ∂L/∂a          ∂L/∂W = (m⊙β/θ)·a_preᵀ          ∂L/∂b = m⊙β/θ

    The spikes run without a graph; nothing of their history is kept, so memory is constant in T.

    ================  ==========================  ==================================================================
    setting           range                       meaning
    ================  ==========================  ==================================================================
    max_norm          > 0, or 0                   feedback is scaled down after every step so that a loop's spectral
                                                  norm over thresholds (:func:`~.equilibrium.loop_norm`) stays at most
                                                  this; 0: it is left alone, and refused from 1 on. The released code
                                                  has ‖F‖₂ ≤ 1 with θ = 2, which is 0.5
    solver            ``"broyden" | "damped"``    of β; damped: β += ½·(Jᵀβ − β + g)
    max_iterations    ≥ 1                         of the solver
    tolerance         > 0                         relative residual it stops at
    not_converged     ``"stop" | "continue"``     what happens above it: a TrainingError, or a warning
    ================  ==========================  ==================================================================

    Networks with ``reset="subtract"`` and one λ; feedback by ``recurrent = true`` or ``feedback = true``.
    """

    name: ClassVar[str] = "ide"
    settings = ("max_norm", "solver", "max_iterations", "tolerance", "not_converged")

    def __init__(
        self,
        max_norm: float = 0.5,
        solver: str = "broyden",
        max_iterations: int = 30,
        tolerance: float = 1e-3,
        not_converged: str = "stop",
    ) -> None:
        super().__init__(max_norm, not_converged)
        self.solver = checks.one_of(solver, "solver", SOLVERS)
        self.tolerance = checks.number(tolerance, "tolerance", 1e-15, 1.0)
        self.max_iterations = checks.integer(max_iterations, "max_iterations")

    def error(self, found: Equilibrium, loss: Tensor, x: Input) -> Tensor:
        return self.solve(found, found.output_error(loss))

    def solve(self, found: Equilibrium, g: Tensor) -> Tensor:
        """Return β to the rule's tolerance. If it is not reached, raise or warn as the settings say."""
        beta, residual, iterations = _solved(
            found.transposed, g, self.max_iterations, self.tolerance, self.solver == "damped"
        )
        if not residual <= self.tolerance:
            self.complain(
                f"the implicit gradient is not solved: relative residual {residual:.2g} after {iterations} iterations, "
                f"wanted {self.tolerance:g}; raise max_iterations or tolerance, or lower max_norm"
            )
        return beta


def _solved(product: Callable[[Tensor], Tensor], g: Tensor, limit: int, tolerance: float, damped: bool) -> Solution:
    """Find the root of h(β) = β − Jᵀβ − g.

    damped: β −= ½·h, which also converges where Jᵀ has eigenvalues near −1. Otherwise Broyden's method, every sample
    with its own low-rank inverse, which begins as 1.
    """
    left: list[Tensor] = []
    right: list[Tensor] = []

    def inverse(x: Tensor, transposed: bool = False) -> Tensor:
        first, second = (right, left) if transposed else (left, right)
        return x + sum((u * (v * x).sum(1, keepdim=True) for u, v in zip(first, second)), torch.zeros_like(x))

    beta, norm = g, float(g.norm())
    h = beta - product(beta) - g
    for iteration in count(1):
        residual = float(h.norm()) / norm if norm else 0.0
        if residual <= tolerance or iteration == limit or not math.isfinite(residual):
            return Solution(beta, residual, iteration)
        step = -0.5 * h if damped else -inverse(h)
        beta = beta + step
        before, h = h, beta - product(beta) - g
        if not damped:
            change, row = h - before, inverse(step, transposed=True)
            scale = (row * change).sum(1, keepdim=True)
            left.append(torch.where(scale.abs() > 0, (step - inverse(change)) / scale, 0))
            right.append(row)

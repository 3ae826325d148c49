"""The common part of IDE and SPIDE: the equilibrium that the firing rates of a network with feedback approach.

With a the weighted firing rates of all blocks (weights λ^(T−t)), I(a) their currents and θ = Vth, neurons with reset by
subtraction end, up to a rest of order 1/T, where

::

    a = clamp(I(a)/θ, 0, 1)        J = diag(m)·∂I/∂a / θ        m = 1 where the clamp is open, 0 elsewhere

The blocks of a loop are one system here: a holds all of them, and J takes each block's part from those that feed it.

Source: Xiao et al., NeurIPS 2021 (arXiv 2109.14247), there for one state; writing all blocks as one is ours and
gives the same gradient.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.errors import TrainingError, UsageError
from ottt_loihi.nn.blocks import Branch
from ottt_loihi.nn.connections import Weights
from ottt_loihi.nn.inputs import Input, frames
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIF
from ottt_loihi.nn.precision import no_graph
from ottt_loihi.rules.base import Accumulated, Rule, require_finite, require_known_blocks, with_graph
from ottt_loihi.rules.losses import Loss, instantaneous

POWER_ITERATIONS = 1000
WHEN_NOT_CONVERGED = ("stop", "continue")


@dataclass(frozen=True)
class Rates:
    """Weighted means over time: ``x`` of the input, ``blocks`` of every block's spikes; ``masks`` of its dropout."""

    x: Tensor
    blocks: tuple[Tensor, ...]
    masks: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Equilibrium:
    """The equation at given rates, with a graph from rates and parameters to currents.

    Errors have all blocks side by side, ``(batch, neurons)``.
    """

    rates: tuple[Tensor, ...]  # a of every block, ``(batch, *shape)``
    currents: tuple[Tensor, ...]  # I(a)
    open: tuple[Tensor, ...]  # m
    thresholds: tuple[float, ...]  # θ
    o: Tensor  # the readout

    def transposed(self, beta: Tensor) -> Tensor:
        """Return Jᵀβ: the error, sent backwards through the weights of the loop."""
        return self._of_rates(*with_graph(self.currents, self.gated(beta)))

    def output_error(self, loss: Tensor) -> Tensor:
        """Return g = ∂L/∂a, through the readout only."""
        return self._of_rates(loss)

    def _of_rates(self, *errors: Any) -> Tensor:
        found = torch.autograd.grad(
            errors[0], self.rates, *errors[1:], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return torch.cat([part.flatten(1) for part in found], dim=1)

    def gated(self, beta: Tensor) -> list[Tensor]:
        """Return m⊙β/θ of every block: the gradient with respect to the current that follows from the error β."""
        parts = beta.split([m[0].numel() for m in self.open], dim=1)
        return [torch.where(m, b.view_as(m), 0) / theta for m, b, theta in zip(self.open, parts, self.thresholds)]

    def add_gradients(self, net: Network, loss: Tensor, beta: Tensor) -> None:
        """Add ``(m⊙β/θ)·aᵀ`` and the readout's own gradient to ``.grad``."""
        parameters = [p for p in net.parameters() if p.requires_grad]
        found = with_graph([loss, *self.currents], [torch.ones_like(loss), *self.gated(beta)])
        torch.autograd.backward(*found, inputs=parameters)


class EquilibriumRule(Rule):
    """A rule for networks whose loops must contract.

    max_norm: with an optimiser, feedback is scaled down so that a loop's norm stays at most this, before the first
    batch and after every step; 0: it is left alone. A loop whose norm is 1 or more is refused.
    not_converged: what happens where β is not found, ``"stop"`` or ``"continue"``.
    """

    by_rate: ClassVar[bool] = False  # m follows from the spikes, as :func:`equilibrium` says

    def __init__(self, max_norm: float, not_converged: str) -> None:
        self.max_norm = checks.number(max_norm, "max_norm", 0, 1)
        self.not_converged = checks.one_of(not_converged, "not_converged", WHEN_NOT_CONVERGED)
        self._contracting: list[float] = []  # of the loops that were last found to contract

    @abstractmethod
    def error(self, found: Equilibrium, loss: Tensor, x: Input) -> Tensor:
        """Return β of a batch x and its loss."""

    def accumulate(self, net: Network, x: Input, labels: Tensor, loss: Loss) -> Accumulated:
        if self._contracting != _fingerprint(net):
            require_contraction(net)
            self._contracting = _fingerprint(net)
        (rates,) = simulate(net, x, net.blocks[0].neuron.beta)
        found = equilibrium(net, rates, self.by_rate)
        total = evaluate_loss(net, found.o, labels, loss, x.shape[1])
        found.add_gradients(net, total, self.error(found, total, x))
        return Accumulated(total.detach(), found.o.detach())

    def check(self, net: Network) -> None:
        if not len(net.blocks):
            raise UsageError(f"{self.name}: expected at least one hidden layer")
        require_one_lif(net, self.name)

    def before_batch(self, net: Network) -> None:
        if self._contracting != _fingerprint(net):
            self.after_step(net)

    def after_step(self, net: Network) -> None:
        if self.max_norm:
            restrict(net, self.max_norm)
            self._contracting = _fingerprint(net)

    def complain(self, message: str) -> None:
        """Raise, or warn, as ``not_converged`` says."""
        if self.not_converged == "stop":
            raise TrainingError(f"{self.name}: {message}")
        warnings.warn(f"{self.name}: {message}", stacklevel=3)


def _fingerprint(net: Network) -> list[float]:
    """A number for each parameter and threshold, which changes when its values do."""
    sizes = [p.detach().double().abs().sum() for p in net.parameters()]
    return [*torch.stack(sizes).tolist(), *(float(block.neuron.v_threshold) for block in net.blocks)]


def require_one_lif(net: Network, rule: str) -> None:
    """Refuse neurons other than LIF with reset by subtraction and one λ: their rates are no clamp of their current."""
    if any(type(block.neuron) is not LIF for block in net.blocks):
        found = next(type(block.neuron).__name__ for block in net.blocks if type(block.neuron) is not LIF)
        raise UsageError(f"{rule}: expected LIF neurons, got {found}; ottt and bptt train any")
    require_known_blocks(rule, net)
    resets = {block.neuron.reset for block in net.blocks}
    betas = {block.neuron.beta for block in net.blocks}
    if resets - {"subtract"} or len(betas) > 1:
        raise UsageError(
            f'{rule}: expected LIF neurons with reset="subtract" and one beta, got {sorted(resets)}, {sorted(betas)}'
        )


@no_graph()
def simulate(net: Network, x: Input, *betas: float) -> list[Rates]:
    """Run the spikes; of each β the means over time with weights β^(T−t). Memory does not grow with T."""
    state, sums, lengths = None, [[]] * len(betas), [0.0] * len(betas)
    for t, frame in enumerate(frames(x)):
        _, state = net.step(frame, state)
        now = [frame, *(block.s for block in state.blocks)]
        for i, beta in enumerate(betas):
            sums[i] = [total.mul_(beta).add_(s) for total, s in zip(sums[i], now)] if t else [s.clone() for s in now]
            lengths[i] = 1 + beta * lengths[i]
    masks = tuple(block.mask for block in state.blocks)
    means = [[total.div_(length) for total in totals] for totals, length in zip(sums, lengths)]
    return [Rates(of_input, tuple(of_blocks), masks) for of_input, *of_blocks in means]


class Clamped(torch.autograd.Function):
    """Forwards the firing rate that the spikes gave; backwards the derivatives of ``clamp(gain·I, 0, top)`` at I.

    v, per_v: a threshold V that learns where the rate is saturated, or None, and ∂top/∂V
    """

    @staticmethod
    def forward(ctx: Any, current: Tensor, rate: Tensor, top: Any, gain: float, v: Any, per_v: float) -> Tensor:
        ctx.save_for_backward(current)
        ctx.top, ctx.gain, ctx.per_v = top, gain, per_v
        return rate.view_as(rate)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (current,) = ctx.saved_tensors
        z = ctx.gain * current
        of_v = ctx.per_v * (g * (z >= ctx.top)).sum() if ctx.needs_input_grad[4] else None
        return g * ctx.gain * ((z > 0) & (z < ctx.top)), None, None, None, of_v, None


def equilibrium(net: Network, rates: Rates, by_rate: bool = False) -> Equilibrium:
    """The equation at these rates. by_rate: m from 0 < a < 1, which spikes tell; otherwise from 0 < I(a) < θ."""
    leaves = tuple(a.detach().requires_grad_() for a in rates.blocks)
    out = [a if mask is None else a * mask for a, mask in zip(leaves, rates.masks)]
    currents = currents_at(net, rates.x, out)
    thresholds = tuple(block.neuron.v_threshold for block in net.blocks)
    tops = [1.0] * len(leaves) if by_rate else thresholds
    is_open = tuple((v > 0) & (v < top) for v, top in zip(leaves if by_rate else currents, tops))
    return Equilibrium(leaves, tuple(currents), is_open, thresholds, net.read(out[-1], None)[0])


def currents_at(
    net: Network, x: Tensor, out: list[Tensor], rate: Callable[[int, Tensor], Tensor] | None = None
) -> list[Tensor]:
    """Return the current of every block at firing rates.

    Parameters
    ----------
    x
        rates of the input
    out
        rates of the blocks; with ``rate`` they are appended here
    rate
        ``(index of a block, its current) →`` its rate, in networks without loops
    """
    currents: list[Tensor] = []
    for index, block in enumerate(net.blocks):
        inputs = [x if index == 0 else out[index - 1], *(out[branch.source] for branch in block.branches)]
        current, _ = block.charge(inputs)
        if block.skip is not None:
            current = current + block.skip.factor * currents[block.skip.source]
        currents.append(current)
        if rate is not None:
            out.append(rate(index, current))
    return currents


def evaluate_loss(net: Network, o: Tensor, labels: Tensor, loss: Loss, steps: int) -> Tensor:
    """The loss of the readout o of the rates, which must be finite."""
    total = instantaneous(loss, o, labels, 1)
    require_finite(net, total.detach(), first=steps - 1)
    return total


def feedback(net: Network) -> Iterator[tuple[int, Branch]]:
    """Every branch that closes a loop, and the block it ends in."""
    for index, block in enumerate(net.blocks):
        yield from ((index, branch) for branch in block.branches if branch.delay)


def loop_norm(net: Network, index: int, branch: Branch, tolerance: float = 1e-6) -> float:
    """``‖W_source/θ · … · W_(index+1)/θ · F/θ‖₂``: what a difference of rates grows by once around this loop.

    Below 1 the equilibrium exists, is the only one, and the spikes find it. Power iteration, until a round changes less
    than the relative tolerance.
    """
    ends = range(index, branch.source + 1)
    connections = [branch.connection, *(net.blocks[end].connection for end in ends[1:])]
    weights = [Weights(connection.effective().weight, None) for connection in connections]
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(1, *net.blocks[branch.source].shape, generator=generator).to(net.readout.weight.detach())
    norm = 0.0
    for _ in range(POWER_ITERATIONS):
        v = (v / v.norm().clamp(min=torch.finfo(v.dtype).tiny)).detach().requires_grad_()
        y = v
        for end, connection, weight in zip(ends, connections, weights):
            y = connection.current(y, weight) / net.blocks[end].neuron.v_threshold
        before, norm = norm, float(y.detach().norm())
        if abs(norm - before) <= tolerance * norm:
            break
        (v,) = torch.autograd.grad(y, v, y.detach(), retain_graph=True)
    return norm


def restrict(net: Network, bound: float) -> None:
    """Scale feedback down where its loop's norm is above ``bound``."""
    for index, branch in feedback(net):
        if (norm := loop_norm(net, index, branch, 1e-3)) > bound:
            scaled = branch.connection.weight if branch.connection.gain is None else branch.connection.gain
            with torch.no_grad():
                scaled.mul_(bound / norm)


def require_contraction(net: Network) -> None:
    """Refuse a loop that does not contract, with its norm and the remedy."""
    for index, branch in feedback(net):
        if not (norm := loop_norm(net, index, branch)) < 1:
            raise TrainingError(
                f"block {index + 1}: its feedback multiplies a difference by {norm:.3g} once around (spectral norm "
                "over thresholds), expected below 1, or there may be no equilibrium; set the rule's max_norm, raise "
                "v_threshold, or start from smaller feedback weights"
            )

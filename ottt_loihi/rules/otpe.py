"""OTPE: past effects of a weight are still present in the next layer's membrane (Summe et al. 2023, 2311.16151)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.blocks import Block, BlockState
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIFStep, Trace, follow
from ottt_loihi.nn.trace import dense, fixed_parameters, gradient_only, own_inputs, with_bias_input, with_trace
from ottt_loihi.rules.eligibility import LayeredRule, after_step, fire, require_lif, trace_of


class Mean(NamedTuple):
    """ḡ, the leaky mean of the surrogate, and r, the sum of its weights."""

    value: Tensor
    weight: float


class AOTPE(LayeredRule):
    """A-OTPE: OTPE with factors in place of a value per synapse, so that it costs two traces per input.

    ::

        â[t] = λ·â[t−1] + x[t]        ẑ[t] = λ·ẑ[t−1] + â[t]        ḡ_i[t] = Σ_τ λ^(t−τ)·f(u_i[τ]) / Σ_τ λ^(t−τ)
        hidden        ∇w_ij = Σ_t δ_i·ḡ_i·ẑ_j        ∇b_i = Σ_t δ_i·ḡ_i        δ below = Wᵀ(ḡ ⊙ δ)
        last layer    OTTT

    The last layer of neurons is the paper's output layer: our readout has no membrane, so nothing of the past acts
    behind it. All layers need the same λ. ``update`` as in OTTT.
    """

    name: ClassVar[str] = "a-otpe"

    def check(self, net: Network) -> None:
        require_lif(self.name, net, branches=False)
        betas = {block.neuron.beta for block in net.blocks}
        if len(betas) > 1:
            found = ", ".join(f"{beta:g}" for beta in sorted(betas))
            raise UsageError(f"{self.name}: expected the same beta in all layers, got {found}; ottt takes any")

    def layer(
        self, block: Block, inputs: Sequence[Tensor | None], state: BlockState | None, last: bool
    ) -> tuple[Tensor, BlockState]:
        return (output_layer if last else self.hidden_layer)(block, inputs[0], state)

    def hidden_layer(self, block: Block, x: Tensor, before: BlockState | None) -> tuple[Tensor, BlockState]:
        """Return the spikes of a hidden layer, with ḡ and ẑ as their gradient."""
        beta = block.neuron.beta
        inner = follow(x, trace_of(before, 0), beta)
        outer = follow(inner.value, trace_of(before, 1), beta)
        current = with_trace(block.connection, x, Trace(outer.value), current=("bias",))
        step, f = _constant_step(block, current, before)
        mean = leaky_mean(f, None if before is None else before.memory, beta)
        s = step.s + mean.value * gradient_only(current)
        return after_step(block, step._replace(s=s), current, (inner, outer), before, mean)


class OTPE(AOTPE):
    """OTPE: every synapse of a hidden layer stores its effect on the spikes of its neuron.

    ::

        D_ij[t] = λ·E_ij[t−1] + x_j[t]             E = D, or (1 − Vth·f(u_i))·D with ``attached_reset``
        R_ij[t] = λ·R_ij[t−1] + f(u_i[t])·D_ij[t]  ∇w_ij = Σ_t δ_i·R_ij        δ below = Wᵀ(ḡ ⊙ δ), ḡ as in A-OTPE

    With one hidden layer and an output layer, that is BPTT's gradient (the output's reset detached). A bias is a weight
    with x = 1. Dense layers: a convolution would need R for every position and kernel element; use ``a-otpe``.

    ``attached_reset``: the gradient also runs through the reset of hidden layers. That needs reset by subtraction, and
    a second value per synapse. ``update`` as in OTTT.
    """

    name: ClassVar[str] = "otpe"
    settings = ("update", "attached_reset")

    def __init__(self, update: str = "sequence", attached_reset: bool = False) -> None:
        super().__init__(update)
        self.attached_reset = checks.flag(attached_reset, "attached_reset")

    def check(self, net: Network) -> None:
        super().check(net)
        for index, block in enumerate(net.blocks[:-1]):
            if not dense(block.connection):
                kind = type(block.connection).__name__
                raise UsageError(f"otpe: block {index + 1} is a {kind}, expected dense layers; a-otpe trains them")
            if self.attached_reset and block.neuron.reset != "subtract":
                raise UsageError(f'otpe: attached_reset needs reset="subtract", block {index + 1} has another')

    def hidden_layer(self, block: Block, x: Tensor, before: BlockState | None) -> tuple[Tensor, BlockState]:
        """Return the spikes of a hidden layer, with ḡ as their gradient towards x and R towards the parameters."""
        beta = block.neuron.beta
        current = fixed_parameters(block.connection, x)
        step, f = _constant_step(block, current, before)
        mean, kept, effects = (None, None, None) if before is None else before.memory
        mean = leaky_mean(f, mean, beta)
        driven = with_bias_input(x).expand(-1, f.shape[1], -1)
        if kept is not None:
            driven = beta * kept + driven
        effects = f[:, :, None] * driven if effects is None else beta * effects + f[:, :, None] * driven
        kept = driven
        if self.attached_reset:
            kept = (1 - block.neuron.v_threshold * f)[:, :, None] * driven
        s = step.s + mean.value * gradient_only(current)
        if torch.is_grad_enabled():
            s = s + gradient_only(own_inputs(block.connection, effects[:, :, :-1], effects[:, :, -1]))
        return after_step(block, step._replace(s=s), current, (), before, (mean, kept, effects))


def output_layer(block: Block, x: Tensor, before: BlockState | None) -> tuple[Tensor, BlockState]:
    """Return the spikes of the last layer of neurons, which learns as OTTT does."""
    trace = follow(x, trace_of(before, 0), block.neuron.beta)
    current = with_trace(block.connection, x, trace)
    return after_step(block, fire(block, current, before), current, (trace,), before, None)


def leaky_mean(f: Tensor, before: Mean | None, beta: float) -> Mean:
    """Return ``ḡ = ((r − 1)·ḡ + f)/r`` with ``r = λ·r + 1``."""
    if before is None:
        return Mean(f, 1.0)
    weight = beta * before.weight + 1
    return Mean(((weight - 1) * before.value + f) / weight, weight)


def _constant_step(block: Block, current: Tensor, before: BlockState | None) -> tuple[LIFStep, Tensor]:
    """A step and its f(u), constants to the gradient."""
    with torch.no_grad():
        step = fire(block, current.detach(), before)
        return step, block.neuron.surrogate(step.u, block.neuron.v_threshold)

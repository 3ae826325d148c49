"""Connections that carry the presynaptic trace, and the block of one connection and its neurons.

Modules hold parameters only. What changes from step to step is passed in and out as named tuples, so that a step is a
function of its arguments; a state is ``None`` before the first step.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ottt_loihi.errors import UsageError
from ottt_loihi.neurons import LIF
from ottt_loihi.paths import BPTT, Paths


class SynapseState(NamedTuple):
    """``trace``: â[t], of the input's shape, None where no rule asked for it; ``bias_trace``: Λ_t."""

    trace: Tensor | None
    bias_trace: float


class Linear(nn.Module):
    """``I[t] = W·x[t] + b``, with a weight gradient that can use the presynaptic trace.

    ::

        â[t] = λ·â[t−1] + x[t]            Λ_t = λ·Λ_{t−1} + 1
        ∂L/∂W = g·â[t]ᵀ                   ∂L/∂b = g·Λ_t                   ∂L/∂x = Wᵀ·g          g = ∂L/∂I[t]

    λ is the decay of the neurons this connection feeds: that makes ``g·âᵀ`` the derivative of their membrane's whole
    past (OTTT eq. 4). The gradient towards the input belongs to this step's x, not to the trace.

    weight: ``(out_features, in_features)``, bias: ``(out_features,)`` or None. An input of shape ``(batch, …)`` is
    flattened to ``(batch, in_features)``. ``generator``: of the initial weights, default torch's global one.
    """

    INITIAL_GAIN: ClassVar[float] = math.sqrt(6)  # Kaiming's; with less, hardly a neuron fires at the start

    def __init__(
        self, in_features: int, out_features: int, bias: bool = False, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        for where, value in (("in_features", in_features), ("out_features", out_features)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"Linear.{where}: expected a positive integer, got {value!r}")
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters(generator)

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Weights uniform in ±gain/√in_features, bias 0."""
        if self.weight.is_meta:  # only the shapes are wanted (checkpoint.load)
            return
        bound = self.INITIAL_GAIN / math.sqrt(self.in_features)
        with torch.no_grad():
            self.weight.uniform_(-bound, bound, generator=generator)
            if self.bias is not None:
                self.bias.zero_()

    def forward(
        self,
        x: Tensor,
        state: SynapseState | None = None,
        *,
        decay: float = 0.0,
        traced: bool = False,
        bias_traced: bool = False,
    ) -> tuple[Tensor, SynapseState]:
        """One step: the current, and the state after it.

        x: ``(batch, …)`` of the weight's dtype · decay: λ · traced, bias_traced: whether the gradients of W and b use
        â and Λ.
        """
        x = x.flatten(1)
        trace = _decayed(x, state, decay) if traced else None
        bias_trace = 1.0 + decay * state.bias_trace if bias_traced and state is not None else 1.0
        if trace is None and bias_trace == 1.0:
            current = functional.linear(x, self.weight, self.bias)
        else:
            pre = x.detach() if trace is None else trace
            current = _TracedLinear.apply(x, pre, self.weight, self.bias, bias_trace)
        return current, SynapseState(trace, bias_trace)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Readout(Linear):
    """``o[t] = W·s[t] + b``: a :class:`Linear` that feeds no neuron and remembers nothing.

    The network's scores are Σ_t o[t] and its prediction is their argmax.
    """

    INITIAL_GAIN: ClassVar[float] = 1.0


class BlockState(NamedTuple):
    """After a step, ``(batch, neurons)`` each: spikes s, membrane u before and v after reset; the synapse's state."""

    s: Tensor
    u: Tensor
    v: Tensor
    synapse: SynapseState


class Block(nn.Module):
    """A connection and the neurons it feeds: ``block.synapse`` (:class:`Linear`) and ``block.neuron`` (LIF)."""

    def __init__(self, synapse: Linear, neuron: LIF) -> None:
        super().__init__()
        self.synapse = synapse
        self.neuron = neuron

    def forward(
        self, x: Tensor, state: BlockState | None = None, paths: Paths = BPTT, first: bool = False
    ) -> tuple[Tensor, BlockState]:
        """One step: this step's spikes, and the state. ``first``: x is the network's input (``paths.input_trace``)."""
        current, synapse = self.synapse(
            x,
            None if state is None else state.synapse,
            decay=self.neuron.decay,
            traced=paths.input_trace if first else paths.trace,
            bias_traced=paths.bias_trace,
        )
        s, u, v = self.neuron(current, None if state is None else state.v, paths)
        return s, BlockState(s, u, v, synapse)


def _decayed(x: Tensor, state: SynapseState | None, decay: float) -> Tensor:
    """â[t] = λ·â[t−1] + x[t], a constant to autograd."""
    x = x.detach()
    if state is None or state.trace is None:
        return x
    return torch.add(x, state.trace, alpha=decay)


class _TracedLinear(torch.autograd.Function):
    """:class:`Linear` with one product forwards; the trace enters backwards only, in the weight's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, trace: Tensor, weight: Tensor, bias: Tensor | None, bias_trace: float) -> Tensor:
        ctx.save_for_backward(trace, weight)
        ctx.bias_trace = bias_trace
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor | None, None]:
        trace, weight = ctx.saved_tensors
        grad_x = g @ weight if ctx.needs_input_grad[0] else None
        grad_weight = g.t() @ trace if ctx.needs_input_grad[2] else None
        grad_bias = ctx.bias_trace * g.sum(0) if ctx.needs_input_grad[3] else None
        return grad_x, None, grad_weight, grad_bias, None

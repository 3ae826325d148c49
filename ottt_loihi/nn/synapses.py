"""A trace for every synapse: where the effect of an input on a membrane depends on the neuron, not the input alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.connections import Linear


class SynapseTrace(NamedTuple):
    """The traces of a connection's synapses, without a graph; the last input of each neuron is its bias's 1."""

    # e[t], ``(batch, neurons, inputs + 1)``, or ``(batch, 1, inputs + 1)`` while it is the same for all neurons
    value: Tensor
    arrived: Tensor  # a[t], of one of these shapes


def with_bias_input(x: Tensor) -> Tensor:
    """Return x ``(batch, …)`` as ``(batch, 1, inputs + 1)``, without a graph: the last input is the bias's 1."""
    return functional.pad(x.detach().flatten(1), (0, 1), value=1.0)[:, None]


def with_own_traces(connection: nn.Module, x: Tensor, trace: SynapseTrace, traced: bool, bias_traced: bool) -> Tensor:
    """Return ``connection(x)``, from whose gradient every weight learns as if its own trace had been its input.

    The gradient towards x is that of ``connection(x)``. traced, bias_traced: whether weights and biases learn from
    traces, or from x and 1.

    Raises
    ------
    UsageError
        for another connection than a dense one, which would need a trace for every position of its weights
    """
    if not dense(connection):
        raise UsageError(
            f"CubaLIF: trace='synapse' keeps a trace for every synapse of dense layers, got a "
            f"{type(connection).__name__}; use trace='exact'"
        )
    if not torch.is_grad_enabled():
        return connection(x)
    now = functional_call(connection, {name: p.detach() for name, p in connection.named_parameters()}, (x,))
    inputs = trace.value[:, :, :-1] if traced else x.detach().flatten(1)[:, None]
    learns = own_inputs(connection, inputs, trace.value[:, :, -1] if bias_traced else torch.ones(()).to(x))
    return now + (learns - learns.detach())


def dense(connection: nn.Module) -> bool:
    """Whether every neuron of a connection has a weight of its own for every input."""
    return isinstance(connection, (Linear, nn.Linear)) and getattr(connection, "pool", None) is None


def own_inputs(connection: nn.Module, inputs: Tensor, length: Tensor) -> Tensor:
    """Return ``Σ_j E_ij·w_ij + L_i·b_i``, ``(batch, out)``; E: ``(batch, out or 1, in)``, L: ``(batch, out or 1)``."""
    weight, bias = connection.effective() if isinstance(connection, Linear) else (connection.weight, connection.bias)
    product = (inputs * weight).sum(2)
    return product if bias is None else product + length * bias

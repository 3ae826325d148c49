"""The one place where a trace meets a gradient: OTTT's equation 4, for any connection.

Where the effect of an input on a membrane depends on the neuron, every synapse of a dense layer has a trace of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.connections import Linear
from ottt_loihi.nn.neurons import Trace

MAX_POOLING = (
    *(nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd),
    *(nn.FractionalMaxPool2d, nn.FractionalMaxPool3d),
)
NOT_AFFINE = (
    *(nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, getattr(nn, "RMSNorm", nn.LayerNorm)),
    *(nn.RNNBase, nn.RNNCellBase, nn.Embedding, nn.EmbeddingBag, nn.Bilinear),
)


def require_affine(part: nn.Module, traced: bool = True) -> None:
    """Refuse a layer of torch that no rule trains here; ``traced``: also one of whose gradient a trace says nothing."""
    name = type(part).__name__
    if isinstance(part, MAX_POOLING):
        raise UsageError(
            f"{name}: max pooling of spikes has no gradient that a trace could carry; use average pooling, or a stride"
        )
    if isinstance(part, nn.modules.conv._ConvTransposeNd):
        raise UsageError(f"{name}: transposed convolutions are not trained; use ol.Conv2d with upsample")
    if traced and (isinstance(part, NOT_AFFINE) or type(part).__module__ == nn.modules.activation.__name__):
        raise UsageError(
            f"{name}: not affine in its input, so a trace says nothing about its gradient; use standardised weights "
            "(ottt_loihi.nn.connections) in place of normalisation, and neurons in place of activations"
        )


def with_trace(connection: nn.Module, x: Tensor, *traces: Trace, current: Collection[str] = ()) -> Tensor:
    """Return ``connection(x)``, from whose gradient the parameters learn as if the input had been the trace (eq. 4).

    ::

        I[t] = W·x[t] + b          Σ_{τ≤t} λ^{t−τ}·I[τ] = W·â[t] + b·Λ_t = Λ_t·connection(â[t]/Λ_t)

    The value of I[t] and its gradient towards x are those of the first. The gradient towards the parameters is the one
    of the second: what their membrane has received so far, so that ∂L/∂W = g·âᵀ and ∂L/∂b = Σ g·Λ. That holds for any
    module that is affine in x. It runs twice, and so do its hooks.

    Parameters
    ----------
    connection
        of this package, ``torch.nn.Linear``, ``torch.nn.Conv2d``, or any module that is affine in its input
    x
        ``(batch, …)``, the spikes of this step
    traces
        â and Λ; several where groups of neurons have different ones
    current
        names of parameters that learn from x all the same
    """
    if not torch.is_grad_enabled():
        return connection(x)
    now = fixed_parameters(connection, x, current)
    traced = {name for name, _ in connection.named_parameters()}.difference(current)
    for trace in traces:
        learns = gradient_only(trace.length * fixed_parameters(connection, trace.value / trace.length, traced))
        now = now + (learns if trace.mask is None else learns * trace.mask)
    return now


def fixed_parameters(connection: nn.Module, x: Tensor, learning: Collection[str] = ()) -> Tensor:
    """Return ``connection(x)`` from which only the parameters named in ``learning``, and x, learn."""
    parameters = {name: p if name in learning else p.detach() for name, p in connection.named_parameters()}
    return functional_call(connection, parameters, (x,))


def gradient_only(value: Tensor) -> Tensor:
    """Return zeros that have the gradient of ``value``."""
    return value - value.detach()


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
    traces, or from x and 1. UsageError for another connection than a dense one, which would need a trace for every
    position of its weights.
    """
    if not dense(connection):
        raise UsageError(
            f"CubaLIF: trace='synapse' keeps a trace for every synapse of dense layers, got a "
            f"{type(connection).__name__}; use trace='exact'"
        )
    if not torch.is_grad_enabled():
        return connection(x)
    now = fixed_parameters(connection, x)
    inputs = trace.value[:, :, :-1] if traced else x.detach().flatten(1)[:, None]
    return now + gradient_only(
        own_inputs(connection, inputs, trace.value[:, :, -1] if bias_traced else torch.ones(()).to(x))
    )


def dense(connection: nn.Module) -> bool:
    """Whether every neuron of a connection has a weight of its own for every input."""
    return isinstance(connection, (Linear, nn.Linear)) and getattr(connection, "pool", None) is None


def own_inputs(connection: nn.Module, inputs: Tensor, length: Tensor) -> Tensor:
    """Return ``Σ_j E_ij·w_ij + L_i·b_i``, ``(batch, out)``; E: ``(batch, out or 1, in)``, L: ``(batch, out or 1)``."""
    weight, bias = connection.effective() if isinstance(connection, Linear) else (connection.weight, connection.bias)
    product = (inputs * weight).sum(2)
    return product if bias is None else product + length * bias

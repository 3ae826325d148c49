"""OTTT's three factors, one by one: the values that a chip needs at every connection and step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.connections import Connection
from ottt_loihi.nn.inputs import Input, frames
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIF, Stream
from ottt_loihi.nn.paths import ottt_paths
from ottt_loihi.rules.losses import Loss, make_loss


@dataclass(frozen=True)
class Factors:
    """The factors of one connection at one time step.

    ===========  =====================  ==========================================================================
    field        shape                  meaning
    ===========  =====================  ==========================================================================
    trace        ``(batch, *inputs)``   first factor: â[t], what the weights multiply (pooled, repeated if they are)
    surrogate    ``(batch, *outputs)``  second factor: f(u[t]); the readout's: 1
    error        ``(batch, *outputs)``  third factor: δ[t] = ∂L[t]/∂s[t]; the readout's: ∂L[t]/∂o[t]
    stream       ``(batch, *outputs)``  ∂L[t]/∂I[t] that comes round the neuron (``nn.blocks.Skip``); None
                                        without
    bias_trace   float                  Λ_t, or 1 where the convention has no bias trace
    ===========  =====================  ==========================================================================
    """

    connection: Connection
    trace: Tensor
    surrogate: Tensor
    error: Tensor
    stream: Tensor | None = None
    bias_trace: float = 1.0

    @property
    def post(self) -> Tensor:
        """Return ``f(u[t])·δ[t]``, plus the gradient of a residual stream: ∂L[t]/∂I[t]."""
        product = self.surrogate * self.error
        return product if self.stream is None else product + self.stream

    def gradient(self) -> Tensor:
        """Return this step's gradient of the effective weight: post ⊗ trace, summed over the batch (and the image)."""
        weight = self.connection.effective().weight.detach().requires_grad_()
        with torch.enable_grad():  # the product is linear in the weight, so this is post ⊗ trace and nothing else
            current = self.connection.after(self.connection.product(self.trace, weight, None))
        return torch.autograd.grad(current, weight, self.post)[0]


def three_factors(net: Network, x: Input, labels: Tensor, loss: Loss) -> list[list[Factors]]:
    """Trace, surrogate and error of every connection at every step; their product is the gradient (eq. 7).

    Source: OTTT (arXiv 2210.04195) eq. 4 and 7.

    Returns T lists with one :class:`Factors` for each of ``net.connections()``, in that order. Σ_t ``gradient()`` is
    what OTTT with ``update="sequence"`` and the network's convention adds to ``.grad`` of a weight without gain or
    scale.

    Parameters
    ----------
    x
        ``(batch, T, *input_shape)``
    labels
        int64 ``(batch,)``
    """
    x, labels, loss = net.check_input(x), net.check_labels(labels, len(x)), make_loss(loss)
    paths, state, steps = ottt_paths(net.convention), None, []
    skipped = {block.skip.source for block in net.blocks if block.skip is not None}
    for frame in frames(x):
        o, state = net.step(frame, state, paths)
        wanted = [*(after.s for after in state.blocks), *(after.current for after in state.blocks), o]
        *found, output_error = torch.autograd.grad(loss(o, labels, x.shape[1]), wanted)
        factors, main = [], frame
        for index, (block, after) in enumerate(zip(net.blocks, state.blocks)):
            surrogate, error, of_current = _surrogate(block.neuron, after.u.detach()), *found[index :: len(net.blocks)]
            stream = of_current - surrogate * error if index in skipped else None
            sources = [main, *(state.blocks[branch.source].out for branch in block.branches)]
            for number, (connection, trace, source) in enumerate(zip(block.connections, after.traces, sources)):
                value, length = source.detach(), 1.0  # the authors' first layer
                if trace is not None:
                    value, length = trace.value, trace.length if paths.bias_trace else 1.0
                elif number:  # nothing has arrived over this branch yet
                    value, length = torch.zeros_like(value), 0.0
                factors.append(Factors(connection, connection.before(value), surrogate, error, stream, length))
            main = after.out
        trace = main.detach() if state.readout is None else state.readout.value
        factors.append(Factors(net.readout, net.readout.before(trace), torch.ones_like(output_error), output_error))
        steps.append(factors)
    return steps


def _surrogate(neuron: nn.Module, u: Tensor) -> Tensor:
    if isinstance(neuron, Stream):
        return torch.ones_like(u)
    if not isinstance(neuron, LIF):
        raise UsageError(f"three_factors: expected LIF neurons, got {type(neuron).__name__}")
    return neuron.surrogate(u, neuron.v_threshold)

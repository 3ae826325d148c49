"""OTTT's three factors, one by one: what a chip has to know at every connection and step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ottt_loihi.nn.connections import Connection
from ottt_loihi.nn.inputs import Input, frames
from ottt_loihi.nn.network import Network, NetworkState
from ottt_loihi.nn.paths import ottt_paths
from ottt_loihi.rules.base import check_labels
from ottt_loihi.rules.losses import Loss


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
        """``f(u[t])·δ[t]`` (+ stream) = ∂L[t]/∂I[t]."""
        product = self.surrogate * self.error
        return product if self.stream is None else product + self.stream

    def gradient(self) -> Tensor:
        """This step's gradient of the effective weight: post ⊗ trace, summed over the batch (and over the image)."""
        weight = self.connection.effective().weight.detach().requires_grad_()
        with torch.enable_grad():  # the product is linear in the weight, so this is post ⊗ trace and nothing else
            current = self.connection._send(self.connection._product(self.trace, weight, None))
        return torch.autograd.grad(current, weight, self.post)[0]


def three_factors(net: Network, x: Input, labels: Tensor, loss: Loss) -> list[list[Factors]]:
    """Trace, surrogate and error of every connection at every step; their product is the gradient (eq. 7).

    x: ``(batch, T, *input_shape)`` · labels: int64 ``(batch,)``. Returns T lists with one :class:`Factors` for each of
    ``net.connections()``, in that order. Σ_t ``gradient()`` is what OTTT with ``update="sequence"`` and the network's
    convention adds to ``.grad`` of a weight without gain and scale.

    Source: OTTT (arXiv 2210.04195) eq. 4 and 7.
    """
    x, labels = net.check_input(x), check_labels(net, x, labels)
    paths, state, steps = ottt_paths(net.convention), None, []
    for frame in frames(x):
        o, state = net.step(frame, state, paths)
        spikes = [block.s for block in state.blocks]
        *errors, output_error = torch.autograd.grad(loss(o, labels, x.shape[1]), [*spikes, o])
        steps.append(_hidden(net, frame, state, errors) + [_readout(net, frame, state, output_error)])
        state = _without_graph(state)
    return steps


def _hidden(net: Network, x: Tensor, state: NetworkState, errors: list[Tensor]) -> list[Factors]:
    surrogates = [b.neuron.surrogate(s.u.detach(), b.neuron.v_threshold) for b, s in zip(net.blocks, state.blocks)]
    streams: list[Tensor | None] = [None] * len(errors)
    for index in reversed(range(len(errors))):
        if (skip := net.blocks[index].skip) is not None:  # ∂L/∂I of this block reaches the source's current as well
            post = surrogates[index] * errors[index] + (0 if streams[index] is None else streams[index])
            already = streams[skip.source]
            streams[skip.source] = skip.factor * post + (0 if already is None else already)
    factors = []
    for index, (block, after) in enumerate(zip(net.blocks, state.blocks)):
        main = x if index == 0 else state.blocks[index - 1].out
        for connection, connection_state in zip(block.connections, after.connections):
            trace = connection._receive(main.detach()) if connection_state.trace is None else connection_state.trace
            common = surrogates[index], errors[index], streams[index], connection_state.bias_trace
            factors.append(Factors(connection, connection._spread(trace), *common))
    return factors


def _readout(net: Network, x: Tensor, state: NetworkState, error: Tensor) -> Factors:
    trace = state.readout.trace
    if trace is None:
        trace = net.readout._receive((state.blocks[-1].out if state.blocks else x).detach())
    return Factors(net.readout, trace, torch.ones_like(error), error)


def _without_graph(state: NetworkState) -> NetworkState:
    blocks = (block._replace(s=block.s.detach(), u=block.u.detach()) for block in state.blocks)
    return state._replace(blocks=tuple(blocks))

"""Spike accumulation forwarding (Saiin et al., TMLR 2024, arXiv 2310.02772): one accumulated value instead of two.

OTTT carries spikes forwards and traces for the weights. SAF carries the traces alone. With Û the accumulated current
and â the accumulated spikes of a layer (Λ_t = Σ_{τ≤t} λ^{t−τ}),

::

    Û[t] = W·â_pre[t] + b·Λ_t                       u[t] = Û[t] − Vth·λ·â[t−1]
    s[t] = H(u[t] − Vth)                            â[t] = λ·â[t−1] + s[t]

are the spikes of the LIF neuron with reset by subtraction, without a membrane that has to be kept.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.blocks import Sent
from ottt_loihi.nn.inputs import Input, frames
from ottt_loihi.nn.network import Network, without_graph
from ottt_loihi.nn.neurons import Trace, fire, follow
from ottt_loihi.nn.paths import ottt_paths
from ottt_loihi.nn.precision import no_graph
from ottt_loihi.rules.base import Accumulated, OnlineRule, Rule
from ottt_loihi.rules.equilibrium import Clamped, currents_at, evaluate_loss, require_one_lif
from ottt_loihi.rules.losses import Loss


class SAFState(NamedTuple):
    """The accumulated values after a step."""

    x: Trace  # the trace of the input, and Λ_t
    out: tuple[Tensor, ...]  # â of every block
    masks: tuple[Tensor | None, ...]  # of the dropout, per block
    sent: Sent  # â of earlier steps without that of dropped neurons, for branches with a delay


class SAFE(OnlineRule):
    """SAF-E: the gradient of OTTT (``convention="paper"``), with one stored value less for each neuron.

    ``update`` as in OTTT. The network needs ``reset="subtract"`` and one λ for all neurons.
    """

    name: ClassVar[str] = "saf-e"

    def __init__(self, update: str = "step") -> None:
        super().__init__(ottt_paths("paper"), update)

    def check(self, net: Network) -> None:
        check_network(net, self.name)

    def step(self, net: Network, x: Tensor, state: SAFState | None) -> tuple[Tensor, SAFState]:
        return accumulate(net, x, state)


class SAFF(Rule):
    """SAF-F: one backward pass per batch, at the last step, through the weighted firing rates ``a = â[T]/Λ_T``.

    ::

        I* = W·a_pre + b           ∂a/∂I* = 1 if 0 < I* < Vth else 0           L = loss(W_out·a + b_out)

    I* is the weighted input of a layer, computed from the rates a_pre of the layer before. The gradient is that of the
    rates a = clamp(I*/Vth, 0, 1), times Vth for every layer of neurons between a weight and the output. The network
    must be feed-forward, with ``reset="subtract"`` and one λ for all neurons.
    """

    name: ClassVar[str] = "saf-f"

    def check(self, net: Network) -> None:
        check_network(net, self.name)
        if any(branch.delay for block in net.blocks for branch in block.branches):
            raise UsageError("saf-f: expected a feed-forward network; saf-e, ottt and bptt train recurrent ones")

    def accumulate(self, net: Network, x: Input, labels: Tensor, loss: Loss) -> Accumulated:
        state = None
        with no_graph():
            for frame in frames(x):
                _, state = accumulate(net, frame, state)
        o = _represent(net, state)
        total = evaluate_loss(net, o, labels, loss, x.shape[1])
        total.backward()
        return Accumulated(total.detach(), o.detach())


def check_network(net: Network, rule: str) -> None:
    """Refuse neurons that have no accumulated form."""
    require_one_lif(net, rule)
    if any(block.neuron.v_init for block in net.blocks):
        raise UsageError(f"{rule}: expected neurons that start at 0, got v_init; ottt, ide and spide train these")
    branches = [branch for block in net.blocks for branch in block.branches if branch.delay]
    if net.convention == "authors" and any(getattr(branch.connection, "bias", None) is not None for branch in branches):
        raise UsageError(f"{rule}: the authors' feedback adds its bias from the second step on; use convention='paper'")


def accumulate(net: Network, x: Tensor, state: SAFState | None) -> tuple[Tensor, SAFState]:
    """Return o[t] and the state of one time step of a network in its accumulated form."""
    state = None if state is None else without_graph(state)
    beta = net.blocks[0].neuron.beta if len(net.blocks) else 0.0
    x_trace = follow(x, None if state is None else state.x, beta)
    sent = {} if state is None else state.sent
    out, masks, currents, outs, s, trace = [], [], [], [], x, x_trace.value
    for index, block in enumerate(net.blocks):
        inputs = [trace, *net.arriving(block, outs, sent, x)]
        parts = [
            _accumulated(connection, value, x_trace.length)
            for connection, value in zip(block.connections, inputs, strict=True)
            if value is not None
        ]
        if block.skip is not None:
            parts.append(block.skip.factor * currents[block.skip.source])
        currents.append(sum(parts[1:], parts[0]))
        past = 0.0 if state is None else beta * state.out[index]
        neuron = block.neuron
        s = fire(currents[index] - neuron.v_threshold * past, neuron.v_threshold, neuron.surrogate, neuron.convention)
        masks.append(block.draw_mask(s) if state is None else state.masks[index])
        out.append(past + s)
        trace = _masked(out[index], masks[index])
        outs.append(trace)
    last = _masked(s, masks[-1] if masks else None)
    return net.readout(last).to(x.dtype), SAFState(x_trace, tuple(out), tuple(masks), net.remembered(outs, sent))


def _accumulated(connection: nn.Module, trace: Tensor, length: float) -> Tensor:
    """``W·â + b·Λ``, of any affine connection."""
    return (length * connection(trace / length)).to(trace.dtype)


def _masked(value: Tensor, mask: Tensor | None) -> Tensor:
    return value if mask is None else value * mask


def _represent(net: Network, state: SAFState) -> Tensor:
    """The readout of the firing rates, differentiable as the spike representation is."""

    def rate(index: int, current: Tensor) -> Tensor:
        found = state.out[index] / state.x.length
        a = Clamped.apply(current, found, net.blocks[index].neuron.v_threshold, 1.0, None, 0.0)
        return _masked(a, state.masks[index])

    x, rates = state.x.value / state.x.length, []
    currents_at(net, x, rates, rate)
    return net.read(rates[-1] if rates else x, None)[0]

"""Spike accumulation forwarding (Saiin et al., TMLR 2024, arXiv 2310.02772): one accumulated value instead of two.

OTTT carries spikes forwards and traces for the weights. SAF carries the traces alone. With Û the accumulated current
and â the accumulated spikes of a layer (Λ_t = Σ_{τ≤t} λ^{t−τ}),

::

    Û[t] = W·â_pre[t] + b·Λ_t                       u[t] = Û[t] − Vth·λ·â[t−1]
    s[t] = H(u[t] − Vth)                            â[t] = λ·â[t−1] + s[t]

are the spikes of the LIF neuron with reset by subtraction, without a membrane that has to be kept.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.blocks import Block, Late, arriving, remembered
from ottt_loihi.nn.connections import Connection, Weights
from ottt_loihi.nn.folding import Folded
from ottt_loihi.nn.inputs import Input, frames
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIF, LeanAccumulation, fire, has_kernels, like
from ottt_loihi.nn.paths import GradientPaths
from ottt_loihi.nn.precision import no_graph
from ottt_loihi.rules.base import BatchResult, OnlineRule, Rule, check_labels, require_finite
from ottt_loihi.rules.losses import Loss


class SAFState(NamedTuple):
    """``x``: the input's trace, None for an input constant in time · ``out``: â per block · ``masks``: of the dropout,
    per block · ``length``: Λ_t · ``late``: â of the steps before, for connections that take more than one"""

    x: Tensor | None
    out: tuple[Tensor, ...]
    masks: tuple[Tensor | None, ...]
    length: float
    late: Late = {}  # noqa: RUF012 - never changed


class SAFE(OnlineRule):
    """SAF-E: the gradient of OTTT (``convention="paper"``), with the memory of one value per neuron less.

    ``update`` as in OTTT. The network needs ``reset="subtract"`` and one λ for all neurons.
    """

    name: ClassVar[str] = "saf-e"

    def __init__(self, update: str = "step") -> None:
        super().__init__(GradientPaths(membrane=False, trace=True, input_trace=True, bias_trace=True), update)

    def check(self, net: Network) -> None:
        check_network(net, self.name)

    def step(self, net: Network, x: Tensor, state: SAFState | None, folded: Folded) -> tuple[Tensor, SAFState]:
        return accumulate(net, x, state, folded)


class SAFF(Rule):
    """SAF-F: one backward pass per batch, at the last step, through the weighted firing rates ``a = â[T]/Λ_T``.

    ::

        I* = W·a_pre + b           ∂a/∂I* = 1 if 0 < I* < Vth else 0           L = loss(W_out·a + b_out)

    That is the gradient of the spike representation, a = clamp(I*/Vth, 0, 1), times Vth for every layer of neurons
    between a weight and the output. Feed-forward networks with ``reset="subtract"`` and one λ.
    """

    name: ClassVar[str] = "saf-f"

    def train_batch(
        self, net: Network, x: Input, labels: Tensor, loss: Loss, optimizer: torch.optim.Optimizer | None
    ) -> BatchResult:
        check_network(net, self.name)
        if any(branch.delay for block in net.blocks for branch in block.branches):
            raise UsageError("saf-f: expected a feed-forward network; saf-e, ottt and bptt train recurrent ones")
        x, labels = net.check_input(x), check_labels(net, x, labels)
        if optimizer is not None:
            optimizer.zero_grad()
        state, beta = None, net.blocks[0].neuron.beta if len(net.blocks) else 0.0
        mean_input = next(frames(x)).clone()  # weighted like the firing rates
        with no_graph():
            folded = net.fold(x, leaves=True)  # no gradient: the steps may reuse memory
            for t, frame in enumerate(frames(x)):
                _, state = accumulate(net, frame, state, folded)
                if folded.first is None and t:
                    mean_input.mul_(beta).add_(frame)
        if folded.first is None:
            mean_input /= state.length
        o = _represent(net, mean_input, state)
        total = loss(o, labels, 1)
        require_finite(net, total.detach(), first=x.shape[1] - 1)
        total.backward()
        if optimizer is not None:
            optimizer.step()
        return BatchResult(total.detach(), o.detach())


def check_network(net: Network, rule: str) -> None:
    """Refuse neurons that have no accumulated form."""
    resets = {block.neuron.reset for block in net.blocks}
    betas = {block.neuron.beta for block in net.blocks}
    if resets - {"subtract"} or len(betas) > 1:
        raise UsageError(
            f'{rule}: expected reset="subtract" and one beta for all neurons, got {sorted(resets)}, {sorted(betas)}'
        )
    if any(block.neuron.v_init for block in net.blocks):
        raise UsageError(f"{rule}: expected neurons that start at 0, got v_init; ottt, ide and spide train these")


def accumulate(net: Network, x: Tensor, state: SAFState | None, folded: Folded) -> tuple[Tensor, SAFState]:
    """One time step of a network in its accumulated form: o[t], and the state."""
    beta = net.blocks[0].neuron.beta if len(net.blocks) else 0.0
    length = 1.0 if state is None else 1.0 + beta * state.length
    x_trace = None if folded.first is not None else _input_trace(x, state, beta, folded.lean)
    delayed = {source for source, delay in net.delays.items() if delay}
    late = {} if state is None else remembered(net.delays, state.out.__getitem__, state.late)
    out, masks, currents, s, trace = [], [], [], x, x_trace
    for index, block in enumerate(net.blocks):
        before = None if state is None else state.out[index]
        inputs = [trace, *_branch_inputs(net, block, out, masks, state, x)]
        current = folded.first * length if index == 0 and folded.first is not None else None
        for connection, value in zip(
            block.connections[current is not None :], inputs[current is not None :], strict=True
        ):
            part = _product(connection, value, folded[connection], length)
            current = part if current is None else current + part
        if block.skip is not None:
            current = torch.add(current, currents[block.skip.source], alpha=block.skip.factor)
        currents.append(current)
        mask = block.draw_mask(current) if state is None else state.masks[index]
        needs_s = index == len(net.blocks) - 1
        lean = folded.lean and has_kernels(current) and index not in delayed and index not in net.skip_sources
        a, s = _fire(current, before, block.neuron, needs_s, lean)
        out.append(a)
        masks.append(mask)
        trace, s = (a, s) if mask is None else (a * mask, s * mask if needs_s else s)
    o, _ = net.readout(s, weights=folded[net.readout])
    kept = tuple(a.detach() for a in out)
    return o, SAFState(None if x_trace is None else x_trace.detach(), kept, tuple(masks), length, late)


def _fire(current: Tensor, before: Tensor | None, neuron: LIF, needs_s: bool, lean: bool) -> tuple[Tensor, Tensor]:
    """â[t], and s[t] where asked for. lean: in the memory of Û[t] and â[t−1] (and then s is â[t] − λ·â[t−1])."""
    if lean and not needs_s:
        trace = torch.zeros_like(current) if before is None else before
        return LeanAccumulation.apply(like(current, trace), trace, neuron), current
    u = current if before is None else torch.sub(current, before, alpha=neuron.v_threshold * neuron.beta)
    s = fire(u, neuron)
    return s if before is None else torch.add(s, before, alpha=neuron.beta), s


def _input_trace(x: Tensor, state: SAFState | None, beta: float, lean: bool) -> Tensor:
    if state is None:
        return x.clone() if lean else x
    return torch.add(x, state.x, alpha=beta, out=state.x if lean else None)


def _branch_inputs(net: Network, block: Block, out: list, masks: list, state: SAFState | None, x: Tensor) -> list:
    inputs = []
    for branch in block.branches:
        i = branch.source
        if not branch.delay:
            trace, mask = out[i], masks[i]
        elif state is None or (found := arriving(i, branch.delay, state.out.__getitem__, state.late)) is None:
            inputs.append(x.new_zeros(len(x), *net.blocks[i].shape))
            continue
        else:
            trace, mask = found, state.masks[i]
        inputs.append(trace if mask is None else trace * mask)
    return inputs


def _product(connection: Connection, trace: Tensor, weights: Weights, length: float) -> Tensor:
    """W·â + b·Λ."""
    bias = None if weights.bias is None else weights.bias * length
    return connection(trace, weights=weights._replace(bias=bias))[0]


def _represent(net: Network, x: Tensor, state: SAFState) -> Tensor:
    """The readout of the firing rates, differentiable as the spike representation is."""
    rates, currents, a = [], [], x
    for index, block in enumerate(net.blocks):
        current, _ = block.charge([a, *(rates[branch.source] for branch in block.branches)], None)
        if block.skip is not None:
            current = torch.add(current, currents[block.skip.source], alpha=block.skip.factor)
        a = _Rate.apply(current, state.out[index] / state.length, block.neuron.v_threshold)
        a = a if state.masks[index] is None else a * state.masks[index]
        rates.append(a)
        currents.append(current)
    return net.readout(a)[0]


class _Rate(torch.autograd.Function):
    """Forwards the firing rate that the simulation found; backwards the clamp's derivative at I*."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, rate: Tensor, v_threshold: float) -> Tensor:
        ctx.save_for_backward(current)
        ctx.v_threshold = v_threshold
        return rate.view_as(rate)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (current,) = ctx.saved_tensors
        return g * ((current > 0) & (current < ctx.v_threshold)), None, None

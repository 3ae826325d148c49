"""One time step at once, and its backward pass right behind it: what chunks cannot do, on the CPU and on GPUs.

Between two updates all steps share their effective weights (:mod:`ottt_loihi.fast.weights_cache`). A step makes one
product for each connection; the trace enters its backward pass only. Membranes and traces are updated in place: no
later step needs this step's graph. The equations are those of :meth:`ottt_loihi.nn.network.Network.step`, the oracle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules

from ottt_loihi.fast.lif import LeanStep, has_kernels, knows_surrogate, like
from ottt_loihi.fast.products import Products
from ottt_loihi.fast.weights_cache import EffectiveWeights, give
from ottt_loihi.nn.blocks import Block, Sent
from ottt_loihi.nn.connections import Connection, Conv2d, Linear, Readout
from ottt_loihi.nn.inputs import Input, frames
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIF, Stream, Trace
from ottt_loihi.nn.part import HOOKS, changed
from ottt_loihi.rules.base import Accumulated, OnlineRule, Step, accumulated
from ottt_loihi.rules.losses import Loss, instantaneous
from ottt_loihi.rules.ottt import OTTT
from ottt_loihi.rules.saf import SAFE
from ottt_loihi.rules.sltt import SLTT

RULES = (OTTT, SLTT, SAFE)


def why_not(net: nn.Module, rule: Any) -> str:
    """Return why this engine cannot train ``net`` with ``rule``; empty where it can.

    It takes the types it knows, not their subclasses, whose methods it would not call.
    """
    if type(rule) not in RULES:
        return f"{type(rule).__name__} has no fast form"
    if rule.hlop is not None:
        return "HLOP projects the trace of every step"
    if type(net) is not Network:
        return f"{type(net).__name__} is no Network of blocks"
    if found := next(filter(None, map(changed, net.modules())), ""):
        return f"a module has {found}"
    if found := changed(rule):
        return f"the rule has {found}"
    if any(getattr(modules, f"_global{name}") for name in HOOKS):
        return "all modules have a hook"
    if any(p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None) for p in net.parameters()):
        return "a parameter has a hook"
    connections = list(net.connections())
    if len(set(connections)) < len(connections):
        return "a connection feeds two layers"
    for index, block in enumerate(net.blocks):
        where = f"block {index + 1} has"
        if type(block) is not Block or type(block.neuron) not in (LIF, Stream):
            return f"{where} {type(block.neuron).__name__} neurons of another kind than LIF"
        for connection in block.connections:
            if type(connection) not in (Linear, Conv2d):
                return f"{where} a connection of another kind than Linear and Conv2d, {type(connection).__name__}"
            if connection.skip_gain is not None and not rule.paths.gain_trace:
                return f"{where} a skip_gain that learns without the trace"
    if net.scores != "sum":
        return f"its scores are no sums over time, but {net.scores!r}"
    return "" if type(net.readout) is Readout else f"its readout is a {type(net.readout).__name__}"


class OneByOne(NamedTuple):
    """The engine of ``rule`` that takes one time step after the other."""

    rule: OnlineRule

    def accumulate(self, net: Network, x: Input, labels: Tensor, loss: Loss) -> Accumulated:
        return accumulated(net, Steps(net, x, self.rule).learn(labels, loss))

    def learn(self, net: Network, x: Input, labels: Tensor, loss: Loss) -> Iterator[Step]:
        return Steps(net, x, self.rule).learn(labels, loss, weights_change=True)


class Steps:
    """The time steps of one batch: the state between them, and the weights they share."""

    def __init__(self, net: Network, x: Input, rule: OnlineRule) -> None:
        self.net, self.x, self.paths = net, x, rule.paths
        self.learning = rule.steps_with_gradient(x.shape[1])
        self.traces: dict[Connection, Trace] = {}
        self.first_length = 0.0  # Λ of a constant input
        self.sent: Sent = {}
        self.blocks: list[_State] = []
        self.skip_sources = {block.skip.source for block in net.blocks if block.skip is not None}
        self._take_weights(shared=True)

    def learn(self, labels: Tensor, loss: Loss, weights_change: bool = False) -> Iterator[Step]:
        """Take the time steps one by one, as :meth:`OnlineRule.learn`.

        weights_change: after each step that is learnt from, so its gradient is complete then; else after the last step
        """
        for t, frame in enumerate(frames(self.x)):
            if weights_change and t - 1 in self.learning:
                del self.weights, self.products  # two sets of weights at a time would set the peak of memory
                self._take_weights(shared=False)
            with torch.set_grad_enabled(t in self.learning):
                o = self.step(frame)
                error = instantaneous(loss, o, labels, self.x.shape[1])
            if t in self.learning:
                error.backward()
                if weights_change:
                    self.weights.flush()
            done = Step(error.detach(), o.detach(), self, t in self.learning)
            del o, error  # and with them the step's graph, before the next one is made
            yield done
        self.weights.flush()

    def step(self, x: Tensor) -> Tensor:
        """Return o[t]."""
        out, outs, currents = x, [], []
        for index, block in enumerate(self.net.blocks):
            arriving = self.net.arriving(block, outs, self.sent, x)
            current = self._charge(index, block, [out, *arriving])
            if block.skip is not None:
                current = current.add_(currents[block.skip.source], alpha=block.skip.factor)  # its memory is its own
            currents.append(current)
            out = self._fire(index, block, current)
            outs.append(out)
        last = self.net.blocks[-1].neuron if len(self.net.blocks) else None
        traced = self.paths.readout_trace and last is not None and last.spiking
        o = self._current(self.net.readout, out, 0.0 if last is None else last.beta, traced, False)
        self.sent = self.net.remembered([out.detach() for out in outs], self.sent)
        return o

    def _take_weights(self, shared: bool) -> None:
        self.weights = EffectiveWeights(self.net, self.x, self.paths)
        self.products = {c: Products(c, self.weights[c], shared=shared) for c in self.net.connections()}

    def _charge(self, index: int, block: Block, inputs: list[Tensor | None]) -> Tensor:
        """I[t] without the skip."""
        beta, paths, total = block.neuron.beta, self.paths, None
        for position, (connection, x) in enumerate(zip(block.connections, inputs, strict=True)):
            if x is None:
                continue
            first = index == 0 and position == 0
            if first and self.weights.first is not None:
                self.first_length = 1.0 + (beta * self.first_length if paths.input_trace else 0.0)
                part = _Repeated.apply(self.weights.first, self.first_length)
            else:
                part = self._current(connection, x, beta, paths.input_trace if first else paths.trace, paths.bias_trace)
            total = part if total is None else total + part
        return total

    def _current(self, connection: Any, x: Tensor, beta: float, traced: bool, bias_traced: bool) -> Tensor:
        """I[t] of one connection; its parameters learn from the trace of its input, kept at the pooled resolution."""
        products, (weight, bias) = self.products[connection], self.weights[connection]
        x = _pooled(connection, x)
        trace, length = x.detach(), 1.0
        if traced or bias_traced:
            before = self.traces.get(connection)
            if before is None:
                value = trace.clone() if traced else trace
            else:
                value = torch.add(trace, before.value, alpha=beta, out=before.value) if traced else trace
                length = beta * before.length + 1.0
            self.traces[connection] = Trace(value, length)
            trace = value
        x, trace = _spread(connection, x), _spread(connection, trace)
        current = _TracedProduct.apply(x, trace, weight, bias, length if bias_traced else 1.0, products)
        return connection.after(current.to(weight.dtype))

    def _fire(self, index: int, block: Block, current: Tensor) -> Tensor:
        neuron = block.neuron
        if index == len(self.blocks):  # the first step
            v = torch.full_like(current.detach(), getattr(neuron, "v_init", 0.0))
            self.blocks.append(_State(v, block.draw_mask(current)))
        state = self.blocks[index]
        if type(neuron) is LIF and has_kernels(current) and knows_surrogate(neuron.surrogate):
            keeps = index in self.skip_sources or (index == 0 and self.weights.first is not None)
            s = LeanStep.apply(like(current, state.v), state.v, keeps, neuron)
        else:
            s, _, v = neuron(current, state.v, self.paths)
            state.v = v.detach()
        return s if state.mask is None else s * state.mask


@dataclass
class _State:
    """What a layer of neurons keeps between steps."""

    v: Tensor  # membrane after the reset
    mask: Tensor | None  # of the dropout


class _TracedProduct(torch.autograd.Function):
    """``product(x)`` forwards; backwards the parameters learn from ``trace`` and Λ, and x from the product."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, trace: Tensor, weight: Tensor, bias: Tensor | None, length: float, products: Products
    ) -> Tensor:
        ctx.save_for_backward(trace, weight)
        ctx.length, ctx.products, ctx.leaf = length, products, weight
        x = x.detach()
        return products.product(x, True) if products.is_few(x) else products.module.product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        trace, weight = ctx.saved_tensors
        wants_x, _, wants_weight, wants_bias = ctx.needs_input_grad[:4]
        grad_bias = ctx.length * g.sum([0, *range(2, g.ndim)], dtype=weight.dtype) if wants_bias else None
        adds = wants_weight and g.ndim == 2 and ctx.products.kind == weight.dtype and ctx.leaf.grad is not None
        events = wants_weight and g.ndim == 4 and ctx.products.is_few(trace)
        wanted = wants_x, wants_weight and not (adds or events)
        grad_x, grad_weight = ctx.products.gradients(g, trace, wanted)
        if adds:  # no product of its own that is added afterwards
            ctx.leaf.grad.addmm_(g.t(), trace)
        if events:
            grad_weight = ctx.products.of_events(g, trace)
        return grad_x, None, grad_weight, grad_bias, None, None


class _Repeated(torch.autograd.Function):
    """One current for all steps; each step's gradient, times Λ_t, is added straight into the leaf's."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, length: float) -> Tensor:
        ctx.leaf, ctx.length = current, length
        return current.view_as(current)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None]:
        give(ctx.leaf, g, ctx.length)
        return None, None


def _pooled(connection: Any, x: Tensor) -> Tensor:
    """Return the input that the trace follows: pooled, and flat for a Linear."""
    if type(connection) is Conv2d:
        return connection.pooled(x.contiguous(memory_format=torch.channels_last))
    return connection.pooled(x).flatten(1)


def _spread(connection: Any, x: Tensor) -> Tensor:
    """Return the input of the weights: the pooled input, spread to its own resolution again."""
    upsample = getattr(connection, "upsample", 1)
    return x if upsample == 1 else nn.functional.interpolate(x, scale_factor=upsample, mode="nearest")

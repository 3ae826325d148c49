"""Several time steps at once: the online rules' fast path on the CPU, for weights that stay as they are for a sequence.

Between two updates no gradient changes what the neurons do. So a chunk of S time steps can go through the network
layer by layer instead of step by step: one product for all its steps (:mod:`ottt_loihi.fast.products`), then
the neurons' loop over them (:mod:`ottt_loihi.fast.chunk_kernels`), and backwards likewise, without autograd. The
equations and their gradients are those of :class:`~ottt_loihi.nn.connections.Connection` and
:class:`~ottt_loihi.nn.neurons.LIF`; memory is that of S steps, whatever T. A layer with a connection to itself
takes its steps one by one, and everything else at once.

Samples are independent: every thread takes a slice of the batch through all steps, with one thread of torch; a batch
that is soon done stays whole (:mod:`ottt_loihi.fast.threads`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import Barrier
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.fast import chunk_kernels
from ottt_loihi.fast.chunk_connection import ChunkConnection, Learning
from ottt_loihi.fast.lif import constants, is_on_cpu, knows_surrogate, surrogate_constants
from ottt_loihi.fast.products import arrays, memory, of_images
from ottt_loihi.fast.steps import why_not as why_not_steps
from ottt_loihi.fast.weights_cache import EffectiveWeights, give
from ottt_loihi.nn.blocks import Block, Skip
from ottt_loihi.nn.connections import Connection, Conv2d, Linear
from ottt_loihi.nn.inputs import ConstantInput, Input
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIF
from ottt_loihi.nn.paths import GradientPaths
from ottt_loihi.rules.base import Accumulated, OnlineRule, require_finite
from ottt_loihi.rules.losses import CrossEntropy, Distilled, Loss, SquaredError


def why_not(net: Network, rule: OnlineRule, loss: Loss) -> str:
    """Return why several time steps of a network cannot be computed at once; empty if they can."""
    if reason := why_not_steps(net, rule):
        return reason
    if rule.update == "step":
        return "the optimiser steps after every time step"
    if getattr(rule, "k", None) is not None:
        return "SLTT-K picks single time steps"
    if type(loss) not in (SquaredError, CrossEntropy, Distilled):
        return "a loss of your own is computed step by step"
    loops = {index for index, block in enumerate(net.blocks) if any(branch.delay for branch in block.branches)}
    for index, block in enumerate(net.blocks):
        where = f"block {index + 1} has"
        if any(branch.delay and not _is_loop(branch, index) for branch in block.branches):
            return f"{where} a delayed connection from elsewhere than itself one step before"
        if sum(branch.delay > 0 for branch in block.branches) > 1:
            return f"{where} several connections to itself"
        if any(_pool_behind(net, branch.source) != branch.connection.pool for branch in block.branches):
            return f"{where} a shortcut that pools otherwise than the block before it"
        if block.skip is not None and block.skip.source in loops:
            return f"{where} the residual stream of a recurrent block"
        if type(block.neuron) is not LIF or not knows_surrogate(block.neuron.surrogate):
            return f"{where} neurons or a surrogate without kernels"
        if index in loops and _loop(block).connection.bias is not None and net.convention == "authors":
            return f"{where} a recurrent bias that acts from the second step on"
        if any(getattr(connection, "upsample", 1) != 1 for connection in block.connections):
            return f"{where} a convolution that enlarges its image"
    place = net.readout.weight
    return "" if is_on_cpu(place) else f"the network is on {place.device} in {place.dtype}, chunks are for CPUs"


def _is_loop(branch: Any, index: int) -> bool:
    linear = isinstance(branch.connection, Linear) and branch.connection.pool is None
    return branch.source == index and branch.delay == 1 and linear


def _loop(block: Block) -> Any:
    """The block's connection to itself, if it has one."""
    return next((branch for branch in block.branches if branch.delay), None)


def _pool_behind(net: Network, index: int) -> Any:
    """The pooling of a block's spikes on their way to the next one."""
    following = net.blocks[index + 1].connection if index + 1 < len(net.blocks) else net.readout
    return following.pool


class Chunks(NamedTuple):
    """The engine of ``rule`` that takes ``steps`` time steps at once; ``threads`` share the samples.

    torch itself should have one thread meanwhile (:mod:`ottt_loihi.fast.threads`).
    """

    rule: OnlineRule
    steps: int
    threads: int

    def accumulate(self, net: Network, x: Input, labels: Tensor, loss: Loss) -> Accumulated:
        """Do :meth:`OnlineRule.accumulate`; raises :class:`TrainingError` where the loss is NaN or infinite."""
        weights = EffectiveWeights(net, x, self.rule.paths)
        if isinstance(x, ConstantInput):
            x = x.dense()  # the steps read their number alone, and ``weights.first``
        layers = list(_layers(net, weights, self.rule.paths))
        masks = [block.draw_mask(x.new_empty(len(x), *block.shape)) for block in net.blocks]
        shares = [
            _Share(net, layers, x, labels, loss, masks, weights.first, torch.from_numpy(part))
            for part in np.array_split(np.arange(len(x)), min(len(x), self.threads))
        ]
        _in_threads([lambda share=share: share.learn(self.steps) for share in shares], self.threads)
        for share in shares:  # in their order: the same sums every time
            for learning in share.learning.values():
                learning.give()
        if weights.first is not None and weights.first.requires_grad:
            give(weights.first, torch.cat([share.constant for share in shares]))
        weights.flush()
        return Accumulated(torch.stack([share.loss for share in shares]), torch.cat([share.scores for share in shares]))


@dataclass
class _Layer:
    """A connection and the neurons behind it; the readout has none."""

    connection: ChunkConnection
    neuron: LIF | None = None
    loop: ChunkConnection | None = None  # from the neurons to themselves, one step later
    shortcuts: Sequence[tuple[int, ChunkConnection]] = ()  # from earlier layers, with the indices of those
    skip: Skip | None = None
    shape: tuple[int, ...] = (1, 1, 0, 1, 1)  # of the neurons' kernels

    @property
    def size(self) -> int:
        """Number of neurons."""
        height, width, channels = self.shape[:3]
        return height * width * channels


def _layers(net: Network, weights: EffectiveWeights, paths: GradientPaths) -> Iterator[_Layer]:
    """The network's layers, the readout last."""
    image: tuple[int, ...] | None = None
    images = []  # of the blocks, as their spikes leave
    connections = [block.connection for block in net.blocks] + [net.readout]
    for index, block in enumerate(net.blocks):
        neuron, traced = block.neuron, paths.trace if index else paths.input_trace
        of_both = {"bias_traced": paths.bias_trace, "beta": neuron.beta}
        own = ChunkConnection(block.connection, weights[block.connection], image, traced=traced, **of_both)
        loop, shortcuts = None, []
        for branch in block.branches:
            source = None if branch.delay else images[branch.source]
            more = ChunkConnection(branch.connection, weights[branch.connection], source, traced=paths.trace, **of_both)
            if branch.delay:
                loop = more
            else:
                shortcuts.append((branch.source, more))
        shape = _kernel_shape(block, connections[index + 1])
        yield _Layer(own, neuron, loop, shortcuts, block.skip, shape)
        height, width, channels, down, across = shape
        image = None if len(block.shape) == 1 else (channels, height // down, width // across)
        images.append(image)
    beta = net.blocks[-1].neuron.beta if len(net.blocks) else 0.0
    of_readout = {"traced": paths.readout_trace, "bias_traced": False, "beta": beta}
    yield _Layer(ChunkConnection(net.readout, weights[net.readout], image, **of_readout))


def _kernel_shape(block: Block, following: Connection) -> tuple[int, int, int, int, int]:
    """(height, width, channels) of the neurons and the (height, width) of the windows that the next layer averages."""
    channels, height, width = block.shape if len(block.shape) == 3 else (*block.shape, 1, 1)
    if following.pool == "global":
        return (height, width, channels, height, width)
    return (height, width, channels, *checks.both(following.pool or 1))


class _LayerPass(NamedTuple):
    """A layer's forward pass of a chunk: its input (None: constant), whether few values of it are not 0, u (o for the
    readout), the input of its loop, and those of its shortcuts with whether they are few."""

    x: Tensor | None
    few: bool
    u: Tensor
    loop: Tensor | None = None
    shortcuts: Sequence[tuple[Tensor, bool]] = ()


class _Share:
    """Some samples of a batch, through all their time steps."""

    def __init__(
        self,
        net: Network,
        layers: Sequence[_Layer],
        x: Tensor,
        labels: Tensor,
        loss: Loss,
        masks: Sequence[Tensor | None],
        first: Tensor | None,
        own: Tensor,
    ) -> None:
        """Take the samples ``own`` of the batch; first: the current of the first layer where it is constant."""
        part = slice(int(own[0]), int(own[-1]) + 1)
        self.net, self.layers, self.x, self.num_steps = net, layers, x[part], x.shape[1]
        self.batch_labels, self.batch_loss, self.own, self.part_of_batch = labels, loss, own, len(own) / len(x)
        self.labels, self.loss_of_rows = labels[:0], loss  # of a chunk's rows
        self.samples, self.nothing = len(own), x.new_empty(0)
        self.number = self.nothing.numpy().dtype.type
        self.masks = [self.nothing if mask is None else memory(mask[part]) for mask in masks]
        self.v = [x.new_full((self.samples * layer.size,), layer.neuron.v_init) for layer in layers if layer.neuron]
        self.fired = [x.new_zeros(self.samples, layer.size) if layer.loop else None for layer in layers]
        connections = [c for layer in layers for c in (layer.connection, layer.loop) if c is not None]
        connections += [c for layer in layers for _, c in layer.shortcuts]
        self.learning = {id(connection): Learning(connection, self.samples) for connection in connections}
        self.first = None if first is None else of_images(first.detach()[part])
        self.constant = None if first is None else torch.zeros_like(self.first)  # the gradient of the first current
        self.loss, self.scores = x.new_zeros(()), x.new_zeros(self.samples, net.num_classes)
        self.sources = {layer.skip.source for layer in layers if layer.skip is not None}

    def learn(self, chunk: int) -> None:
        """All time steps."""
        for start in range(0, self.num_steps, chunk):
            self._learn_chunk(self.x[:, start : start + chunk], start)

    def _learn_chunk(self, x: Tensor, start: int) -> None:
        """The steps from ``start`` on; nothing but the states outlives them."""
        with torch.no_grad():
            passes = self._forward(x, x.shape[1])
        g = self._compare(passes[-1].u, x.shape[1], start)
        with torch.no_grad():
            self._backward(g, passes, x.shape[1])

    def _forward(self, x: Tensor, steps: int) -> list[_LayerPass]:
        passes: list[_LayerPass] = []
        out = None if self.first is not None else of_images(self.layers[0].connection.module.before(x.flatten(0, 1)))
        outs: list[Tensor] = []  # the spikes of each layer, pooled, channels last
        currents: dict[int, Tensor] = {}  # of the layers whose current skips bring
        for index, layer in enumerate(self.layers):
            few = out is not None and layer.connection.is_few(out)
            current = self.first if out is None else layer.connection.current(out, few)
            shortcuts = []
            for source, connection in layer.shortcuts:
                arriving = _input(outs[source], connection)
                shortcuts.append((arriving, connection.is_few(arriving)))
                current = current + connection.current(*shortcuts[-1])
            if layer.skip is not None:
                current = current.add(currents[layer.skip.source], alpha=layer.skip.factor)
            if layer.neuron is None:
                passes.append(_LayerPass(out, few, current))  # type: ignore[arg-type]
                break
            if index in self.sources:  # a copy: the neurons write u over it
                currents[index] = current.repeat_interleave(steps, 0) if out is None else current.clone()
            fire = self._fire if layer.loop is None else self._fire_in_loop
            u, sent, back = fire(index, current, out is not None, steps)  # type: ignore[arg-type]
            passes.append(_LayerPass(out, few, u, back, shortcuts))
            channels, down, across = layer.shape[2], layer.shape[0] // layer.shape[3], layer.shape[1] // layer.shape[4]
            outs.append(sent.view(-1, down, across, channels))
            out = _input(outs[-1], self.layers[index + 1].connection)
        return passes

    def _fire(self, index: int, current: Tensor, varies: bool, steps: int) -> tuple[Tensor, Tensor, None]:
        """u and the pooled spikes of every step, from the currents of all steps, or of one for all of them."""
        layer, current = self.layers[index], memory(current)
        u = current if varies else current.new_empty(self.samples * steps * layer.size)
        height, width, channels, down, across = layer.shape
        sent = u.new_empty(self.samples * steps * (height // down) * (width // across) * channels)
        self._run_neurons(index, self.nothing if varies else current, u, sent, steps)
        return u, sent, None

    def _fire_in_loop(self, index: int, current: Tensor, varies: bool, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`_fire` where the spikes come back one step later; and what has come back in every step."""
        layer, current = self.layers[index], current.view(self.samples, -1, self.layers[index].size)
        u, sent, back = (current.new_empty(self.samples, steps, layer.size) for _ in range(3))
        assert layer.loop is not None
        for t in range(steps):
            last = self.fired[index]
            now = layer.loop.product(last, layer.loop.is_few(last)).add_(current[:, t if varies else 0])
            fired = torch.empty_like(now)
            self._run_neurons(index, self.nothing, now.view(-1), fired.view(-1), 1)
            u[:, t], sent[:, t], back[:, t] = now, fired, last
            self.fired[index] = fired
        return u.view(-1), sent.view(-1), back.flatten(0, 1)

    def _run_neurons(self, index: int, constant: Tensor, u: Tensor, sent: Tensor, steps: int) -> None:
        layer, neuron = self.layers[index], self.layers[index].neuron
        states = arrays(constant, u, self.v[index], self.masks[index], sent)
        how = layer.shape, constants(neuron, self.number), neuron.reset == "zero"  # type: ignore[union-attr]
        chunk_kernels.fire(*states, self.samples, steps, *how)

    def _compare(self, o: Tensor, steps: int, start: int) -> Tensor:
        """∂L/∂o of the batch's loss."""
        o = o.detach().requires_grad_()
        if len(self.labels) != len(o):  # the last chunk may be shorter
            rows = self.own.repeat_interleave(steps)
            self.labels, self.loss_of_rows = self.batch_labels[rows], self.batch_loss.of_rows(rows)
        # a loss is a mean over its rows; the batch's is the sum over the steps of a mean over all samples
        loss = self.loss_of_rows(o, self.labels, self.num_steps)
        loss = loss * (steps * self.part_of_batch)
        (g,) = torch.autograd.grad(loss, o)
        seen = o.detach().view(self.samples, steps, -1)
        if not math.isfinite(loss.item()):
            bad = [t for t in range(steps) if not torch.isfinite(seen[:, t]).all()]
            require_finite(self.net, loss.detach(), self.v, start + (bad[0] if bad else steps - 1))
        self.loss, self.scores = self.loss + loss.detach(), self.scores + seen.sum(1)
        return g

    def _backward(self, g: Tensor, passes: Sequence[_LayerPass], steps: int) -> None:
        """From ∂L/∂o to the gradients of everything."""
        spikes: dict[int, Tensor] = {}  # ∂L/∂ the pooled spikes of each layer, flat, channels last
        streams: dict[int, Tensor] = {}  # what skips bring of ∂L/∂I, likewise
        for index in range(len(self.layers) - 1, -1, -1):
            layer, done = self.layers[index], passes[index]
            if layer.neuron is not None:
                g = self._error(index, done, spikes.pop(index), streams.pop(index, None), steps)
            if layer.skip is not None:
                _add(streams, layer.skip.source, memory(g) * layer.skip.factor)
            for (source, connection), (x, few) in zip(layer.shortcuts, done.shortcuts, strict=True):
                own = connection.of_current(g.clone() if connection.traced else g, x)  # learning spends it
                _add(spikes, source, memory(connection.gradients(own, x, (True, False))[0]))
                self.learning[id(connection)].add(own, x, few, steps)
            if layer.loop is not None:
                own = g.clone() if layer.loop.traced else g
                self.learning[id(layer.loop)].add(own, done.loop, layer.loop.is_few(done.loop), steps)
            if done.x is None:
                return
            g = layer.connection.of_current(g, done.x)
            if index:
                _add(spikes, index - 1, memory(layer.connection.gradients(g, done.x, (True, False))[0]))
            self.learning[id(layer.connection)].add(g, done.x, done.few, steps)

    def _error(self, index: int, done: _LayerPass, g: Tensor, stream: Tensor | None, steps: int) -> Tensor:
        """∂L/∂I of every step, in the memory of u; where the current is constant, its sum too.

        g: ∂L/∂ the pooled spikes; stream: what skips bring
        """
        layer, neuron, u = self.layers[index], self.layers[index].neuron, done.u
        assert neuron is not None
        total, lengths = self.nothing, np.ones(steps, self.number)
        if done.x is None:
            total = memory(self.constant)  # type: ignore[arg-type]
            if layer.connection.traced:
                lengths = self.learning[id(layer.connection)].lengths(steps).astype(self.number)
        states = (*arrays(u, g, self.masks[index]), lengths, total.numpy())
        how = layer.shape, self.number(neuron.v_threshold), *surrogate_constants(neuron, self.number)
        chunk_kernels.error(*states, self.samples, steps, *how)
        if stream is not None:
            u.add_(stream)
            if done.x is None:
                of_steps = stream.view(self.samples, steps, -1) * torch.from_numpy(lengths)[:, None]
                total.add_(of_steps.sum(1).view(-1))
        u = u.view(self.samples * steps, *layer.shape[:3])
        return u.permute(0, 3, 1, 2) if isinstance(layer.connection.module, Conv2d) else u.flatten(1)


def _input(spikes: Tensor, connection: ChunkConnection) -> Tensor:
    """The pooled spikes of a layer ``(rows, height, width, channels)`` as a connection takes them."""
    return spikes.permute(0, 3, 1, 2) if isinstance(connection.module, Conv2d) else spikes.flatten(1)


def _add(sums: dict[int, Tensor], index: int, part: Tensor) -> None:
    sums[index] = part if index not in sums else sums[index].add_(part)


def _in_threads(jobs: Sequence[Any], threads: int) -> None:
    """Run the jobs in so many threads at the same time, each with a single thread of torch."""
    if len(jobs) == 1:
        jobs[0]()
        return
    for future in [_pool(threads).submit(job) for job in jobs]:
        future.result()


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, "ottt-chunks", initializer=torch.set_num_threads, initargs=(1,))
    together = Barrier(threads)  # all begin before the caller restores torch's number, which threads of the future get
    list(pool.map(lambda _: together.wait(), range(threads)))
    return pool


# threads do not survive a fork: the child makes a pool of its own
os.register_at_fork(after_in_child=_pool.cache_clear)

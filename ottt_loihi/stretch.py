"""Several time steps at once: the online rules' fast path on the CPU, for weights that stay as they are for a sequence.

Between two updates no gradient changes what the neurons do. So a stretch of S time steps can go through the network
layer by layer instead of step by step: one product for all its steps, then the neurons' loop over them
(:mod:`ottt_loihi.stretch_kernels`), and backwards likewise, without autograd. The equations and their gradients are
those of :class:`~ottt_loihi.synapses.Synapse` and :func:`~ottt_loihi.neurons.lif_step`; memory is that of S steps,
whatever T.

Where few inputs are not 0, rows of weights are added up instead of a product (:mod:`ottt_loihi.event_kernels`). Samples
do not know of each other: every thread takes its share of them through all steps, with one thread's share of torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ottt_loihi.errors import UsageError
from ottt_loihi.folding import Folded
from ottt_loihi.layers import Block
from ottt_loihi.losses import Loss
from ottt_loihi.network import Network, is_on_cpu
from ottt_loihi.neurons import LIF
from ottt_loihi.paths import Paths
from ottt_loihi.precision import product_dtype
from ottt_loihi.synapses import Conv2d, Synapse, Weights, lowered_gradients

# up to which part of the inputs adding rows is faster than a product, and from how long rows on; measured
FEW_OF_LINEAR, WIDE_LINEAR = 0.3, 32
FEW_OF_CONV, WIDE_CONV = 0.2, 96


def require_fitting(net: Network) -> None:
    """Raises :class:`UsageError` where a network cannot take several steps at once, and says why."""
    for index, block in enumerate(net.blocks):
        synapse, reason = block.synapse, ""
        if block.branches:
            reason = "has a second connection (recurrence, feedback or a shortcut)"
        elif block.skip is not None:
            reason = "has a residual stream"
        elif not block.neuron.lean:
            reason = f"has {type(block.neuron).__name__} neurons"
        elif isinstance(synapse, Conv2d) and (synapse.upsample != 1 or synapse.pool_after is not None):
            reason = "changes the image's size around its convolution"
        if reason:
            raise UsageError(f"stretch: block {index + 1} {reason}; use stretch=1")
    if not is_on_cpu(net.readout.weight):
        raise UsageError(f"stretch: is for the CPU, the network is on {net.readout.weight.device}; use stretch=1")


def run_batch(
    net: Network, x: Tensor, labels: Tensor, loss: Loss, folded: Folded, paths: Paths, stretch: int
) -> tuple[Tensor, Tensor]:
    """All steps of a batch, ``stretch`` at a time: Σ_t L[t] and Σ_t o[t] ``(batch, classes)``.

    Gradients are added to ``.grad`` of the leaves of ``folded``. x: ``(batch, T, *input_shape)``.

    Raises :class:`TrainingError` where the loss is NaN or infinite.
    """
    layers = list(_layers(net, folded, paths))
    masks = [block.draw_mask(x.new_empty(len(x), *block.shape)) for block in net.blocks]
    first = None if folded.first is None else _channels_last(folded.first.detach()).flatten(1)
    shares = [slice(part[0], part[-1] + 1) for part in _split(len(x), torch.get_num_threads())]
    runs = [
        _Share(net, layers, x[s], labels[s], loss.part(s), [None if m is None else m[s] for m in masks], len(x))
        for s in shares
    ]
    for run, s in zip(runs, shares):
        run.first = None if first is None else first[s]
    _in_threads([lambda run=run: run.learn(stretch) for run in runs])
    _collect(layers, runs, folded)
    return torch.stack([run.loss for run in runs]).sum(), torch.cat([run.scores for run in runs])


@dataclass
class _Layer:
    """A connection, and the neurons it feeds (None: the readout).

    image: (channels, height, width) of what arrives from neurons with an image, otherwise None · shape: of the neurons'
    kernels · weight: as the products take it, of a Linear ``(out, in)`` with ``in`` channels last · rows: flat, what an
    event adds (:mod:`ottt_loihi.event_kernels`), or None where events are not worth a loop
    """

    synapse: Synapse
    weights: Weights
    neuron: LIF | None
    traced: bool
    bias_traced: bool
    decay: float
    image: tuple[int, ...] | None = None
    shape: tuple[int, ...] = ()
    weight: Tensor = field(init=False)
    rows: Tensor | None = field(init=False, default=None)
    kind: torch.dtype = field(init=False)

    def __post_init__(self) -> None:
        weight, synapse = self.weights.weight.detach(), self.synapse
        self.kind = product_dtype(weight)  # asked here: threads do not know of autocast
        if isinstance(synapse, Conv2d):
            self.weight = weight.contiguous(memory_format=torch.channels_last)
            plain = synapse.stride == synapse.groups == 1 and synapse.padding < synapse.kernel_size
            if plain and synapse.kernel_size * synapse.out_channels >= WIDE_CONV:
                self.rows = torch.from_numpy(_events().patches(weight.numpy()).reshape(-1))
            return
        if self.image is not None:
            weight = _channels_last(weight.view(-1, *self.image)).flatten(1)
        self.weight = weight
        if len(weight) >= WIDE_LINEAR:
            self.rows = weight.t().contiguous().view(-1)

    @property
    def bias(self) -> Tensor | None:
        return None if self.weights.bias is None else self.weights.bias.detach()

    def like_parameter(self, gradient: Tensor) -> Tensor:
        """∂L/∂weight in the order of ``weights.weight``."""
        if isinstance(self.synapse, Conv2d) or self.image is None:
            return gradient
        channels, height, width = self.image
        return gradient.view(-1, height, width, channels).permute(0, 3, 1, 2).flatten(1)

    def of_rows(self, gradient: Tensor) -> Tensor:
        """∂L/∂weight of a gradient in the order of ``rows``."""
        if isinstance(self.synapse, Conv2d):
            kernel, inputs, outputs = self.synapse.kernel_size, self.synapse.in_channels, self.synapse.out_channels
            patches = gradient.view(kernel, inputs, kernel * outputs).numpy()
            return torch.from_numpy(np.ascontiguousarray(_events().of_patches(patches, outputs)))
        return gradient.view(-1, len(self.weight)).t()

    def is_few(self, x: Tensor) -> bool:
        """Whether so little of x is not 0 that its events are added one by one."""
        part = FEW_OF_CONV if isinstance(self.synapse, Conv2d) else FEW_OF_LINEAR
        return self.rows is not None and int(x.count_nonzero()) <= part * x.numel()

    def product(self, x: Tensor, few: bool) -> Tensor:
        """I of all rows of x: images are ``(…, channels, height, width)`` in the memory of channels last."""
        if not few:
            bias = None if self.bias is None else self.bias.to(self.kind)
            return self.synapse._product(x.to(self.kind), self.weight.to(self.kind), bias).to(x.dtype)
        if isinstance(self.synapse, Conv2d):
            size, kernel, padding = self._geometry(x)
            height, width = (n + 2 * padding - kernel + 1 for n in size[:2])
            out = x.new_empty(len(x), height, width, size[3]).permute(0, 3, 1, 2)
            _events().add_patches(*_numpy(_memory(x), self.rows, _memory(out)), len(x), size, kernel, padding)
            return out if self.bias is None else out.add_(self.bias[:, None, None])
        out = x.new_zeros(len(x), len(self.weight))
        _events().add_rows(*_numpy(x, self.rows.view(-1, len(self.weight)), out))
        return out if self.bias is None else out.add_(self.bias)

    def add_events(self, x: Tensor, g: Tensor, rows: Tensor) -> None:
        """Add ``Σ g·xᵀ`` to a gradient in the order of ``rows``."""
        if isinstance(self.synapse, Conv2d):
            _events().add_patch_gradients(*_numpy(_memory(x), _memory(g), rows), len(x), *self._geometry(x))
        else:
            _events().add_outer(*_numpy(x, g, rows.view(-1, len(self.weight))))

    def _geometry(self, x: Tensor) -> tuple[tuple[int, ...], int, int]:
        """Of the convolution's kernels: (height, width, inputs, outputs), kernel size, padding."""
        synapse = self.synapse
        assert isinstance(synapse, Conv2d)
        return (*x.shape[2:], synapse.in_channels, synapse.out_channels), synapse.kernel_size, synapse.padding

    def gradients(self, g: Tensor, x: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor | None, Tensor | None]:
        """∂L/∂x and ``Σ g·xᵀ``, those of them that are wanted."""
        if self.kind == g.dtype:
            return self.synapse._gradients(g, x, self.weight, wanted)
        return lowered_gradients(self.synapse, g, x, self.weight, wanted, self.kind)


def _layers(net: Network, folded: Folded, paths: Paths) -> Iterator[_Layer]:
    """The network's connections, each with the neurons behind it."""
    image: tuple[int, ...] | None = None
    synapses = [block.synapse for block in net.blocks] + [net.readout]
    for index, synapse in enumerate(synapses):
        neuron = net.blocks[index].neuron if index < len(net.blocks) else None
        if neuron is None:
            traced, decay = paths.readout_trace, net.blocks[-1].neuron.decay if index else 0.0
        else:
            traced, decay = paths.input_trace if index == 0 else paths.trace, neuron.decay
        shape, after = (), image
        if neuron is not None:
            shape = _kernel_shape(net.blocks[index], synapses[index + 1])
            height, width, channels, down, across = shape
            after = None if len(net.blocks[index].shape) == 1 else (channels, height // down, width // across)
        bias_traced = paths.bias_trace and neuron is not None
        yield _Layer(synapse, folded[synapse], neuron, traced, bias_traced, decay, image, shape)
        image = after


def _kernel_shape(block: Block, following: Synapse) -> tuple[int, int, int, int, int]:
    """(height, width, channels) of the neurons and the (height, width) of the windows that the next layer averages."""
    if len(block.shape) == 1:
        return (1, 1, block.shape[0], 1, 1)
    channels, height, width = block.shape
    if following.pool is None:
        return (height, width, channels, 1, 1)
    if following.pool == "global":
        return (height, width, channels, height, width)
    return (height, width, channels, int(following.pool), int(following.pool))


class _Share:
    """Some samples of a batch: their states, and the gradients they give.

    weight, rows, bias: per layer, Σ over the steps of ∂L/∂… · constant: of the first current, where the input is one ·
    loss, scores: of the samples' steps
    """

    def __init__(
        self,
        net: Network,
        layers: Sequence[_Layer],
        x: Tensor,
        labels: Tensor,
        loss: Loss,
        masks: Sequence[Tensor | None],
        batch: int,
    ) -> None:
        self.net, self.layers, self.x, self.labels, self.part = net, layers, x, labels, loss
        self.batch, self.samples = batch, len(x)
        self.first: Tensor | None = None
        nothing = x.new_empty(0)
        self.masks = [nothing if m is None else _channels_last(m).flatten() for m in masks]
        self.v = [x.new_full((self.samples * _size(layer),), layer.neuron.v_init) for layer in layers if layer.neuron]
        self.trace: list[Tensor | None] = [None] * len(layers)
        self.weight: list[Tensor | None] = [None] * len(layers)
        self.rows: list[Tensor | None] = [None] * len(layers)
        self.bias: list[Tensor | None] = [None] * len(layers)
        self.constant: Tensor | None = None
        self.loss, self.scores = x.new_zeros(()), x.new_zeros(self.samples, net.num_classes)
        self.length = [0.0] * len(layers)  # Λ of the last step

    def learn(self, stretch: int) -> None:
        """All time steps."""
        if self.first is not None:
            self.constant = torch.zeros_like(self.first)
        for start in range(0, self.x.shape[1], stretch):
            self._learn_stretch(self.x[:, start : start + stretch], start)

    def _learn_stretch(self, x: Tensor, start: int) -> None:
        """The steps from ``start`` on; nothing but the states outlives them."""
        steps = x.shape[1]
        with torch.no_grad():
            inputs, few, membranes, o = self.forward(x, steps)
        g = self.compare(o, steps, start)
        with torch.no_grad():
            self.backward(g, inputs, few, membranes, steps)

    def forward(self, x: Tensor, steps: int) -> tuple[list[Tensor], list[bool], list[Tensor], Tensor]:
        """What every layer hears, whether little of it is not 0, its membranes, and o ``(samples·steps, classes)``."""
        inputs, few, membranes = [], [], []
        out = None if self.first is not None else _received(self.layers[0].synapse, x)
        for index, layer in enumerate(self.layers):
            inputs.append(x.new_empty(0) if out is None else out)
            few.append(layer.is_few(inputs[-1]))
            current = self.first if out is None else layer.product(out, few[-1])
            if layer.neuron is None:
                return inputs, few, membranes, current
            u, out = self._fire(index, current, out is not None, steps)
            membranes.append(u)
        raise AssertionError("a network ends with its readout")

    def _fire(self, index: int, current: Tensor, varies: bool, steps: int) -> tuple[Tensor, Tensor]:
        """u of every step, flat, and what the next layer hears."""
        layer, neuron = self.layers[index], self.layers[index].neuron
        height, width, channels, down, across = layer.shape
        flat = _memory(current)
        u = flat if varies else flat.new_empty(self.samples * steps * _size(layer))
        out = flat.new_empty(self.samples * steps, height // down, width // across, channels)
        _kernels().fire(
            flat.numpy(),
            varies,
            u.numpy(),
            self.v[index].numpy(),
            self.masks[index].numpy(),
            out.view(-1).numpy(),
            self.samples,
            steps,
            layer.shape,
            _constants(flat, neuron),
            neuron.reset == "zero",
        )
        following = self.layers[index + 1].synapse
        return u, out.permute(0, 3, 1, 2) if isinstance(following, Conv2d) else out.flatten(1)

    def compare(self, o: Tensor, steps: int, start: int) -> Tensor:
        """∂L/∂o of the batch's loss, and what the loss and the scores are made of."""
        o = o.detach().requires_grad_()
        # a loss is a mean over its rows; the batch's is one over all samples
        loss = self.part.repeated(steps)(o, self.labels.repeat_interleave(steps), self.x.shape[1])
        loss = loss * (steps * self.samples / self.batch)
        (g,) = torch.autograd.grad(loss, o)
        seen = o.detach().view(self.samples, steps, -1)
        if not torch.isfinite(loss):
            self._stop(loss, seen, start)
        self.loss, self.scores = self.loss + loss.detach(), self.scores + seen.sum(1)
        return g

    def _stop(self, loss: Tensor, o: Tensor, start: int) -> None:
        from ottt_loihi.rules.rule import require_finite

        bad = [t for t in range(o.shape[1]) if not torch.isfinite(o[:, t]).all()]
        state = SimpleNamespace(blocks=[SimpleNamespace(v=v) for v in self.v])
        require_finite(self.net, loss.detach(), state, start + (bad[0] if bad else o.shape[1] - 1))

    def backward(
        self, g: Tensor, inputs: Sequence[Tensor], few: Sequence[bool], membranes: Sequence[Tensor], steps: int
    ) -> None:
        """From ∂L/∂o to the gradients of everything."""
        for index in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[index]
            if layer.neuron is not None:
                g = self._error(index, membranes[index], g, steps)
                if index == 0 and self.first is not None:
                    return
                if isinstance(layer.synapse, Conv2d):
                    height, width, channels = layer.shape[:3]
                    g = g.view(-1, height, width, channels).permute(0, 3, 1, 2)
                else:
                    g = g.view(self.samples * steps, -1)
            before = layer.gradients(g, inputs[index], (True, False))[0] if index else g
            self._add_bias(index, g, steps)
            self._add_weight(index, g, inputs[index], few[index], steps)
            g = before

    def _error(self, index: int, u: Tensor, g: Tensor, steps: int) -> Tensor:
        """∂L/∂I of every step, in the memory of u."""
        layer, neuron = self.layers[index], self.layers[index].neuron
        nothing = u.new_empty(0)
        total, lengths = nothing, np.ones(steps, u.numpy().dtype)
        if index == 0 and self.first is not None:
            total = _memory(self.constant)
            if layer.traced:
                lengths = self._lengths(index, steps).astype(lengths.dtype)
        kind = _kernels().SURROGATES.index(neuron.surrogate.name)
        number = u.numpy().dtype.type
        _kernels().error(
            u.numpy(),
            _memory(g).numpy(),
            self.masks[index].numpy(),
            lengths,
            total.numpy(),
            self.samples,
            steps,
            layer.shape,
            number(neuron.v_threshold),
            kind,
            number(getattr(neuron.surrogate, "alpha", 1.0)),
        )
        return u

    def _add_weight(self, index: int, g: Tensor, x: Tensor, few: bool, steps: int) -> None:
        """``Σ_t g[t]·â[t]ᵀ``, without a trace ``Σ_t g[t]·x[t]ᵀ``; spends g, and carries the trace on."""
        layer = self.layers[index]
        if not layer.weights.weight.requires_grad:
            return
        before, decay = self.trace[index], g.numpy().dtype.type(layer.decay)
        flat, size = _memory(x), x[0].numel()
        if layer.traced and before is None:
            self.trace[index] = x.new_zeros(self.samples * size)
        if not few:
            if layer.traced:
                x = torch.empty_like(x)  # in the same memory format
                arrays = _numpy(flat, self.trace[index], _memory(x))
                _kernels().follow(*arrays, decay, self.samples, steps, size)
            self._multiply(index, g, x)
            return
        if layer.traced:
            _kernels().look_ahead(_memory(g).numpy(), decay, self.samples, steps, g[0].numel())
            if before is not None:
                begun, kept = g.view(self.samples, steps, *g.shape[1:])[:, 0], torch.empty_like(x[: self.samples])
                _memory(kept).copy_(before)
                self._multiply(index, begun, kept, layer.decay)
            _kernels().advance(*_numpy(flat, self.trace[index]), decay, self.samples, steps, size)
        if self.rows[index] is None:
            self.rows[index] = torch.zeros_like(layer.rows)  # type: ignore[arg-type]
        layer.add_events(x, g, self.rows[index])

    def _multiply(self, index: int, g: Tensor, x: Tensor, factor: float = 1.0) -> None:
        """Add ``factor·Σ g·xᵀ`` over all rows to the weight's gradient."""
        layer = self.layers[index]
        if self.weight[index] is None:
            self.weight[index] = torch.zeros_like(layer.weight)
        if isinstance(layer.synapse, Conv2d) or layer.kind != g.dtype:
            self.weight[index].add_(layer.gradients(g, x, (False, True))[1], alpha=factor)
        else:
            self.weight[index].addmm_(g.t(), x, alpha=factor)

    def _add_bias(self, index: int, g: Tensor, steps: int) -> None:
        """``Σ_t Λ_t·g[t]``, without a trace ``Σ_t g[t]``."""
        layer = self.layers[index]
        if layer.weights.bias is None or not layer.weights.bias.requires_grad:
            return
        of_steps = g.flatten(2).sum(2) if g.ndim == 4 else g
        of_steps = of_steps.view(self.samples, steps, -1).sum(0)
        if layer.bias_traced:
            of_steps = of_steps * torch.from_numpy(self._lengths(index, steps)).to(of_steps)[:, None]
        found = of_steps.sum(0)
        self.bias[index] = found if self.bias[index] is None else self.bias[index] + found

    def _lengths(self, index: int, steps: int) -> np.ndarray:
        """Λ_t of the next steps."""
        lengths = []
        for _ in range(steps):
            self.length[index] = 1.0 + self.layers[index].decay * self.length[index]
            lengths.append(self.length[index])
        return np.array(lengths)


def _collect(layers: Sequence[_Layer], runs: Sequence[_Share], folded: Folded) -> None:
    """Add what the shares have found to the leaves' gradients, in their order."""
    for index, layer in enumerate(layers):
        for run in runs:
            if (found := run.weight[index]) is not None:
                _add(layer.weights.weight, layer.like_parameter(found))
            if (found := run.rows[index]) is not None:
                _add(layer.weights.weight, layer.like_parameter(layer.of_rows(found)))
            if (found := run.bias[index]) is not None:
                _add(layer.weights.bias, found)
    if folded.first is not None and folded.first.requires_grad:
        found = torch.cat([run.constant for run in runs])
        if folded.first.ndim == 4:
            batch, channels, height, width = folded.first.shape
            found = found.view(batch, height, width, channels).permute(0, 3, 1, 2)
        _add(folded.first, found)


def _add(leaf: Tensor | None, gradient: Tensor) -> None:
    assert leaf is not None
    if leaf.grad is None:
        leaf.grad = torch.empty_like(leaf).copy_(gradient)
    else:
        leaf.grad.add_(gradient)


def _received(synapse: Synapse, x: Tensor) -> Tensor:
    """The network's input ``(samples, steps, …)`` as the first product takes it, a row for each sample and step."""
    x = synapse._receive(x.flatten(0, 1))
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.contiguous()


def _channels_last(x: Tensor) -> Tensor:
    """``(n, channels, height, width)`` as contiguous ``(n, height, width, channels)``; others contiguous."""
    return x.permute(0, 2, 3, 1).contiguous() if x.ndim == 4 else x.contiguous()


def _memory(x: Tensor) -> Tensor:
    """The values of a tensor in channels-last order, flat; shares its memory where that is in this order."""
    return _channels_last(x).view(-1)


def _size(layer: _Layer) -> int:
    """Neurons of a layer."""
    height, width, channels = layer.shape[:3]
    return height * width * channels


def _constants(like: Tensor, neuron: LIF) -> tuple[Any, Any, Any]:
    from ottt_loihi.lif_kernels import constants

    return constants(like, neuron)


def _numpy(*tensors: Tensor | None) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in tensors]  # type: ignore[union-attr]


def _kernels() -> Any:
    from ottt_loihi import stretch_kernels  # numba takes half a second to import

    return stretch_kernels


def _events() -> Any:
    from ottt_loihi import event_kernels

    return event_kernels


def _split(count: int, parts: int) -> list[np.ndarray]:
    """``0 … count − 1`` in at most so many parts of nearly the same size."""
    return [part for part in np.array_split(np.arange(count), max(1, parts)) if len(part)]


def _in_threads(jobs: Sequence[Any]) -> None:
    """Run the jobs at the same time, each with a single thread of torch."""
    if len(jobs) == 1:
        jobs[0]()
        return
    for future in [_pool(len(jobs)).submit(job) for job in jobs]:
        future.result()


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    ours = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "ottt-stretch", initializer=torch.set_num_threads, initargs=(1,))
    for future in [pool.submit(torch.get_num_threads) for _ in range(threads)]:
        future.result()
    torch.set_num_threads(ours)  # a thread's own setting is also what threads of the future begin with
    return pool

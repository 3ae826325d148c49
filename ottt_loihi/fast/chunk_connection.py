"""A connection in a chunk of time steps: its products with a row for each sample and step, and their gradients.

Rows of images are tensors ``(rows, channels, height, width)`` in the memory of channels last, others ``(rows,
features)``; a sample's steps are neighbours. Where few inputs are not 0, rows of weights are added up instead of a
product (:mod:`ottt_loihi.fast.event_kernels`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ottt_loihi.fast import chunk_kernels, event_kernels
from ottt_loihi.fast.steps import gradients
from ottt_loihi.fast.weights_cache import give
from ottt_loihi.nn.connections import Connection, Conv2d, Weights
from ottt_loihi.nn.precision import product_dtype

# up to which part of the inputs adding rows is faster than a product, and from how long rows on; measured
FEW_OF_LINEAR, WIDE_LINEAR = 0.3, 32
FEW_OF_CONV, WIDE_CONV = 0.4, 96
# a product of so many inputs in all with fewer than WIDE_LINEAR outputs takes half the time as W·xᵀ; measured
LONG_NARROW, OF_VECTORS = 2**16, 16  # a whole number of vectors of outputs does not


@dataclass
class ChunkConnection:
    """The weights of a connection as the products of a batch take them."""

    module: Connection
    weights: Weights
    traced: bool  # whether the gradient of W uses â, which decays with ``beta``
    bias_traced: bool  # whether that of b uses Λ
    beta: float
    # (channels, height, width) of what arrives from neurons with an image, otherwise None
    image: tuple[int, ...] | None = None
    weight: Tensor = field(init=False)  # of a Linear ``(out, in)`` with ``in`` channels last
    wide: bool = field(init=False)  # whether what an event adds is long enough for a loop
    narrow: bool = field(init=False, default=False)  # whether W·xᵀ is the faster product
    kind: torch.dtype = field(init=False)  # dtype of products

    def __post_init__(self) -> None:
        weight, connection = self.weights.weight.detach(), self.module
        self.kind = product_dtype(weight)  # asked here: threads do not know of autocast
        if isinstance(connection, Conv2d):
            self.weight = weight.contiguous(memory_format=torch.channels_last)
            kernel, padding = connection.kernel_size, connection.padding
            plain = connection.stride == connection.dilation == connection.groups == 1
            square = isinstance(kernel, int) and isinstance(padding, int)
            self.wide = plain and square and padding < kernel and kernel * connection.out_channels >= WIDE_CONV
            return
        if self.image is not None:
            weight = memory(weight.view(-1, *self.image)).view(weight.shape)
        self.weight = weight
        self.wide = len(weight) >= WIDE_LINEAR
        self.narrow = not self.wide and len(weight) % OF_VECTORS != 0

    @cached_property
    def rows(self) -> Tensor:
        """The weights by presynaptic neuron, flat; made with the first events: transposing costs a small product."""
        if isinstance(self.module, Conv2d):
            return torch.from_numpy(event_kernels.patches(self.weights.weight.detach().numpy()).reshape(-1))
        return self.weight.t().contiguous().view(-1)

    @property
    def bias(self) -> Tensor | None:
        return None if self.weights.bias is None else self.weights.bias.detach()

    def is_few(self, x: Tensor) -> bool:
        """Whether x is sparse enough for the event kernels."""
        part = FEW_OF_CONV if isinstance(self.module, Conv2d) else FEW_OF_LINEAR
        return self.wide and event_kernels.count(memory(x).numpy()) <= part * x.numel()

    def product(self, x: Tensor, few: bool) -> Tensor:
        """Return ``I = W·x + b`` for every row."""
        if not few:
            bias = None if self.bias is None else self.bias.to(self.kind)
            inputs, weight = x.to(self.kind), self.weight.to(self.kind)
            if self.narrow and x.numel() >= LONG_NARROW:
                turned = weight @ inputs.t()
                return (turned if bias is None else turned.add_(bias[:, None])).t().to(x.dtype).contiguous()
            return self.module.product(inputs, weight, bias).to(x.dtype)
        if isinstance(self.module, Conv2d):
            size, kernel, padding = self._geometry(x)
            height, width = (n + 2 * padding - kernel + 1 for n in size[:2])
            out = x.new_empty(len(x), height, width, size[3]).permute(0, 3, 1, 2)
            event_kernels.add_patches(*arrays(memory(x), self.rows, memory(out)), len(x), size, kernel, padding)
            return out if self.bias is None else out.add_(self.bias[:, None, None])
        size = len(self.weight)
        bias, out = x.new_zeros(size) if self.bias is None else self.bias, x.new_empty(len(x), size)
        event_kernels.add_rows(*arrays(x, self.rows.view(-1, size), bias, out))
        return out

    def gradients(self, g: Tensor, x: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor | None, Tensor | None]:
        """Return ``∂L/∂x = Wᵀ·g`` of every row and ``Σ g·xᵀ``, or None for the one that is not needed."""
        return gradients(self.kind, self.module, g, x, self.weight, wanted)

    def add_events(self, g: Tensor, x: Tensor, rows: Tensor) -> None:
        """Add ``Σ g·xᵀ`` to a gradient in the order of ``rows``."""
        if isinstance(self.module, Conv2d):
            event_kernels.add_patch_gradients(*arrays(memory(x), memory(g), rows), len(x), *self._geometry(x))
        else:
            event_kernels.add_outer(*arrays(x, g.contiguous(), rows.view(-1, len(self.weight))))

    def of_rows(self, gradient: Tensor) -> Tensor:
        """Return a gradient with axes ordered as in ``rows`` with axes ordered as in ``weight``."""
        if isinstance(self.module, Conv2d):
            kernel, inputs, outputs = self.module.kernel_size, self.module.in_channels, self.module.out_channels
            patches = gradient.view(kernel, inputs, kernel * outputs).numpy()
            return torch.from_numpy(np.ascontiguousarray(event_kernels.of_patches(patches, outputs)))
        return gradient.view(-1, len(self.weight)).t()

    def of_weight(self, gradient: Tensor) -> Tensor:
        """Return a gradient with axes ordered as in ``weight`` with axes ordered as in ``weights.weight``."""
        if isinstance(self.module, Conv2d) or self.image is None:
            return gradient
        channels, height, width = self.image
        return gradient.view(-1, height, width, channels).permute(0, 3, 1, 2).flatten(1)

    def _geometry(self, x: Tensor) -> tuple[tuple[int, ...], int, int]:
        """Of the convolution's kernels: (height, width, inputs, outputs), kernel size, padding."""
        connection: Any = self.module
        size = (*x.shape[2:], connection.in_channels, connection.out_channels)
        return size, connection.kernel_size, connection.padding


class Learning:
    """The sums of a connection's gradients over the time steps of some samples, and the trace that goes on.

    ::

        ∂L/∂W = Σ_t g[t]·â[t]ᵀ = Σ_t G[t]·x[t]ᵀ + λ·G[first]·â[before]ᵀ          ∂L/∂b = Σ_t Λ_t·g[t]

    with ``G[t] = g[t] + λ·G[t+1]``, which serves events; without traces â = x and Λ = 1.
    """

    def __init__(self, connection: ChunkConnection, samples: int) -> None:
        self.connection, self.samples = connection, samples
        self.trace: Tensor | None = None  # â of the last step
        self.length = 0.0  # Λ of the last step
        self.weight: Tensor | None = None  # gradients, in the orders of the connection's
        self.rows: Tensor | None = None
        self.bias: Tensor | None = None

    def lengths(self, steps: int) -> np.ndarray:
        """Return Λ_t of the next time steps."""
        found = []
        for _ in range(steps):
            self.length = 1.0 + self.connection.beta * self.length
            found.append(self.length)
        return np.array(found)

    def add(self, g: Tensor, x: Tensor, few: bool, steps: int) -> None:
        """The gradients of the next steps, g = ∂L/∂I; g is spent."""
        weights = self.connection.weights
        if weights.bias is not None and weights.bias.requires_grad:
            self._add_bias(g, steps)
        if not weights.weight.requires_grad:
            return
        if self.connection.traced:
            self._add_traced(g, x, few, steps)
        elif few:
            self._add_events(g, x)
        else:
            self._multiply(g, x)

    def _add_traced(self, g: Tensor, x: Tensor, few: bool, steps: int) -> None:
        begins = self.trace is None
        if begins:
            self.trace = torch.zeros_like(x[: self.samples])  # in the same memory format
        beta = g.numpy().dtype.type(self.connection.beta)
        of_time = (beta, self.samples, steps, x[0].numel())
        if not few:
            traces = torch.empty_like(x)
            chunk_kernels.follow(*arrays(memory(x), memory(self.trace), memory(traces)), *of_time)
            self._multiply(g, traces)
            return
        chunk_kernels.look_ahead(memory(g).numpy(), beta, self.samples, steps, g[0].numel())
        if not begins:
            first = g.view(self.samples, steps, *g.shape[1:])[:, 0]
            self._multiply(first, self.trace, self.connection.beta)
        chunk_kernels.follow(*arrays(memory(x), memory(self.trace), x.new_empty(0)), *of_time)
        self._add_events(g, x)

    def _add_events(self, g: Tensor, x: Tensor) -> None:
        if self.rows is None:
            self.rows = torch.zeros_like(self.connection.rows)
        self.connection.add_events(g, x, self.rows)

    def _multiply(self, g: Tensor, x: Tensor, factor: float = 1.0) -> None:
        """Add ``factor·Σ g·xᵀ`` to the weight's gradient."""
        if self.weight is None:
            self.weight = torch.zeros_like(self.connection.weight)
        if isinstance(self.connection.module, Conv2d) or self.connection.kind != g.dtype:
            self.weight.add_(self.connection.gradients(g, x, (False, True))[1], alpha=factor)  # type: ignore[arg-type]
        else:
            self.weight.addmm_(g.t(), x, alpha=factor)

    def _add_bias(self, g: Tensor, steps: int) -> None:
        of_steps = g.flatten(2).sum(2) if g.ndim == 4 else g
        of_steps = of_steps.view(self.samples, steps, -1).sum(0)
        if self.connection.bias_traced:
            of_steps = of_steps * torch.from_numpy(self.lengths(steps)).to(of_steps)[:, None]
        found = of_steps.sum(0)
        self.bias = found if self.bias is None else self.bias + found

    def give(self) -> None:
        """Add the sums to ``.grad`` of the weights' leaves."""
        connection = self.connection
        if self.weight is not None:
            give(connection.weights.weight, connection.of_weight(self.weight))
        if self.rows is not None:
            give(connection.weights.weight, connection.of_weight(connection.of_rows(self.rows)))
        if self.bias is not None:
            give(connection.weights.bias, self.bias)  # type: ignore[arg-type]


def of_images(x: Tensor) -> Tensor:
    """Return images in the memory of channels last, others contiguous."""
    return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.contiguous_format)


def memory(x: Tensor) -> Tensor:
    """The values of a tensor in channels-last order, flat; shares its memory where that is in this order."""
    return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).contiguous().view(-1)


def arrays(*tensors: Tensor | None) -> list[np.ndarray]:
    """The tensors' memory as NumPy arrays."""
    return [tensor.numpy() for tensor in tensors]  # type: ignore[union-attr]

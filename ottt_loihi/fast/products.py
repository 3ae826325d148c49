"""The products of a connection with rows of inputs, and their gradients: one row for each sample and step.

Rows of images are tensors ``(rows, channels, height, width)`` in the memory of channels last, others ``(rows,
features)``. Where few inputs are not 0, rows of weights are added up instead of a product
(:mod:`ottt_loihi.fast.event_kernels`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.fast import event_kernels
from ottt_loihi.fast.lif import is_on_cpu
from ottt_loihi.nn.connections import Connection, Conv2d, Weights
from ottt_loihi.nn.precision import error_for_product, product_dtype

# up to which part of the inputs adding rows is faster than a product, and from how long rows on; measured
FEW_OF_LINEAR, WIDE_LINEAR = 0.3, 32
FEW_OF_CONV, WIDE_CONV = 0.4, 96
# a product of so many inputs in all with fewer than WIDE_LINEAR outputs takes half the time as W·xᵀ; measured
LONG_NARROW, OF_VECTORS = 2**16, 16  # a whole number of vectors of outputs does not


@dataclass
class Products:
    """The weights of a connection as the products of a batch take them."""

    module: Connection
    weights: Weights
    # (channels, height, width) of what arrives from neurons with an image, otherwise None
    image: tuple[int, ...] | None = None
    shared: bool = True  # by several products; for one, transposing a Linear's weights costs more than events save
    kind: torch.dtype = field(init=False)  # dtype of products

    def __post_init__(self) -> None:
        self.kind = product_dtype(self.weights.weight)  # asked here: threads do not know of autocast

    @cached_property
    def weight(self) -> Tensor:
        """W; of a Linear ``(out, in)`` with ``in`` channels last."""
        weight = self.weights.weight.detach()
        if isinstance(self.module, Conv2d):
            return weight.contiguous(memory_format=torch.channels_last)
        return weight if self.image is None else memory(weight.view(-1, *self.image)).view(weight.shape)

    @cached_property
    def wide(self) -> bool:
        """Whether there are sums over events, and what an event adds is long enough for them."""
        connection, outputs = self.module, len(self.weights.weight)
        if not isinstance(connection, Conv2d):
            return self.shared and is_on_cpu(self.weights.weight) and outputs >= WIDE_LINEAR
        kernel, padding = connection.kernel_size, connection.padding
        plain = connection.stride == connection.dilation == connection.groups == 1
        square = isinstance(kernel, int) and isinstance(padding, int)
        long = square and padding < kernel and kernel * outputs >= WIDE_CONV
        return is_on_cpu(self.weights.weight) and plain and long

    @property
    def narrow(self) -> bool:
        """Whether W·xᵀ is the faster product."""
        return not isinstance(self.module, Conv2d) and not self.wide and len(self.weights.weight) % OF_VECTORS != 0

    @cached_property
    def rows(self) -> Tensor:
        """The weights by presynaptic neuron, flat; made with the first events: transposing costs a small product."""
        if isinstance(self.module, Conv2d):
            return torch.from_numpy(event_kernels.patches(self.weights.weight.detach().numpy()).reshape(-1))
        return self.weight.t().contiguous().view(-1)

    @cached_property
    def windows(self) -> list[tuple[int, int]]:
        """Of a convolution: (vertical, horizontal) stride, padding and dilation."""
        connection: Any = self.module
        return [checks.both(size) for size in (connection.stride, connection.padding, connection.dilation)]

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
        if self.kind == self.weight.dtype:
            return self._gradients(g, x, self.weight, wanted)
        g, factor = error_for_product(g, self.kind)
        found = self._gradients(g, x.to(self.kind), self.weight.to(self.kind), wanted)
        return tuple(None if part is None else part.to(self.weight.dtype).mul_(factor) for part in found)  # type: ignore[return-value]

    def _gradients(
        self, g: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        if not isinstance(self.module, Conv2d):
            return g @ weight if wanted[0] else None, g.t() @ x if wanted[1] else None
        how = *self.windows, False, [0, 0], self.module.groups, (*wanted, False)
        return torch.ops.aten.convolution_backward(g, x, weight, None, *how)[:2]

    def add_events(self, g: Tensor, x: Tensor, rows: Tensor) -> None:
        """Add ``Σ g·xᵀ`` to a gradient in the order of ``rows``."""
        if isinstance(self.module, Conv2d):
            event_kernels.add_patch_gradients(*arrays(memory(x), memory(g), rows), len(x), *self._geometry(x))
        else:
            event_kernels.add_outer(*arrays(x, g.contiguous(), rows.view(-1, len(self.weight))))

    def of_events(self, g: Tensor, x: Tensor) -> Tensor:
        """Return ``Σ g·xᵀ`` of sparse x."""
        rows = torch.zeros_like(self.rows)
        self.add_events(g, x, rows)
        return self.of_rows(rows)

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


def of_images(x: Tensor) -> Tensor:
    """Return images in the memory of channels last, others contiguous."""
    return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.contiguous_format)


def memory(x: Tensor) -> Tensor:
    """The values of a tensor in channels-last order, flat; shares its memory where that is in this order."""
    return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).contiguous().view(-1)


def arrays(*tensors: Tensor | None) -> list[np.ndarray]:
    """The tensors' memory as NumPy arrays."""
    return [tensor.numpy() for tensor in tensors]  # type: ignore[union-attr]

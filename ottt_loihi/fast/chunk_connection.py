"""A connection in a chunk of time steps: the gradients and traces of rows in which a sample's steps are neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ottt_loihi.fast import chunk_kernels
from ottt_loihi.fast.products import Products, arrays, memory
from ottt_loihi.fast.weights_cache import give
from ottt_loihi.nn.connections import Conv2d


@dataclass(kw_only=True)
class ChunkConnection(Products):
    """The products of a connection, and what its parameters learn from."""

    traced: bool  # whether the gradient of W uses â, which decays with ``beta``
    bias_traced: bool  # whether that of b uses Λ
    beta: float

    def current(self, x: Tensor, few: bool) -> Tensor:
        """Return I of every row, in the memory of channels last."""
        return self.module.after(self.product(x, few))

    def of_current(self, g: Tensor, x: Tensor) -> Tensor:
        """Return the gradient of the product from g = ∂L/∂I."""
        pool = getattr(self.module, "pool_after", None)
        if pool is None:
            return g
        product = x.new_empty(len(x), *self.module.convolved(x.shape[2:]), g.shape[1]).permute(0, 3, 1, 2)
        return torch.ops.aten.avg_pool2d_backward(g, product, *([n, n] for n in pool), False, True, None)


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

"""What is computed once for many time steps: effective weights, and the current of an input that never changes.

Scales, gains and standardisation make a connection's effective weight from its parameters; all steps until the next
update share it. An online rule runs a backward pass at every step; it must not standardise each time.
So each effective weight becomes a leaf that collects the steps' gradients, and :meth:`Folded.push` carries their sum to
the parameters once. The same holds for the first layer's current under an input that is constant in time: its weight
gradient Σ_t Λ_t·g[t]·xᵀ (or Σ_t g[t]·xᵀ without a trace) is one product at the end instead of one a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ottt_loihi.nn.connections import Connection, ConnectionState, Weights
from ottt_loihi.nn.paths import BPTT, GradientPaths

if TYPE_CHECKING:
    from ottt_loihi.nn.network import Network
    from ottt_loihi.rules.hlop import Subspace


class Folded(Mapping[Connection, Weights]):
    """Effective weights of a network's connections, valid until a parameter changes.

    ``lean``: the steps may reuse memory, because each has its backward pass before the next one.

    net: the network · x: the first frame ``(batch, *input_shape)`` of an input that is constant in time, otherwise None
    · leaves: cut the graph here and collect gradients until :meth:`push` (online rules); otherwise gradients flow
    through (BPTT, or no gradients at all) · paths: of the rule · projections: of some connections' traces, by HLOP;
    where one protects, the bias stays
    """

    def __init__(
        self,
        net: Network,
        x: Tensor | None = None,
        leaves: bool = False,
        paths: GradientPaths = BPTT,
        projections: Mapping[Connection, Subspace] | None = None,
    ) -> None:
        torch.clear_autocast_cache()  # it would go on with the 16 bits of weights that have changed since, or are gone
        self.lean = leaves
        self._cuts: list[tuple[Tensor, Tensor]] = []  # (in the graph, the leaf that stands for it)
        whole = {connection: connection.effective() for connection in net.connections()}
        for connection, subspace in (projections or {}).items():
            weight, bias, *_ = whole[connection]
            whole[connection] = Weights(
                weight, bias.detach() if bias is not None and subspace.protects else bias, project=subspace
            )
        self._weights = {s: self._cut(w) for s, w in whole.items()} if leaves else whole
        self.first: Tensor | None = None
        self._traced = paths.input_trace
        if x is not None and net.blocks:
            connection = net.blocks[0].connection
            if connection.bias is None or paths.input_trace == paths.bias_trace:  # one factor per step for both
                self.first, _ = connection(x, weights=whole[connection])
                if leaves:
                    self.first = self._leaf(self.first)

    def __getitem__(self, connection: Connection) -> Weights:
        return self._weights[connection]

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def first_current(self, state: ConnectionState | None, beta: float) -> tuple[Tensor, ConnectionState]:
        """This step's current of the constant input, and the state as :meth:`Connection.forward` gives it."""
        assert self.first is not None
        length = 1.0 + beta * state.bias_trace if self._traced and state is not None else 1.0
        current = _Repeated.apply(self.first, length) if self.lean else self.first
        return current, ConnectionState(None, length)

    def push(self) -> None:
        """Add the gradients that the leaves have collected to the parameters', and forget them."""
        pairs = [(graph, leaf) for graph, leaf in self._cuts if leaf.grad is not None and graph.requires_grad]
        if pairs:
            torch.autograd.backward([graph for graph, _ in pairs], [leaf.grad for _, leaf in pairs])
        for _, leaf in pairs:
            leaf.grad = None

    def forget(self) -> None:
        """Let go of everything, before it is computed anew: two of them at a time would be the peak of memory."""
        self._weights, self._cuts, self.first = {}, [], None

    def _cut(self, weights: Weights) -> Weights:
        bias = weights.bias
        bias = None if bias is None else self._leaf(bias)
        return Weights(self._leaf(weights.weight), bias, collect=True, project=weights.project)

    def _leaf(self, graph: Tensor) -> Tensor:
        if graph.is_leaf:  # a parameter as it is: it collects its gradient itself
            return graph
        leaf = graph.detach().requires_grad_(graph.requires_grad)
        self._cuts.append((graph, leaf))
        return leaf


class _Repeated(torch.autograd.Function):
    """One current for all steps; each step's gradient, times Λ_t, is added straight into the leaf's."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, length: float) -> Tensor:
        ctx.leaf, ctx.length = current, length
        return current.view_as(current)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None]:
        if ctx.leaf.grad is None:
            return g * ctx.length, None
        ctx.leaf.grad.add_(g, alpha=ctx.length)
        return None, None

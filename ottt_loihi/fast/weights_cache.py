"""Values that many time steps share: effective weights, and the current of an input that never changes.

Scales, gains and standardisation make a connection's effective weight from its parameters; all steps until the next
update share it. Each effective weight is cut out of the graph and collects the steps' gradients in a leaf, and
:meth:`EffectiveWeights.flush` carries their sum to the parameters once. The first layer's current under an input that
is constant in time is such a leaf too: its weight gradient is one product at the end instead of one a step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ottt_loihi.nn.connections import Connection, Weights
from ottt_loihi.nn.inputs import ConstantInput, Input
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.paths import GradientPaths


def _for_products(weights: Weights) -> Weights:
    """In the layout of GPUs' fast convolutions; otherwise each of them would convert the weight for itself."""
    if not weights.weight.is_cuda or weights.weight.ndim != 4:
        return weights
    return weights._replace(weight=weights.weight.contiguous(memory_format=torch.channels_last))


class EffectiveWeights:
    """Effective weights of a network's connections, valid until a parameter changes.

    first: the first layer's current of a constant input; None for other inputs, and where the first layer's weight and
    bias need different factors per step
    """

    def __init__(self, net: Network, x: Input, paths: GradientPaths) -> None:
        torch.clear_autocast_cache()  # it would go on with the 16 bits of weights that have changed since
        self._cuts: list[tuple[Tensor, Tensor]] = []  # (in the graph, the leaf that stands for it)
        whole = {connection: _for_products(connection.effective()) for connection in net.connections()}
        self._weights = {
            connection: Weights(self._leaf(w.weight), None if w.bias is None else self._leaf(w.bias))
            for connection, w in whole.items()
        }
        self.first: Tensor | None = None
        if isinstance(x, ConstantInput) and len(net.blocks):
            connection = net.blocks[0].connection
            if connection.bias is None or paths.input_trace == paths.bias_trace:
                current = connection.current(x.frame, whole[connection])
                self.first = self._leaf(current.to(x.frame.dtype))

    def __getitem__(self, connection: Connection) -> Weights:
        return self._weights[connection]

    def flush(self) -> None:
        """Add the gradients that the leaves have collected to the parameters', and forget them."""
        pairs = [(graph, leaf) for graph, leaf in self._cuts if leaf.grad is not None and graph.requires_grad]
        if pairs:
            torch.autograd.backward([graph for graph, _ in pairs], [leaf.grad for _, leaf in pairs])
        for _, leaf in pairs:
            leaf.grad = None

    def _leaf(self, graph: Tensor) -> Tensor:
        if graph.is_leaf:  # a parameter as it is: it collects its gradient itself
            return graph
        leaf = graph.detach().requires_grad_(graph.requires_grad)
        self._cuts.append((graph, leaf))
        return leaf


def give(leaf: Tensor, gradient: Tensor, factor: float = 1.0) -> None:
    """Add ``factor·gradient`` to ``leaf.grad``."""
    if leaf.grad is None:
        leaf.grad = torch.empty_like(leaf).copy_(gradient if factor == 1 else gradient * factor)
    else:
        leaf.grad.add_(gradient, alpha=factor)

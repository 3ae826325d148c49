"""Groups of K of our neurons for one neuron of a module, adjacent in a channel: ``(channels·K, height, width)``."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from ottt_loihi.converters.frameworks.linear import Operation, Term, filled
from ottt_loihi.converters.frameworks.neurons import Group, Neurons, Unmapped
from ottt_loihi.converters.frameworks.nodes import Node
from torch import Tensor, nn

from ottt_loihi.nn.connections import Conv2d, Linear
from ottt_loihi.nn.cuba import CubaLIF


def gathered(group: Group, source: Node, ours: tuple[int, ...]) -> Term:
    """Return the term that makes spikes of a module's layer, ``source``, of those of ours, ``(n, *ours)``."""

    def gather(x: Tensor, sends: tuple[float, ...]) -> Tensor:
        return counted(x[None], sends, ours)[0].reshape(len(x), *source.shape)

    inner = Node("spikes", source.path, shape=ours, step=source.step)
    node = Node("gather", source.path, (inner,), source.shape, call=(gather, (inner, group.sends), {}))
    return Term(inner, (Operation(node),))


def repeated(connection: Conv2d | Linear, count: int) -> Conv2d | Linear:
    """Return a connection into ``count`` neurons in place of each, with the same weights."""
    weight = connection.weight.detach().repeat_interleave(count, 0)
    bias = None if connection.bias is None else connection.bias.detach().repeat_interleave(count, 0)
    if isinstance(connection, Linear):
        wider: Conv2d | Linear = Linear(connection.in_features, len(weight), bias is not None, pool=connection.pool)
    else:
        names = ("stride", "padding", "dilation", "groups", "pool", "pool_after")
        geometry = {name: getattr(connection, name) for name in names}
        wider = Conv2d(connection.in_channels, len(weight), connection.kernel_size, bias is not None, **geometry)
    return filled(wider, weight, bias, connection.weight.dtype)


def feedback(group: Group, ours: tuple[int, ...], dtype: torch.dtype) -> Iterator[tuple[int, Conv2d | Linear]]:
    """Yield delay and connection of each feedback between the neurons of a group."""
    count, size = len(group.sends), ours[0]
    for delay, values in group.feedback.items():
        if not np.any(values):
            continue
        weights = torch.from_numpy(np.asarray(values, np.float64))
        if len(ours) == 1:
            whole = torch.block_diag(*[weights] * (size // count))
            yield delay, filled(Linear(size, size), whole, None, dtype)  # type: ignore[misc]
        else:
            kernel = weights.repeat(size // count, 1).view(size, count, 1, 1)
            yield delay, filled(Conv2d(size, size, 1, groups=size // count), kernel, None, dtype)  # type: ignore[misc]


def neurons_of(neurons: Neurons, group: Group, ours: tuple[int, ...]) -> nn.Module:
    """Return our neurons of a group: one threshold each, and no reset but the group's."""
    if np.size(neurons.beta) > 1 or np.size(neurons.threshold) > 1 or np.any(neurons.alpha):
        raise Unmapped("several of our neurons for one need one decay and one threshold, and no synaptic current")
    each = torch.tensor(group.thresholds, dtype=torch.float64) * float(np.asarray(neurons.threshold).reshape(-1)[0])
    thresholds = each.repeat(ours[0] // len(each)).view(-1, *[1] * (len(ours) - 1))
    beta = float(np.asarray(neurons.beta).reshape(-1)[0])
    start = torch.as_tensor(np.array(neurons.v_init, np.float64))
    if start.ndim:
        start = start.reshape(ours[0] // len(each), *ours[1:]).repeat_interleave(len(each), 0)
    start = start if start.ndim else float(start)
    return CubaLIF(0.0, beta, thresholds, "none", v_init=start, at_threshold=neurons.at_threshold)


def counted(spikes: Tensor, sends: tuple[float, ...], ours: tuple[int, ...]) -> Tensor:
    """Return the number of spikes in each group, ``(T, n, neurons)``, from spikes ``(T, n, *ours)``."""
    count, rest = len(sends), math.prod(ours[1:])
    parts = spikes.reshape(*spikes.shape[:2], ours[0] // count, count, rest)
    return torch.einsum("tnckr,k->tncr", parts, torch.tensor(sends, dtype=spikes.dtype)).flatten(2)

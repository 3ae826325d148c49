"""The gradients that the contenders of ``benchmarks/peers.py`` claim, each by a short loop over time in plain torch.

The loops know the peers' neurons and no framework. They are slow, they run in float64, and nothing is timed here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from peers_batch import LAMBDA, Batch
from torch import Tensor
from torch.nn import functional
from training import _Replace, _Spike

Neuron = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # (v, spikes before, current) to (spikes, v)


def _super_spike(u: Tensor) -> Tensor:
    """Return the derivative of Norse's default surrogate, ``1/(|u| + 1)²``: its ``alpha`` has no effect."""
    return 1 / (u.abs() + 1) ** 2


def subtract(v: Tensor, before: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
    """Advance our and SpikingJelly's neuron: a spike takes the threshold from the membrane at once."""
    u = LAMBDA * v + current
    spikes = _Spike.apply(u - 1)
    return spikes, u - spikes.detach()


def subtract_later(v: Tensor, before: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
    """Advance snnTorch's neuron: a spike takes the threshold from the membrane one step later, undecayed."""
    u = LAMBDA * v + current - before.detach()
    return _Spike.apply(u - 1), u


def to_zero(v: Tensor, before: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
    """Advance Norse's neuron: a spike sets the membrane to 0, the reset has a gradient, half of the current arrives."""
    u = v + LAMBDA * (current - v)
    spikes = _Spike.apply(u - 1, _super_spike)
    return spikes, (1 - spikes) * u


def _forward(weight: Tensor, x: Tensor) -> Tensor:
    if weight.ndim == 4:
        return functional.conv2d(x if x.shape[1] == 3 else functional.avg_pool2d(x, 2), weight, padding=1)
    return functional.linear(x.mean((2, 3)) if x.ndim == 4 else x, weight)


def _given(batch: Batch, factor: float = 1.0) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Return the weights, the hidden ones times ``factor``, the T frames, and the one-hot labels."""
    x = torch.from_numpy(batch.x)
    arrays = [factor * weight for weight in batch.weights[:-1]] + batch.weights[-1:]
    weights = [torch.from_numpy(array).requires_grad_() for array in arrays]
    frames = [x] * batch.steps if batch.constant else list(x.unbind(1))
    return weights, frames, functional.one_hot(torch.from_numpy(batch.labels), len(weights[-1])).to(x.dtype)


def through_time(batch: Batch, neuron: Neuron, factor: float = 1.0) -> list[Tensor]:
    """Return the gradients of BPTT; the hidden weights are multiplied by ``factor`` first."""
    weights, frames, wanted = _given(batch, factor)
    v = [torch.zeros((), dtype=wanted.dtype)] * len(weights)
    before, loss = list(v), torch.zeros((), dtype=wanted.dtype)
    for out in frames:
        for index, weight in enumerate(weights[:-1]):
            out, v[index] = neuron(v[index], before[index], _forward(weight, out))
            before[index] = out
        loss = loss + (_forward(weights[-1], out) - wanted).square().sum() / (2 * batch.steps * len(wanted))
    loss.backward()
    return [weight.grad for weight in weights]


def online(batch: Batch, warming: bool) -> list[Tensor]:
    """Return the gradients of OTTT with a trace on every input of a neuron, and none before the readout.

    With ``warming``, step t = 1, 2, … of a neuron's weights counts ``(1 + λ^t)/(1 + λ)``: BrainTrace's pp_prop.
    """
    weights, frames, wanted = _given(batch)
    v = [torch.zeros((), dtype=wanted.dtype)] * len(weights)
    traces = list(v)
    total = [torch.zeros_like(weight) for weight in weights]
    for t, out in enumerate(frames, 1):
        for index, weight in enumerate(weights[:-1]):
            traces[index] = LAMBDA * traces[index] + out.detach()
            with torch.no_grad():
                value = _forward(weight, out)
            current = _Replace.apply(_forward(weight, _Replace.apply(out, traces[index])), value)
            u = LAMBDA * v[index] + current
            out = _Spike.apply(u - 1)
            v[index] = (u - out).detach()
        loss = (_forward(weights[-1], out) - wanted).square().sum() / (2 * batch.steps * len(wanted))
        counts = (1 + LAMBDA**t) / (1 + LAMBDA) if warming else 1
        for index, gradient in enumerate(torch.autograd.grad(loss, weights)):
            total[index] += gradient * (counts if index + 1 < len(weights) else 1)
    return total


def expected(name: str, batch: Batch) -> list[Tensor] | None:
    """Return the gradients that a contender claims; None where ours are the measure, or where it cannot be said."""
    if name == "SpikingJelly BPTT":
        return through_time(batch, subtract)
    if name == "snnTorch BPTT":
        return through_time(batch, subtract_later)
    if name == "Norse BPTT":
        return through_time(batch, to_zero, 1 / LAMBDA)
    if name in ("BrainTrace pp_prop", "ours, input traced"):
        return online(batch, warming=name.startswith("BrainTrace"))
    return None

"""Parts of our networks, made of a framework's constants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from ottt_loihi.converters.frameworks.linear import filled
from ottt_loihi.converters.frameworks.neurons import Neurons, Unmapped
from ottt_loihi.converters.frameworks.nodes import Node
from torch import nn

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.connections import Connection, Conv2d, Linear
from ottt_loihi.nn.cuba import CubaLIF, Membrane
from ottt_loihi.nn.neurons import LIF


def neuron_of(neurons: Neurons, target: tuple[int, ...], shape: tuple[int, ...]) -> nn.Module:
    """Return our neurons: LIF if possible, because every engine supports it, otherwise CubaLIF."""
    names = ("alpha", "beta", "threshold", "v_reset", "v_init")
    alpha, beta, threshold, v_reset, v_init = (constant(getattr(neurons, name), target, shape) for name in names)
    plain = all(isinstance(value, float) for value in (alpha, beta, threshold, v_reset, v_init))
    simple = plain and alpha == v_reset == v_init == 0 and not neurons.at_threshold
    if neurons.reset != "zero":
        v_reset = 0.0
    kind = Membrane if neurons.sends == "membranes" else CubaLIF
    try:
        if simple and kind is CubaLIF and neurons.reset in ("zero", "subtract"):
            return LIF(beta, threshold, neurons.reset)
        return kind(
            alpha, beta, threshold, neurons.reset, v_reset=v_reset, v_init=v_init, at_threshold=neurons.at_threshold
        )
    except UsageError as error:
        raise Unmapped(str(error)) from None


def constant(value: Any, target: tuple[int, ...], shape: tuple[int, ...]) -> float | torch.Tensor:
    """Return one float where all values are equal, else an array of the layer's shape."""
    values = np.asarray(value, np.float64)
    if values.size == 1 or not np.ptp(values):
        return float(values.reshape(-1)[0])
    try:
        return torch.from_numpy(np.broadcast_to(values, target).reshape(shape).copy())
    except ValueError:
        raise Unmapped(f"constants of shape {values.shape} do not fit {target} neurons") from None


def add_bias(connection: Any, bias: Any, shape: tuple[int, ...], dtype: torch.dtype, path: str) -> None:
    """Add the bias of the neurons to the connection."""
    values = np.asarray(bias, np.float64)
    if not values.any():
        return
    try:
        rows = np.broadcast_to(values, shape).reshape(connection.weight.shape[0], -1)
    except ValueError:
        raise Unmapped(f"constants of shape {values.shape} do not fit {shape} neurons") from None
    if np.ptp(rows, axis=1).any():
        raise Unmapped("a bias for each neuron of an image; the nearest is one for each channel")
    if connection.bias is None:
        connection.bias = nn.Parameter(torch.zeros(len(rows), dtype=dtype))
    with torch.no_grad():
        connection.bias += torch.from_numpy(rows[:, 0].copy()).to(dtype)


def first_step(neurons: Neurons, target: tuple[int, ...]) -> np.ndarray | float:
    """Return the membrane, before the first step, in which a recurrent layer's bias is missing."""
    bias = getattr(neurons.recurrent, "bias", None)
    if bias is None or not bool(bias.any()):
        return 0.0
    if np.any(neurons.alpha) or not np.all(neurons.beta):
        raise Unmapped("a bias of the recurrent layer begins at the second step; the nearest is bias=False")
    rows = bias.detach().double().cpu().numpy().reshape(-1, *[1] * (len(target) - 1))
    return np.broadcast_to(rows * neurons.gain / neurons.beta, target)


def operation_of(module: nn.Module, target: tuple[int, ...]) -> Node:
    """A recurrent layer as an operation."""
    here = Node("spikes", "", shape=target)
    if isinstance(module, nn.Linear):
        return Node("linear", "", (here,), target, call=(nn.functional.linear, (here, module.weight, module.bias), {}))
    geometry = {name: getattr(module, name) for name in ("stride", "padding", "dilation", "groups")}
    arguments = (here, module.weight, module.bias)
    return Node("conv2d", "", (here,), target, call=(nn.functional.conv2d, arguments, geometry))


def tensor(value: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(value, np.float64))


def equals(value: Any, number: float) -> bool:
    return bool((np.asarray(value) == number).all())


def each(weights: torch.Tensor, target: tuple[int, ...], dtype: torch.dtype) -> Connection:
    """Return the connection of every neuron to itself; weights: of the layer's shape."""
    if len(target) == 3 and bool((weights == weights[:, :1, :1]).all()):
        kernel = weights[:, :1, :1].reshape(-1, 1, 1, 1)
        return filled(Conv2d(target[0], target[0], 1, groups=target[0]), kernel, None, dtype)
    size = math.prod(target)
    return filled(Linear(size, size), torch.diag(weights.reshape(-1)), None, dtype)


def largest_current(connection: Connection) -> float:
    """Return the largest current that spikes can bring through a connection, its bias included."""
    bias = 0.0 if connection.bias is None else float(connection.bias.detach().abs().max())
    return float(connection.weight.detach().abs().flatten(1).sum(1).max()) + bias

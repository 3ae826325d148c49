"""Make one connection from a chain of linear operations, and read the arguments of these operations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ottt_loihi.converters.frameworks.nodes import MOVES, VIEWS, Node
from torch import Tensor

FACTORS = (
    *("mul", "__mul__", "__rmul__", "__imul__", "mul_", "neg", "__neg__"),
    *("div", "__truediv__", "__itruediv__", "div_"),
)
NAMES = {  # of the arguments of torch's functions behind the first one
    "linear": ("weight", "bias"),
    "conv2d": ("weight", "bias", "stride", "padding", "dilation", "groups"),
    "batch_norm": ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    "avg_pool2d": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "lp_pool2d": ("norm_type", "kernel_size", "stride", "ceil_mode"),
    "max_pool2d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
}
DEFAULTS = {"padding": 0, "dilation": 1, "groups": 1, "count_include_pad": True, "eps": 1e-5}  # of others: None


def arguments(node: Node) -> Mapping[str, Any]:
    """Return the arguments of a call of one of ``NAMES``, except the first one, by their names."""
    names = NAMES[node.kind]
    given = dict(zip(names, node.call[1][1:])) | dict(node.call[2])
    return {name: given.get(name, DEFAULTS.get(name)) for name in names}


class NoPattern(Exception):
    """A chain is no single convolution or matrix."""


class Kernel:
    """A connection that grows operation by operation; each raises :class:`NoPattern` where it has no place for it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self.pool: tuple[int, int] | str | None = None
        self.pool_after: tuple[int, int, int] | None = None
        self.geometry: dict[str, Any] = {}  # of a convolution; empty for a matrix
        self.before: Tensor | float = 1.0  # factors of the input
        self.channels = shape[0] if shape else 0  # of the layer that is read
        self.sends: Tensor | None = None  # what each of several neurons that stand for one counts

    def add(self, node: Node, shifts: bool) -> None:
        """Add the next operation of a chain; ``shifts``: whether its bias is added."""
        kind = "view" if node.kind in VIEWS else "factor" if node.kind in FACTORS else node.kind
        if kind not in STEPS:
            raise NoPattern
        STEPS[kind](self, node, shifts)
        self.shape = node.shape

    def _view(self, node: Node, shifts: bool) -> None:
        moved = self.geometry and len(node.shape) == 3 and tuple(node.shape) != tuple(self.shape)
        early = self.weight is None and self.pool is None and len(node.shape) != 1
        if node.kind in MOVES or moved or early:
            raise NoPattern

    def _linear(self, node: Node, shifts: bool) -> None:
        values = arguments(node)
        weight, bias = values["weight"].double(), _bias(values, shifts)
        if self.geometry or (self.pool is not None and len(self.shape) != 1):
            raise NoPattern
        if self.weight is not None:
            through = None if self.bias is None else weight @ self.bias
            self.weight, self.bias = weight @ self.weight, _sum(through, bias)
            return
        if len(self.shape) != 1 and math.prod(self.shape[:-1]) != 1:
            raise NoPattern
        self.weight, self.bias = self._spread(weight * self._factors(weight.shape[1]), self.channels), bias

    def _convolution(self, node: Node, shifts: bool) -> None:
        values = arguments(node)
        padding = 0 if values["padding"] == "valid" else values["padding"]
        if padding == "same":  # of both sides alike where the kernel reaches over an even number of places
            reach = [d * (n - 1) for d, n in zip(both(values["dilation"]), values["weight"].shape[2:])]
            padding = [n // 2 for n in reach] if not any(n % 2 for n in reach) else padding
        geometry = (values["stride"] or 1, padding, values["dilation"])
        self.convolve(values["weight"].double(), _bias(values, shifts), values["groups"], *geometry)

    def convolve(
        self, weight: Tensor, bias: Tensor | None, groups: int, stride: Any, padding: Any = 0, dilation: Any = 1
    ) -> None:
        """Begin a convolution with a kernel float64 ``(out, in / groups, height, width)``."""
        if self.weight is not None or weight.ndim != 4:
            raise NoPattern
        factors = self._factors(self.shape[0])
        if isinstance(factors, Tensor):
            if groups != 1:
                raise NoPattern
            factors = factors.view(1, -1, 1, 1)
        self.weight, self.bias = self._spread(weight * factors, weight.shape[1]), bias
        self.geometry = {"stride": both(stride), "padding": both(padding), "dilation": both(dilation), "groups": groups}

    def _average(self, node: Node, shifts: bool) -> None:
        values = arguments(node)
        padded = max(both(values["padding"]))
        if values["ceil_mode"] or values["divisor_override"] or (padded and not values["count_include_pad"]):
            raise NoPattern
        self._pool(values, values["padding"])

    def _sums(self, node: Node, shifts: bool) -> None:
        values = arguments(node)
        if values["norm_type"] != 1 or values["ceil_mode"]:
            raise NoPattern
        self._pool(values, 0)
        self.multiply(float(math.prod(both(values["kernel_size"]))))

    def _pool(self, values: Mapping[str, Any], padding: Any) -> None:
        kernel, padding = both(values["kernel_size"]), both(padding)
        stride = both(values["stride"] or kernel)
        first = self.weight is None and self.pool is None and len(self.shape) == 3
        if self.geometry and self.pool_after is None:
            self.pool_after = (_one(kernel), _one(stride), _one(padding))
        elif first and stride == kernel and padding == (0, 0):
            self.pool = kernel
        else:
            raise NoPattern

    def _everywhere(self, node: Node, shifts: bool) -> None:
        whole = both(node.call[1][1]) == (1, 1)
        if not whole or self.weight is not None or self.pool is not None or len(self.shape) != 3:
            raise NoPattern
        self.pool = "global"

    def _factor(self, node: Node, shifts: bool) -> None:
        self.multiply(_constant_factor(node))

    def multiply(self, values: Tensor | float) -> None:
        """Multiply with a number, or with one for each channel."""
        if self.weight is None:
            self.before = self.before * values
            return
        values = torch.as_tensor(values, dtype=torch.float64)
        self.weight = self.weight * (values.view(-1, *[1] * (self.weight.ndim - 1)) if values.ndim else values)
        self.bias = None if self.bias is None else self.bias * values

    def _normalise(self, node: Node, shifts: bool) -> None:
        factor, shift = _normalisation(node)
        if len(factor) != (self.shape[0] if self.shape else 0):
            raise NoPattern
        self.multiply(factor)
        if not shifts:
            return
        if self.weight is None or (self.pool_after is not None and self.pool_after[2]):
            raise NoPattern
        self.bias = _sum(self.bias, shift)

    def _gather(self, node: Node, shifts: bool) -> None:
        """Read a layer of which several of our neurons stand for one; ``node.shape``: the layer's."""
        sends, theirs = node.call[1][1], node.shape
        if self.weight is not None or self.pool is not None or self.shape != (theirs[0] * len(sends), *theirs[1:]):
            raise NoPattern
        self.sends, self.channels = torch.tensor(sends, dtype=torch.float64), theirs[0]

    def _spread(self, weight: Tensor, channels: int) -> Tensor:
        """Return weights for each of several neurons that stand for one; axis 1 of ``weight`` begins with channels."""
        if self.sends is None:
            return weight
        parts = weight.reshape(len(weight), channels, 1, -1) * self.sends.view(1, 1, -1, 1)
        if weight.ndim == 2:
            return parts.flatten(1)
        return parts.reshape(len(weight), channels * len(self.sends), *weight.shape[2:])

    def _factors(self, size: int) -> Tensor | float:
        if not isinstance(self.before, Tensor) or self.before.ndim == 0:
            return self.before
        if len(self.before) != size or self.pool is not None:
            raise NoPattern
        return self.before.double()


STEPS = {
    "view": Kernel._view,
    "gather": Kernel._gather,
    "linear": Kernel._linear,
    "conv2d": Kernel._convolution,
    "batch_norm": Kernel._normalise,
    "avg_pool2d": Kernel._average,
    "lp_pool2d": Kernel._sums,
    "adaptive_avg_pool2d": Kernel._everywhere,
    "factor": Kernel._factor,
}


def _normalisation(node: Node) -> tuple[Tensor, Tensor]:
    """Return factor and shift of a batch normalisation, float64, one for each channel."""
    values = arguments(node)
    mean, variance = values["running_mean"].double(), values["running_var"].double()
    factor = 1 / torch.sqrt(variance + values["eps"])
    if values["weight"] is not None:
        factor = factor * values["weight"].double()
    shift = -mean * factor
    return factor, shift if values["bias"] is None else shift + values["bias"].double()


def is_negative(node: Node) -> bool:
    """Return whether an operation multiplies with a number below 0, or with none that is known."""
    try:
        return _constant_factor(node) <= 0
    except NoPattern:
        return True


def _constant_factor(node: Node) -> float:
    if node.kind in ("neg", "__neg__"):
        return -1.0
    other = next((value for value in node.call[1] if not isinstance(value, Node)), None)
    if isinstance(other, Tensor) and other.numel() == 1:
        other = float(other)
    if not isinstance(other, (int, float)) or (isinstance(node.call[1][1], Node) and "div" in node.kind):
        raise NoPattern
    return 1 / other if "div" in node.kind else float(other)


def _one(value: Any) -> int:
    """Return the one number of a square geometry."""
    first, second = both(value)
    if first != second:
        raise NoPattern
    return first


def both(value: Any) -> tuple[int, int]:
    if isinstance(value, Sequence) and all(isinstance(part, int) for part in value):
        return value[0], value[-1]
    if not isinstance(value, int):
        raise NoPattern
    return value, value


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _bias(values: Mapping[str, Any], shifts: bool) -> Tensor | None:
    return values["bias"].double() if shifts and values["bias"] is not None else None

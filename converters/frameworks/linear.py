"""The operations between two layers of neurons, as one connection of ours.

A chain that is a pooling, a convolution or a matrix, scales and shifts of channels (batch normalisation), and a pooling
again becomes one :class:`~ottt_loihi.nn.connections.Conv2d` or ``Linear`` that keeps its kernels. Any other chain of
linear operations becomes the matrix that it is, found by running it on unit vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ottt_loihi.converters.frameworks import signatures
from ottt_loihi.converters.frameworks.neurons import Unmapped
from ottt_loihi.converters.frameworks.signatures import arguments
from ottt_loihi.converters.frameworks.trace import VIEWS, Node
from ottt_loihi.converters.frameworks.twin import first_line
from torch import Tensor

from ottt_loihi.nn.connections import Connection, Conv2d, Linear

MAX_MATRIX = 1 << 24  # weights of a chain that is written out
ADDITIONS = (
    *("add", "__add__", "__radd__", "__iadd__", "add_"),
    *("sub", "__sub__", "__isub__", "subtract", "rsub", "__rsub__"),
)
FACTORS = ("mul", "__mul__", "__rmul__", "__imul__", "mul_", "div", "__truediv__", "__itruediv__", "neg", "__neg__")
MAXIMA = ("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d")
LINEAR = {  # affine in their one watched argument; what is not named here is refused
    *("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("batch_norm", "pad", "interpolate", "avg_pool3d", "adaptive_avg_pool3d", "mean within", "sum within"),
    *("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "lp_pool2d", "matmul", "__matmul__"),
    *("upsample", "pixel_shuffle"),
    *ADDITIONS,
    *FACTORS,
    *VIEWS,
}
OF_A_SAMPLE = "it divides by what it measures in each sample; the nearest is batch normalisation"
HINTS = {
    "relu": "it is no spiking neuron; put a spiking layer in its place",
    **dict.fromkeys(("softmax", "log_softmax"), "it belongs to the loss; take it out of forward"),
    **dict.fromkeys(("sigmoid", "tanh"), "no neuron here sends real numbers; put a spiking layer in its place"),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm"), OF_A_SAMPLE),
    **dict.fromkeys(
        MAXIMA, "the largest of real currents is not linear; the nearest is to pool the spikes, or average pooling"
    ),
    **dict.fromkeys(
        ("lt", "gt", "le", "ge", "__lt__", "__gt__", "__le__", "__ge__", "bernoulli"),
        "forward makes spikes itself; the nearest is samples that are spikes already (--encoding rate)",
    ),
    "reordered": "it puts time steps or samples in another order; the nearest is to take them as they come",
    "argmax": "it belongs behind the scores; take it out of forward",
    **dict.fromkeys(("flip", "roll"), "the nearest is a Linear that puts its inputs in another order"),
    "dropout": "it drops in evaluation, too; pass training=self.training",
    "part": "an index takes a part of a layer; the nearest is a Linear that reads it",
    "stack": "it puts layers or time steps side by side; the nearest is a sum of layers, or the steps as they come",
    "cat": "the nearest is two layers whose outputs are added",
}


@dataclass(frozen=True)
class Operation:
    """A call of an affine module, as it was traced.

    Attributes
    ----------
    node
        its call
    shifts
        whether its bias is added; where the signals of several layers are summed, only one of them adds it
    """

    node: Node
    shifts: bool = True

    def run(self, x: Tensor) -> Tensor:
        """Return the output for samples ``(n, *shape)``, in float64."""
        y = _run(self.node, x)
        return y if self.shifts else y - _run(self.node, torch.zeros_like(x[:1]))


@dataclass(frozen=True)
class Chain:
    """Operations in the order in which they are computed, and the shape of one sample before them."""

    operations: tuple[Operation, ...]
    shape: tuple[int, ...]

    def run(self, x: Tensor) -> Tensor:
        """Return the output of the chain for ``(n, *shape)``."""
        for operation in self.operations:
            x = operation.run(x)
        return x

    def shape_behind(self) -> tuple[int, ...]:
        """Return the shape of one sample after them."""
        return self.operations[-1].node.shape if self.operations else self.shape


def refusal(node: Node) -> str | None:
    """Return why an operation has no counterpart, None for a linear one."""
    if node.kind == "batch_norm" and arguments(signatures.batch_norm, node)["training"]:
        return "batch normalisation in training mode; it is read in evaluation mode, with its running statistics"
    if node.kind in FACTORS and len(node.inputs) > 1:
        return "a product of spikes is not linear; the nearest is their sum"
    if node.kind in LINEAR:
        return None
    if node.kind == "membrane":
        return "a membrane feeds another layer; the nearest is its spikes"
    return HINTS.get(node.kind, "it is not linear, and no neuron that is known here")


def connect(chain: Chain, before: tuple[int, ...], gain: Tensor, dtype: torch.dtype, where: str) -> Connection:
    """Return one connection for a chain, times ``gain`` of the neurons behind it.

    Parameters
    ----------
    chain
        of operations that :func:`refusal` has nothing against
    before
        shape of our layer before it: the chain's own, or flat
    gain
        float64, a scalar or of a shape that broadcasts to the neurons'
    dtype
        of the connection's weights
    where
        the layer behind it, for messages

    Raises
    ------
    Unmapped
        for a chain that would be too large a matrix
    """
    try:
        connection = _kernel(chain, gain, dtype)
        if tuple(before) != tuple(chain.shape) and (isinstance(connection, Conv2d) or connection.pool is not None):
            raise _NoPattern
        return connection
    except _NoPattern:
        return _matrix(chain, gain, dtype, where)


class _NoPattern(Exception):
    """A chain is no single convolution or matrix."""


class _Kernel:
    """A connection that grows operation by operation."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self.pool: tuple[int, int] | str | None = None
        self.pool_after: tuple[int, int, int] | None = None
        self.geometry: dict[str, Any] = {}
        self.before: Tensor | float = 1.0  # factors of the input
        self.channels = shape[0] if shape else 0  # of the layer that is read
        self.sends: Tensor | None = None  # what each of several neurons that stand for one counts

    @property
    def is_convolution(self) -> bool:
        return bool(self.geometry)

    def linear(self, weight: Tensor, bias: Tensor | None) -> None:
        if self.weight is None:
            if len(self.shape) != 1 and math.prod(self.shape[:-1]) != 1:
                raise _NoPattern
            self.weight = self._spread(weight.double() * self._factors(weight.shape[1]), self.channels)
            self.bias = None if bias is None else bias.double()
        elif self.is_convolution:
            raise _NoPattern
        else:
            through = None if self.bias is None else weight.double() @ self.bias
            self.weight, self.bias = weight.double() @ self.weight, _sum(through, bias)

    def convolution(self, weight: Tensor, bias: Tensor | None, **geometry: Any) -> None:
        if self.weight is not None or weight.ndim != 4:
            raise _NoPattern
        factors = self._factors(self.shape[0])
        if isinstance(factors, Tensor):
            if geometry.get("groups", 1) != 1:
                raise _NoPattern
            factors = factors.view(1, -1, 1, 1)
        self.weight = self._spread(weight.double() * factors, weight.shape[1])
        self.bias = None if bias is None else bias.double()
        self.geometry = {name: _both(geometry.get(name, default)) for name, default in CONVOLUTION.items()}
        self.geometry["groups"] = geometry.get("groups", 1)

    def pooling(self, kernel_size: Any, stride: Any, padding: Any) -> None:
        kernel, stride, padding = _both(kernel_size), _both(stride), _both(padding)
        first = self.weight is None and self.pool is None and len(self.shape) == 3
        if self.is_convolution and self.pool_after is None:
            self.pool_after = (_one(kernel), _one(stride), _one(padding))
        elif first and stride == kernel and padding == (0, 0):
            self.pool = kernel
        else:
            raise _NoPattern

    def everywhere(self) -> None:
        """Average over the whole image."""
        if self.weight is not None or self.pool is not None or len(self.shape) != 3:
            raise _NoPattern
        self.pool = "global"

    def factor(self, values: Tensor | float) -> None:
        """Multiply with a number, or with one for each channel."""
        if self.weight is None:
            self.before = self.before * values
            return
        values = values if isinstance(values, Tensor) else torch.tensor(float(values), dtype=torch.float64)
        rows = values.double() if values.ndim == 0 else values.double().view(-1, *[1] * (self.weight.ndim - 1))
        self.weight = self.weight * rows
        self.bias = None if self.bias is None else self.bias * values.double()

    def shift(self, values: Tensor) -> None:
        """Add one number for each channel."""
        if self.weight is None or (self.pool_after is not None and self.pool_after[2]):
            raise _NoPattern
        self.bias = _sum(self.bias, values.double())

    def gather(self, sends: tuple[float, ...], theirs: tuple[int, ...]) -> None:
        """Read neurons, of a layer of ``theirs`` shape, of which several of ours stand for one."""
        if self.weight is not None or self.pool is not None or self.shape != (theirs[0] * len(sends), *theirs[1:]):
            raise _NoPattern
        self.sends, self.channels = torch.tensor(sends, dtype=torch.float64), theirs[0]

    def _spread(self, weight: Tensor, channels: int) -> Tensor:
        """Return weights for each of several neurons that stand for one; axis 1 of ``weight`` begins with channels."""
        if self.sends is None:
            return weight
        parts = weight.reshape(len(weight), channels, 1, -1) * self.sends.view(1, 1, -1, 1)
        return (
            parts.reshape(len(weight), channels * len(self.sends), *weight.shape[2:])
            if weight.ndim > 2
            else parts.flatten(1)
        )

    def _factors(self, size: int) -> Tensor | float:
        if not isinstance(self.before, Tensor) or self.before.ndim == 0:
            return self.before
        if len(self.before) != size or self.pool is not None:
            raise _NoPattern
        return self.before.double()


CONVOLUTION = {"stride": 1, "padding": 0, "dilation": 1}


def _kernel(chain: Chain, gain: Tensor, dtype: torch.dtype) -> Connection:
    kernel = _Kernel(chain.shape)
    for operation in chain.operations:
        node = operation.node
        channels = kernel.shape[0] if kernel.shape else 0
        if node.kind in VIEWS:
            if node.kind in ("__getitem__", "transpose", "permute", "movedim", "swapaxes", "unbind"):
                raise _NoPattern
            if kernel.is_convolution and len(node.shape) == 3 and tuple(node.shape) != tuple(kernel.shape):
                raise _NoPattern
            if not kernel.is_convolution and kernel.weight is None and kernel.pool is None and len(node.shape) != 1:
                raise _NoPattern
        elif node.kind == "gather":
            kernel.gather(node.call[1][1], node.shape)
        elif node.kind == "linear":
            if kernel.pool is not None and len(kernel.shape) != 1:
                raise _NoPattern
            values = arguments(signatures.linear, node)
            kernel.linear(values["weight"], values["bias"] if operation.shifts else None)
        elif node.kind == "conv2d":
            values = arguments(signatures.conv, node)
            bias = values["bias"] if operation.shifts else None
            kernel.convolution(values["weight"], bias, **{k: values[k] for k in (*CONVOLUTION, "groups")})
        elif node.kind == "batch_norm":
            factor, shift = _normalisation(node)
            if len(factor) != channels:
                raise _NoPattern
            kernel.factor(factor)
            if operation.shifts:
                kernel.shift(shift)
        elif node.kind in ("avg_pool2d", "lp_pool2d"):
            _pool(kernel, node)
        elif node.kind == "adaptive_avg_pool2d" and _both(node.call[1][1]) == (1, 1):
            kernel.everywhere()
        elif node.kind in FACTORS:
            kernel.factor(_constant_factor(node))
        else:
            raise _NoPattern
        kernel.shape = node.shape
    return _built(kernel, chain, gain, dtype)


def _pool(kernel: _Kernel, node: Node) -> None:
    if node.kind == "lp_pool2d":
        values = arguments(signatures.lp_pool, node)
        if values["norm_type"] != 1 or values["ceil_mode"]:
            raise _NoPattern
        size = values["kernel_size"]
        kernel.pooling(size, values["stride"] or size, 0)
        kernel.factor(float(math.prod(_both(size))))
        return
    values = arguments(signatures.avg_pool, node)
    padded = max(_both(values["padding"]))
    if values["ceil_mode"] or values["divisor_override"] or (padded and not values["count_include_pad"]):
        raise _NoPattern
    kernel.pooling(values["kernel_size"], values["stride"] or values["kernel_size"], values["padding"])


def _built(kernel: _Kernel, chain: Chain, gain: Tensor, dtype: torch.dtype) -> Connection:
    """The connection of a kernel; a chain without weights is one kernel for each channel."""
    if kernel.weight is None:
        if len(chain.shape) != 3 or len(kernel.shape) != 3 or kernel.pool == "global":
            raise _NoPattern
        window, kernel.pool, channels = kernel.pool or (1, 1), None, kernel.shape[0]
        weight = torch.full((channels, 1, *window), 1 / math.prod(window), dtype=torch.float64)
        factors, kernel.before = kernel.before, 1.0
        kernel.convolution(weight, None, stride=window, groups=channels)
        kernel.factor(factors)
    rows = gain
    if gain.ndim and gain.numel() > 1:
        rows = torch.broadcast_to(gain, kernel.shape).reshape(kernel.weight.shape[0], -1)
        if not bool((rows == rows[:, :1]).all()):
            raise _NoPattern
        rows = rows[:, 0]
    weight = kernel.weight * (rows.view(-1, *[1] * (kernel.weight.ndim - 1)) if rows.ndim else rows)
    bias = None if kernel.bias is None else kernel.bias * rows
    if kernel.is_convolution:
        groups = kernel.geometry["groups"]
        connection: Connection = Conv2d(
            weight.shape[1] * groups, len(weight), tuple(weight.shape[2:]), bias is not None, pool=kernel.pool,
            pool_after=kernel.pool_after, **kernel.geometry,
        )  # fmt: skip
    else:
        connection = Linear(weight.shape[1], len(weight), bias is not None, pool=kernel.pool)
    return filled(connection, weight, bias, dtype)


def filled(connection: Connection, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Connection:
    """Return the connection with these weights, rounded to ``dtype``."""
    with torch.no_grad():
        connection.to(dtype)
        connection.weight.copy_(weight)
        if bias is not None:
            connection.bias.copy_(bias)
    return connection


def _matrix(chain: Chain, gain: Tensor, dtype: torch.dtype, where: str) -> Connection:
    """The chain written out: what it makes of nothing is its bias, what it makes of unit vectors its columns."""
    inputs, outputs = math.prod(chain.shape), math.prod(chain.shape_behind())
    if inputs * outputs > MAX_MATRIX:
        kinds = " → ".join(operation.node.kind for operation in chain.operations)
        raise Unmapped(
            f"{kinds} is no single convolution, and as a matrix it has {inputs * outputs:,} weights, at most "
            f"{MAX_MATRIX:,} are written out; the nearest is one convolution, padded with zeros, and one "
            f"pooling ({where})"
        )
    with torch.no_grad():
        try:
            shift = chain.run(torch.zeros(1, *chain.shape, dtype=torch.float64)).reshape(-1)
            columns = chain.run(torch.eye(inputs, dtype=torch.float64).view(inputs, *chain.shape)).reshape(inputs, -1)
        except (RuntimeError, IndexError) as error:  # it acts on the axis of steps or samples
            kinds = " → ".join(operation.node.kind for operation in chain.operations)
            raise Unmapped(f"{kinds} does not run on one step of one sample ({first_line(error)}; {where})") from None
        each = torch.broadcast_to(gain, chain.shape_behind()).reshape(-1)
        weight = (columns - shift).t() * each[:, None]
        bias = shift * each if bool(shift.any()) else None
    return filled(Linear(inputs, outputs, bias is not None), weight, bias, dtype)


def _run(node: Node, x: Tensor) -> Tensor:
    func, args, kwargs = node.call
    if node.kind in VIEWS and node.kind not in ("__getitem__", "transpose", "permute", "movedim", "swapaxes", "unbind"):
        return x.reshape(len(x), *node.shape)

    def real(value: Any) -> Any:
        if isinstance(value, Node):
            return x
        if isinstance(value, Tensor):
            return value.double() if value.is_floating_point() else value
        return type(value)(real(v) for v in value) if type(value) in (tuple, list) else value

    return func(*(real(a) for a in args), **{key: real(value) for key, value in kwargs.items()})


def _normalisation(node: Node) -> tuple[Tensor, Tensor]:
    """Factor and shift of a batch normalisation, float64, one for each channel."""
    values = arguments(signatures.batch_norm, node)
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
    except _NoPattern:
        return True


def _constant_factor(node: Node) -> float:
    if node.kind in ("neg", "__neg__"):
        return -1.0
    other = next((value for value in node.call[1] if not isinstance(value, Node)), None)
    if isinstance(other, Tensor) and other.numel() == 1:
        other = float(other)
    if not isinstance(other, (int, float)) or (isinstance(node.call[1][1], Node) and "div" in node.kind):
        raise _NoPattern
    return 1 / other if "div" in node.kind else float(other)


def _one(value: Any) -> int:
    """The number of a square geometry."""
    first, second = _both(value)
    if first != second:
        raise _NoPattern
    return first


def _both(value: Any) -> tuple[int, int]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        values = [int(v) for v in value]
        return (values[0], values[-1])
    if not isinstance(value, int):
        raise _NoPattern
    return value, value


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b.double()


def any_of(node: Node, shape: tuple[int, ...], before: tuple[int, ...], dtype: torch.dtype) -> Connection:
    """Return weights of 1 from every place of a max pooling's windows; ``before``: our layer's shape."""
    _, args, kwargs = node.call
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    values = {"padding": 0, "dilation": 1, "ceil_mode": False} | dict(zip(names, args[1:])) | dict(kwargs)
    if node.kind == "max_pool2d" and tuple(before) == tuple(shape) and not values["ceil_mode"]:
        kernel = _both(values["kernel_size"])
        geometry = {name: _both(values[name]) for name in ("padding", "dilation")}
        geometry["stride"] = _both(values.get("stride") or kernel)
        connection = Conv2d(shape[0], shape[0], kernel, groups=shape[0], **geometry)
        return filled(connection, torch.ones_like(connection.weight), None, dtype)
    chain = Chain((Operation(node),), tuple(shape))  # of one spike the largest is 1 in every window that has it
    return _matrix(chain, torch.tensor(1.0, dtype=torch.float64), dtype, "max pooling")

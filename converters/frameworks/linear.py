"""The operations between two layers of neurons, as one connection of ours.

A chain that is a pooling, a convolution or a matrix, scales and shifts of channels (batch normalisation), and a pooling
again becomes one :class:`~ottt_loihi.nn.connections.Conv2d` or ``Linear`` that keeps its kernels. Any other chain of
linear operations becomes the matrix that it is, found by running it on unit vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from ottt_loihi.converters.frameworks.kernel import FACTORS, Kernel, NoPattern, arguments, both
from ottt_loihi.converters.frameworks.neurons import Unmapped
from ottt_loihi.converters.frameworks.nodes import MOVES, SPLITS, SUMS, VIEWS, Node, mapped
from torch import Tensor

from ottt_loihi.errors import first_line
from ottt_loihi.nn.connections import Connection, Conv2d, Linear

MAX_MATRIX = 1 << 24  # weights of a chain that is written out
ADDITIONS = (*SUMS, "sub", "__sub__", "__isub__", "sub_", "subtract", "rsub", "__rsub__")
MAXIMA = ("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d")
LINEAR = {  # affine in their one watched argument; what is not named here is refused
    *("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("batch_norm", "pad", "interpolate", "avg_pool3d", "adaptive_avg_pool3d", "mean within", "sum within"),
    *("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "lp_pool2d", "matmul", "__matmul__"),
    *("upsample", "pixel_shuffle", "select", "narrow", *SPLITS),
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
    **dict.fromkeys(("int", "long", "short", "bool", "floor", "round"), "it rounds; take it out of forward"),
    **dict.fromkeys(
        ("linear_dynamic", "quantized_linear", "fake_quantize_per_tensor_affine"),
        "the nearest is the module before its quantisation; --weight-bits and --quantize round weights",
    ),
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
class Term:
    """The input of a layer from one source.

    Attributes
    ----------
    source
        spikes of a layer, or the network's input
    operations
        those between the source and the layer, in order
    """

    source: Node
    operations: tuple[Operation, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample at one step behind the operations."""
        return tuple(self.operations[-1].node.shape if self.operations else self.source.shape)

    def then(self, *operations: Operation) -> Term:
        """Return the term with more operations behind it."""
        return Term(self.source, (*self.operations, *operations))

    def times(self, factor: float | Tensor) -> Term:
        """Return the term, multiplied with a number or with one for each neuron."""
        node = self.source
        return self.then(Operation(Node("mul", node.path, (node,), self.shape, call=(torch.mul, (node, factor), {}))))

    def run(self, x: Tensor) -> Tensor:
        """Return the output of the operations for ``(n, *source.shape)``, in float64."""
        for operation in self.operations:
            x = operation.run(x)
        return x


def refusal(node: Node) -> str | None:
    """Return why an operation has no counterpart, None for a linear one."""
    if node.kind == "batch_norm" and arguments(node)["training"]:
        return "batch normalisation in training mode; it is read in evaluation mode, with its running statistics"
    if node.call is not None and node.call[2].get("rounding_mode") is not None:
        return "it rounds; the nearest is to divide without rounding_mode"
    if node.kind == "lp_pool2d" and arguments(node)["norm_type"] != 1:
        return "a root of powers is not linear; the nearest is SumPool2d, or LPPool2d of the power 1"
    if node.kind in FACTORS and len(node.inputs) > 1:
        return "a product of spikes is not linear; the nearest is their sum"
    if node.kind in LINEAR:
        return None
    if node.kind == "membrane":
        return "a membrane feeds another layer; the nearest is its spikes"
    return HINTS.get(node.kind, "it is not linear, and no neuron that is known here")


def connect(term: Term, before: tuple[int, ...], gain: Tensor, dtype: torch.dtype, where: str) -> Connection:
    """Return one connection for the operations of a term, times ``gain`` of the neurons behind it.

    Parameters
    ----------
    term
        with operations that :func:`refusal` has nothing against
    before
        shape of our layer before it: the source's own, or flat
    gain
        float64, a scalar or of a shape that broadcasts to the neurons'
    dtype
        of the connection's weights
    where
        the layer behind it, for messages

    Raises
    ------
    Unmapped
        for operations that would be too large a matrix
    """
    try:
        connection = _kernel(term, gain, dtype)
        image = isinstance(connection, Conv2d) or connection.pool is not None
        if image and tuple(before) != tuple(term.source.shape):
            raise NoPattern
        return connection
    except NoPattern:
        return _matrix(term, gain, dtype, where)


def _kernel(term: Term, gain: Tensor, dtype: torch.dtype) -> Connection:
    """Return the connection of a term; without weights it is one kernel for each channel."""
    kernel = Kernel(tuple(term.source.shape))
    for operation in term.operations:
        kernel.add(operation.node, operation.shifts)
    if kernel.weight is None:
        if len(term.source.shape) != 3 or len(kernel.shape) != 3 or kernel.pool == "global":
            raise NoPattern
        window, kernel.pool, channels = kernel.pool or (1, 1), None, kernel.shape[0]
        weight = torch.full((channels, 1, *window), 1 / math.prod(window), dtype=torch.float64)
        factors, kernel.before = kernel.before, 1.0
        kernel.convolve(weight, None, channels, window)
        kernel.multiply(factors)
    rows = gain
    if gain.ndim and gain.numel() > 1:
        rows = torch.broadcast_to(gain, kernel.shape).reshape(kernel.weight.shape[0], -1)
        if not bool((rows == rows[:, :1]).all()):
            raise NoPattern
        rows = rows[:, 0]
    weight = kernel.weight * (rows.view(-1, *[1] * (kernel.weight.ndim - 1)) if rows.ndim else rows)
    bias = None if kernel.bias is None else kernel.bias * rows
    if kernel.geometry:
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


def _matrix(term: Term, gain: Tensor, dtype: torch.dtype, where: str) -> Connection:
    """Return the operations as a matrix: their result for zeros is the bias, those for unit vectors the columns."""
    shape = tuple(term.source.shape)
    inputs, outputs = math.prod(shape), math.prod(term.shape)
    kinds = " → ".join(operation.node.kind for operation in term.operations)
    if inputs * outputs > MAX_MATRIX:
        raise Unmapped(
            f"{kinds} is no single convolution, and as a matrix it has {inputs * outputs:,} weights, at most "
            f"{MAX_MATRIX:,} are written out; the nearest is one convolution, padded with zeros, and one "
            f"pooling ({where})"
        )
    with torch.no_grad():
        try:
            shift = term.run(torch.zeros(1, *shape, dtype=torch.float64)).reshape(-1)
            columns = term.run(torch.eye(inputs, dtype=torch.float64).view(inputs, *shape)).reshape(inputs, -1)
        except (RuntimeError, IndexError) as error:  # it acts on the axis of steps or samples
            cure = "; the nearest is x[:, t] first, and then a part of it" if "__getitem__" in kinds else ""
            said = f"{kinds} does not run on one step of one sample ({first_line(error)}; {where}){cure}"
            raise Unmapped(said) from None
        if columns.numel() != inputs * outputs:  # factors for each step
            raise Unmapped(f"{kinds} does not do the same at every step; the nearest is the same numbers at all steps")
        each = torch.broadcast_to(gain, term.shape).reshape(-1)
        weight = (columns - shift).t() * each[:, None]
        bias = shift * each if bool(shift.any()) else None
    return filled(Linear(inputs, outputs, bias is not None), weight, bias, dtype)


def _run(node: Node, x: Tensor) -> Tensor:
    """Return the result of a call for samples ``(n, …)`` in place of its node, in float64."""
    func, args, kwargs = node.call
    if node.kind in VIEWS - MOVES:
        return x.reshape(len(x), *node.shape)

    def real(value: Any) -> Any:
        if isinstance(value, Node):
            return x
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    args, kwargs = mapped(real, (args, dict(kwargs)))
    return func(*args, **kwargs)


def any_of(node: Node, shape: tuple[int, ...], before: tuple[int, ...], dtype: torch.dtype) -> Connection:
    """Return weights of 1 from every place of a max pooling's windows; ``before``: our layer's shape."""
    values = arguments(node) if node.kind == "max_pool2d" and tuple(before) == tuple(shape) else None
    if values is not None and not values["ceil_mode"]:
        kernel = both(values["kernel_size"])
        geometry = {name: both(values[name]) for name in ("padding", "dilation")}
        geometry["stride"] = both(values["stride"] or kernel)
        connection = Conv2d(shape[0], shape[0], kernel, groups=shape[0], **geometry)
        return filled(connection, torch.ones_like(connection.weight), None, dtype)
    term = Term(Node("spikes", "", shape=shape), (Operation(node),))  # of one spike the largest is 1 in its windows
    return _matrix(term, torch.tensor(1.0, dtype=torch.float64), dtype, "max pooling")

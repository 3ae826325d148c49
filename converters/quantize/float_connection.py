"""A trained connection as plain float64 arrays: a matrix, a convolution as the chip has it, or single synapses.

Scales and pooling are folded into the weights. Whatever is no convolution on the chip (an upsampled input, a pooled
current, a convolution that has to wait because it skips layers) becomes single synapses.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.sim.network import Conv, Dense, Sparse

from ottt_loihi import checks
from ottt_loihi.errors import ChipError

if TYPE_CHECKING:
    from ottt_loihi.nn.connections import Connection

MAX_SYNAPSES = 1 << 25  # of a connection written out synapse by synapse: half a gigabyte


@dataclass(frozen=True)
class FloatConnection:
    """Weights from ``pre`` (``INPUT``: the network's input) to ``post``, both indices of layers.

    Attributes
    ----------
    kind
        what it is on the chip, :class:`Dense`, :class:`Conv` or :class:`Sparse`
    weight
        float64, of that class's shape
    delay
        logical steps a spike takes, 0 or, for recurrence and feedback, more
    geometry
        the other arguments of ``kind`` (stride, padding, groups, … or rows and columns)
    """

    pre: int
    post: int
    weight: np.ndarray
    kind: type = Dense
    delay: int = 0
    geometry: Mapping[str, Any] = field(default_factory=dict)

    def matrix(self, name: str = "connection") -> Any:
        """Return the weights as a ``scipy.sparse`` matrix ``(post, pre)``; ``name``: of the connection in messages."""
        from scipy.sparse import coo_matrix, csr_matrix

        if self.kind is Dense:
            return csr_matrix(self.weight)
        if self.kind is Sparse:
            places = (self.geometry["rows"], self.geometry["columns"])
            return coo_matrix((self.weight, places), shape=self.geometry["size"]).tocsr()
        return convolution_matrix(self.weight, name=name, **self.geometry)


def arrive(
    connection: Connection, pre: int, post: int, shape: tuple[int, ...], delay: int, name: str
) -> tuple[list[FloatConnection], np.ndarray | None]:
    """Return a trained connection as float connections, and its bias at every neuron."""
    from ottt_loihi.nn.connections import Conv2d, Elementwise, Linear, Readout

    connection = _ours(connection, shape, name)
    if type(connection) not in (Conv2d, Elementwise, Linear, Readout):
        raise ChipError(f"{name}: a {type(connection).__name__} cannot be exported; Linear, Conv2d and Elementwise can")
    weight, bias = _arrays(connection, name)
    if isinstance(connection, Elementwise):
        from scipy.sparse import diags

        each = np.broadcast_to(weight, shape).reshape(-1)
        return [_synapses(diags(each), pre, post, delay)], None
    if isinstance(connection, Linear):
        return [FloatConnection(pre, post, _dense(weight, connection.pool, shape), Dense, delay)], bias
    bias = None if bias is None else np.broadcast_to(bias[:, None, None], _before_pooling(connection, shape))
    if connection.pool_after is None and connection.upsample == 1 and _folds(connection, shape):
        return [_conv(connection, weight, pre, post, shape, delay)], None if bias is None else np.array(bias)
    matrix, after = _matrix(connection, weight, shape, name)
    if bias is not None:
        bias = (after @ bias.reshape(-1)).reshape(connection.output_shape(shape))
    return [_synapses(matrix, pre, post, delay)], bias


def require_unchanged(part: Any, name: str) -> None:
    """Refuse a part with a hook or a method of its own: a chip would not call them."""
    from ottt_loihi.nn.part import changed

    if found := changed(part):
        raise ChipError(f"{name}: its {type(part).__name__} has {found}, which no chip would call; remove it first")


def _ours(connection: Any, shape: tuple[int, ...], name: str) -> Any:
    """Return our connection that computes the same as a layer of torch; other connections as they are."""
    import torch
    from torch import nn
    from torch.nn.utils import prune

    from ottt_loihi.nn.connections import Conv2d, Linear

    if prune.is_pruned(connection):
        raise ChipError(
            f"{name}: a hook prunes its weights; make that permanent with torch.nn.utils.prune.remove first"
        )
    require_unchanged(connection, name)
    if type(connection) not in (nn.Linear, nn.Conv2d):
        return connection
    has_bias = connection.bias is not None
    if type(connection) is nn.Linear:
        if len(shape) != 1:
            raise ChipError(f"{name}: torch's Linear acts on the last axis of {shape}; use ol.Linear, or flatten")
        found: Any = Linear(connection.in_features, connection.out_features, has_bias)
    else:
        if connection.padding_mode != "zeros" or isinstance(connection.padding, str):
            raise ChipError(
                f"{name}: padding={connection.padding!r} with padding_mode={connection.padding_mode!r} cannot be "
                "exported; use a number of zeros"
            )
        names = ("stride", "padding", "dilation", "groups")
        settings = {each: getattr(connection, each) for each in names}
        sizes = (connection.in_channels, connection.out_channels, connection.kernel_size)
        found = Conv2d(*sizes, has_bias, **settings)
    with torch.no_grad():
        found.weight, found.bias = connection.weight, connection.bias
    return found


def _arrays(connection: Connection, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the effective weight and bias in float64."""
    import torch

    with torch.no_grad():
        for kind, parameter in connection.named_parameters():
            if not torch.isfinite(parameter).all():
                place = tuple(int(i) for i in torch.nonzero(~torch.isfinite(parameter))[0])
                value = float(parameter[place])
                raise ChipError(f"{name}.{kind}: {value} at {place}; train again with a smaller learning rate")
        real = copy.deepcopy(connection).cpu().double()
        real.weight_bits = None  # what fine-tuning for few bits computes with is rounded here, once
        weight, bias, *_ = real.effective()
    return weight.detach().numpy(), None if bias is None else bias.detach().numpy()


def _dense(weight: np.ndarray, pool: int | str | None, shape: tuple[int, ...]) -> np.ndarray:
    """Return dense weights with an average pooling before them, one column for each neuron before the pooling."""
    if pool is None:
        return weight
    channels, height, width = shape
    kernel = shape[1:] if pool == "global" else checks.both(pool)
    pooled = weight.reshape(len(weight), channels, height // kernel[0], width // kernel[1])
    whole = np.zeros((len(weight), *shape))  # pixels past the last whole window count nothing
    spread = _spread(pooled, kernel)
    whole[:, :, : spread.shape[2], : spread.shape[3]] = spread
    return whole.reshape(len(weight), -1)


def _spread(weight: np.ndarray, kernel: tuple[int, ...]) -> np.ndarray:
    return weight.repeat(kernel[0], axis=2).repeat(kernel[1], axis=3) / math.prod(kernel)


def _window(connection: Connection, shape: tuple[int, ...]) -> tuple[int, int]:
    if connection.pool is None:
        return 1, 1
    return (shape[1], shape[2]) if connection.pool == "global" else checks.both(connection.pool)


def _folds(connection: Any, shape: tuple[int, ...]) -> bool:
    """Return whether pooling and convolution are one: its padding must not read pixels that the pooling drops.

    A dilated kernel over pooled pixels has holes that are no dilation of one kernel.
    """
    kernel = _window(connection, shape)
    sizes = zip(kernel, checks.both(connection.kernel_size), checks.both(connection.dilation))
    if any(pooled > 1 and k > 1 and d > 1 for pooled, k, d in sizes):
        return False
    return not connection.padding or all(n % k == 0 for n, k in zip(shape[1:], kernel))


def _conv(
    connection: Any, weight: np.ndarray, pre: int, post: int, shape: tuple[int, ...], delay: int
) -> FloatConnection:
    kernel = _window(connection, shape)
    geometry = {
        "input_shape": tuple(shape),
        "stride": tuple(s * k for s, k in zip(checks.both(connection.stride), kernel)),
        "padding": tuple(p * k for p, k in zip(checks.both(connection.padding), kernel)),
        "dilation": tuple(1 if k > 1 else d for d, k in zip(checks.both(connection.dilation), kernel)),
        "groups": connection.groups,
    }
    return FloatConnection(pre, post, _spread(weight, kernel), Conv, delay, geometry)


def _before_pooling(connection: Any, shape: tuple[int, ...]) -> tuple[int, int, int]:
    height, width = connection.convolved([n // k for n, k in zip(shape[1:], _window(connection, shape))])
    return connection.out_channels, height, width


def _matrix(connection: Any, weight: np.ndarray, shape: tuple[int, ...], name: str) -> tuple[Any, Any]:
    """Return pooling, upsampling, convolution and pooling as a sparse matrix, and the part behind the bias."""
    kernel = _window(connection, shape)
    pooled = (shape[0], shape[1] // kernel[0], shape[2] // kernel[1])
    wide = (pooled[0], pooled[1] * connection.upsample, pooled[2] * connection.upsample)
    geometry = {name: checks.both(getattr(connection, name)) for name in ("stride", "padding", "dilation")}
    geometry["groups"] = connection.groups
    convolution = convolution_matrix(weight, wide, name=name, **geometry)
    pool = _averages(shape, kernel, kernel, (0, 0))
    repeat = _averages(wide, (connection.upsample,) * 2, (connection.upsample,) * 2, (0, 0)).T * connection.upsample**2
    k, stride, padding = connection.pool_after or (1, 1, 0)
    after = _averages(_before_pooling(connection, shape), (k, k), (stride, stride), (padding, padding))
    return after @ convolution @ repeat @ pool, after


def _averages(shape: tuple[int, ...], kernel: tuple, stride: tuple, padding: tuple) -> Any:
    """Return the average pooling of every channel as a sparse matrix; zeros of the padding count."""
    channels = shape[0]
    weight = np.full((channels, 1, *kernel), 1 / math.prod(kernel))
    return convolution_matrix(weight, shape, stride, padding, channels)


def convolution_matrix(
    weight: np.ndarray,
    input_shape: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
    groups: int = 1,
    dilation: tuple[int, int] = (1, 1),
    name: str = "connection",
) -> Any:
    """Return a convolution as in :class:`~ottt_loihi.sim.network.Conv` as a sparse matrix ``(post, pre)``."""
    from scipy.sparse import coo_matrix

    out, per_group, *kernel = weight.shape
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, k, s, d in zip(input_shape[1:], padding, kernel, stride, dilation)
    )
    if weight.size * height * width > MAX_SYNAPSES:
        raise ChipError(
            f"{name}: is no convolution on the chip and would take {weight.size * height * width:,} single synapses, "
            f"at most {MAX_SYNAPSES:,} are written out; make the images or the network smaller"
        )
    o, c, i, j, y, x = np.indices((*weight.shape, height, width), dtype=np.int32, sparse=True)
    channel = o // (out // groups) * per_group + c
    row, column = y * stride[0] - padding[0] + i * dilation[0], x * stride[1] - padding[1] + j * dilation[1]
    inside = (row >= 0) & (row < input_shape[1]) & (column >= 0) & (column < input_shape[2])
    pre = (channel * input_shape[1] + row) * input_shape[2] + column
    post = (o * height + y) * width + x
    places = tuple(np.broadcast_to(index, inside_shape := (*weight.shape, height, width)) for index in (post, pre))
    inside = np.broadcast_to(inside, inside_shape)
    values = np.broadcast_to(weight[..., None, None], inside_shape)[inside]
    size = (out * height * width, math.prod(input_shape))
    return coo_matrix((values, tuple(index[inside] for index in places)), shape=size).tocsr()


def _synapses(matrix: Any, pre: int, post: int, delay: int) -> FloatConnection:
    matrix = matrix.tocsr()
    matrix.sum_duplicates()
    coo = matrix.tocoo()
    kept = coo.data != 0
    geometry = {"size": matrix.shape, "rows": coo.row[kept], "columns": coo.col[kept]}
    return FloatConnection(pre, post, coo.data[kept].astype(np.float64), Sparse, delay, geometry)


def placed(c: FloatConnection) -> FloatConnection:
    """Return ``c``; a convolution with a delay becomes single synapses, because Lava's Conv has none."""
    wait = chip_delay(c)
    if wait < 0:
        raise ChipError(
            f"feedback from hidden {c.pre + 1} to hidden {c.post + 1}: trained with a delay of {c.delay} step, but on "
            f"the chip a spike takes {c.pre - c.post + 1} steps around; train it with that delay, or without feedback"
        )
    return written_out(c) if c.kind is Conv and wait else c


def written_out(c: FloatConnection) -> FloatConnection:
    """Return a convolution as single synapses, which may have exponents and delays."""
    return _synapses(c.matrix(f"connection to layer {c.post + 1}"), c.pre, c.post, c.delay)


def chip_delay(c: FloatConnection) -> int:
    """Extra steps on the chip, so that a spike arrives ``c.delay`` logical steps later (``sim/network.py``)."""
    return c.delay + c.post - c.pre - 1

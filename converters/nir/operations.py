"""The linear nodes of an NIR graph as float connections."""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np
from ottt_loihi.converters.nir.graph import Node, convolution, floats, pair, scales, whole
from ottt_loihi.converters.quantize.float_connection import FloatConnection
from ottt_loihi.sim.network import INPUT, Conv, Sparse

from ottt_loihi import safe_hdf5
from ottt_loihi.errors import ChipError, FileError


def operation(node: Node, shape: tuple[int, ...]) -> tuple[FloatConnection, np.ndarray | None, tuple[int, ...]]:
    """Return connection, bias and shape behind of one node."""
    size = math.prod(shape)
    if node.kind == "Scale":
        scale = scales(node, floats(node.group, "scale"), shape).reshape(-1)
        index = np.arange(size)
        geometry = {"size": (size, size), "rows": index, "columns": index}
        return FloatConnection(INPUT, 0, np.array(scale), Sparse, geometry=geometry), None, shape
    if node.kind in ("AvgPool2d", "SumPool2d"):
        return _pooling(node, shape)
    weight = floats(node.group, "weight")
    bias = floats(node.group, "bias") if "bias" in node.group else None
    if bias is not None and bias.shape != weight.shape[:1]:
        raise FileError(f"{node.name}/bias: expected {weight.shape[:1]}, found {bias.shape}")
    if node.kind == "Conv1d":
        return _one_dimensional(node, weight, bias, shape)
    if node.kind == "Conv2d":
        if len(shape) != 3:
            raise ChipError(f"{node.name}: expected (channels, height, width), the layer before has {shape}")
        return _convolved(convolution(node, len(weight), shape), weight, bias)
    if weight.ndim != 2 or weight.shape[1] != size:
        raise ChipError(f"{node.name}/weight: expected (outputs, {size}) behind {shape}, found {weight.shape}")
    return FloatConnection(INPUT, 0, weight), bias, weight.shape[:1]


def _one_dimensional(
    node: Node, weight: np.ndarray, bias: np.ndarray | None, shape: tuple[int, ...]
) -> tuple[FloatConnection, np.ndarray | None, tuple[int, ...]]:
    """Return a convolution over (channels, length) as one over images of height 1."""
    if len(shape) == 2:
        shape = (shape[0], 1, shape[1])
    if len(shape) != 3 or shape[1] != 1 or weight.ndim != 3:
        raise ChipError(f"{node.name}: expected (channels, length), the layer before has {shape}")
    groups = whole(node.group, "groups")
    if groups < 1 or weight.shape[1] * groups != shape[0] or len(weight) % groups:
        raise ChipError(f"{node.name}/weight: {weight.shape} in {groups} groups behind {shape[0]} channels")
    stride, padding, dilation = (_one(node, name) for name in ("stride", "padding", "dilation"))
    if padding < 0:  # "same"
        if stride != 1 or dilation * (weight.shape[2] - 1) % 2:
            raise ChipError(
                f'{node.name}: padding "same" needs stride 1 and an odd kernel, to be the same on both ends'
            )
        padding = dilation * (weight.shape[2] - 1) // 2
    if stride < 1 or dilation < 1 or shape[2] + 2 * padding < dilation * (weight.shape[2] - 1) + 1:
        raise FileError(f"{node.name}: stride {stride}, dilation {dilation}, padding {padding} behind {shape}")
    flat = weight[:, :, None, :]
    conv = Conv(INPUT, 0, np.zeros(flat.shape, int), shape, (1, stride), (0, padding), (1, dilation), groups)
    return _convolved(conv, flat, bias)


def _convolved(
    conv: Conv, weight: np.ndarray, bias: np.ndarray | None
) -> tuple[FloatConnection, np.ndarray | None, tuple[int, ...]]:
    """Return a convolution of the geometry of ``conv``, its bias at every neuron, and the shape behind it."""
    geometry = {k: getattr(conv, k) for k in ("input_shape", "stride", "padding", "dilation", "groups")}
    if bias is not None:
        bias = np.broadcast_to(bias[:, None, None], conv.output_shape)
    return FloatConnection(INPUT, 0, weight, Conv, geometry=geometry), bias, conv.output_shape


def _one(node: Node, name: str) -> int:
    """Return a number of a one-dimensional geometry; −1 for the word "same"."""
    if h5py.check_string_dtype(node.group[name].dtype) is not None:
        word = safe_hdf5.text(node.group, name)
        if word not in ("same", "valid"):
            raise FileError(f"{node.name}/{name}: {word!r:.40}")
        return -1 if word == "same" else 0
    return whole(node.group, name)


def _pooling(node: Node, shape: tuple[int, ...]) -> tuple[FloatConnection, np.ndarray | None, tuple[int, ...]]:
    if len(shape) != 3:
        raise ChipError(f"{node.name}: expected (channels, height, width), the layer before has {shape}")
    kernel, stride, padding = (pair(node, name) for name in ("kernel_size", "stride", "padding"))
    if min(kernel) < 1 or math.prod(kernel) > math.prod(shape[1:]) * 4:
        raise FileError(f"{node.name}/kernel_size: {kernel}")
    each = 1 / math.prod(kernel) if node.kind == "AvgPool2d" else 1.0
    weight = np.full((shape[0], 1, *kernel), each)
    conv = Conv(INPUT, 0, np.zeros(weight.shape, int), shape, stride, padding, groups=shape[0])
    return _convolved(conv, weight, None)


def sparse(weights: Any) -> FloatConnection:
    """Return a ``scipy.sparse`` matrix as single synapses."""
    coo = weights.tocoo()
    geometry = {"size": coo.shape, "rows": coo.row, "columns": coo.col}
    return FloatConnection(INPUT, 0, coo.data.astype(np.float64), Sparse, geometry=geometry)


def identity(shape: tuple[int, ...]) -> FloatConnection:
    """Return single synapses of weight 1, from each neuron to its own."""
    from scipy.sparse import identity as unit

    return sparse(unit(math.prod(shape)))

"""How the fast simulator computes connections: the strategies, and the choice of the fastest that is provably exact.

- ``events``: one row (tile, window, list) of narrow integer weights added per spike: binary messages. Faster than a
  product of float32 matrices at every density, even if all neurons fire (``benchmarks/sim.py --strategies``): a vector
  holds four times as many int8 as float32 weights, and nothing is multiplied.
- ``product``: a product of integer-valued float matrices: graded messages. Exact as long as no partial sum leaves ±2²⁴
  (float32) or ±2⁵³ (float64).
- ``loop``: one-to-one connections of a layer to itself, added up and added inside the neuron loop.
- ``reference``: ``sim/inference/reference.py``, for layers whose sums could leave int32: it counts how often they do.

Orders. A layer behind a convolution keeps its neurons channel last, so that one spike touches contiguous memory;
``order[i]`` is the flat index in ``layer.shape`` of the neuron at place i.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.inference import kernels, reference
from ottt_loihi.sim.inference.kernels import Neurons
from ottt_loihi.sim.inference.reference import Strategy
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Connection, Conv, Dense, Diagonal, Sparse

FLOAT32_EXACT = 1 << 24
SAFE_INT32 = (1 << 31) - (1 << 25)  # leaves room for a decayed u, v and bias
PRODUCT_BYTES = 8 << 20  # of unfolded images at a time


class Messages:
    """The messages of one source: spikes, bytes ``(samples, history + steps, ≥ size)``, and graded messages."""

    def __init__(self, size: int, order: np.ndarray | None, history: int, samples: int, steps: int, graded: bool):
        self.size, self.order, self.history = size, order, history
        width = -(-size // kernels.BLOCK) * kernels.BLOCK
        self._arrays = [np.zeros((samples, history + steps, width), np.uint8)]
        if graded:
            self._arrays.append(np.zeros((samples, history + steps, size), np.int32))
        self.begin(samples)

    def begin(self, samples: int) -> None:
        """Start so many samples, at most those there is room for: nothing has been sent yet."""
        self.bytes, self.graded = self._arrays[0][:samples], self._arrays[1][:samples] if self._arrays[1:] else None
        for array in self._arrays if self.history else ():
            array[:samples, : self.history] = 0

    def keep_history(self, steps: int) -> None:
        """Make the end of a window of ``steps`` steps the history of the next window."""
        for array in self._arrays if self.history else ():
            array[:, : self.history] = array[:, steps : steps + self.history].copy()

    def logical(self, begin: int, end: int) -> np.ndarray:
        """Return rows ``begin`` to ``end``, ``(samples, rows, size)``, in the order of ``layer.shape``."""
        if self.graded is not None:
            return self.graded[:, begin:end]
        rows = self.bytes[:, begin:end, : self.size]
        return rows if self.order is None else rows[:, :, np.argsort(self.order)]


# A link adds the synaptic input of its connection to ``a``, or puts it there if ``fresh``; the ``last`` one of a layer
# advances its neurons as well (``sim/inference/kernels.py``).


@dataclass(frozen=True)
class Events:
    """A connection of binary spikes, each of which adds weights: ``kernel`` with its ``table``, in their order."""

    kernel: Callable[..., None]
    table: tuple[Any, ...]
    strategy: str

    def deliver(self, source: Messages, first: int, fresh: bool, last: bool, a: np.ndarray, neurons: Neurons) -> None:
        self.kernel(source.bytes, first, *self.table, fresh, last, a, neurons)


@dataclass(frozen=True)
class Product:
    """A product of integer-valued floats; Diagonal and Sparse connections of graded messages go through int64."""

    connection: Connection
    order: np.ndarray | None
    strategy: str
    weights: dict[type, np.ndarray] = field(default_factory=dict)  # float copies, made when first used

    def deliver(self, source: Messages, first: int, fresh: bool, last: bool, a: np.ndarray, neurons: Neurons) -> None:
        samples, steps, _ = a.shape
        x = source.logical(first, first + steps).reshape(samples * steps, -1)
        added = self._output(x)
        added = (added if self.order is None else added[:, self.order]).reshape(a.shape)
        if fresh:
            a[...] = added
        else:
            np.add(a, added, out=a)
        if last:
            kernels.scan(a, neurons)

    def _output(self, x: np.ndarray) -> np.ndarray:
        c = self.connection
        if not isinstance(c, (Dense, Conv)):
            return reference.connection_output(c, x)
        if c.num_message_bits == 0:
            x = x != 0
        low, high = int(x.min()), int(x.max())
        extreme = int(_weight_sums(c, signed=low >= 0).max()) * max(-low, high)  # of all partial sums
        dtype = np.float32 if extreme < FLOAT32_EXACT else np.float64
        weight = self.weights.get(dtype)
        if weight is None:
            weight = self.weights[dtype] = _product_weight(c).astype(dtype)
        if isinstance(c, Dense):
            return arithmetic.synaptic_input(x.astype(dtype) @ weight, c.weight_exp)
        return arithmetic.wrap24(_unfolded_product(c, x.astype(dtype), weight))


@dataclass(frozen=True)
class LayerPlan:
    """A layer with its arrays in internal order; ``inputs``: (source, logical delay, link); no link: the reference.

    recurrent: the last input comes from the layer itself, step by step within its kernel.
    """

    layer: LIF
    order: np.ndarray | None
    inputs: tuple[tuple[int, int, Events | Product], ...]
    recurrent: bool
    constants: kernels.Constants
    u_init: np.ndarray
    connections: tuple[Connection, ...]
    by_reference: bool


@dataclass(frozen=True)
class Group:
    """Layers ``begin`` to ``end`` that spikes can go round in: at most ``block`` steps at a time; 0: any number."""

    begin: int
    end: int
    block: int


@dataclass(frozen=True)
class Plan:
    """layers, groups in order; history: past steps each source must keep."""

    chip: ChipNetwork
    layers: tuple[LayerPlan, ...]
    groups: tuple[Group, ...]
    history: dict[int, int]
    strategies: tuple[Strategy, ...]


def plan(chip: ChipNetwork) -> Plan:
    """Return orders and strategies for every layer of a network."""
    orders: dict[int, np.ndarray | None] = {INPUT: None}
    for index in range(len(chip.layers)):
        orders[index] = None if leaves_int32(chip, index) else _order(chip, index)
    strategies: dict[int, Strategy] = {}
    layers = tuple(_layer(chip, index, orders, strategies) for index in range(len(chip.layers)))
    history = dict.fromkeys(orders, 0)
    for c in chip.connections:
        history[c.pre] = max(history[c.pre], chip.logical_delay(c))
    ordered = tuple(strategies[id(c)] for c in chip.connections)
    return Plan(chip, layers, _groups(chip, layers), history, ordered)


def leaves_int32(chip: ChipNetwork, index: int) -> bool:
    """True unless it is proven that no sum of a layer leaves int32, and no output of a convolution 24 bits.

    With ``|a| ≤ A`` the current stays within U = max(2²³, 64·A, 4096·(64·A − 2²⁴) / (du + 1)): beyond 2²³ a wrap takes
    2²⁴ off. Proven means U + 64·A < 2³¹ less a margin for the decayed membrane and the bias.
    """
    total = np.zeros(chip.size(index), np.int64)
    for c in chip.inputs_of(index):
        largest = _largest(c)
        if int(largest.max()) << max(c.weight_exp, 0) >= SAFE_INT32:
            return True
        if isinstance(c, Conv) and largest.max() >= arithmetic.STATE_LIMIT:
            return True
        total += arithmetic.shift(largest, c.weight_exp) + 1
    a = int(total.max()) << arithmetic.STATE_SHIFT
    excess = max(a - 2 * arithmetic.STATE_LIMIT, 0)
    du = chip.layers[index].du
    if excess and du < 0:
        return True
    u = max(arithmetic.STATE_LIMIT, a, arithmetic.DECAY_UNITY * excess // (du + 1) if excess else 0)
    return u + a >= SAFE_INT32


def keeps_24_bits(chip: ChipNetwork, index: int) -> bool:
    """True if it is proven that no current of a layer wraps and no membrane is clipped.

    With ``|a| ≤ A`` at each of n steps, ``|u| ≤ |u_init| + 64·A·min(n, 1/(1 − keep_u))``, and ``|v|`` likewise of
    ``|u| + |bias|``: rounding towards zero makes them smaller.
    """
    layer, steps = chip.layers[index], chip.num_steps + len(chip.layers)
    a = sum(int(arithmetic.shift(_largest(c), c.weight_exp).max()) + 1 for c in chip.inputs_of(index))
    lost_u, lost_v = (layer.du + 1) / arithmetic.DECAY_UNITY, layer.dv / arithmetic.DECAY_UNITY
    u = int(np.abs(layer.u_init).max()) + (a << arithmetic.STATE_SHIFT) * min(steps, 1 / lost_u if lost_u else steps)
    v = (u + int(np.abs(layer.effective_bias).max())) * min(steps, 1 / lost_v if lost_v else steps)
    return max(u, v) < arithmetic.STATE_LIMIT - 1


def _message_bits(c: Connection) -> int:
    return c.num_message_bits if c.pre == INPUT else 0  # a layer sends 0 or 1 whatever the connection can carry


def _largest(c: Connection) -> np.ndarray:
    """The largest ``|W·x|`` of each postsynaptic neuron, int64, over all messages x."""
    return _weight_sums(c, signed=_message_bits(c) == 0) << _message_bits(c)


def _weight_sums(c: Connection, signed: bool) -> np.ndarray:
    """Σ|w| over the synapses of each postsynaptic neuron, int64; signed: the larger of Σ max(w, 0), Σ max(−w, 0)."""

    def per_neuron(w: np.ndarray) -> np.ndarray:
        w = w.astype(np.int64)
        if isinstance(c, Dense):
            return w.sum(axis=1)
        if isinstance(c, Conv):
            return np.repeat(w.sum(axis=(1, 2, 3)), c.output_shape[1] * c.output_shape[2])
        return w if isinstance(c, Diagonal) else np.bincount(c.rows, w, c.shape[0]).astype(np.int64)

    positive, negative = per_neuron(np.maximum(c.weight, 0)), per_neuron(np.maximum(-c.weight, 0))
    return np.maximum(positive, negative) if signed else positive + negative


def _order(chip: ChipNetwork, index: int) -> np.ndarray | None:
    """Return the order of a layer behind convolutions, channel last: (groups, Ho, Wo, O / groups)."""
    if not (groups := _common_groups(chip, index)):
        return None
    out, height, width = next(c.output_shape for c in chip.inputs_of(index) if isinstance(c, Conv))
    flat = np.arange(chip.size(index)).reshape(groups, out // groups, height, width)
    return flat.transpose(0, 2, 3, 1).ravel()


def _common_groups(chip: ChipNetwork, index: int) -> int:
    """Return the groups that all convolutions into a layer can write in, the greatest common divisor.

    0 where there is no convolution, or where they see a flat layer as images of different shapes.
    """
    convolutions = [c for c in chip.inputs_of(index) if isinstance(c, Conv)]
    one_shape = len({c.output_shape for c in convolutions}) == 1
    return math.gcd(*(c.groups for c in convolutions)) if one_shape else 0


def _regrouped(c: Conv, groups: int) -> Conv:
    """Return the same convolution with fewer groups; a new group joins several and has weight 0 between them."""
    if c.groups == groups:
        return c
    joined = c.groups // groups  # old groups of a new one
    out, inputs = len(c.weight) // c.groups, c.weight.shape[1]
    weight = np.zeros((groups, joined, out, joined, inputs, *c.weight.shape[2:]), c.weight.dtype)
    old = c.weight.reshape(groups, joined, out, inputs, *c.weight.shape[2:])
    for index in range(joined):
        weight[:, index, :, index] = old[:, index]
    return replace(c, groups=groups, weight=weight.reshape(len(c.weight), joined * inputs, *c.weight.shape[2:]))


def _layer(
    chip: ChipNetwork, index: int, orders: dict[int, np.ndarray | None], strategies: dict[int, Strategy]
) -> LayerPlan:
    layer, order = chip.layers[index], orders[index]
    by_reference = leaves_int32(chip, index)
    loop, inputs = np.zeros(0, np.int32), []
    for c in chip.inputs_of(index):
        delay = chip.logical_delay(c)
        if by_reference:
            why = "its layer's sums may leave int32: wrap-arounds are counted"
            strategies[id(c)] = Strategy(c.label, "reference", why)
        elif isinstance(c, Diagonal) and c.pre == index and delay == 1:
            added = _ordered(arithmetic.synaptic_input(c.weight, c.weight_exp), order)
            loop = loop + added if loop.size else added
            strategies[id(c)] = Strategy(c.label, "loop", "one to one: added inside the neuron loop")
        else:
            link = _link(c, orders[c.pre], order, _common_groups(chip, index))
            inputs.append((c.pre, delay, link))
            strategies[id(c)] = Strategy(c.label, *link.strategy.split(": ", 1))
    inputs.sort(key=lambda each: each[0] == index)  # its own spikes last
    own = [link for pre, _, link in inputs if pre == index]
    unity = arithmetic.DECAY_UNITY
    constants = kernels.Constants(
        (unity - 1 - layer.du) / unity,
        (unity - layer.dv) / unity,
        not by_reference and keeps_24_bits(chip, index),
        _ordered(layer.effective_bias, order),
        _ordered(layer.thresholds << arithmetic.STATE_SHIFT, order),
        loop,
    )
    recurrent, u_init = len(own) == 1 and not isinstance(own[0], Product), _ordered(layer.u_init.reshape(-1), order)
    return LayerPlan(layer, order, tuple(inputs), recurrent, constants, u_init, chip.inputs_of(index), by_reference)


def _ordered(values: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    return np.ascontiguousarray(values if order is None else values[order], np.int32)


def _link(c: Connection, pre: np.ndarray | None, post: np.ndarray | None, groups: int) -> Events | Product:
    if _message_bits(c):
        how = "float32 or float64, as the messages' range allows" if isinstance(c, (Dense, Conv)) else "int64"
        return Product(c, post, f"product: graded messages; {how}")
    if isinstance(c, Dense):
        return _rows(c, pre, post)
    if isinstance(c, Conv) and not groups:
        return Product(c, post, "product: another convolution sees the layer as an image of another shape")
    if isinstance(c, Conv):
        regrouped, channel_last = _regrouped(c, groups), np.arange(c.shape[1]).reshape(len(c.weight[0]), -1).T.ravel()
        windows = regrouped.groups == 1 and pre is not None and np.array_equal(pre, channel_last)
        return _windows(regrouped) if windows else _tiles(regrouped, pre)
    return _lists(c, pre, post)


def _narrow(weight: np.ndarray) -> tuple[np.ndarray, int, int]:
    """(int8 or int16 weights, exponent that undoes their halving, rows whose sum stays in int16)."""
    even = not (weight & 1).any()
    halved = weight >> 1 if even else weight
    largest = max(int(np.abs(halved).max()), 1)
    fits = halved.min() >= -128 and halved.max() <= 127
    return halved.astype(np.int8 if fits else np.int16), int(even), 32767 // largest


def _rows(c: Dense, pre: np.ndarray | None, post: np.ndarray | None) -> Events:
    rows, doubled, limit = _narrow(c.weight.T)
    rows = rows if pre is None else rows[pre]
    rows = rows if post is None else rows[:, post]
    padded = np.zeros((len(rows), -(-rows.shape[1] // kernels.LANES) * kernels.LANES), rows.dtype)
    padded[:, : rows.shape[1]] = rows
    return Events(kernels.rows, (padded, limit, c.weight_exp + doubled), f"events: binary spikes, {rows.dtype} rows")


def _lists(c: Diagonal | Sparse, pre: np.ndarray | None, post: np.ndarray | None) -> Events:
    rows, columns = (np.arange(len(c.weight)),) * 2 if isinstance(c, Diagonal) else (c.rows, c.columns)
    rows = rows if post is None else np.argsort(post)[rows]
    columns = columns if pre is None else np.argsort(pre)[columns]
    by_column = np.argsort(columns, kind="stable")
    pointers = np.zeros(c.shape[1] + 1, np.int64)
    np.cumsum(np.bincount(columns, minlength=c.shape[1]), out=pointers[1:])
    table = pointers, rows[by_column].astype(np.int32), c.weight[by_column], c.weight_exp
    return Events(kernels.lists, table, "events: binary spikes, lists of synapses")


def _tiles(c: Conv, pre: np.ndarray | None) -> Events:
    """Tables for :func:`kernels.tiles`; the layer behind is in the order of :func:`_order` for ``c.groups``.

    An input at padded position z reaches outputs o = (z − k)/s for those kernel places k ≤ z with k ≡ z (mod s). With
    k = z mod s + s·m, the outputs for m = M − 1 … 0 lie side by side, so the weights do as well: for each channel and
    phase z mod s a tile (reversed m vertically, reversed m horizontally, output channels of the group).
    """
    out, height, width = c.output_shape
    channels = out // c.groups  # of one group
    weight, (my, mx) = _phases(c)
    flat = np.arange(c.shape[1]) if pre is None else pre
    channel, y, x = np.unravel_index(flat, c.input_shape)
    phase_y, low_y, rows, skip_y = _reach(y + c.padding[0], c.stride[0], my, height)
    phase_x, low_x, columns, skip_x = _reach(x + c.padding[1], c.stride[1], mx, width)
    group = channel // (c.input_shape[0] // c.groups)
    to = ((group * height + low_y) * width + low_x) * channels
    phase = (channel * c.stride[0] + phase_y) * c.stride[1] + phase_x
    at = ((phase * my + skip_y) * mx + skip_x) * channels
    tiles = np.stack([to, at, np.where(columns > 0, rows, 0), columns * channels], axis=1).astype(np.uint32)
    narrow, doubled, limit = _narrow(weight.ravel())
    table = tiles, (width * channels, mx * channels), narrow, limit, doubled
    return Events(kernels.tiles, table, f"events: binary spikes, {narrow.dtype} tiles")


def _windows(c: Conv) -> Events:
    """Tables for :func:`kernels.windows`: one group, the source and the layer behind are channel last.

    The weights are the tiles of :func:`_tiles`, each row behind as many zeros as a chunk has lanes, so that a chunk may
    begin before the tile or end after it. Average pooling makes equal tiles of all phases: they are kept once.
    """
    out, height, width = c.output_shape
    channels, rows, columns = c.input_shape
    weight, (my, mx) = _phases(c)
    tiles, number = np.unique(weight.reshape(-1, my * mx * out), axis=0, return_inverse=True)
    pitch = kernels.LANES + mx * out
    padded = np.zeros((len(tiles) * my + 1, pitch), int)
    padded[:-1, kernels.LANES :] = tiles.reshape(-1, mx * out)
    y, x, channel = np.indices((rows, columns, channels)).reshape(3, -1)
    (place_y, phase_y), (place_x, phase_x) = (
        np.divmod(z + padding, stride) for z, padding, stride in zip((y, x), c.padding, c.stride)
    )
    tile = number.reshape(-1)[(channel * c.stride[0] + phase_y) * c.stride[1] + phase_x]
    base = (tile * my + my - 1 - place_y) * pitch + kernels.LANES - (place_x - mx + 1) * out
    row, at = np.indices((height, -(-width * out // kernels.LANES))).reshape(2, -1) * [[1], [kernels.LANES]]
    lanes = np.minimum(kernels.LANES, width * out - at)
    ends = [row, row + my, at // out, (at + lanes - 1) // out + mx]
    strides, paddings, sizes = (np.repeat(z, 2)[:, None] for z in (c.stride, c.padding, (rows, columns)))
    ends = np.clip(np.array(ends) * strides - paddings, 0, sizes) * [[1], [1], [channels], [channels]]
    chunks = np.stack([row * width * out + at, lanes, row * pitch + at, *ends], axis=1).astype(np.int32)
    narrow, doubled, limit = _narrow(padded.ravel())
    table = base.astype(np.int32), chunks, columns * channels, narrow, limit, doubled
    return Events(kernels.windows, table, f"events: binary spikes, {narrow.dtype} windows")


def _phases(c: Conv) -> tuple[np.ndarray, tuple[int, int]]:
    """Weights (group, channel, phase y, phase x, reversed m_y, reversed m_x, output channel) and (M_y, M_x)."""
    kernel = np.zeros((*c.weight.shape[:2], *(d * (k - 1) + 1 for d, k in zip(c.dilation, c.weight.shape[2:]))), int)
    kernel[:, :, :: c.dilation[0], :: c.dilation[1]] = c.weight
    (sy, sx), (ky, kx) = c.stride, kernel.shape[2:]
    my, mx = -(-ky // sy), -(-kx // sx)
    full = np.zeros((*kernel.shape[:2], my * sy, mx * sx), int)
    full[:, :, :ky, :kx] = kernel
    split = full.reshape(c.groups, -1, kernel.shape[1], my, sy, mx, sx)[:, :, :, ::-1, :, ::-1]
    return split.transpose(0, 2, 4, 6, 3, 5, 1), (my, mx)


def _reach(z: np.ndarray, stride: int, m: int, size: int) -> tuple[np.ndarray, ...]:
    """Along one axis: phase, first output reached, number of outputs, and how many of the M places lie before it."""
    last = z // stride
    low = np.maximum(last - m + 1, 0)
    count = np.maximum(np.minimum(last, size - 1) - low + 1, 0)
    return z % stride, low, count, low - (last - m + 1)


def _product_weight(c: Dense | Conv) -> np.ndarray:
    """``(pre, post)``, or ``(groups, taps, output channels of the group)`` of a convolution."""
    if isinstance(c, Dense):
        return np.ascontiguousarray(c.weight.T)
    return np.ascontiguousarray(c.weight.reshape(c.groups, len(c.weight) // c.groups, -1).transpose(0, 2, 1))


def _unfolded_product(c: Conv, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Images unfolded into patches, times the kernels; int64 ``(images, O·Ho·Wo)``."""
    out, height, width = c.output_shape
    taps = c.weight[0].size
    extent = [d * (k - 1) + 1 for d, k in zip(c.dilation, c.weight.shape[2:])]
    result = np.empty((len(x), out, height * width), np.int64)
    at_once = max(1, PRODUCT_BYTES // (height * width * taps * c.groups * 8))
    for begin in range(0, len(x), at_once):
        images = x[begin : begin + at_once].reshape(-1, *c.input_shape)
        images = np.pad(images, ((0, 0), (0, 0), (c.padding[0],) * 2, (c.padding[1],) * 2))
        windows = np.lib.stride_tricks.sliding_window_view(images, extent, axis=(2, 3))
        windows = windows[:, :, :: c.stride[0], :: c.stride[1], :: c.dilation[0], :: c.dilation[1]]
        patches = windows.reshape(len(images), c.groups, -1, height, width, *c.weight.shape[2:])
        patches = patches.transpose(0, 1, 3, 4, 2, 5, 6).reshape(len(images), c.groups, height * width, taps)
        sums = (patches @ weight).transpose(0, 1, 3, 2).reshape(len(images), out, height * width)
        result[begin : begin + at_once] = sums
    return result.reshape(len(x), -1)


def _groups(chip: ChipNetwork, layers: tuple[LayerPlan, ...]) -> tuple[Group, ...]:
    """Cut the layers wherever no connection leads back across the cut."""
    back = [c for c in chip.connections if c.pre > c.post]
    groups, begin = [], 0
    for end in range(1, len(layers) + 1):
        if end < len(layers) and any(c.post < end <= c.pre for c in back):
            continue
        delays = [delay for index in range(begin, end) for pre, delay in _waits(chip, layers[index]) if pre >= index]
        groups.append(Group(begin, end, min(delays, default=0)))
        begin = end
    return tuple(groups)


def _waits(chip: ChipNetwork, layer: LayerPlan) -> list[tuple[int, int]]:
    """(source, logical delay) of the connections that are added up for a whole block of steps at once."""
    if layer.by_reference:  # step by step, so that its own spikes are there in time
        return [(c.pre, chip.logical_delay(c)) for c in layer.connections if c.pre != c.post]
    inputs = layer.inputs[:-1] if layer.recurrent else layer.inputs
    return [(pre, delay) for pre, delay, _ in inputs]

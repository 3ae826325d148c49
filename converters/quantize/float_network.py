"""A trained network as plain float64 arrays, whatever framework it came from: the input of the converters.

Everything that only scales or pools is folded into the weights here, exactly::

    scales, gains, standardisation      W ← c·κ·Ŵ                          (Connection.effective)
    average pooling over k×k            W ← kron(W, ones(k, k)) / k²       stride·k, padding·k
    global average pooling              the classifier's columns repeated, / (height·width)
    residual stream                     the connections and the bias of the stream's source, times the factor

What is no convolution on the chip (an upsampled input, a pooled current, a convolution that has to wait because it
skips layers) becomes single synapses.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.sim.network import INPUT, Conv, Dense, Sparse

from ottt_loihi import checks
from ottt_loihi.data.description import Step
from ottt_loihi.errors import ChipError

if TYPE_CHECKING:
    from ottt_loihi.nn.connections import Connection
    from ottt_loihi.nn.network import Network

CUBA = "ottt_loihi.nn.cuba.CubaLIF"
NEURONS = ("ottt_loihi.nn.neurons.LIF", "ottt_loihi.nn.neurons.DSRNeuron", CUBA)
TAKEN = {"subtract": None, "delayed": 1.0, "none": 0.0}  # FloatLayer.taken of each reset that keeps the membrane in u
MESSAGES = 255  # the largest graded message
MAX_SYNAPSES = 1 << 25  # of a connection written out synapse by synapse: half a gigabyte

INPUTS = ("spikes", "constant", "graded")


@dataclass(frozen=True)
class FloatLayer:
    """Neurons: ``bias`` float64 ``shape`` or None; ``beta`` λ, ``v_threshold`` and ``reset`` ("zero" | "subtract").

    A readout has no spikes (``reset=None``); trained here it is memoryless, o[t] = W·s[t] + b. ``alpha``: what
    the synaptic current keeps of itself; ``v_threshold``: a number, or float64 ``shape``; ``v_init``: v[0]::

        u[t] = alpha·u[t−1] + W·s[t] + b        v[t] = beta·v[t−1]·(1 − s[t−1]) + u[t]

    ``taken``: share of the threshold that a spike takes from the membrane one step later, where ``reset`` is
    "subtract"; None: λ, which is a reset at once. ``at_threshold``: fires at v = Vth, too.
    """

    name: str
    shape: tuple[int, ...]
    bias: np.ndarray | None = None
    reset: str | None = None
    beta: float = 0.0
    v_threshold: float | np.ndarray = 1.0
    alpha: float = 0.0
    v_init: float = 0.0
    taken: float | None = None
    at_threshold: bool = False


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


@dataclass(frozen=True)
class FloatNetwork:
    """Layers in order, the readout last; ``input_shape`` of one frame and T = ``num_steps``.

    input: ``"spikes"``; real numbers in 0 … 1, sent as messages 0 … 255: ``"constant"``, frames that stay the same for
    all T steps, or ``"graded"``, another one at every step.
    """

    input_shape: tuple[int, ...]
    num_steps: int
    layers: tuple[FloatLayer, ...]
    connections: tuple[FloatConnection, ...]
    input: str = "spikes"

    def inputs_of(self, index: int) -> tuple[FloatConnection, ...]:
        """The connections that end at a layer, the one from the layer before first."""
        return tuple(c for c in self.connections if c.post == index)


def from_torch(net: Network) -> FloatNetwork:
    """Read a network of :mod:`ottt_loihi.nn.network`.

    Raises
    ------
    ChipError
        for a layer that has no counterpart here, a delay the chip cannot have, or weights that are NaN, infinite or
        all zero
    """
    shapes = {INPUT: tuple(net.input_shape)} | {i: tuple(block.shape) for i, block in enumerate(net.blocks)}
    for index, block in enumerate(net.blocks):
        kind = type(block.neuron)  # exactly: a subclass computes something else
        if f"{kind.__module__}.{kind.__name__}" not in NEURONS:
            raise ChipError(
                f"hidden {index + 1}: neurons of type {kind.__name__} cannot be exported, because nothing says how the "
                "chip computes them; LIF, CubaLIF and DSRNeuron can"
            )
    amplitudes = {INPUT: 1.0} | {i: float(block.neuron.amplitude) for i, block in enumerate(net.blocks)}
    layers, connections, biases = [], [], []
    for index, block in enumerate(net.blocks):
        name = f"hidden {index + 1}"
        inputs, bias = _arrive(block.connection, index - 1, index, shapes[index - 1], 0, name)
        for branch in block.branches:
            more, more_bias = _arrive(
                branch.connection, branch.source, index, shapes[branch.source], branch.delay, f"{name}, branch"
            )
            inputs, bias = inputs + more, _sum(bias, more_bias)
        if block.skip is not None:
            stream = [c for c in connections if c.post == block.skip.source]
            inputs += [replace(c, post=index, weight=c.weight * block.skip.factor) for c in stream]
            inherited = biases[block.skip.source]
            bias = _sum(bias, None if inherited is None else inherited * block.skip.factor)
        inputs = [c for c in inputs if c.weight.any()]
        if not inputs:
            raise ChipError(f"{name}.weight: all weights are zero, nothing would pass; train the network")
        layers.append(_neurons(block.neuron, name, shapes[index], bias))
        connections += [replace(c, weight=c.weight * (amplitudes[c.pre] * _charge(block.neuron))) for c in inputs]
        biases.append(bias)
    last = len(net.blocks)
    inputs, bias = _arrive(net.readout, last - 1, last, shapes[last - 1], 0, "readout")
    if not inputs[0].weight.any():
        raise ChipError("readout.weight: all weights are zero, nothing would pass; train the network")
    inputs = [replace(c, weight=c.weight * amplitudes[c.pre]) for c in inputs]
    layers.append(FloatLayer("readout", (net.num_classes,), bias))
    if net.data is not None and net.data.coding.name == "constant" and net.data.coding.options:
        raise ChipError(
            "the network was trained on normalised images, (x − mean)/std, and a chip is sent 0 … 255; "
            "train it with encoding = 'constant' without mean and std to export it"
        )
    recorded = net.provenance.get("encoding", {})
    coding = (
        net.data.coding if net.data is not None else Step(recorded.get("name", "rate"), recorded.get("options", {}))
    )
    if coding.name == "graded":  # messages of any unit, as 1/255: the weights take the rest
        largest = MESSAGES * float(coding.options.get("unit", 1 / MESSAGES))
        connections = [replace(c, weight=c.weight * largest) if c.pre == INPUT else c for c in connections]
        inputs = [replace(c, weight=c.weight * largest) if c.pre == INPUT else c for c in inputs]
    return FloatNetwork(
        shapes[INPUT],
        int(net.time_steps),
        tuple(layers),
        tuple(placed(c) for c in (*connections, *inputs)),
        coding.name if coding.name in INPUTS else "spikes",
    )


def _neurons(neuron: Any, name: str, shape: tuple[int, ...], bias: np.ndarray | None) -> FloatLayer:
    """A block's neurons with one threshold.

    DSR's fire above α·V and subtract V: the same spikes come from V for both, a membrane that begins at (1 − α)·V and,
    where it leaks, a current that keeps it there.
    """
    if f"{type(neuron).__module__}.{type(neuron).__name__}" == CUBA:
        return _cuba(neuron, name, shape, bias)
    beta, v_threshold, start = float(neuron.beta), float(neuron.v_threshold), neuron.v_init
    if (alpha := getattr(neuron, "alpha", None)) is not None:
        start = (1 - alpha) * v_threshold
        bias = (np.zeros(shape) if bias is None else bias * _charge(neuron)) + (1 - beta) * start
    return FloatLayer(name, shape, bias, neuron.reset, beta, v_threshold, v_init=start)


def _cuba(neuron: Any, name: str, shape: tuple[int, ...], bias: np.ndarray | None) -> FloatLayer:
    """Current-based neurons. A reset to a potential r is one to 0 of w = v − r, with another threshold and a bias."""
    alpha, beta = (_only(value, name, kind) for kind, value in zip(("alpha", "beta"), neuron.decays()))
    threshold = np.broadcast_to(_array(neuron.threshold()), shape)
    start, rest = _only(neuron.v_init, name, "v_init"), _only(neuron.v_reset, name, "v_reset")
    if alpha and neuron.reset != "zero":
        raise ChipError(
            f"{name}: a synaptic current (alpha) and reset={neuron.reset!r} has no stock neuron on the chip, whose v "
            "goes to 0 and whose u holds either the current or the membrane; train it with reset='zero'"
        )
    if rest:
        if alpha or start != rest:
            raise ChipError(
                f"{name}: v_reset = {rest:g} needs alpha = 0 and v_init = v_reset, because the chip's v begins at 0; "
                "train it so"
            )
        threshold, start = threshold - rest, 0.0
        bias = (np.zeros(shape) if bias is None else bias) - (1 - beta) * rest
        if threshold.min() <= 0:
            raise ChipError(f"{name}: v_reset = {rest:g} is not below the threshold; it would fire without end")
    v_threshold = float(threshold.flat[0]) if np.ptp(threshold) == 0 else np.array(threshold)
    reset, taken = ("zero", None) if neuron.reset == "zero" else ("subtract", TAKEN[neuron.reset])
    return FloatLayer(name, shape, bias, reset, beta, v_threshold, alpha, start, taken, neuron.at_threshold)


def _array(value: Any) -> np.ndarray:
    """A constant in float64: a tensor's values, or a number."""
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value, np.float64)


def _only(value: Any, name: str, kind: str) -> float:
    """The value that all neurons of a layer share."""
    values = _array(value)
    if np.ptp(values):
        raise ChipError(
            f"{name}: neurons of unequal {kind}, {values.min():g} … {values.max():g}, and a layer has one on the chip; "
            "make a layer of each"
        )
    return float(values.flat[0])


def _charge(neuron: Any) -> float:
    return getattr(neuron, "charge", 1.0)


def _arrive(
    connection: Connection, pre: int, post: int, shape: tuple[int, ...], delay: int, name: str
) -> tuple[list[FloatConnection], np.ndarray | None]:
    """A trained connection as float connections, and its bias at every neuron."""
    from ottt_loihi.nn.connections import Conv2d, Linear, Readout

    if type(connection) not in (Conv2d, Linear, Readout):
        raise ChipError(f"{name}: a {type(connection).__name__} cannot be exported; Linear and Conv2d can")
    weight, bias = _arrays(connection, name)
    if isinstance(connection, Linear):
        return [FloatConnection(pre, post, _dense(weight, connection.pool, shape), Dense, delay)], bias
    bias = None if bias is None else np.broadcast_to(bias[:, None, None], _before_pooling(connection, shape))
    if connection.pool_after is None and connection.upsample == 1 and _folds(connection, shape):
        return [_conv(connection, weight, pre, post, shape, delay)], None if bias is None else np.array(bias)
    matrix, after = _matrix(connection, weight, shape, name)
    if bias is not None:
        bias = (after @ bias.reshape(-1)).reshape(connection.output_shape(shape))
    return [_synapses(matrix, pre, post, delay)], bias


def _arrays(connection: Connection, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Effective weight and bias in float64."""
    import torch
    from torch.nn.utils import prune

    if prune.is_pruned(connection):
        raise ChipError(
            f"{name}: a hook prunes its weights; make that permanent with torch.nn.utils.prune.remove first"
        )
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
    """Dense weights behind an average pooling, one column for every neuron before it."""
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
    """Whether pooling and convolution are one convolution: padding must not read pixels that the pooling drops.

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
    """(whole map as a sparse matrix, what follows the bias): pooling, upsampling, convolution, pooling."""
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
    """Average pooling of every channel, zeros of the padding included, as a sparse matrix."""
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
    """The convolution of :class:`~ottt_loihi.sim.network.Conv` as a ``scipy.sparse`` matrix ``(post, pre)``."""
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
    """``c``, written out as single synapses where it is a convolution that has to wait; Lava's Conv cannot."""
    wait = chip_delay(c)
    if wait < 0:
        raise ChipError(
            f"feedback from hidden {c.pre + 1} to hidden {c.post + 1}: trained with a delay of {c.delay} step, but on "
            f"the chip a spike takes {c.pre - c.post + 1} steps around; train it with that delay, or without feedback"
        )
    return written_out(c) if c.kind is Conv and wait else c


def written_out(c: FloatConnection) -> FloatConnection:
    """A convolution as single synapses, which may have exponents and delays."""
    matrix = convolution_matrix(c.weight, name=f"connection to layer {c.post + 1}", **c.geometry)
    return _synapses(matrix, c.pre, c.post, c.delay)


def chip_delay(c: FloatConnection) -> int:
    """Extra steps on the chip, so that a spike arrives ``c.delay`` logical steps later (``sim/network.py``)."""
    return c.delay + c.post - c.pre - 1


def _sum(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return b if a is None else a if b is None else a + b

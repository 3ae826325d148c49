"""NIR files of other programs: what stands between neurons is folded into one connection, decays become the chip's.

Any chain of Linear, Affine, Conv2d, Scale, Flatten, Delay, AvgPool2d and SumPool2d is one linear map: a matrix, or a
convolution where that is one (a pooling whose windows do not overlap, before it, included), or single synapses.
Neurons multiply their input with gains of their own (r, w_in, threshold), which go into the weights of each::

    LIF    v ← λ·v + (dt·r/τ)·I + (dt/τ)·v_leak        λ = 1 − dt/τ
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ottt_loihi.converters.nir.graph import (
    FIRING,
    NEURONS,
    Graph,
    Node,
    convolution,
    floats,
    pair,
    steps,
    uniform,
    whole,
)
from ottt_loihi.converters.quantize.float_network import (
    FloatConnection,
    FloatLayer,
    FloatNetwork,
    convolution_matrix,
    placed,
)
from ottt_loihi.sim import safe_hdf5
from ottt_loihi.sim.network import INPUT, Conv, Dense, Sparse

from ottt_loihi.errors import ChipError, FileError, UsageError


@dataclass
class _Signal:
    """The end of a chain of nodes: ``shape``, the connection so far (None: the spikes themselves), its bias."""

    pre: int
    shape: tuple[int, ...]
    delay: int = 0
    connection: FloatConnection | None = None
    bias: np.ndarray | None = None


class Import:
    """The float network of a file that others wrote."""

    def __init__(self, graph: Graph, num_steps: int | None, dt: float | None) -> None:
        for name, value in (("--time-steps", num_steps), ("--dt", dt)):
            if value is None:
                what = "the number of time steps" if name == "--time-steps" else "the seconds of a time step"
                raise UsageError(f"an NIR file does not hold {what}; give {name}")
        if not (num_steps and dt and math.isfinite(dt) and dt > 0 and num_steps >= 1):
            raise UsageError(f"expected --dt > 0 and --time-steps ≥ 1, found {dt} and {num_steps}")
        self.graph, self.num_steps, self.dt = graph, num_steps, dt
        self.input, self.output = graph.only("Input"), graph.only("Output")
        self.order = _in_order(graph, self.input)
        shape = safe_hdf5.integers(self.input.group, "shape").reshape(-1).tolist()
        if not shape or min(shape) < 1 or math.prod(shape) > safe_hdf5.MAX_ELEMENTS:
            raise FileError(f"{self.input.name}/shape: {shape[:8]}")
        self.shapes: dict[int, tuple[int, ...]] = {INPUT: tuple(shape)}
        self.index = {self.input.name: INPUT} | {name: i for i, name in enumerate(self.order)}

    def network(self) -> FloatNetwork:
        nodes = [self.graph.nodes[name] for name in self.order]
        for index, node in enumerate(nodes):
            self.shapes[index] = floats(node.group, "r").shape or (1,)
        layers, connections = [], []
        for index, node in enumerate(nodes):
            layer, gain = self._layer(node, self.shapes[index])
            layer, arriving = self._fed(layer, gain, node, index)
            layers.append(layer)
            connections += arriving
        ends = self.output.before
        if not (len(ends) == 1 and ends[0] in self.index):  # weights without neurons behind: a memoryless readout
            shape = tuple(safe_hdf5.integers(self.output.group, "shape").reshape(-1).tolist())
            layer, arriving = self._fed(FloatLayer("readout", shape), np.ones(shape), self.output, len(nodes))
            layers.append(layer)
            connections += arriving
        elif self.index[ends[0]] != len(nodes) - 1:
            raise ChipError(f"{self.output.name}: expected the last layer, {self.order[-1]}, found {ends[0]}")
        return FloatNetwork(self.shapes[INPUT], self.num_steps, tuple(layers), tuple(placed(c) for c in connections))

    def _layer(self, node: Node, shape: tuple[int, ...]) -> tuple[FloatLayer, np.ndarray]:
        """Decays and threshold, and what each neuron multiplies its input with: thresholds are made one."""
        where, group = node.name, node.group
        cuba = node.kind.startswith("Cuba")
        gain, beta, alpha = self.dt * floats(group, "r"), 1.0, 0.0
        bias = None
        if node.kind not in ("IF", "I"):
            tau = self._tau(group, "tau_mem" if cuba else "tau", where)
            gain, beta = gain / tau, 1 - self.dt / tau
            leak = floats(group, "v_leak") * self.dt / tau
            bias = leak.reshape(shape) if leak.any() else None
        if cuba:
            tau = self._tau(group, "tau_syn", where)
            weight = floats(group, "w_in") if "w_in" in group else np.ones(1)
            gain, alpha = gain * weight * self.dt / tau, 1 - self.dt / tau
            if bias is not None:
                raise ChipError(f"{where}/v_leak: a CubaLIF with a leak to another potential than 0 cannot be had here")
        gain = np.broadcast_to(gain, shape)
        name = where.replace("/", " ")
        if node.kind not in FIRING:
            return FloatLayer(name, shape, bias, None, beta, 1.0, alpha), gain
        if "v_reset" in group and floats(group, "v_reset").any():
            raise ChipError(f"{where}/v_reset: the chip's neurons are reset to 0; shift threshold and leak, or retrain")
        threshold = np.broadcast_to(floats(group, "v_threshold"), shape)
        if threshold.min() <= 0:
            raise ChipError(f"{where}/v_threshold: expected > 0, found {threshold.min()}")
        common = threshold.max()  # a membrane and its inputs times a factor fire at the threshold times it
        bias = None if bias is None else bias * common / threshold
        return FloatLayer(name, shape, bias, "zero", beta, float(common), alpha), gain * common / threshold

    def _tau(self, group: Any, name: str, where: str) -> float:
        tau = uniform(floats(group, name), f"{where}/{name}")
        if tau < self.dt:
            raise ChipError(f"{where}/{name}: {tau} s is shorter than a time step of {self.dt} s; give another --dt")
        return tau

    def _fed(
        self, layer: FloatLayer, gain: np.ndarray, node: Node, index: int
    ) -> tuple[FloatLayer, list[FloatConnection]]:
        """All that arrives at a node, times the gain of its neurons; the chain of the layer before comes first."""
        found = []
        for name in node.before:
            signal = self._arriving(self.graph.nodes[name], 0)
            if signal.pre >= index:
                signal.delay += 1  # NIR's cycles take a step
            size = math.prod(layer.shape)
            connection = signal.connection or _identity(signal.shape)
            if math.prod(signal.shape) != size:
                raise ChipError(f"{node.name}: {size} neurons, but {name} brings {math.prod(signal.shape)}")
            if signal.bias is not None:
                bias = gain * signal.bias.reshape(layer.shape)
                layer = replace(layer, bias=bias if layer.bias is None else layer.bias + bias)
            connection = replace(connection, pre=signal.pre, post=index, delay=signal.delay)
            found.append(_scaled(connection, gain))
        if not found:
            raise ChipError(f"{node.name}: nothing arrives here")
        return layer, sorted(found, key=lambda c: c.pre != index - 1)

    def _arriving(self, node: Node, depth: int) -> _Signal:
        """Follow a chain back to the neurons or the input it comes from, and fold what lies between."""
        if node.name in self.index:
            return _Signal(self.index[node.name], self.shapes[self.index[node.name]])
        if len(node.before) != 1 or depth > len(self.graph.nodes):
            raise ChipError(f"{node.name}: {len(node.before)} inputs; only neurons add up several")
        signal = self._arriving(self.graph.nodes[node.before[0]], depth + 1)
        if node.kind == "Delay":
            return replace(signal, delay=signal.delay + steps(node, self.dt))
        if node.kind == "Flatten":
            return _flat(node, signal)
        if node.kind not in ("Linear", "Affine", "Conv2d", "Scale", "AvgPool2d", "SumPool2d"):
            raise ChipError(f"{node.name}: a {node.kind} has no counterpart on the chip")
        step, bias, shape = _operation(node, signal.shape)
        return replace(signal, shape=shape, connection=_after(signal, step, node.name), bias=_sum(signal, step, bias))


def _in_order(graph: Graph, start: Node) -> list[str]:
    """Names of all neurons behind ``start``, each after all that feed it, cycles apart: depth first, from the end."""
    seen, finished = {start.name}, []
    stack = [(start.name, iter(start.behind))]
    while stack:
        name, behind = stack[-1]
        target = next((n for n in behind if n not in seen), None)
        if target is None:
            stack.pop()
            finished.append(name)
        else:
            seen.add(target)
            stack.append((target, iter(graph.nodes[target].behind)))
    order = [name for name in reversed(finished) if graph.nodes[name].kind in NEURONS]
    lost = [n.name for n in graph.nodes.values() if n.kind in NEURONS and n.name not in seen]
    if lost or not order:
        raise ChipError(f"{', '.join(lost) or 'no neurons'}: nothing leads there from {start.name}")
    return order


def _flat(node: Node, signal: _Signal) -> _Signal:
    start, end = (whole(node.group, name) for name in ("start_dim", "end_dim"))
    many = len(signal.shape)
    start, end = start % many if start < 0 else start, end % many if end < 0 else end
    if not 0 <= start <= end < many:
        raise ChipError(f"{node.name}: cannot flatten axes {start} … {end} of {signal.shape}")
    middle = math.prod(signal.shape[start : end + 1])
    return replace(signal, shape=(*signal.shape[:start], middle, *signal.shape[end + 1 :]))


def _operation(node: Node, shape: tuple[int, ...]) -> tuple[FloatConnection, np.ndarray | None, tuple[int, ...]]:
    """(connection, bias, shape behind) of one node."""
    size = math.prod(shape)
    if node.kind == "Scale":
        scale = np.broadcast_to(floats(node.group, "scale"), shape).reshape(-1)
        index = np.arange(size)
        geometry = {"size": (size, size), "rows": index, "columns": index}
        return FloatConnection(INPUT, 0, np.array(scale), Sparse, geometry=geometry), None, shape
    if node.kind in ("AvgPool2d", "SumPool2d"):
        return _pooling(node, shape)
    weight = floats(node.group, "weight")
    bias = floats(node.group, "bias") if "bias" in node.group else None
    if bias is not None and bias.shape != weight.shape[:1]:
        raise FileError(f"{node.name}/bias: expected {weight.shape[:1]}, found {bias.shape}")
    if node.kind == "Conv2d":
        if len(shape) != 3:
            raise ChipError(f"{node.name}: expected (channels, height, width), the layer before has {shape}")
        conv = convolution(node, len(weight), shape)
        geometry = {k: getattr(conv, k) for k in ("input_shape", "stride", "padding", "dilation", "groups")}
        if bias is not None:
            bias = np.broadcast_to(bias[:, None, None], conv.output_shape)
        return FloatConnection(INPUT, 0, weight, Conv, geometry=geometry), bias, conv.output_shape
    if weight.ndim != 2 or weight.shape[1] != size or shape != (size,):
        raise ChipError(f"{node.name}/weight: expected (outputs, {size}) behind {shape}, found {weight.shape}")
    return FloatConnection(INPUT, 0, weight), bias, weight.shape[:1]


def _pooling(node: Node, shape: tuple[int, ...]) -> tuple[FloatConnection, None, tuple[int, ...]]:
    if len(shape) != 3:
        raise ChipError(f"{node.name}: expected (channels, height, width), the layer before has {shape}")
    kernel, stride, padding = (pair(node, name) for name in ("kernel_size", "stride", "padding"))
    if min(kernel) < 1 or math.prod(kernel) > math.prod(shape[1:]) * 4:
        raise FileError(f"{node.name}/kernel_size: {kernel}")
    each = 1 / math.prod(kernel) if node.kind == "AvgPool2d" else 1.0
    weight = np.full((shape[0], 1, *kernel), each)
    conv = Conv(INPUT, 0, np.zeros(weight.shape, int), shape, stride, padding, groups=shape[0])
    geometry = {k: getattr(conv, k) for k in ("input_shape", "stride", "padding", "dilation", "groups")}
    return FloatConnection(INPUT, 0, weight, Conv, geometry=geometry), None, conv.output_shape


def _after(signal: _Signal, step: FloatConnection, name: str) -> FloatConnection:
    """``step`` behind the connection so far; pooling windows that do not overlap stay a convolution."""
    first = signal.connection
    if first is None:
        return step
    window = first.geometry.get("stride")
    pools = (
        first.kind is Conv
        and step.kind is Conv
        and first.geometry["groups"] == first.weight.shape[0] == first.geometry["input_shape"][0]
        and (first.weight == first.weight.flat[0]).all()
        and first.weight.shape[2:] == window
        and first.geometry["padding"] == (0, 0)
        and all(n % k == 0 for n, k in zip(first.geometry["input_shape"][1:], window))
        and step.geometry["dilation"] == (1, 1)
    )
    if pools:
        spread = step.weight.repeat(window[0], axis=2).repeat(window[1], axis=3) * first.weight.flat[0]
        geometry = dict(step.geometry) | {"input_shape": first.geometry["input_shape"]}
        geometry |= {k: tuple(a * b for a, b in zip(step.geometry[k], window)) for k in ("stride", "padding")}
        return FloatConnection(INPUT, 0, spread, Conv, geometry=geometry)
    both = _matrix(step, name) @ _matrix(first, name)
    if step.kind is Dense or first.kind is Dense:
        return FloatConnection(INPUT, 0, both.toarray())
    return _sparse(both)


def _matrix(c: FloatConnection, name: str) -> Any:
    from scipy.sparse import coo_matrix, csr_matrix

    if c.kind is Dense:
        return csr_matrix(c.weight)
    if c.kind is Sparse:
        places = (c.geometry["rows"], c.geometry["columns"])
        return coo_matrix((c.weight, places), shape=c.geometry["size"]).tocsr()
    return convolution_matrix(c.weight, name=name, **c.geometry)


def _sparse(matrix: Any) -> FloatConnection:
    coo = matrix.tocoo()
    geometry = {"size": coo.shape, "rows": coo.row, "columns": coo.col}
    return FloatConnection(INPUT, 0, coo.data.astype(np.float64), Sparse, geometry=geometry)


def _identity(shape: tuple[int, ...]) -> FloatConnection:
    from scipy.sparse import identity

    return _sparse(identity(math.prod(shape)))


def _sum(signal: _Signal, step: FloatConnection, bias: np.ndarray | None) -> np.ndarray | None:
    if signal.bias is None:
        return bias
    through = _matrix(step, "bias") @ signal.bias.reshape(-1)
    return through if bias is None else through + bias.reshape(-1)


def _scaled(c: FloatConnection, gain: np.ndarray) -> FloatConnection:
    """``c`` times what each neuron behind it multiplies with; a convolution has one factor for each channel."""
    if c.kind is Dense:
        return replace(c, weight=c.weight * gain.reshape(-1, 1))
    if c.kind is Sparse:
        return replace(c, weight=c.weight * gain.reshape(-1)[c.geometry["rows"]])
    channels = gain.reshape(len(c.weight), -1)
    if (channels == channels[:, :1]).all():
        return replace(c, weight=c.weight * channels[:, 0][:, None, None, None])
    single = _sparse(_matrix(c, "connection"))
    return _scaled(replace(single, pre=c.pre, post=c.post, delay=c.delay), gain)

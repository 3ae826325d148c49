"""NIR files of other programs: what stands between neurons is folded into one connection, decays become the chip's.

Any chain of Linear, Affine, Conv2d, Scale, Flatten, Delay, AvgPool2d and SumPool2d is one linear map: a matrix, or a
convolution where that is one (a pooling whose windows do not overlap, before it, included), or single synapses.
Several edges into a node add up. Neurons multiply their input with gains of their own (r, w_in, threshold), which go
into the weights of each::

    LIF    v ← λ·v + (dt·r/τ)·I + (1 − λ)·v_leak        λ = 1 − dt/τ

λ, gains and resets depend on the program that wrote the file: ``dialects.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ottt_loihi.converters.nir import dialects
from ottt_loihi.converters.nir.graph import (
    FIRING,
    NEURONS,
    Graph,
    Node,
    floats,
    steps,
    uniform,
    whole,
)
from ottt_loihi.converters.nir.operations import identity, operation, sparse
from ottt_loihi.converters.quantize.float_connection import FloatConnection
from ottt_loihi.converters.quantize.float_network import FloatLayer, FloatNetwork
from ottt_loihi.converters.quantize.forms import on_stock_neurons
from ottt_loihi.sim.network import INPUT, Conv, Dense, Sparse

from ottt_loihi import safe_hdf5
from ottt_loihi.errors import ChipError, FileError, UsageError

MAX_SIGNALS = 64  # that meet at one node
AXES = {"Conv2d": 3, "AvgPool2d": 3, "SumPool2d": 3, "Conv1d": 2, "Linear": 1, "Affine": 1}  # of an input of each


@dataclass
class _Signal:
    """The end of a chain of nodes: ``shape``, the connection so far (None: the spikes themselves), its bias."""

    pre: int
    shape: tuple[int, ...]
    delay: int = 0
    connection: FloatConnection | None = None
    bias: np.ndarray | None = None


class Import:
    """The float network of a file of another program. ``notes`` has lines for the user."""

    def __init__(
        self,
        graph: Graph,
        num_steps: int | None,
        dt: float | None,
        writer: str | None = None,
        reset: str | None = None,
        readout: str | None = None,
    ) -> None:
        if num_steps is None:
            raise UsageError("an NIR file does not hold the number of time steps; give --time-steps")
        if num_steps < 1 or (dt is not None and not (math.isfinite(dt) and dt > 0)):
            raise UsageError(f"expected --dt > 0 and --time-steps ≥ 1, found {dt} and {num_steps}")
        self.graph, self.num_steps, self.readout = graph, num_steps, readout
        common, self.resets = dialects.resets(reset)
        self.dialect, self.dt, self.notes = dialects.chosen(writer, common, dt, dialects.guess(_described(graph)))
        self.input, self.output = graph.only("Input"), graph.only("Output")
        self.order = _in_order(graph, self.input)
        self.shapes: dict[int, tuple[int, ...]] = {INPUT: self._input_shape()}
        if unknown := sorted(self.resets.keys() - set(self.order)):
            raise UsageError(f"--reset: no layer {unknown[0]!r}; there are {', '.join(self.order)}")
        self.index = {self.input.name: INPUT} | {name: i for i, name in enumerate(self.order)}

    def _input_shape(self) -> tuple[int, ...]:
        """Return the shape of one frame: without an axis of samples or steps, 1-d data as images of height 1."""
        shape = tuple(safe_hdf5.integers(self.input.group, "shape").reshape(-1).tolist())
        if not shape or min(shape) < 1 or math.prod(shape) > safe_hdf5.MAX_ELEMENTS:
            raise FileError(f"{self.input.name}/shape: {shape[:8]}")
        kinds = {self.graph.nodes[name].kind for name in self.input.behind}
        wanted = next((axes for kind, axes in AXES.items() if kind in kinds), len(shape))
        if len(shape) == wanted + 1 and shape[0] == 1:
            self.notes.append(f"{self.input.name}/shape {shape} begins with a batch axis, which is left out")
            shape = shape[1:]
        if len(shape) == wanted + 1 == 2 and self.dialect.name == "sinabs":  # whose exporter leaves out samples alone
            self.notes.append(f"{self.input.name}/shape {shape} begins with the axis of steps, which is left out")
            shape = shape[1:]
        return (shape[0], 1, shape[1]) if len(shape) == 2 and "Conv1d" in kinds else shape

    def network(self) -> FloatNetwork:
        nodes = [self.graph.nodes[name] for name in self.order]
        for index, node in enumerate(nodes):
            declared = _parameters_shape(node)
            if math.prod(declared) > 1:
                self.shapes[index] = declared
        layers, connections = [], []
        for index, node in enumerate(nodes):
            signals = self._signals(node, index)
            self.shapes[index] = shape = self._shape(node, index, signals)
            layer, gain = self._layer(node, shape)
            layer, arriving = self._fed(layer, gain, node, index, signals)
            layers.append(layer)
            connections += arriving
        ends = self.output.before
        if not (len(ends) == 1 and ends[0] in self.index):  # weights without neurons behind: a memoryless readout
            signals = self._signals(self.output, len(nodes))
            shape = (math.prod(signals[0].shape),)
            layer, arriving = self._fed(FloatLayer("readout", shape), np.ones(shape), self.output, len(nodes), signals)
            layers.append(layer)
            connections += arriving
        elif self.index[ends[0]] != len(nodes) - 1:
            raise ChipError(f"{self.output.name}: expected the last layer, {self.order[-1]}, found {ends[0]}")
        parts = (self.shapes[INPUT], self.num_steps, tuple(layers), tuple(connections))
        return on_stock_neurons(FloatNetwork(*parts, scores=self._scores(layers[-1])))

    def _scores(self, last: FloatLayer) -> str:
        """Return how the last layer's outputs become ``FloatNetwork.scores``; what was not asked for is noted."""
        fires, wanted = last.reset is not None, self.readout
        if wanted is None and not fires:
            self.notes.append(
                f"{last.name}: it never fires, so the scores are the sum of its outputs over all steps; --readout last "
                "and --readout max are others"
            )
        if wanted is not None and fires != (wanted == "spikes"):
            nearest = "spikes, or a file that ends in LI" if fires else "sum, last or max"
            what = "fires, and the file does not say which of its membranes count" if fires else "sends no spikes"
            raise ChipError(
                f"{last.name}: --readout {wanted}: the last layer {what}; the nearest is --readout {nearest}"
            )
        return "sum" if fires or wanted is None else wanted

    def _signals(self, node: Node, index: int) -> list[_Signal]:
        """Return the signals that arrive at a node of neurons; those from itself or a later node take a step."""
        signals = [signal for name in node.before for signal in self._arriving(self.graph.nodes[name], 0)]
        if not signals:
            raise ChipError(f"{node.name}: nothing arrives here")
        return [replace(s, delay=s.delay + 1) if s.pre >= index else s for s in signals]

    def _shape(self, node: Node, index: int, signals: list[_Signal]) -> tuple[int, ...]:
        """Return the shape of the neurons: of their parameters, or of their input if these are single numbers."""
        first = next((s.shape for s in signals if s.pre < index), signals[0].shape)
        declared = self.shapes.get(index)
        if declared is None or (declared != first and math.prod(declared) == math.prod(first)):
            return first
        return declared

    def _layer(self, node: Node, shape: tuple[int, ...]) -> tuple[FloatLayer, np.ndarray]:
        """Return the layer with one threshold for all neurons, and the gain of each neuron that makes it so."""
        where, group, dialect = node.name, node.group, self.dialect_of(node)
        cuba = node.kind.startswith("Cuba")
        r = floats(group, "r")
        gain, beta, alpha = self.dt * r, 1.0, 0.0
        bias = None
        if node.kind in ("IF", "I"):
            gain = gain if dialect.integrate_gain is None else np.full(r.shape, dialect.integrate_gain)
        else:
            tau = self._tau(group, "tau_mem" if cuba else "tau", where)
            beta = dialect.kept(tau, self.dt)
            gain = dialect.gain(beta, r, tau, self.dt)
            leak = floats(group, "v_leak") * (1 - beta) if "v_leak" in group else np.zeros(1)
            bias = _fitting(leak, shape, f"{where}/v_leak") if leak.any() else None
        if cuba:
            tau = self._tau(group, "tau_syn", where)
            alpha = dialect.kept(tau, self.dt)
            weight = floats(group, "w_in") if "w_in" in group else np.ones(1)
            gain = gain * dialect.synapse(alpha, weight, tau, self.dt)
            if bias is not None:
                raise ChipError(f"{where}/v_leak: a CubaLIF with a leak to another potential than 0 cannot be had here")
        gain = _fitting(gain, shape, f"{where}/r")
        name = where.replace("/", " ")
        if node.kind not in FIRING:
            return FloatLayer(name, shape, bias, None, beta, 1.0, alpha), gain
        threshold = _fitting(floats(group, "v_threshold"), shape, f"{where}/v_threshold")
        threshold, bias = self._from_reset(node, threshold, bias, beta, shape)
        if threshold.min() <= 0:
            raise ChipError(f"{where}/v_threshold: expected > 0, found {threshold.min()}")
        common = threshold.max()  # a membrane and its inputs times a factor fire at the threshold times it
        bias = None if bias is None else bias * common / threshold
        reset = "zero" if dialect.reset == "zero" else "subtract"
        taken = 1.0 if dialect.reset == "delayed" else None
        layer = FloatLayer(
            name, shape, bias, reset, beta, float(common), alpha, taken=taken, at_threshold=dialect.at_threshold
        )
        return layer, gain * common / threshold

    def dialect_of(self, node: Node) -> dialects.Dialect:
        """Return how a layer is meant: its reset may be said for it alone."""
        return dialects.with_reset(self.dialect, self.resets[node.name]) if node.name in self.resets else self.dialect

    def _from_reset(
        self, node: Node, threshold: np.ndarray, bias: np.ndarray | None, beta: float, shape: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return threshold and bias of w = v − v_reset, which is reset to zero."""
        where = f"{node.name}/v_reset"
        if "v_reset" not in node.group or not (rest := floats(node.group, "v_reset")).any():
            return threshold, bias
        if self.dialect_of(node).reset != "zero":
            raise ChipError(f"{where}: a reset by subtraction goes to no potential, found {rest.flat[0]:g}")
        if self.dialect.name != "spikingjelly":
            raise ChipError(
                f"{where}: the chip's neurons begin at the potential that they are reset to, 0, and NIR's begin at 0; "
                "shift threshold and leak, or retrain"
            )
        rest = _fitting(rest, shape, where)
        shifted = (np.zeros(shape) if bias is None else bias) - (1 - beta) * rest
        shifted[np.abs(shifted) < 1e-12 * np.abs(rest)] = 0.0  # v_leak = v_reset: a difference of two equal products
        return threshold - rest, shifted if shifted.any() else None

    def _tau(self, group: Any, name: str, where: str) -> float:
        tau = uniform(floats(group, name), f"{where}/{name}")
        if not tau > 0 or (tau < self.dt and not self.dialect.exact):
            raise ChipError(f"{where}/{name}: {tau} s is shorter than a time step of {self.dt} s; give another --dt")
        return tau

    def _fed(
        self, layer: FloatLayer, gain: np.ndarray, node: Node, index: int, signals: list[_Signal]
    ) -> tuple[FloatLayer, list[FloatConnection]]:
        """Return layer and connections of a node, times the gain of its neurons; the layer before comes first."""
        found, without = [], 0
        for signal in signals:
            size = math.prod(layer.shape)
            connection = signal.connection or identity(signal.shape)
            if math.prod(signal.shape) != size:
                raise ChipError(f"{node.name}: {size} neurons, but {math.prod(signal.shape)} arrive")
            if signal.bias is not None:
                bias = gain * signal.bias.reshape(layer.shape)
                layer = replace(layer, bias=bias if layer.bias is None else layer.bias + bias)
            connection = replace(connection, pre=signal.pre, post=index, delay=signal.delay)
            if connection.weight.any():
                found.append(_scaled(connection, gain))
            else:
                without += 1
        if without:
            what = "all of its weights" if not found else f"those of {without} of its connections"
            self.notes.append(f"{node.name}: {what} are zero")
        if not found and (layer.bias is None or not layer.bias.any()):
            raise ChipError(
                f"{node.name}: all weights that lead here are zero, and so is its bias; nothing would arrive"
            )
        found = found or [_nothing(signals[0], math.prod(self.shapes[signals[0].pre]), math.prod(layer.shape), index)]
        return layer, sorted(found, key=lambda c: c.pre != index - 1)

    def _arriving(self, node: Node, depth: int) -> list[_Signal]:
        """Return the signals that leave a node, each followed back to neurons or the input; operations are folded."""
        if node.name in self.index:
            index = self.index[node.name]
            if index not in self.shapes:
                raise ChipError(
                    f"{node.name}: its parameters are single numbers, and how many neurons it has is not known yet"
                )
            return [_Signal(index, self.shapes[index])]
        if depth > len(self.graph.nodes):
            raise ChipError(f"{node.name}: a cycle without neurons, whose signal no layer holds; put neurons into it")
        signals = [signal for name in node.before for signal in self._arriving(self.graph.nodes[name], depth + 1)]
        if not signals or len(signals) > MAX_SIGNALS:
            raise ChipError(f"{node.name}: {len(signals) or 'no'} inputs; expected 1 … {MAX_SIGNALS}")
        if len({math.prod(signal.shape) for signal in signals}) > 1:
            raise ChipError(f"{node.name}: cannot add up {', '.join(str(signal.shape) for signal in signals)}")
        return [self._through(node, signal, shifts=number == 0) for number, signal in enumerate(signals)]

    def _through(self, node: Node, signal: _Signal, shifts: bool) -> _Signal:
        """Return a signal behind a node. ``shifts``: add the node's bias; of several signals only one adds it."""
        if node.kind == "Delay":
            wait = steps(node, self.dt)
            if wait and signal.bias is not None and signal.bias.any():
                raise ChipError(f"{node.name}: a bias arrives late, behind a Delay; put the Delay before its Affine")
            return replace(signal, delay=signal.delay + wait)
        if node.kind == "Flatten":
            return _flat(node, signal)
        if node.kind not in ("Linear", "Affine", "Conv1d", "Conv2d", "Scale", "AvgPool2d", "SumPool2d"):
            raise ChipError(f"{node.name}: a {node.kind} has no counterpart on the chip")
        step, bias, shape = operation(node, signal.shape)
        bias = bias if shifts else None
        return replace(signal, shape=shape, connection=_after(signal, step, node.name), bias=_sum(signal, step, bias))


def _described(graph: Graph) -> list[tuple[str, str, dict[str, Any]]]:
    """Return name, kind, tau and r of every node, from which ``dialects.guess`` tells the writer."""
    found = []
    for node in graph.nodes.values():
        names = [n for n in ("tau", "tau_mem", "r") if node.kind in NEURONS and n in node.group]
        found.append((node.name, node.kind, {name: floats(node.group, name) for name in names}))
    return found


def _parameters_shape(node: Node) -> tuple[int, ...]:
    """Return the shape of a layer's parameters; (1,) if all are single numbers."""
    names = ("r", "tau", "tau_mem", "tau_syn", "v_threshold", "v_leak", "v_reset", "w_in")
    shapes = [floats(node.group, name).shape for name in names if name in node.group]
    try:
        return np.broadcast_shapes(*shapes) or (1,)
    except ValueError:
        raise FileError(f"{node.name}: parameters of shapes {', '.join(map(str, sorted(set(shapes))))}") from None


def _fitting(values: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Return the values as an array of the layer's shape; a single value is repeated."""
    if values.size == 1:
        return np.full(shape, values.reshape(-1)[0])
    if values.size != math.prod(shape):
        raise ChipError(f"{where}: {math.prod(shape)} neurons, but {values.size} values")
    return values.reshape(shape).copy()


def _nothing(signal: _Signal, inputs: int, size: int, index: int) -> FloatConnection:
    """Return a connection of zeros for a layer that only its bias drives."""
    return FloatConnection(signal.pre, index, np.zeros((size, inputs)), Dense, signal.delay)


def _in_order(graph: Graph, start: Node) -> list[str]:
    """Return the names of all neurons behind ``start``, each after those that feed it, apart from cycles."""
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


def _after(signal: _Signal, step: FloatConnection, name: str) -> FloatConnection:
    """Return the signal's connection followed by ``step``; with pooling windows that do not overlap, a convolution."""
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
    both = step.matrix(name) @ first.matrix(name)
    if step.kind is Dense or first.kind is Dense:
        return FloatConnection(INPUT, 0, both.toarray())
    return sparse(both)


def _sum(signal: _Signal, step: FloatConnection, bias: np.ndarray | None) -> np.ndarray | None:
    if signal.bias is None:
        return bias
    through = step.matrix("bias") @ signal.bias.reshape(-1)
    return through if bias is None else through + bias.reshape(-1)


def _scaled(c: FloatConnection, gain: np.ndarray) -> FloatConnection:
    """Return ``c`` times the gain of each neuron behind it; a convolution has one factor for each channel."""
    if c.kind is Dense:
        return replace(c, weight=c.weight * gain.reshape(-1, 1))
    if c.kind is Sparse:
        return replace(c, weight=c.weight * gain.reshape(-1)[c.geometry["rows"]])
    channels = gain.reshape(len(c.weight), -1)
    if (channels == channels[:, :1]).all():
        return replace(c, weight=c.weight * channels[:, 0][:, None, None, None])
    single = sparse(c.matrix("connection"))
    return _scaled(replace(single, pre=c.pre, post=c.post, delay=c.delay), gain)

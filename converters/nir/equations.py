"""NIR's equations, node by node in float64 as the file has them: what every import is compared with.

Nothing is folded here: a convolution is a sum over its taps, a neuron has its own τ, r and v_leak. Only what a program
means by them is the dialect's (``dialects.py``). A spike that goes back to the same or an earlier layer takes a step; a
Delay sends nothing until its first value has passed it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from ottt_loihi.converters.nir.foreign import Import
from ottt_loihi.converters.nir.graph import FIRING, Node, floats, pair, scales, steps, whole
from ottt_loihi.converters.quantize import float_run
from ottt_loihi.converters.quantize.float_network import FloatNetwork
from ottt_loihi.converters.quantize.float_run import RATE, SAMPLES
from ottt_loihi.converters.quantize.forms import HELPER

from ottt_loihi import safe_hdf5
from ottt_loihi.errors import VerificationError

CLOSE = 1e-9  # distance to a threshold, in the file's units, within which the order of a sum decides


def agreement(reading: Import, net: FloatNetwork, seed: int = 0) -> str:
    """Return one sentence: that the file's equations and the float network have the same spikes on random samples.

    The membranes of a last layer that never fires are compared, too.

    Each input is 1 with probability 0.3 at each of the T steps of 8 samples.

    Raises
    ------
    VerificationError
        for a spike that differs and whose membrane is not at its threshold, or a readout's membrane that differs
    """
    size = math.prod(net.input_shape)
    if (sum(float_run.synapses(c) for c in net.connections) + size) * SAMPLES * net.num_steps > float_run.MAX_WORK:
        return "the file's equations were not run: the network is too large for it"
    x = (np.random.default_rng(seed).random((SAMPLES, net.num_steps, *net.input_shape)) < RATE).astype(np.float64)
    theirs = run(reading, x)
    ours = float_run.run(net, x)
    firing = [i for i, layer in enumerate(net.layers) if layer.reset is not None and layer.name != HELPER]
    names = [net.layers[i].name for i in firing]
    pairs = [(theirs[name], ours[i]) for name, i in zip(names, firing)]
    on = float_run.described(pairs)
    if (first := float_run.first_difference(pairs)) is None:
        return f"every spike{_of_readout(net, theirs, ours)} of the float network is that of the file's equations: {on}"
    place, t, sample, neuron = first
    name, (a, b) = names[place], pairs[place]
    count = sum(int((x != y).sum()) for x, y in pairs)
    distance = theirs[f"{name} − θ"][t, sample, neuron]
    said = (
        f"{count} spikes of the file's equations and of the float network differ ({on}), first in {name}, time step "
        f"{t + 1}, sample {sample}, neuron {neuron}: {a[t, sample, neuron]:g} against {b[t, sample, neuron]:g}"
    )
    if abs(distance) > CLOSE:
        raise VerificationError(f"{said}; its membrane is {distance:.3g} from the threshold")
    return f"{said}; its membrane meets the threshold, where the order of a sum decides"


def _of_readout(net: FloatNetwork, theirs: dict[str, np.ndarray], ours: list[np.ndarray]) -> str:
    """Return what is to be said of the membranes of a last layer that never fires; VerificationError: they differ."""
    if (membranes := theirs.get(name := net.layers[-1].name)) is None or net.layers[-1].reset is not None:
        return ""
    wrong = np.abs(membranes - ours[-1]) > CLOSE * np.maximum(1, np.abs(membranes))
    if wrong.any():
        place = t, sample, neuron = tuple(int(k) for k in np.argwhere(wrong)[0])
        raise VerificationError(
            f"membranes of the file's equations and of the float network differ, first in {name}, time step {t + 1}, "
            f"sample {sample}, neuron {neuron}: {membranes[place]:g} against {ours[-1][place]:g}"
        )
    return " and every membrane of the last layer"


def run(reading: Import, x: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each layer sends, name → float64 ``(T, n, neurons)``: spikes, or membranes where it never fires.

    ``"name − θ"`` has how far the membranes of one that fires were from its threshold.

    Parameters
    ----------
    reading
        of the file
    x
        spikes ``(n, T, *input_shape)``
    """
    return _Run(reading, len(x)).over(x)


class _Run:
    def __init__(self, reading: Import, samples: int) -> None:
        self.reading, self.samples = reading, samples
        self.nodes = reading.graph.nodes
        self.neurons = {name: _Neurons(self.nodes[name], reading, samples) for name in reading.order}
        self.operations = {
            name: _operation(node)
            for name, node in self.nodes.items()
            if name not in self.neurons and node.kind not in ("Input", "Output", "Delay")
        }
        self.sent: list[dict[str, np.ndarray]] = []

    def over(self, x: np.ndarray) -> dict[str, np.ndarray]:
        for t in range(x.shape[1]):
            self.sent.append({self.reading.input.name: x[:, t]})
            for index, name in enumerate(self.reading.order):
                arriving = self.arriving(self.nodes[name], t, index)
                self.sent[t][name] = self.neurons[name].step(arriving)
        found = {}
        for name, neurons in self.neurons.items():
            own = name.replace("/", " ")
            found[own] = np.stack([now[name].reshape(self.samples, -1) for now in self.sent])
            found[f"{own} − θ"] = np.stack(neurons.distances)
        return found

    def arriving(self, node: Node, t: int, index: int) -> Any:
        """Return the sum of all signals into a node at step t; ``index``: of the layer of neurons that is computed."""
        first, *others = (self.value(self.nodes[name], t, index) for name in node.before)
        return sum((other.reshape(first.shape) for other in others), first)

    def value(self, node: Node, t: int, index: int) -> Any:
        if node.name == self.reading.input.name:
            return self.sent[t][node.name]
        if node.name in self.neurons:
            when = t - (self.reading.index[node.name] >= index)
            return self.neurons[node.name].silence if when < 0 else self.sent[when][node.name]
        if node.kind == "Delay":
            wait = steps(node, self.reading.dt)
            if not wait:
                return self.arriving(node, t, index)
            now = self.arriving(node, max(t - wait, 0), index)
            return now if t >= wait else np.zeros_like(now)
        return self.operations[node.name](self.arriving(node, t, index))


class _Neurons:
    """One node of neurons and its state."""

    def __init__(self, node: Node, reading: Import, samples: int) -> None:
        self.dialect, dt, group = reading.dialect_of(node), reading.dt, node.group
        self.fires = node.kind in FIRING
        self.shape = reading.shapes[reading.index[node.name]]
        self.distances: list[np.ndarray] = []

        def read(name: str, default: float) -> np.ndarray:
            values = floats(group, name) if name in group else np.array(default)
            return np.broadcast_to(values.reshape(self.shape) if values.size > 1 else values.reshape(()), self.shape)

        r = read("r", 1.0)
        self.kept, self.synapse, self.arrives = 1.0, 0.0, np.ones(self.shape)
        if node.kind in ("IF", "I"):
            fixed = self.dialect.integrate_gain
            self.gain = dt * r if fixed is None else np.full(self.shape, fixed)
        else:
            tau = float(read("tau_mem" if node.kind.startswith("Cuba") else "tau", 1.0).flat[0])
            self.kept = self.dialect.kept(tau, dt)
            self.gain = self.dialect.gain(self.kept, r, tau, dt)
        if node.kind.startswith("Cuba"):
            tau = float(read("tau_syn", 1.0).flat[0])
            self.synapse = self.dialect.kept(tau, dt)
            self.arrives = self.dialect.synapse(self.synapse, read("w_in", 1.0), tau, dt)
        self.leak, self.rest, self.threshold = read("v_leak", 0.0), read("v_reset", 0.0), read("v_threshold", 1.0)
        self.silence = np.zeros((samples, *self.shape))
        self.i, self.before = self.silence, self.silence
        self.v = self.silence + (self.rest if self.dialect.name == "spikingjelly" else 0.0)

    def step(self, arriving: np.ndarray) -> np.ndarray:
        self.i = self.synapse * self.i + self.arrives * np.reshape(arriving, self.silence.shape)
        u = self.kept * self.v + (1 - self.kept) * self.leak + self.gain * self.i
        if self.dialect.reset == "delayed" and self.fires:
            u = u - self.threshold * self.before
        self.distances.append((u - self.threshold).reshape(len(u), -1))
        if not self.fires:
            self.v = u
            return u
        s = (u >= self.threshold if self.dialect.at_threshold else u > self.threshold).astype(np.float64)
        if self.dialect.reset == "zero":
            self.v = np.where(s > 0, self.rest, u)
        else:
            self.v = u - self.threshold * s if self.dialect.reset == "subtract" else u
        self.before = s
        return s


def _operation(node: Node) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function of a linear node, from ``(n, …)`` to ``(n, …)``."""
    group = node.group
    bias = floats(group, "bias") if "bias" in group else np.zeros(1)
    if node.kind in ("Linear", "Affine"):
        weight = floats(group, "weight")
        return lambda x: x.reshape(len(x), -1) @ weight.T + bias
    if node.kind == "Scale":
        values = floats(group, "scale")
        return lambda x: x * scales(node, values, x.shape[1:])
    if node.kind == "Flatten":
        return lambda x: x.reshape(len(x), *_flattened(node, x.shape[1:]))
    if node.kind in ("AvgPool2d", "SumPool2d"):
        kernel, stride, padding = (pair(node, name) for name in ("kernel_size", "stride", "padding"))
        each = 1 / math.prod(kernel) if node.kind == "AvgPool2d" else 1.0
        return lambda x: _taps(
            x, np.full((x.shape[1], 1, *kernel), each), np.zeros(1), stride, padding, (1, 1), x.shape[1]
        )
    weight, one = floats(group, "weight"), node.kind == "Conv1d"
    weight = weight[:, :, None] if one else weight
    stride, dilation = ((1, whole(group, name)) if one else pair(node, name) for name in ("stride", "dilation"))
    padding = _padding(node, weight.shape[2:], dilation, one)
    groups = whole(group, "groups")

    def convolve(x: np.ndarray) -> np.ndarray:
        frames = x.reshape(len(x), x.shape[1], 1, -1) if one else x
        return _taps(frames, weight, bias, stride, padding, dilation, groups)

    return convolve


def _padding(node: Node, kernel: tuple[int, ...], dilation: tuple[int, ...], one: bool) -> tuple[int, ...]:
    if h5py.check_string_dtype(node.group["padding"].dtype) is None:
        return (0, whole(node.group, "padding")) if one else pair(node, "padding")
    word = safe_hdf5.text(node.group, "padding")
    return tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel)) if word == "same" else (0, 0)


def _taps(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> np.ndarray:
    """Return a convolution of ``(n, channels, height, width)``, tap by tap."""
    x = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    kernel = weight.shape[2:]
    height, width = ((x.shape[2 + a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in (0, 1))
    out, own = len(weight) // groups, x.shape[1] // groups
    found = np.zeros((len(x), len(weight), height, width))
    for g in range(groups):
        for i, j in np.ndindex(*kernel):
            rows = slice(i * dilation[0], i * dilation[0] + stride[0] * (height - 1) + 1, stride[0])
            columns = slice(j * dilation[1], j * dilation[1] + stride[1] * (width - 1) + 1, stride[1])
            seen = x[:, g * own : (g + 1) * own, rows, columns]
            found[:, g * out : (g + 1) * out] += np.einsum(
                "oc,nchw->nohw", weight[g * out : (g + 1) * out, :, i, j], seen
            )
    return found + bias.reshape(-1, 1, 1)


def _flattened(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    start, end = (whole(node.group, name) % len(shape) for name in ("start_dim", "end_dim"))
    return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])

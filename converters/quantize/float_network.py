"""A trained network as plain float64 arrays, whatever framework it came from: the input of the converters.

Everything that only scales or pools is folded into the weights here, exactly::

    scales, gains, standardisation      W ← c·κ·Ŵ                          (Connection.effective)
    average pooling over k×k            W ← kron(W, ones(k, k)) / k²       stride·k, padding·k
    global average pooling              the classifier's columns repeated, / (height·width)
    residual stream                     the connections and the bias of the stream's source, times the factor
    normalised input, (x − μ)/σ         W ← W/σ of each channel, b ← b − W·(μ/σ) of each neuron; the image's
                                        padding of zeros, which stands for x = μ, adds nothing to it

``float_connection.py`` has the connections.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.converters.quantize.float_connection import FloatConnection, arrive, require_unchanged, written_out
from ottt_loihi.sim.network import INPUT, Conv, Dense, Sparse

from ottt_loihi.data.description import Step
from ottt_loihi.errors import ChipError

if TYPE_CHECKING:
    from ottt_loihi.nn.network import Network

CUBA, MEMBRANE = "ottt_loihi.nn.cuba.CubaLIF", "ottt_loihi.nn.cuba.Membrane"
NEURONS = ("ottt_loihi.nn.neurons.LIF", "ottt_loihi.nn.neurons.DSRNeuron", CUBA)
TAKEN = {"subtract": None, "delayed": 1.0, "none": 0.0}  # FloatLayer.taken of each reset that keeps the membrane in u
LATE = "as the authors' code has it, which the chip cannot do; train with convention='paper', or without that bias"
MESSAGES = 255  # the largest graded message

INPUTS = ("spikes", "constant", "graded")


@dataclass(frozen=True)
class FloatLayer:
    """Neurons: ``bias`` float64 ``shape`` or None; ``beta`` λ, ``v_threshold`` and ``reset`` ("zero" | "subtract").

    A readout has no spikes (``reset=None``); trained here it is memoryless, o[t] = W·s[t] + b. ``alpha``: what
    the synaptic current keeps of itself; ``v_threshold`` and ``v_init``, v[0]: a number, or float64 ``shape``::

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
    v_init: float | np.ndarray = 0.0
    taken: float | None = None
    at_threshold: bool = False


@dataclass(frozen=True)
class FloatNetwork:
    """Layers in order, the readout last; ``input_shape`` of one frame and T = ``num_steps``.

    input: ``"spikes"``; real numbers in 0 … 1, sent as messages 0 … 255: ``"constant"``, frames that stay the same for
    all T steps, or ``"graded"``, another one at every step. ``scores``: as those of
    :class:`~ottt_loihi.nn.network.Network`; of a last layer that fires they count spikes. ``notes``: what a user has to
    know of it, one line each.
    """

    input_shape: tuple[int, ...]
    num_steps: int
    layers: tuple[FloatLayer, ...]
    connections: tuple[FloatConnection, ...]
    input: str = "spikes"
    notes: tuple[str, ...] = ()
    scores: str = "sum"

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
    from ottt_loihi.converters.quantize.forms import on_stock_neurons

    _require_known(net, "network", "Network")
    shapes = {INPUT: tuple(net.input_shape)} | {i: tuple(block.shape) for i, block in enumerate(net.blocks)}
    for index, block in enumerate(net.blocks):
        _require_known(block, f"hidden {index + 1}", "Block")
        kind = type(block.neuron)  # exactly: a subclass computes something else
        if _kind(block.neuron) not in NEURONS and not (index == len(net.blocks) - 1 and _reads_membranes(net)):
            raise ChipError(
                f"hidden {index + 1}: neurons of type {kind.__name__} cannot be exported, because nothing says how the "
                "chip computes them; LIF, CubaLIF and DSRNeuron can"
            )
        require_unchanged(block.neuron, f"hidden {index + 1}")
    amplitudes = {INPUT: 1.0} | {i: float(block.neuron.amplitude) for i, block in enumerate(net.blocks)}
    layers, connections, biases = [], [], []
    coding = _coding(net)
    for index, block in enumerate(net.blocks):
        name = f"hidden {index + 1}"
        inputs, bias = arrive(block.connection, index - 1, index, shapes[index - 1], 0, name)
        inputs, bias = _normalised(inputs, bias, shapes[INPUT], shapes[index], coding)
        late = None
        for branch in block.branches:
            more, more_bias = arrive(
                branch.connection, branch.source, index, shapes[branch.source], branch.delay, f"{name}, branch"
            )
            inputs, bias = inputs + more, _sum(bias, more_bias)
            if net.convention == "authors" and branch.delay and more_bias is not None and more_bias.any():
                late = _sum(late, more_bias)
                if branch.delay > 1:
                    raise ChipError(f"{name}, branch: its bias begins {branch.delay} steps late, {LATE}")
        if block.skip is not None:
            stream = [c for c in connections if c.post == block.skip.source]
            inputs += [replace(c, post=index, weight=c.weight * block.skip.factor) for c in stream]
            inherited = biases[block.skip.source]
            bias = _sum(bias, None if inherited is None else inherited * block.skip.factor)
        inputs = [c for c in inputs if c.weight.any()]
        if not inputs:
            raise ChipError(f"{name}.weight: all weights are zero, nothing would pass; train the network")
        layers.append(_without_first(_neurons(block.neuron, name, shapes[index], bias), late))
        connections += [replace(c, weight=c.weight * (amplitudes[c.pre] * _charge(block.neuron))) for c in inputs]
        biases.append(bias)
    if len(net.blocks) and _reads_membranes(net):
        layers, connections, inputs = _membranes(layers, connections)
        return on_stock_neurons(_read(net, shapes, layers, connections, inputs, coding))
    last = len(net.blocks)
    inputs, bias = arrive(net.readout, last - 1, last, shapes[last - 1], 0, "readout")
    inputs, bias = _normalised(inputs, bias, shapes[INPUT], (net.num_classes,), coding)
    if not inputs[0].weight.any():
        raise ChipError("readout.weight: all weights are zero, nothing would pass; train the network")
    inputs = [replace(c, weight=c.weight * amplitudes[c.pre]) for c in inputs]
    layers.append(FloatLayer("readout", (net.num_classes,), bias))
    return on_stock_neurons(_read(net, shapes, layers, connections, inputs, coding))


def _require_known(part: Any, name: str, kind: str) -> None:
    """Refuse a subclass, whose methods the chip does not call, and what :func:`require_unchanged` refuses."""
    if type(part).__name__ != kind or not type(part).__module__.startswith("ottt_loihi."):
        raise ChipError(
            f"{name}: a {type(part).__name__} cannot be exported, because nothing says how the chip computes it; "
            f"make it of {kind}"
        )
    require_unchanged(part, name)


def _kind(neuron: Any) -> str:
    return f"{type(neuron).__module__}.{type(neuron).__name__}"


def _reads_membranes(net: Network) -> bool:
    """Return whether the last block sends membranes that are the scores o[t]."""
    readout = type(net.readout).__name__ == "SpikeCount" and net.num_classes == math.prod(net.blocks[-1].shape)
    return readout and _kind(net.blocks[-1].neuron) == MEMBRANE


def _membranes(
    layers: list[FloatLayer], connections: list[FloatConnection]
) -> tuple[list[FloatLayer], list[FloatConnection], list[FloatConnection]]:
    """Return layers and connections of which the last layer's membranes are the readout, and its own connections.

    A layer that never resets is the readout itself. Of one that fires, the readout is a copy that does not: it gets the
    same currents, and the layer's spikes take from it what they take from the layer's own membranes, one step later.
    """
    *before, layer = layers
    last = len(before)
    silent = replace(layer, name="readout", reset=None, taken=None, at_threshold=False)
    if layer.reset == "subtract" and layer.taken == 0:
        return [*before, silent], [c for c in connections if c.post != last], [c for c in connections if c.post == last]
    if layer.reset == "zero" or layer.alpha:
        why = "are set to zero by spikes" if layer.reset == "zero" else "have a synaptic current before them"
        raise ChipError(
            f"{layer.name}: its membranes are the scores, and {why}, which no readout of the chip follows; the nearest "
            "are its spikes (from_module(…, readout='spikes'))"
        )
    taken = (layer.beta if layer.taken is None else layer.taken) * np.broadcast_to(layer.v_threshold, layer.shape)
    places = np.arange(math.prod(layer.shape))
    geometry = {"rows": places, "columns": places, "size": (places.size, places.size)}
    inputs = [replace(c, post=last + 1) for c in connections if c.post == last]
    inputs.append(FloatConnection(last, last + 1, -taken.reshape(-1), Sparse, 1, geometry))
    return [*layers, silent], connections, inputs


def _read(
    net: Network,
    shapes: dict[int, tuple[int, ...]],
    layers: list[FloatLayer],
    connections: list[FloatConnection],
    inputs: list[FloatConnection],
    coding: Step,
) -> FloatNetwork:
    """Return the network of these parts; ``inputs``: the readout's connections."""
    if coding.name == "graded":  # messages of any unit, as 1/255: the weights take the rest
        largest = MESSAGES * float(coding.options.get("unit", 1 / MESSAGES))
        connections = [replace(c, weight=c.weight * largest) if c.pre == INPUT else c for c in connections]
        inputs = [replace(c, weight=c.weight * largest) if c.pre == INPUT else c for c in inputs]
    return FloatNetwork(
        shapes[INPUT],
        int(net.time_steps),
        tuple(layers),
        (*connections, *inputs),
        coding.name if coding.name in INPUTS else "spikes",
        scores=net.scores,
    )


def _coding(net: Network) -> Step:
    """Return the encoding of samples that the network was trained with."""
    if net.data is not None:
        return net.data.coding
    recorded = net.provenance.get("encoding", {})
    return Step(recorded.get("name", "rate"), recorded.get("options", {}))


def _normalised(
    inputs: list[FloatConnection],
    bias: np.ndarray | None,
    image: tuple[int, ...],
    shape: tuple[int, ...],
    coding: Step,
) -> tuple[list[FloatConnection], np.ndarray | None]:
    """Return connections and bias for an input x, of those that were trained on (x − mean)/std.

    The bias is a sum of many weights, and 13 bits have to hold it beside messages of 255. So the layer's scale is
    small, and weights need an exponent to use their bits, which Lava's Conv does not have: it becomes single synapses.
    """
    if coding.name != "constant" or not coding.options or not any(c.pre == INPUT for c in inputs):
        return inputs, bias
    mean, std = (np.array(coding.options[name], np.float64) for name in ("mean", "std"))
    if len(image) != 3 or len(mean) != image[0]:
        raise ChipError(f"the coding normalises {len(mean)} channels, and the input has the shape {image}")
    centre = np.repeat(mean / std, math.prod(image[1:]))
    found = []
    for c in inputs:
        if c.pre == INPUT:
            c = written_out(c) if c.kind is Conv else c
            bias = _sum(bias, -_times(c, centre).reshape(shape))
            c = replace(c, weight=c.weight / _channels(c, std, image))
        found.append(c)
    return found, bias


def _times(c: FloatConnection, x: np.ndarray) -> np.ndarray:
    """Return a connection's current for one input, flat."""
    if c.kind is Dense:
        return c.weight @ x
    return np.bincount(c.geometry["rows"], c.weight * x[c.geometry["columns"]], c.geometry["size"][0])


def _channels(c: FloatConnection, values: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
    """Return one value for each weight's input: that of its channel."""
    each = values.repeat(math.prod(image[1:]))
    return each if c.kind is Dense else each[c.geometry["columns"]]


def _neurons(neuron: Any, name: str, shape: tuple[int, ...], bias: np.ndarray | None) -> FloatLayer:
    """Return a block's neurons as a layer with one threshold.

    DSR's fire above α·V and subtract V: the same spikes come from V for both, a membrane that begins at (1 − α)·V and,
    where it leaks, a current that keeps it there.
    """
    if _kind(neuron) in (CUBA, MEMBRANE):
        return _cuba(neuron, name, shape, bias)
    beta, v_threshold, start = float(neuron.beta), float(neuron.v_threshold), neuron.v_init
    if (alpha := getattr(neuron, "alpha", None)) is not None:
        start = (1 - alpha) * v_threshold
        bias = (np.zeros(shape) if bias is None else bias * _charge(neuron)) + (1 - beta) * start
    return FloatLayer(name, shape, bias, neuron.reset, beta, v_threshold, v_init=start)


def _without_first(layer: FloatLayer, late: np.ndarray | None) -> FloatLayer:
    """Return neurons whose bias lacks the part ``late`` in the first step: λ·v[0] takes that part away again."""
    if late is None:
        return layer
    if layer.alpha or not layer.beta:
        raise ChipError(f"{layer.name}, branch: its bias begins one step late, {LATE} (or with alpha = 0 and beta > 0)")
    return replace(layer, v_init=np.broadcast_to(layer.v_init - late / layer.beta, layer.shape))


def _cuba(neuron: Any, name: str, shape: tuple[int, ...], bias: np.ndarray | None) -> FloatLayer:
    """Return current-based neurons. A reset to r is one to 0 of w = v − r, with another threshold and a bias."""
    alpha, beta = (_only(value, name, kind) for kind, value in zip(("alpha", "beta"), neuron.decays()))
    threshold = np.broadcast_to(_array(neuron.threshold()), shape)
    rest, start = _only(neuron.v_reset, name, "v_reset"), _array(neuron.v_init)
    start = float(start.flat[0]) if np.ptp(start) == 0 else np.broadcast_to(start, shape)
    if rest:
        if alpha:
            raise ChipError(
                f"{name}: v_reset = {rest:g} needs alpha = 0, because the chip's v is reset to 0 and a bias passes the "
                "synapse; train it so"
            )
        threshold, start = threshold - rest, start - rest
        bias = (np.zeros(shape) if bias is None else bias) - (1 - beta) * rest
        if threshold.min() <= 0:
            raise ChipError(f"{name}: v_reset = {rest:g} is not below the threshold; it would fire without end")
    v_threshold = float(threshold.flat[0]) if np.ptp(threshold) == 0 else np.array(threshold)
    reset, taken = ("zero", None) if neuron.reset == "zero" else ("subtract", TAKEN[neuron.reset])
    return FloatLayer(name, shape, bias, reset, beta, v_threshold, alpha, start, taken, neuron.at_threshold)


def _array(value: Any) -> np.ndarray:
    """Return the values of a tensor, or a number, in float64."""
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value, np.float64)


def _only(value: Any, name: str, kind: str) -> float:
    """Return the one value that all neurons of a layer have."""
    values = _array(value)
    if np.ptp(values):
        raise ChipError(
            f"{name}: neurons of unequal {kind}, {values.min():g} … {values.max():g}, and a layer has one on the chip; "
            "make a layer of each"
        )
    return float(values.flat[0])


def _charge(neuron: Any) -> float:
    return getattr(neuron, "charge", 1.0)


def _sum(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return b if a is None else a if b is None else a + b

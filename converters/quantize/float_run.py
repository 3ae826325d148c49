"""A float network step by step in float64, and how many of its spikes an integer network has.

Slow and obvious, for imports that bring no data: a few random samples say what rounding has changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from ottt_loihi.converters.quantize.float_connection import FloatConnection
from ottt_loihi.converters.quantize.float_network import FloatNetwork
from ottt_loihi.sim.network import INPUT, ChipNetwork, Conv, Dense

from ottt_loihi import sim
from ottt_loihi.errors import ChipError

SAMPLES, RATE = 8, 0.3
MAX_WORK = 1 << 31  # a comparison's product of synapses, samples and time steps


def run(net: FloatNetwork, x: np.ndarray) -> list[np.ndarray]:
    """Return what every layer sends, float64 ``(T, n, size)``: spikes, or membranes where it has none.

    x: ``(n, T, *input_shape)``
    """
    matrices = [(c, c.weight if c.kind is Dense else c.matrix()) for c in net.connections]
    count, steps = x.shape[:2]
    current = [np.zeros((count, math.prod(layer.shape))) for layer in net.layers]
    starts = [np.broadcast_to(layer.v_init, layer.shape).reshape(-1) for layer in net.layers]
    v = [np.tile(start, (count, 1)) for start in starts]
    sent: list[dict[int, np.ndarray]] = []
    for t in range(steps):
        sent.append({INPUT: x[:, t].reshape(count, -1).astype(np.float64)})
        for index, layer in enumerate(net.layers):
            arriving = np.zeros_like(v[index])
            for c, weights in matrices:
                if c.post == index and t >= c.delay:
                    arriving += (weights @ sent[t - c.delay][c.pre].T).T
            if layer.bias is not None:
                arriving += layer.bias.reshape(-1)
            current[index] = layer.alpha * current[index] + arriving
            u = layer.beta * v[index] + current[index]
            threshold = np.broadcast_to(layer.v_threshold, layer.shape).reshape(-1)
            if layer.reset == "subtract" and layer.taken is not None and t:
                u -= layer.taken * threshold * sent[t - 1][index]
            if layer.reset is None:
                sent[t][index], v[index] = u, u
                continue
            s = (u >= threshold if layer.at_threshold else u > threshold).astype(np.float64)
            sent[t][index] = s
            if layer.reset == "zero":
                v[index] = u * (1 - s)
            else:
                v[index] = u - threshold * s if layer.taken is None else u
    return [np.stack([step[index] for step in sent]) for index in range(len(net.layers))]


def scores(net: FloatNetwork, sent: list[np.ndarray]) -> np.ndarray:
    """Return the scores, float64 ``(n, classes)``, of what every layer sends."""
    o = sent[-1]
    kind = "sum" if net.layers[-1].reset is not None else net.scores
    return {"sum": o.sum(axis=0), "last": o[-1], "max": o.max(axis=0)}[kind]


def agreement(net: FloatNetwork, chip: ChipNetwork, seed: int = 0) -> str:
    """Return one sentence: how many spikes of random samples differ between float network and chip, and the first.

    Each input is 1 with probability 0.3 at each of the T steps of 8 samples.
    """
    if net.input != "spikes" or chip.host is not None:
        return "float and chip were not compared: the input is no spikes"
    x = (np.random.default_rng(seed).random((SAMPLES, net.num_steps, *net.input_shape)) < RATE).astype(np.uint8)
    try:
        if sum(synapses(c) for c in net.connections) * SAMPLES * net.num_steps > MAX_WORK:
            return "float and chip were not compared: the network is too large for it; ottt-run model.h5 --data runs it"
        expected = run(net, x)
    except ChipError as error:
        return f"float and chip were not compared: {error}"
    found = sim.run(chip, x, ("s",)).states["s"]
    firing = [index for index, layer in enumerate(net.layers) if layer.reset is not None]
    pairs = [(expected[i] != 0, found[i].reshape(expected[i].shape)) for i in firing]
    on = described(pairs)
    if (first := first_difference(pairs)) is None:
        return f"the chip has every spike of the float network: {on}"
    place, step, sample, neuron = first
    share = sum(int((a != b).sum()) for a, b in pairs) / sum(a.size for a, _ in pairs)
    return (
        f"{share:.2%} of spikes differ between float network and chip ({on}), first in "
        f"{net.layers[firing[place]].name}, time step {step + 1}, sample {sample}, neuron {neuron}"
    )


def described(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    """Return in words how much is compared; ``pairs``: of each layer the spikes ``(T, n, neurons)`` of two networks."""
    places, spikes = (sum(int(count(a)) for a, _ in pairs) for count in (np.size, np.sum))
    return f"{places:,} places, {spikes:,} spikes of {SAMPLES} random samples"


def first_difference(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[int, int, int, int] | None:
    """Return the place in ``pairs``, time step, sample and neuron of the first difference, by time, then by layer."""
    found = [(place, *(int(k) for k in np.argwhere(a != b)[0])) for place, (a, b) in enumerate(pairs) if (a != b).any()]
    return min(found, key=lambda each: each[1], default=None)


def synapses(c: FloatConnection) -> int:
    """Return how many synapses a connection has on the chip, a convolution's of every place included."""
    if c.kind is not Conv:
        return int(c.weight.size)
    stride = c.geometry.get("stride", (1, 1))
    return int(c.weight.size) * math.prod(-(-n // k) for n, k in zip(c.geometry["input_shape"][1:], stride))

"""Neurons that no stock neuron of the chip computes, made of several that do; every spike stays the same in float.

::

    soft reset without leak, with a bias    a neuron that fires at every step sends the bias as its weights
    synapse that never decays, with a bias  the same
    v[0] ≠ 0 before a reset to zero         a neuron that fires at the first step alone sends β·v[0]
    synapse with memory and a soft reset    every connection once more for each past step: α^k·W, k steps later

The two helping neurons are one memoryless layer. The copies of a connection end where α^k is below what a weight of the
chip can hold, at T, or at the longest delay; ``FloatNetwork.notes`` says which.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from ottt_loihi.converters.quantize.float_connection import (
    MAX_SYNAPSES,
    FloatConnection,
    chip_delay,
    placed,
    written_out,
)
from ottt_loihi.converters.quantize.float_network import FloatLayer, FloatNetwork
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.network import Conv, Dense

from ottt_loihi.errors import ChipError

HELPER = "helping neurons"  # the layer of two: one neuron fires at every step, the other at the first one
LEAST = 2.0**-15  # of α^k: the largest weight, 254·2^7 of the chip's units, is one unit then
MAX_DELAY = 62


def on_stock_neurons(net: FloatNetwork) -> FloatNetwork:
    """Return the network with stock neurons only, its convolutions where they can be.

    Raises
    ------
    ChipError
        where a connection would become too many synapses, or a delay too long
    """
    net = _without_memory(_with_helper(net))
    return replace(net, connections=tuple(placed(c) for c in net.connections))


def helper_spikes(names: list[str], spikes: list[np.ndarray]) -> list[np.ndarray]:
    """Return the spikes of a network's own layers ``(T, n, …)`` with those of the helping layer in its place."""
    if HELPER not in names or len(spikes) >= len(names) - 1:
        return spikes
    steps, samples = spikes[0].shape[:2]
    sent = np.ones((steps, samples, 2), spikes[0].dtype)
    sent[1:, :, 1] = 0
    place = names.index(HELPER)
    return [*spikes[:place], sent, *spikes[place:]]


def _with_helper(net: FloatNetwork) -> FloatNetwork:
    """Return the network with a layer of two helping neurons, if a bias or v_init needs them."""
    helped = {i: weights for i, layer in enumerate(net.layers) if (weights := _helps(layer)) is not None}
    if not helped:
        return net
    place = _place(net, min(helped))

    def moved(index: int) -> int:
        return index + (index >= place)

    layers = [_alone(layer, helped[i][0][1]) if i in helped else layer for i, layer in enumerate(net.layers)]
    layers.insert(place, FloatLayer(HELPER, (2,), np.ones(2), "zero", 0.0, 0.5))
    connections = [replace(c, pre=moved(c.pre), post=moved(c.post)) for c in net.connections]
    once = np.array([[0.0, 0.0], [-1.0, 0.0]])  # whoever fires always silences the other from the second step on
    connections.append(FloatConnection(place, place, once, Dense, 1))
    connections += [
        FloatConnection(place, moved(i), weights, Dense, d) for i, each in helped.items() for d, weights in each
    ]
    names = ", ".join(net.layers[i].name for i in helped)
    notes = (*net.notes, f"{names}: a layer of two helping neurons brings what no bias of the chip can")
    return replace(net, layers=tuple(layers), connections=tuple(connections), notes=notes)


def _helps(layer: FloatLayer) -> list[tuple[int, np.ndarray]] | None:
    """Return (delay, weights from both helping neurons) of a layer that needs them; None: it needs none."""
    if layer.reset is None:
        return None
    size = math.prod(layer.shape)
    always, once = np.zeros(size), np.zeros(size)
    endless = arithmetic.DECAY_UNITY - 0.5  # what rounds to a decay of none
    if layer.bias is not None and layer.bias.any():
        kept = layer.beta if layer.reset == "subtract" else layer.alpha
        if kept * arithmetic.DECAY_UNITY >= endless or (layer.reset == "subtract" and layer.alpha):
            always += layer.bias.reshape(-1)
    if np.any(layer.v_init) and layer.reset == "zero":
        once += layer.beta * np.broadcast_to(layer.v_init, layer.shape).reshape(-1)
    if not always.any() and not once.any():
        return None
    found = [(0, np.stack([always, once], axis=1))]
    if once.any() and layer.alpha:  # what has passed the synapse stays in it: it is taken back
        found.append((1, np.stack([np.zeros(size), -layer.alpha * once], axis=1)))
    return found


def _alone(layer: FloatLayer, weights: np.ndarray) -> FloatLayer:
    """Return the layer without the bias and the v_init that the helping neurons bring by these weights."""
    return replace(
        layer,
        bias=None if weights[:, 0].any() else layer.bias,
        v_init=0.0 if weights[:, 1].any() else layer.v_init,
    )


def _place(net: FloatNetwork, last: int) -> int:
    """Return the index, at most ``last``, where a new layer makes the fewest synapses of convolutions that wait."""

    def synapses(place: int) -> int:
        crossing = [c for c in net.connections if c.kind is Conv and c.pre < place <= c.post]
        return sum(c.weight.size * math.prod(net.layers[c.post].shape) for c in crossing)

    return min(range(last, -1, -1), key=synapses)


def _without_memory(net: FloatNetwork) -> FloatNetwork:
    """Return the network with copies of connections in place of synaptic currents beside a soft reset.

    The chip's u cannot hold such a current, because the membrane is in u.
    """
    slow = {i for i, layer in enumerate(net.layers) if layer.alpha and layer.reset == "subtract"}
    if not slow:
        return net
    connections: list[FloatConnection] = []
    counts = dict.fromkeys(slow, net.num_steps)
    for c in net.connections:
        copies = list(_copies(c, net.layers[c.post].alpha, net.num_steps)) if c.post in slow else [c]
        connections += copies
        if c.post in slow:
            counts[c.post] = min(counts[c.post], len(copies))
    notes = [_cost(net, i, count, [c for c in connections if c.post == i]) for i, count in sorted(counts.items())]
    layers = tuple(replace(layer, alpha=0.0) if i in slow else layer for i, layer in enumerate(net.layers))
    return replace(net, layers=layers, connections=tuple(connections), notes=(*net.notes, *notes))


def _cost(net: FloatNetwork, index: int, count: int, copies: list[FloatConnection]) -> str:
    """Return one sentence on the copies of a layer's connections; ``count``: the fewest of one connection."""
    layer, total = net.layers[index], sum(c.weight.size for c in copies)
    if total > MAX_SYNAPSES:
        raise ChipError(
            f"{layer.name}: its synaptic current beside a soft reset takes {total:,} synapses, at most "
            f"{MAX_SYNAPSES:,} are written out; train it with a reset to zero"
        )
    rest = "" if count >= net.num_steps else f"; {layer.alpha**count:.2g} of a current is left out behind them"
    return (
        f"{layer.name}: a synaptic current beside a soft reset is its connections {count} times, with delays; "
        f"{total:,} synapses{rest}"
    )


def _copies(c: FloatConnection, alpha: float, num_steps: int) -> Iterator[FloatConnection]:
    """Yield the connection for this step, and for each past step whose current is still there."""
    c = written_out(c) if c.kind is Conv else c  # so that every copy may have an exponent and a delay
    most = max(1, MAX_DELAY + 1 - chip_delay(c))  # never 0, which would lose the connection without a word
    for k in range(min(num_steps, most)):
        if alpha**k < LEAST:
            return
        yield replace(c, weight=c.weight * alpha**k, delay=c.delay + k)

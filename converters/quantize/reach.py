"""The largest membrane that any input can cause: a neuron whose threshold lies above it never fires."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from ottt_loihi.converters.quantize.channel_scale import row_sums, spread
from ottt_loihi.converters.quantize.float_network import FloatNetwork
from ottt_loihi.converters.quantize.forms import HELPER
from ottt_loihi.converters.quantize.quantize import LayerReport
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.network import INPUT

from ottt_loihi.errors import ChipError


def require_firing(net: FloatNetwork, cure: str = "") -> None:
    """Refuse a network with a layer that no input can make fire.

    Raises
    ------
    ChipError
        that names the layer, what its membranes can reach in all time steps, and ``cure``
    """
    for index, layer in enumerate(net.layers):
        if layer.reset is None:
            continue
        highest = most(net, index)
        threshold = np.broadcast_to(layer.v_threshold, layer.shape)
        if (highest < threshold).all():
            best = int(np.argmax(highest / threshold))
            raise ChipError(
                f"{layer.name}: no input of 0 and 1 can make it fire: in {net.num_steps} steps its membranes reach "
                f"{highest.flat[best]:.4g} at most, the threshold is {threshold.flat[best]:.4g}{cure}"
            )


def most(net: FloatNetwork, index: int) -> np.ndarray:
    """Return the highest membrane of each neuron of a layer, if every spike arrived that raises it and none else."""
    layer = net.layers[index]
    current = np.zeros(layer.shape) if layer.bias is None else np.array(layer.bias, np.float64).reshape(layer.shape)
    first = np.zeros(layer.shape)
    for connection in net.inputs_of(index):
        if connection.pre == INPUT and net.input != "spikes":
            return np.full(layer.shape, np.inf)  # real numbers, of a unit that is in the weights
        if connection.pre >= 0 and net.layers[connection.pre].name == HELPER:  # whose spikes are known
            always, once = connection.weight.T.reshape(2, *layer.shape)
            current, first = current + always, first + (0.0 if connection.delay else once)
        else:
            positive = row_sums(connection, np.maximum(connection.weight, 0))
            current = current + spread(positive, layer.shape)
    c, u, highest = first, np.full(layer.shape, layer.v_init), np.full(layer.shape, -np.inf)
    for _ in range(net.num_steps):
        c = layer.alpha * c + current
        u = layer.beta * u + c
        highest = np.maximum(highest, u)
    return highest


def lost(net: FloatNetwork, layers: Iterable[LayerReport] = ()) -> list[str]:
    """Return what rounds to nothing, in the chip's decays and in the weights of ``layers``, one line for each."""
    found = [
        f"{each.name}: {each.zeroed:,} of {each.weights:,} weights that are not 0 round to it, in {each.bits} bits"
        for each in layers
        if each.zeroed
    ]
    for layer in net.layers:
        for name, kept in (("leak", layer.beta), ("synaptic leak", layer.alpha)):
            mantissa = round(arithmetic.DECAY_UNITY * kept)
            if kept < 1 and mantissa == arithmetic.DECAY_UNITY:
                found.append(
                    f"{layer.name}: its {name} of {1 - kept:.3g} a step rounds to none, in 1/4096 as the chip has it"
                )
            elif kept > 0 and mantissa == 0:
                found.append(f"{layer.name}: the {kept:.3g} that its {name} keeps round to nothing")
    return found

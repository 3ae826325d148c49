"""A frozen backbone: layers that keep their inference weights, before the dense layers that learn.

No error reaches the backbone and none of its weights change, so that it is a function from a sample's messages to the
input spikes of the first plastic connection. In ``sim`` it is just that: the exact simulator runs it once for each
sample, and ``sim.learn`` gets its spikes. In Lava it runs in the same epochs as everything else, each layer in a phase
of its own (``onchip/network/schedule.py``).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ottt_loihi.sim import Simulator
from ottt_loihi.sim.network import INPUT, ChipNetwork, Connection, Dense, Sparse

from ottt_loihi.data.on_demand import Array, batches
from ottt_loihi.errors import ChipError

CHUNK = 500  # samples whose backbone spikes are in memory unpacked


def plastic(chip: ChipNetwork) -> tuple[Dense | Sparse, ...]:
    """Return the connections that learn, input side first."""
    return tuple(sorted((c for c in chip.connections if c.weight_format == "learning9"), key=lambda c: c.post))


def first_plastic_layer(chip: ChipNetwork) -> int:
    """Return the first layer with a plastic connection into it; 0 where nothing is plastic."""
    return min((c.post for c in plastic(chip)), default=0)


def cut(chip: ChipNetwork) -> tuple[ChipNetwork | None, ChipNetwork]:
    """Return the frozen backbone or None, and the network behind it, whose input are the backbone's spikes.

    Raises
    ------
    ChipError
        for connections from behind the cut back into the backbone, for delays, and for a layer that the host computes
    """
    first = first_plastic_layer(chip)
    if first == 0:
        return None, chip
    if chip.host is not None:
        raise ChipError(
            "the host computes this network's first layer: export it with --input graded to learn behind it"
        )
    ahead, behind = [], []
    for c in chip.connections:
        if c.pre >= first > c.post:
            raise ChipError(
                f"{c.label}: leads from the layers that learn back into the frozen backbone; make both plastic"
            )
        if c.post < first:
            _check_phases(chip, c)
            ahead.append(c)
        else:
            behind.append(replace(c, pre=max(INPUT, c.pre - first), post=c.post - first))
    backbone = ChipNetwork(chip.input_shape, chip.layers[:first], tuple(ahead), chip.num_steps, "spike_count")
    tail = replace(
        chip, input_shape=chip.layers[first - 1].shape, layers=chip.layers[first:], connections=tuple(behind)
    )
    return backbone, tail


def packed_spikes(backbone: ChipNetwork | None, x: Array) -> np.ndarray:
    """Return the input of the layers that learn, uint8 ``(n, T, ⌈size/8⌉)``, packed, for ``(n, T, *input_shape)``."""
    if backbone is None:
        return np.concatenate([np.packbits(part.reshape(*part.shape[:2], -1), axis=-1) for part in batches(x)])
    simulator, last, parts = Simulator(backbone), len(backbone.layers) - 1, []
    for part in batches(x):
        for begin in range(0, len(part), CHUNK):
            s = simulator.run(part[begin : begin + CHUNK], {"s": [last]}).states["s"][last]
            parts.append(np.packbits(s.reshape(*s.shape[:2], -1).swapaxes(0, 1), axis=-1))
    return np.concatenate(parts)


def unpacked(tail: ChipNetwork, packed: np.ndarray) -> np.ndarray:
    """Return packed spikes as the input ``(n, T, *input_shape)`` of a network."""
    spikes = np.unpackbits(packed, axis=-1, count=tail.input_size)
    return spikes.reshape(len(packed), tail.num_steps, *tail.input_shape)


def predictions(tail: ChipNetwork, packed: np.ndarray) -> np.ndarray:
    """Return the classes that a network gives to packed spikes, with the exact simulator."""
    parts = (unpacked(tail, packed[begin : begin + CHUNK]) for begin in range(0, len(packed), CHUNK))
    return Simulator(tail).run(parts).predictions


def _check_phases(chip: ChipNetwork, c: Connection) -> None:
    """In an epoch a spike arrives one phase after it was sent, for this time step or, recurrent, for the next one."""
    if c.delay or chip.logical_delay(c) > 1:
        raise ChipError(
            f"{c.label}: delay {c.delay}, {chip.logical_delay(c)} time steps; before layers that learn a "
            "connection takes one step on the chip, to the next layer or to its own"
        )

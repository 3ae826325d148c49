"""From plastic connections to inference weights, and back. Every changed weight is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.network import ChipNetwork, Connection, Dense, Sparse

from ottt_loihi.errors import UsageError

DOUBLING_LIMIT = 127  # up to here a learning weight fits into 8 inference bits without loss


@dataclass(frozen=True)
class ConvertedConnection:
    """The changes of one converted connection."""

    label: str
    weights: int  # their number
    changed: int  # number of weights that stand for another number now
    doubled: bool  # w became 2w with half the exponent's factor, which is exact


@dataclass(frozen=True)
class Converted:
    """The inference network, and one report per plastic connection."""

    chip: ChipNetwork
    connections: tuple[ConvertedConnection, ...]

    @property
    def changed(self) -> int:
        """Return the number of weights whose value has changed."""
        return sum(c.changed for c in self.connections)


Layers = Sequence[int | str]


def to_inference(chip: ChipNetwork, layers: Layers | None = None) -> Converted:
    """Turn every ``learning9`` connection into an ``inference8`` one, or those into some layers, by index or name.

    Where all weights are within −128 … 127 they are doubled and the exponent is lowered by one: nothing changes.
    Elsewhere odd weights go to the neighbour that is a multiple of 4, half of them up and half down, and +255 to 254.
    Raises :class:`UsageError` for a layer that is not there or has no plastic connection.
    """
    chosen = _chosen(chip, layers, "learning9", "plastic", (Dense, Sparse))
    done = {id(c): _to_inference(c) for c in chip.connections if c.weight_format == "learning9" and c.post in chosen}
    connections = tuple(done[id(c)][0] if id(c) in done else c for c in chip.connections)
    return Converted(replace(chip, connections=connections), tuple(report for _, report in done.values()))


def make_plastic(
    chip: ChipNetwork, headroom: bool = False, layers: Layers | None = None, sparse: bool = False
) -> ChipNetwork:
    """Turn every dense ``inference8`` connection into a ``learning9`` one that computes exactly the same.

    sparse: sparse connections as well, whose synapses learn and whose other weights stay 0; always where a network has
    no dense ones. Otherwise a sparse connection is taken for a fixed one, such as a pooling.

    layers: only those into these layers, by index or name; what may stay frozen are the first layers of a network
    (``onchip/network/backbone.py``).

    Quantised weights reach up to 254, and the largest cannot grow. With ``headroom`` even weights are halved and the
    exponent is raised by one, which gives all of them as much room again, in steps twice as coarse. Off by default:
    few weights are near the end, and finer steps learn better (digits upside down, two epochs: 90.8 % against 88.9 %).

    Raises :class:`UsageError` for a layer that is not there or has no such connection.
    """
    sparse = sparse or not any(isinstance(c, Dense) for c in chip.connections)
    kinds, what = ((Dense, Sparse), "dense or sparse inference") if sparse else ((Dense,), "dense inference")
    chosen = _chosen(chip, layers, "inference8", what, kinds)
    connections: list[Connection] = []
    for c in chip.connections:
        if isinstance(c, kinds) and c.weight_format == "inference8" and c.post in chosen:
            halved = headroom and not (c.weight % 2).any() and c.weight_exp < 7
            c = replace(
                c,
                weight=c.weight // 2 if halved else c.weight,
                weight_exp=c.weight_exp + halved,
                num_weight_bits=8,
                weight_format="learning9",
            )
        connections.append(c)
    return replace(chip, connections=tuple(connections))


def _chosen(
    chip: ChipNetwork, layers: Layers | None, weight_format: str, kind: str, classes: tuple[type, ...]
) -> set[int]:
    """Indices of the layers meant."""
    if layers is None:
        return set(range(len(chip.layers)))
    found = {chip.place(layer, "layers") for layer in layers}
    for index in sorted(found):
        if not any(isinstance(c, classes) and c.weight_format == weight_format for c in chip.inputs_of(index)):
            raise UsageError(f"layers: layer[{index}] ({chip.layers[index].name}) has no {kind} connection into it")
    return found


def _to_inference(c: Connection) -> tuple[Connection, ConvertedConnection]:
    doubled = bool(np.abs(2 * c.weight + 1).max() <= 2 * DOUBLING_LIMIT + 1 and c.weight_exp > -8)
    wanted = 2 * c.weight if doubled else c.weight
    usable = arithmetic.truncate_weight(_even(wanted))  # −256 in a purely inhibitory connection becomes −255
    exponent = c.weight_exp - doubled
    inference = replace(c, weight=usable, weight_exp=exponent, num_weight_bits=8, weight_format="inference8")
    return inference, ConvertedConnection(c.label, c.weight.size, int((usable != wanted).sum()), doubled)


def _even(weight: np.ndarray) -> np.ndarray:
    """Odd weights to the neighbouring multiple of 4, but never above 254."""
    neighbour = np.where(weight % 4 == 1, weight - 1, weight + 1)
    return np.minimum(np.where(weight % 2 == 0, weight, neighbour), 254)

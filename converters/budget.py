"""What a network uses on a chip, under one simple partitioning.

Each layer is cut into equal shares of neurons, one share a core, in as few cores as its compartments, incoming axons,
outgoing axons and synapse memory allow. A core receives one axon from every neuron that projects into the layer; a
neuron needs one outgoing axon for every core it projects to. The synapses of a dense axon lie in entries of up to 64::

    bits(n) = roundup64( n·(weight bits + delay bits + index bits) + 10 )

with index bits only where an axon does not reach every neuron (diagonal, sparse, convolution). Sparse synapses are
taken as spread evenly. A convolution keeps its kernel once a core, as the shared weights of Loihi 1's populations do:
one list for every input channel and phase of the stride. Its cores are tiles of whole rows, all channels of a position
on one core, and receive axons from the tile's receptive field only. The numbers are Loihi 1's (``limits.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ottt_loihi.converters import limits
from ottt_loihi.sim.network import ChipNetwork, Connection, Conv, Dense, Diagonal, Sparse

from ottt_loihi.errors import ChipError


@dataclass(frozen=True)
class LayerBudget:
    """One layer: neurons, synapses, synapse_bits (whole layer), cores, and each resource's use per core, 0 … 1."""

    name: str
    neurons: int
    synapses: int
    synapse_bits: int
    cores: int
    used: dict[str, float]


@dataclass(frozen=True)
class Budget:
    """All layers; ``cores`` and ``chips`` are sums; ``latency_steps``: from first frame to last output step."""

    layers: tuple[LayerBudget, ...]
    cores: int
    chips: int
    latency_steps: int


def budget(chip: ChipNetwork) -> Budget:
    """Count cores layer by layer, the last first, since a layer's outgoing axons depend on its targets' cores.

    Raises :class:`ChipError` if a layer cannot be cut small enough.
    """
    cores: dict[int, int] = {}
    layers = {}
    for index in reversed(range(len(chip.layers))):
        layers[index] = _layer(chip, index, cores)
        cores[index] = layers[index].cores
    ordered = tuple(layers[index] for index in range(len(chip.layers)))
    total = sum(layer.cores for layer in ordered)
    return Budget(ordered, total, math.ceil(total / limits.CORES_PER_CHIP), chip.num_steps + len(chip.layers))


def _layer(chip: ChipNetwork, index: int, cores_of: dict[int, int]) -> LayerBudget:
    """The smallest number of cores that holds the layer."""
    size = chip.size(index)
    inputs = chip.inputs_of(index)
    for cores in range(1, size + 1):
        share = math.ceil(size / cores)
        use = {
            "compartments": share / limits.COMPARTMENTS_PER_CORE,
            "incoming axons": _in_axons(chip, inputs, share) / limits.IN_AXONS_PER_CORE,
            "outgoing axons": share * _targets(chip, index, cores_of, cores) / limits.OUT_AXONS_PER_CORE,
            "synapse memory": sum(_bits(chip, c, share) for c in inputs) / limits.SYNAPSE_BITS_PER_CORE,
        }
        if max(use.values()) <= 1:
            return LayerBudget(
                name=chip.layers[index].name,
                neurons=size,
                synapses=sum(c.weight.size for c in inputs),
                synapse_bits=cores * sum(_bits(chip, c, share) for c in inputs),
                cores=cores,
                used=use,
            )
    worst = max(use, key=use.__getitem__)
    raise ChipError(
        f"layer[{index}] ({chip.layers[index].name}): one neuron alone takes {use[worst]:.1f} times a core's {worst}; "
        "make the layers around it smaller"
    )


def _in_axons(chip: ChipNetwork, inputs: tuple[Connection, ...], share: int) -> int:
    return sum(_axons(chip, c, share) for c in inputs)


def _axons(chip: ChipNetwork, c: Connection, share: int) -> int:
    """Axons that a connection brings to a core with ``share`` of the postsynaptic neurons."""
    if isinstance(c, Diagonal):
        return share
    if isinstance(c, Sparse):
        return min(len(np.unique(c.columns)), math.ceil(c.weight.size * share / c.shape[0]))
    return _receptive_field(c, share) if isinstance(c, Conv) else chip.size(c.pre)


def _receptive_field(c: Conv, share: int) -> int:
    """Input neurons that a tile of ``share`` neurons sees."""
    channels, _, width = c.output_shape
    positions = math.ceil(share / channels)
    tile = (math.ceil(positions / width), min(positions, width))
    seen = [
        min((n - 1) * s + d * (k - 1) + 1, size)
        for n, s, d, k, size in zip(tile, c.stride, c.dilation, c.weight.shape[2:], c.input_shape[1:])
    ]
    return c.input_shape[0] * math.prod(seen)


def _targets(chip: ChipNetwork, index: int, cores_of: dict[int, int], own: int) -> int:
    """Cores one neuron of the layer sends to; 1 at least, the output's reader."""
    targets = 0
    for c in chip.connections:
        if c.pre == index:
            cores = own if c.post == index else cores_of.get(c.post, 1)
            targets += min(_reach(c), cores)
    return max(targets, 1)


def _reach(c: Connection) -> int:
    """Neurons, or positions of a convolution, that one presynaptic neuron reaches at most."""
    if isinstance(c, Diagonal):
        return 1
    if isinstance(c, Sparse):
        return int(np.bincount(c.columns).max())
    if isinstance(c, Conv):
        return math.prod(math.ceil(k / s) for k, s in zip(c.weight.shape[2:], c.stride))
    return c.shape[0]


def _bits(chip: ChipNetwork, c: Connection, share: int) -> int:
    """Synapse memory of one core's share of a connection."""
    axons, fan_out = _entries(chip, c, share)
    index_bits = 0 if isinstance(c, Dense) else math.ceil(math.log2(max(share, 2)))
    per_synapse = c.num_weight_bits + (limits.DELAY_BITS if c.delay else 0) + index_bits
    whole, rest = divmod(fan_out, limits.SYNAPSES_PER_ENTRY)
    entries = [limits.SYNAPSES_PER_ENTRY] * whole + ([rest] if rest else [])
    words = sum(math.ceil((n * per_synapse + limits.ENTRY_HEADER_BITS) / limits.ENTRY_WORD_BITS) for n in entries)
    return axons * words * limits.ENTRY_WORD_BITS


def _entries(chip: ChipNetwork, c: Connection, share: int) -> tuple[int, int]:
    """(lists of synapses that a core holds, synapses in each of them)."""
    axons = _axons(chip, c, share)
    if isinstance(c, Diagonal):
        return axons, 1
    if isinstance(c, Sparse):
        return axons, math.ceil(c.weight.size * share / c.shape[0] / axons)
    if isinstance(c, Conv):
        return c.weight.shape[1] * math.prod(c.stride), c.weight.shape[0] * _reach(c)
    return axons, share

"""What a network uses on a chip, under one simple partitioning.

Each layer is cut into equal shares of neurons, one share a core, in as few cores as its compartments, incoming axons,
outgoing axons and synapse memory allow. A core receives one axon from every neuron that projects into the layer; a
neuron needs one outgoing axon for every core it projects to. The synapses of a dense axon lie in entries of up to 64::

    bits(n) = roundup64( n·(weight bits + delay bits + index bits) + 10 )

with index bits only for sparse (diagonal) connections. The numbers are Loihi 1's (``limits.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ottt_loihi.converters import limits
from ottt_loihi.sim.network import ChipNetwork, Connection, Diagonal

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
    return sum(share if isinstance(c, Diagonal) else chip.size(c.pre) for c in inputs)


def _targets(chip: ChipNetwork, index: int, cores_of: dict[int, int], own: int) -> int:
    """Cores one neuron of the layer sends to; 1 at least, the output's reader."""
    targets = 0
    for c in chip.connections:
        if c.pre == index:
            cores = own if c.post == index else cores_of.get(c.post, 1)
            targets += 1 if isinstance(c, Diagonal) else cores
    return max(targets, 1)


def _bits(chip: ChipNetwork, c: Connection, share: int) -> int:
    """Synapse memory of one core's share of a connection."""
    fan_out = 1 if isinstance(c, Diagonal) else share
    axons = share if isinstance(c, Diagonal) else chip.size(c.pre)
    index_bits = math.ceil(math.log2(max(share, 2))) if isinstance(c, Diagonal) else 0
    per_synapse = c.num_weight_bits + (limits.DELAY_BITS if c.delay else 0) + index_bits
    whole, rest = divmod(fan_out, limits.SYNAPSES_PER_ENTRY)
    entries = [limits.SYNAPSES_PER_ENTRY] * whole + ([rest] if rest else [])
    words = sum(math.ceil((n * per_synapse + limits.ENTRY_HEADER_BITS) / limits.ENTRY_WORD_BITS) for n in entries)
    return axons * words * limits.ENTRY_WORD_BITS

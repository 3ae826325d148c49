"""The resources that a network uses on a chip, under one simple partitioning.

Each layer is cut into equal shares of neurons, one share a core, in as few cores as its compartments, incoming axons,
outgoing axons, synapse memory and, where neurons have thresholds of their own, different thresholds allow; then a share
is of neurons with neighbouring thresholds. A core receives one axon from every neuron that projects into the layer; a
neuron needs one outgoing axon for every core it projects to. The synapses of a dense axon lie in entries of up to 64::

    bits(n) = roundup64( n·(weight bits + delay bits + index bits) + 10 )

with index bits only where an axon does not reach every neuron (diagonal, sparse, convolution). Sparse synapses are
taken as spread evenly. A convolution keeps its kernel once a core, as the shared weights of Loihi 1's populations do:
one list for every input channel and phase of the stride. Its cores are tiles of whole rows, all channels of a position
on one core, and receive axons from the tile's receptive field only. The numbers are those of
``limits.py``; Loihi 2's own layout is not public, so its cores are counted with Loihi 1's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ottt_loihi.converters.limits import (
    ACTIVE_NEURON_UPDATE_PJ,
    DELAY_BITS,
    ENTRY_HEADER_BITS,
    ENTRY_WORD_BITS,
    INACTIVE_NEURON_UPDATE_PJ,
    LEARNING_AXON_SLOTS,
    LOIHI2,
    SYNAPSES_PER_ENTRY,
    SYNAPTIC_OPERATION_PJ,
    Limits,
    Violation,
)
from ottt_loihi.converters.registers import Misfit, misfits
from ottt_loihi.sim.network import INPUT, ChipNetwork, Connection, Conv, Dense, Diagonal, Sparse

from ottt_loihi import checks
from ottt_loihi.errors import ChipError

REMEDIES = {
    "compartments": "make the layer smaller",
    "incoming_axons": "pool or stride more before it, or make the layer before it smaller",
    "outgoing_axons": "make the layers after it smaller, so that they take fewer cores",
    "synapse_bits": "use fewer weight bits, or make the layer before it smaller",
    "thresholds": "export with --thresholds layer",
}


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
    """All layers; ``cores`` and ``chips`` are sums; ``latency_steps``: from first frame to last output step.

    ``registers``: values that the neurons' registers may not hold, which fails nothing: Lava takes them.
    """

    target: str
    layers: tuple[LayerBudget, ...]
    cores: int
    chips: int
    latency_steps: int
    violations: tuple[Violation, ...] = ()
    registers: tuple[Misfit, ...] = ()

    def raise_if_broken(self) -> None:
        """Raise :class:`ChipError` with every violation of a published limit."""
        broken = [str(v) for v in self.violations if v.fatal]
        if broken:
            raise ChipError(f"does not fit on {self.target}: {'; '.join(broken)}")


@dataclass(frozen=True)
class Activity:
    """The cost of one sample, averaged over ``samples`` of them.

    Attributes
    ----------
    spikes, synaptic_operations
        of all layers and the input
    energy_nj
        an estimate from Loihi 1's published energies per synaptic operation and neuron update (``limits.py``), without
        routing, leakage and the host
    """

    samples: int
    spikes: float
    synaptic_operations: float
    energy_nj: float


def budget(chip: ChipNetwork, limits: Limits = LOIHI2) -> Budget:
    """Count cores layer by layer, the last first, since a layer's outgoing axons depend on its targets' cores."""
    checks.instance(limits, "limits", Limits)
    checks.instance(chip, "chip", ChipNetwork)
    cores: dict[int, int] = {}
    layers: dict[int, LayerBudget] = {}
    violations: list[Violation] = []
    for index in reversed(range(len(chip.layers))):
        layers[index], broken = _layer(chip, index, cores, limits)
        cores[index] = layers[index].cores
        violations = broken + violations
    ordered = tuple(layers[index] for index in range(len(chip.layers)))
    total = sum(layer.cores for layer in ordered)
    chips = math.ceil(total / limits.cores_per_chip)
    latency = chip.num_steps + len(chip.layers)
    return Budget(limits.name, ordered, total, chips, latency, tuple(violations), misfits(chip, limits))


def activity(chip: ChipNetwork, input_spikes: int, layer_spikes: Sequence[int], samples: int) -> Activity:
    """Synaptic operations: a spike costs its source's average fan-out; every neuron is updated at every step."""
    sent = {INPUT: input_spikes} | dict(enumerate(layer_spikes))
    operations = sum(sent[c.pre] * synapses(c) / chip.size(c.pre) for c in chip.connections)
    fired = sum(layer_spikes)
    updates = samples * chip.num_steps * sum(layer.size for layer in chip.layers)
    picojoules = (
        operations * SYNAPTIC_OPERATION_PJ
        + fired * ACTIVE_NEURON_UPDATE_PJ
        + (updates - fired) * INACTIVE_NEURON_UPDATE_PJ
    )
    spikes = input_spikes + fired
    return Activity(samples, spikes / samples, operations / samples, picojoules / 1000 / samples)


def synapses(c: Connection) -> int:
    """Return the number of synapses of a connection; those of a convolution count at every position."""
    return c.weight.size * math.prod(c.output_shape[1:]) if isinstance(c, Conv) else c.weight.size


def _layer(
    chip: ChipNetwork, index: int, cores_of: dict[int, int], limits: Limits
) -> tuple[LayerBudget, list[Violation]]:
    """Return what a layer uses, on the fewest cores that hold it, and the limits that no number of cores keeps."""
    inputs, size = chip.inputs_of(index), chip.size(index)
    allowed = {name: getattr(limits, name) for name in _needs(chip, index, 1, cores_of)}
    cores, needs = _smallest(chip, index, cores_of, allowed)
    name = chip.layers[index].name
    found = LayerBudget(
        name=name,
        neurons=size,
        synapses=sum(c.weight.size for c in inputs),
        synapse_bits=cores * needs["synapse_bits"],
        cores=cores,
        used={limit.replace("_", " "): needs[limit] / allowed[limit] for limit in needs},
    )
    broken = [
        Violation(name, limit, needs[limit], allowed[limit], REMEDIES[limit], limit not in limits.assumed)
        for limit in needs
        if needs[limit] > allowed[limit]
    ]
    return found, broken


def _smallest(
    chip: ChipNetwork, index: int, cores_of: dict[int, int], allowed: Mapping[str, int]
) -> tuple[int, dict[str, int]]:
    """Return the fewest cores that keep the limits, and the load of each; limits that no number keeps are left out."""
    tried = []
    for cores in _candidates(chip.size(index)):
        tried.append((cores, _needs(chip, index, cores, cores_of)))
        if all(tried[-1][1][name] <= most for name, most in allowed.items()):
            return tried[-1]
    kept = [name for name, most in allowed.items() if any(needs[name] <= most for _, needs in tried)]
    fitting = (pair for pair in tried if all(pair[1][name] <= allowed[name] for name in kept))
    return next(fitting, tried[-1])


def _candidates(size: int) -> Iterator[int]:
    """Yield the numbers of cores to try: the smallest one for each number of neurons on a core."""
    share = size + 1
    while share > 1:
        cores = math.ceil(size / (share - 1))
        share = math.ceil(size / cores)
        yield cores


def _needs(chip: ChipNetwork, index: int, cores: int, cores_of: dict[int, int]) -> dict[str, int]:
    """Return the load of each core when the layer is on ``cores`` cores."""
    share, inputs = math.ceil(chip.size(index) / cores), chip.inputs_of(index)
    found = {
        "compartments": share,
        "incoming_axons": sum(_in_axons(chip, c, share) for c in inputs),
        "outgoing_axons": share * _targets(chip, index, cores_of, cores),
        "synapse_bits": sum(_bits(chip, c, share) for c in inputs),
    }
    if isinstance(chip.layers[index].vth, np.ndarray):
        found["thresholds"] = _thresholds(chip, index, share)
    return found


def _thresholds(chip: ChipNetwork, index: int, share: int) -> int:
    """Return the number of different thresholds on a core; behind a convolution each core has those of all channels."""
    values = np.sort(chip.layers[index].thresholds)
    if any(isinstance(c, Conv) for c in chip.inputs_of(index)):
        share = len(values)
    return max(len(np.unique(values[begin : begin + share])) for begin in range(0, len(values), share))


def _in_axons(chip: ChipNetwork, c: Connection, share: int) -> int:
    """Return the slots of incoming axons on a core; a learning connection takes two for each axon."""
    return _axons(chip, c, share) * (LEARNING_AXON_SLOTS if c.weight_format == "learning9" else 1)


def _axons(chip: ChipNetwork, c: Connection, share: int) -> int:
    """Return the axons that a connection brings to a core with ``share`` postsynaptic neurons."""
    if isinstance(c, Diagonal):
        return share
    if isinstance(c, Sparse):
        return min(c.sources, math.ceil(c.weight.size * share / c.shape[0]))
    return _receptive_field(c, share) if isinstance(c, Conv) else chip.size(c.pre)


def _receptive_field(c: Conv, share: int) -> int:
    """Return the number of input neurons that send to a tile of ``share`` neurons."""
    channels, _, width = c.output_shape
    positions = math.ceil(share / channels)
    tile = (math.ceil(positions / width), min(positions, width))
    seen = [
        min((n - 1) * s + d * (k - 1) + 1, size)
        for n, s, d, k, size in zip(tile, c.stride, c.dilation, c.weight.shape[2:], c.input_shape[1:])
    ]
    return c.input_shape[0] * math.prod(seen)


def _targets(chip: ChipNetwork, index: int, cores_of: dict[int, int], own: int) -> int:
    """Return the number of cores that a neuron of the layer sends to; at least 1, which reads the output."""
    targets = 0
    for c in chip.connections:
        if c.pre == index:
            cores = own if c.post == index else cores_of.get(c.post, 1)
            targets += min(_reach(c), cores)
    return max(targets, 1)


def _reach(c: Connection) -> int:
    """Return the largest number of neurons, or of positions of a convolution, that one presynaptic neuron sends to."""
    if isinstance(c, Diagonal):
        return 1
    if isinstance(c, Sparse):
        return int(np.bincount(c.columns).max())
    if isinstance(c, Conv):
        return math.prod(math.ceil(k / s) for k, s in zip(c.weight.shape[2:], c.stride))
    return c.shape[0]


def _bits(chip: ChipNetwork, c: Connection, share: int) -> int:
    """Return the synapse memory, in bits, of one core's part of a connection."""
    axons, fan_out = _entries(chip, c, share)
    index_bits = 0 if isinstance(c, Dense) else math.ceil(math.log2(max(share, 2)))
    per_synapse = c.num_weight_bits + (DELAY_BITS if c.delay else 0) + index_bits
    whole, rest = divmod(fan_out, SYNAPSES_PER_ENTRY)
    words = whole * _words(SYNAPSES_PER_ENTRY * per_synapse) + (_words(rest * per_synapse) if rest else 0)
    return axons * words * ENTRY_WORD_BITS


def _words(bits: int) -> int:
    return math.ceil((bits + ENTRY_HEADER_BITS) / ENTRY_WORD_BITS)


def _entries(chip: ChipNetwork, c: Connection, share: int) -> tuple[int, int]:
    """Return the number of lists of synapses on a core, and of synapses in each of them."""
    axons = _axons(chip, c, share)
    if isinstance(c, Diagonal):
        return axons, 1
    if isinstance(c, Sparse):
        return axons, math.ceil(c.weight.size * share / c.shape[0] / axons)
    if isinstance(c, Conv):
        return c.weight.shape[1] * math.prod(c.stride), c.weight.shape[0] * _reach(c)
    return axons, share

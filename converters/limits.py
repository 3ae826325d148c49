"""The chips' limits as named constants, each with its source, and the violations that break them.

Loihi 1's numbers are from nengo-loihi's published model of the chip (``validate.py``, ``builder/``). Of Loihi 2 there
are public overviews; neither the layout of its synapse memory nor its axon limits are in them. They are assumed to be
Loihi 1's, and to break an assumed limit is a warning, not an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

SYNAPSES_PER_ENTRY = 64  # Loihi 1, nengo-loihi: one header for up to so many synapses of an axon
ENTRY_HEADER_BITS = 10  # Loihi 1, nengo-loihi
ENTRY_WORD_BITS = 64  # Loihi 1, nengo-loihi: an entry is rounded up to whole words
DELAY_BITS = 6  # Lava's dense models: delays of 0 to 63 steps
LEARNING_AXON_SLOTS = 2  # Loihi 1, nengo-loihi: a learning synapse takes twice the incoming axons

# Davies et al., "Loihi: A Neuromorphic Manycore Processor with On-Chip Learning", IEEE Micro 2018, table of Loihi 1
SYNAPTIC_OPERATION_PJ = 23.6
ACTIVE_NEURON_UPDATE_PJ = 81.0
INACTIVE_NEURON_UPDATE_PJ = 52.0


@dataclass(frozen=True)
class Limits:
    """The capacity of a chip, a neuro core and a neuron's registers; ``assumed`` names limits that are not public."""

    name: str
    cores_per_chip: int
    compartments: int
    incoming_axons: int
    outgoing_axons: int
    synapse_bits: int
    thresholds: int
    decay_bits: int = 12  # nengo-loihi: DECAY_U_MAX = DECAY_V_MAX = 4095
    bias_bits: int = 13  # Lava's LIF: mantissa and sign
    threshold_bits: int = 17  # Lava's LIF
    assumed: tuple[str, ...] = ()

    def overridden(self, values: Mapping[str, int]) -> Limits:
        """Return these limits with some replaced; a limit that is set explicitly is no longer assumed."""
        known = [f.name for f in fields(self) if f.type == "int"]
        for name, value in values.items():
            if name not in known:
                raise UsageError(f"limit {name!r}: expected one of {', '.join(known)}")
            checks.integer(value, f"limit {name}", 1, 30 if name.endswith("_bits") and name != "synapse_bits" else None)
        return replace(self, **values, assumed=tuple(name for name in self.assumed if name not in values))


LOIHI1 = Limits(
    "loihi1",
    cores_per_chip=128,  # public overviews
    compartments=1024,  # nengo-loihi
    incoming_axons=4096,  # nengo-loihi
    outgoing_axons=4096,  # nengo-loihi
    synapse_bits=1_048_576,  # nengo-loihi
    thresholds=8,  # nengo-loihi (MAX_VTH_CFGS): different ones on a core
)
LOIHI2 = Limits(
    "loihi2",
    cores_per_chip=128,  # public overviews
    compartments=8192,  # public overviews: up to
    incoming_axons=4096,  # not public, Loihi 1's
    outgoing_axons=4096,  # not public, Loihi 1's
    synapse_bits=192 * 8192,  # 192 KB a core after Intel's technology brief, unconfirmed, and shared with other uses
    thresholds=8192,  # not public; microcode neurons may have one each, Lava's LIF documents one a population
    assumed=("incoming_axons", "outgoing_axons", "synapse_bits", "thresholds"),
)
TARGETS = {limits.name: limits for limits in (LOIHI1, LOIHI2)}


@dataclass(frozen=True)
class Violation:
    """A limit that a layer breaks: the need on one core, the limit, and the remedy; ``fatal``: not only assumed."""

    layer: str
    limit: str
    used: int
    allowed: int
    remedy: str
    fatal: bool

    def __str__(self) -> str:
        word = "allowed are" if self.fatal else "assumed are"
        used = f"{self.used:,} {self.limit.replace('_', ' ')}"
        return f"{self.layer}: {used} on a core, {word} {self.allowed:,}; {self.remedy}"

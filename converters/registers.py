"""Find register values that a chip cannot hold, and fit a network to the registers.

Lava's CPU models take ``dv = 4096`` (v forgets everything) and ``du = −1`` (u is kept for ever). The chip's decays have
12 bits, 0 … 4095 (nengo-loihi: ``DECAY_U_MAX``, ``DECAY_V_MAX``): with ``dv = 4095`` v keeps 1/4096 of itself, which
moves a spike now and then. No value is near ``du = −1``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from ottt_loihi.converters.limits import Limits
from ottt_loihi.sim.network import LIF, ChipNetwork

from ottt_loihi import sim
from ottt_loihi.errors import ChipError

BATCH = 64  # samples whose spikes are kept at once


@dataclass(frozen=True)
class Misfit:
    """A value that a register of the chip may not hold.

    Attributes
    ----------
    register
        ``du``, ``dv``, ``bias_mant`` or ``vth``
    value
        the one furthest outside
    lowest, highest
        what the register holds
    layers
        names of the layers that have such a value
    """

    register: str
    value: int
    lowest: int
    highest: int
    layers: tuple[str, ...]

    def __str__(self) -> str:
        where = ", ".join(self.layers)
        return f"{self.register} = {self.value:,} ({where}); the register holds {self.lowest:,} … {self.highest:,}"


@dataclass(frozen=True)
class Fitted:
    """The changes that make a network keep to the registers.

    Attributes
    ----------
    changes
        register → names of the layers where it has another value now
    samples
        that were compared; 0 where there were none
    spikes
        of all layers in these samples, before
    changed_spikes
        places and steps at which only one of the two networks fires
    changed_predictions
        samples with another prediction
    """

    changes: dict[str, tuple[str, ...]]
    samples: int = 0
    spikes: int = 0
    changed_spikes: int = 0
    changed_predictions: int = 0

    def __str__(self) -> str:
        where = "; ".join(f"{name} = 4095 for 4096 in {', '.join(layers)}" for name, layers in self.changes.items())
        if not where:
            return "registers: nothing had to change"
        if not self.samples:
            return f"registers: {where}; no samples to count changed spikes on"
        return (
            f"registers: {where}; {self.changed_spikes:,} of {self.spikes:,} spikes and "
            f"{self.changed_predictions:,} of {self.samples:,} predictions changed"
        )


def misfits(chip: ChipNetwork, limits: Limits) -> tuple[Misfit, ...]:
    """Return the values that the chip's registers may not hold, one entry each, without the host's layer."""
    found = []
    for register, (lowest, highest) in _ranges(limits).items():
        extremes = [
            (value, layer.name) for layer in chip.layers for value in _outside(layer, register, lowest, highest)
        ]
        if extremes:
            worst, _ = max(extremes, key=lambda extreme: max(lowest - extreme[0], extreme[0] - highest))
            found.append(Misfit(register, worst, lowest, highest, tuple(name for _, name in extremes)))
    return tuple(found)


def fit(chip: ChipNetwork, limits: Limits) -> tuple[ChipNetwork, Fitted]:
    """Return the network with ``dv = 4096`` replaced by the largest decay that the chip holds, and what changed.

    Raises
    ------
    ChipError
        for every value that no value of the register stands for, such as ``du = −1``
    """
    highest = _ranges(limits)["dv"][1]
    layers = tuple(replace(layer, dv=highest) if layer.dv == highest + 1 else layer for layer in chip.layers)
    changed = tuple(a.name for a, b in zip(chip.layers, layers) if a.dv != b.dv)
    fitted = replace(chip, layers=layers)
    if left := misfits(fitted, limits):
        advice = "; du = −1 comes from --input inject, so export with --input graded, or bias" if _keeps_u(left) else ""
        raise ChipError(f"the chip's registers: {'; '.join(map(str, left))}{advice}")
    return fitted, Fitted({"dv": changed} if changed else {})


def count(fitted: Fitted, before: ChipNetwork, after: ChipNetwork, x: np.ndarray) -> Fitted:
    """Return ``fitted`` with the differences on samples added; ``x`` as for :func:`ottt_loihi.sim.run`."""
    spikes = changed_spikes = changed_predictions = 0
    for start in range(0, len(x), BATCH):
        a, b = (sim.run(chip, x[start : start + BATCH], record=("s",)) for chip in (before, after))
        spikes += int(np.sum(a.spike_counts))
        changed_spikes += sum(int((s != t).sum()) for s, t in zip(a.states["s"], b.states["s"]))
        changed_predictions += int((a.predictions != b.predictions).sum())
    return replace(
        fitted,
        samples=len(x),
        spikes=spikes,
        changed_spikes=changed_spikes,
        changed_predictions=changed_predictions,
    )


def _keeps_u(found: tuple[Misfit, ...]) -> bool:
    return any(misfit.register == "du" and misfit.value < 0 for misfit in found)


def _ranges(limits: Limits) -> dict[str, tuple[int, int]]:
    decay, bias = 2**limits.decay_bits, 2 ** (limits.bias_bits - 1)
    return {
        "du": (0, decay - 1),
        "dv": (0, decay - 1),
        "bias_mant": (-bias, bias - 1),
        "vth": (0, 2**limits.threshold_bits - 1),
    }


def _outside(layer: LIF, register: str, lowest: int, highest: int) -> list[int]:
    """Return a list of the layer's value that is furthest outside; empty if none is."""
    values = np.asarray(getattr(layer, register), np.int64)
    low, high = int(values.min()), int(values.max())
    if lowest <= low and high <= highest:
        return []
    return [low if lowest - low >= high - highest else high]

"""A network as a chip can run it without the host: its registers, its readout, its start; and what that changes.

* **Registers.** Decays keep to the chip's 12 bits (``converters/registers.py``).
* **Readout.** ``sum_v`` of a readout without memory needs v at every step. With ``dv = 0`` the neuron adds up itself:
  its last v *is* the sum, as long as that stays inside 24 bits. One read a sample, the same scores.
* **Start.** A layer that begins with a current of its own (a bias with ``reset="subtract"``) begins with 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from ottt_loihi.converters import registers
from ottt_loihi.converters.lava.stream import expected, make_stream, why_exact
from ottt_loihi.converters.limits import LOIHI2, Limits
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.inference.reference import check_input
from ottt_loihi.sim.network import LIF, ChipNetwork, Connection, Conv

from ottt_loihi import sim
from ottt_loihi.errors import ChipError

HEADROOM = 2  # a sum may become so many times larger than on the samples that were looked at
STREAMED = 20  # samples whose stream is compared with separate ones: that oracle is slow


@dataclass(frozen=True)
class Prepared:
    """A network as a backend runs it.

    Attributes
    ----------
    chip
        the network
    notes
        what is different from the network that was given, a line each
    samples
        that the two were compared on; 0 where there were none
    changed_spikes, changed_predictions
        of these samples, of all layers but the readout
    """

    chip: ChipNetwork
    notes: tuple[str, ...] = ()
    samples: int = 0
    changed_spikes: int = 0
    changed_predictions: int = 0


def prepare(
    chip: ChipNetwork, x: np.ndarray | None = None, interval: int | None = None, limits: Limits = LOIHI2
) -> Prepared:
    """Return the network that runs on a chip without the host, and count on samples what that changes.

    Parameters
    ----------
    chip
        any network of inference weights
    x
        samples, as for :func:`ottt_loihi.sim.run`; without them nothing is counted
    interval
        steps between two resets; default T
    limits
        of the chip

    Raises
    ------
    ChipError
        for registers that no other value stands for, and a readout that cannot add up in 24 bits
    """
    after, notes = _accumulated(chip, x)
    after, started = _from_zero(after)
    after, fitted = registers.fit(after, limits)
    notes += started
    notes += tuple(
        f"registers: {name} = {value} for {value + 1} in {', '.join(layers)}"
        for name, layers in fitted.changes.items()
        for value in [2**limits.decay_bits - 1]
    )
    spikes = changed_spikes = changed_predictions = 0
    if x is not None:
        for start in range(0, len(x), registers.BATCH):
            a, b = (sim.run(network, x[start : start + registers.BATCH], record=("s",)) for network in (chip, after))
            spikes += int(a.spike_counts[:-1].sum())
            changed_spikes += sum(int((s != t).sum()) for s, t in zip(a.states["s"][:-1], b.states["s"][:-1]))
            changed_predictions += int((a.predictions != b.predictions).sum())
        counts = f"{changed_spikes:,} of {spikes:,} spikes and {changed_predictions:,} of {len(x):,} predictions"
        notes += (f"changed by all that: {counts}",) if notes else ()
    notes += (_isolation(after, x, interval),)
    return Prepared(after, notes, 0 if x is None else len(x), changed_spikes, changed_predictions)


def _accumulated(chip: ChipNetwork, x: np.ndarray | None) -> tuple[ChipNetwork, tuple[str, ...]]:
    """Return the network with a readout that adds up v over a sample, and a note about it."""
    readout = chip.layers[-1]
    if chip.readout == "max_v":
        raise ChipError(
            f"{readout.name}: the largest v needs v at every step, and the host reads a chip once for each sample; the "
            "nearest is a readout of the last v"
        )
    if chip.readout != "sum_v":
        return chip, ()
    last = len(chip.layers) - 1
    if (readout.du, readout.dv) != (4095, arithmetic.DECAY_UNITY) or any(c.pre == last for c in chip.connections):
        raise ChipError(
            f"{readout.name}: the sum of v over a sample needs v at every step, and the host reads a chip once for "
            "each sample; a chip adds v up only if the readout has no memory (du = 4095, dv = 4096) and sends to "
            f"no layer; got du = {readout.du} and dv = {readout.dv}"
        )
    shift = 0 if x is None else _bits_too_many(chip, x)
    layer = replace(readout, dv=0)
    connections = chip.connections
    note = "readout: v adds up over a sample (dv = 0) and is read once in place of at every step; the same scores"
    if shift:
        layer = replace(layer, **_shifted_bias(readout, shift))
        connections = tuple(_shifted(c, shift) if c.post == last else c for c in connections)
        note = (
            "readout: v adds up over a sample (dv = 0) and is read once in place of at every step; weights and bias "
            f"are divided by {2**shift}, rounded down, because the sums would leave 24 bits"
        )
    return replace(chip, layers=(*chip.layers[:-1], layer), connections=connections, readout="last_v"), (note,)


def _bits_too_many(chip: ChipNetwork, x: np.ndarray) -> int:
    """Return how many bits the sums of the readout need more than v has, on these samples and with some headroom."""
    largest, last = 0, len(chip.layers) - 1
    for start in range(0, len(x), registers.BATCH):
        v = sim.run(chip, x[start : start + registers.BATCH], {"v": [last]}).states["v"][last]
        largest = max(largest, int(np.abs(v.astype(np.int64).cumsum(axis=0)).max()))
    limit = arithmetic.VTH_MAX << arithmetic.STATE_SHIFT
    return max(0, (HEADROOM * largest // limit).bit_length())


def _shifted(c: Connection, shift: int) -> Connection:
    if isinstance(c, Conv) or c.weight_exp - shift < -8:
        raise ChipError(
            f"{c.label}: the readout's sums leave 24 bits by {shift} bit(s), and its weight exponent cannot be lowered "
            "by as many; use fewer time steps"
        )
    return replace(c, weight_exp=c.weight_exp - shift)


def _shifted_bias(layer: LIF, shift: int) -> dict[str, object]:
    down = max(0, shift - layer.bias_exp)
    return {"bias_exp": layer.bias_exp - shift + down, "bias_mant": np.asarray(layer.bias_mant) >> down}


def _from_zero(chip: ChipNetwork) -> tuple[ChipNetwork, tuple[str, ...]]:
    names = [layer.name for layer in chip.layers if layer.u_init.any()]
    layers = tuple(replace(layer, u_init=0) if layer.u_init.any() else layer for layer in chip.layers)
    note = f"start: u = 0 in {', '.join(names)}, in place of the current that a bias needs with reset by subtraction"
    return replace(chip, layers=layers), (note,) if names else ()


def _isolation(chip: ChipNetwork, x: np.ndarray | None, interval: int | None) -> str:
    """Return one line that says whether a sample of a stream changes the results of the next one."""
    stream = make_stream(chip, interval)
    silent = stream.period - chip.num_steps
    how = f"stream: a sample every {stream.period} steps, {silent} of them silent; "
    if why := why_exact(chip, stream):
        return f"{how}exact: {why}"
    if x is None:
        return f"{how}whether samples reach into the next one was not compared"
    few = x[:STREAMED]
    apart, together = sim.run(chip, few, ("s",)), expected(chip, check_input(chip, few), stream)
    different = sum(int((a != b).sum()) for a, b in zip(apart.states["s"], together.states["s"]))
    predictions = int((apart.predictions != together.predictions).sum())
    return (
        f"{how}compared with separate samples: {different:,} spikes and {predictions:,} predictions of {len(few):,} "
        "samples differ"
    )

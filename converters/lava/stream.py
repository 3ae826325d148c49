"""Samples that follow one another on the chip without the host: when each layer works on which, and what is exact.

Every layer is a ``LIFReset``. It forgets u and v every ``interval`` ≥ T steps, layer l in its first step of a sample,
which comes l + 1 steps after the sample's first frame. Nothing is written while the graph runs.

Messages that are on their way are not forgotten. From one layer to the next they need no logical time and belong to
the same sample. Where a connection has a logical delay (the reset by subtraction, recurrence, a skip that waits), an
interval of silent steps follows every sample. The neurons forget at its beginning as well, so it ends with nothing on
its way if no neuron fires in its last steps (:func:`why_exact`). :func:`expected` computes in any case, in integers,
what the stream gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.inference.reference import Result, connection_output
from ottt_loihi.sim.network import INPUT, ChipNetwork, Connection, Sparse

from ottt_loihi import checks
from ottt_loihi.errors import ChipError

LEAD = 1  # silent steps before the first sample


@dataclass(frozen=True)
class Stream:
    """The clock of a stream, in steps of the chip counted from 1.

    Attributes
    ----------
    num_steps, layers
        of the network: T and L
    interval
        steps after which every layer forgets u and v, ≥ T
    period
        steps from one sample to the next: ``interval``, or a multiple of it where silent steps are needed
    lag
        steps that a frame takes from the source to the first connection, beyond none; an adapter's
    """

    num_steps: int
    layers: int
    interval: int
    period: int
    lag: int = 0

    def first(self, layer: int) -> int:
        """The step in which a layer does the first time step of the first sample."""
        return LEAD + self.lag + layer + 2

    def step(self, sample: int, layer: int, t: int) -> int:
        """The step in which a layer does time step t = 0 … T − 1 of a sample."""
        return self.first(layer) + sample * self.period + t

    def length(self, batch: int) -> int:
        """Steps of a run: until the last layer has done the last sample."""
        return self.step(batch - 1, self.layers - 1, self.num_steps - 1)


def make_stream(chip: ChipNetwork, interval: int | None = None, lag: int = 0) -> Stream:
    """Return the clock for a network.

    Parameters
    ----------
    interval
        steps between two resets; default T, the shortest
    lag
        of the input

    Raises
    ------
    UsageError
        for an interval shorter than T, or a negative lag
    """
    interval = chip.num_steps if interval is None else checks.integer(interval, "interval", chip.num_steps)
    late = longest_delay(chip)
    silent = -(-late // interval) if late else 0
    return Stream(chip.num_steps, len(chip.layers), interval, interval * (1 + silent), checks.integer(lag, "lag", 0))


def longest_delay(chip: ChipNetwork) -> int:
    """The largest logical delay of a network's connections; 0: a spike arrives in its own time step everywhere."""
    return max(chip.logical_delay(c) for c in chip.connections)


def require_stream(chip: ChipNetwork) -> None:
    """Refuse a layer that begins a sample with a current other than 0, because a reset cannot restore it."""
    for layer in chip.layers:
        if layer.u_init.any():
            raise ChipError(
                f"{layer.name}: begins with a current of its own, which LIFReset would not give it again; "
                "converters.lava.board.prepare does without and counts what that changes"
            )


def why_exact(chip: ChipNetwork, stream: Stream) -> str:
    """Return why a stream equals separate samples, whatever they are; or nothing, where only a comparison can tell.

    With delays, every delayed connection has to inhibit. Then the first silent step resets the neurons, what arrives
    afterwards is negative, so nothing fires, nothing new is on its way, and the reset of the next sample finds u and v
    alone. A bias must not fire a neuron on its own, and what arrives must not wrap around at 24 bits.
    """
    late = [c for c in chip.connections if chip.logical_delay(c)]
    if not late:
        return "every spike arrives in the time step it was sent in"
    if any(c.weight.max() > 0 for c in late):
        return ""
    steps = max(stream.period, stream.first(stream.layers - 1))
    for index, layer in enumerate(chip.layers):
        bias = np.maximum(layer.effective_bias.astype(np.int64), 0)
        leaking = bias * arithmetic.DECAY_UNITY // layer.dv if layer.dv else bias * steps
        if (np.minimum(leaking, bias * steps) > layer.thresholds.astype(np.int64) << arithmetic.STATE_SHIFT).any():
            return ""
        arriving = longest_delay(chip) * sum(_inhibition(c) for c in late if c.post == index)
        if arriving << arithmetic.STATE_SHIFT >= arithmetic.STATE_LIMIT:
            return ""
    return "every delayed connection inhibits, and no bias fires a neuron alone: silent steps stay silent"


def _inhibition(c: Connection) -> int:
    """Return the largest current that an inhibiting connection can take from a neuron in a step."""
    weight = np.abs(c.weight.astype(np.int64))
    if isinstance(c, Sparse):
        sums = np.bincount(c.rows, weight, c.shape[0]).astype(np.int64)
    else:
        sums = weight.reshape(len(weight), -1).sum(axis=1)
    return int(sums.max()) << max(c.weight_exp, 0)


def expected(chip: ChipNetwork, messages: np.ndarray, stream: Stream) -> Result:
    """Return scores and spikes of a stream, int32 ``messages`` ``(batch, T, input_size)``, in NumPy, step by step.

    Every connection and every neuron works in every step of the run, as on the chip; states are those of
    :class:`~ottt_loihi.sim.inference.reference.Result`.
    """
    batch, layers = len(messages), range(len(chip.layers))
    u = [np.zeros((1, layer.size), np.int32) for layer in chip.layers]
    v = [np.zeros((1, layer.size), np.int32) for layer in chip.layers]
    bias = [layer.effective_bias for layer in chip.layers]
    buffers = [[np.zeros((1, c.shape[0]), np.int32)] * (c.delay + 1) for c in chip.connections]
    states = no_states(chip, batch)
    for wall in range(1, stream.length(batch) + 1):
        arriving = [buffer.pop(0) for buffer in buffers]
        spikes = {INPUT: frame(messages, stream, wall)}
        for index in layers:
            layer = chip.layers[index]
            if wall % stream.interval == stream.first(index) % stream.interval:
                u[index], v[index] = np.zeros_like(u[index]), np.zeros_like(v[index])
            inputs = [a for c, a in zip(chip.connections, arriving) if c.post == index]
            u[index] = arithmetic.current_step(u[index], np.sum(inputs, axis=0, dtype=np.int32), layer.du)
            v[index] = arithmetic.voltage_step(v[index], u[index], layer.dv, bias[index])
            spikes[index] = arithmetic.spikes(v[index], layer.thresholds)
            v[index] = np.where(spikes[index], 0, v[index]).astype(np.int32)
            for sample, t in working(stream, index, wall, batch):
                for name, now in (("u", u), ("v", v), ("s", spikes)):
                    states[name][index][t, sample] = now[index]
        for c, buffer in zip(chip.connections, buffers):
            buffer.append(connection_output(c, spikes[c.pre]))
    return as_result(chip, states, ("u", "v", "s"))


def frame(messages: np.ndarray, stream: Stream, wall: int) -> np.ndarray:
    """Return the messages that reach the first connections in one step, int32 ``(1, input_size)``."""
    sample, t = divmod(wall - LEAD - stream.lag - 1, stream.period)
    inside = 0 <= sample < len(messages) and t < stream.num_steps
    return messages[sample, t][None] if inside else np.zeros((1, messages.shape[2]), np.int32)


def working(stream: Stream, layer: int, wall: int, batch: int) -> Iterator[tuple[int, int]]:
    """(sample, t) that a layer works on in a step, or none."""
    sample, t = divmod(wall - stream.first(layer), stream.period)
    if 0 <= sample < batch and t < stream.num_steps:
        yield sample, t


def no_states(chip: ChipNetwork, batch: int) -> dict[str, list[np.ndarray]]:
    """Room for u, v and s, int32 ``(T, batch, size)`` for each layer."""
    return {name: [np.zeros((chip.num_steps, batch, layer.size), np.int32) for layer in chip.layers] for name in "uvs"}


def as_result(chip: ChipNetwork, states: dict[str, list[np.ndarray]], record: tuple[str, ...]) -> Result:
    """A :class:`Result` from ``"v"`` of the readout and ``"s"``, int32 ``(T, batch, size)`` for each layer."""
    batch = states["s"][0].shape[1]
    v, s = states["v"][-1].astype(np.int64), states["s"][-1].astype(np.int64)
    kinds = {"sum_v": v.sum(axis=0), "last_v": v[-1], "max_v": v.max(axis=0), "spike_count": s.sum(axis=0)}
    scores = kinds[chip.readout]
    kept = {
        name: [
            (a != 0 if name == "s" else a).reshape(chip.num_steps, batch, *layer.shape)
            for a, layer in zip(states[name], chip.layers)
        ]
        for name in record
    }
    return Result(scores, kept, np.array([int(np.count_nonzero(a)) for a in states["s"]], np.int64))

"""A ChipNetwork as a graph of stock Lava processes, and its run in the Lava runtime (``fixed_pt``, on the CPU).

Every connection takes one step, so layer l works on logical step t at wall-clock step t + l + 1, and a sample takes
T + L wall-clock steps. The host starts each sample: it clears all states, and when a layer's first logical step comes,
it writes its initial u and its bias. Until then a layer has neither input nor bias and stays silent, so that nothing of
the time before arrives, recurrent connections included.

Samples that follow one another without the host: ``converters/lava/stream.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ottt_loihi.converters.lava.runtime import LavaRun, require_lava
from ottt_loihi.converters.lava.stream import LEAD, as_result, no_states
from ottt_loihi.sim.inference.reference import Result, check_input
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Connection, Conv, Diagonal, Sparse

from ottt_loihi.errors import ChipError


@dataclass(frozen=True)
class Graph:
    """Lava processes, not yet running.

    Attributes
    ----------
    source
        ``RingBuffer`` with all samples
    neurons
        the ``LIF`` process of each layer
    connections
        in the order of ``chip.connections``
    sinks
        one ``RingBuffer`` per layer with its spikes.
    """

    source: Any
    neurons: tuple[Any, ...]
    connections: tuple[Any, ...]
    sinks: tuple[Any, ...]

    def pairs(self, chip: ChipNetwork) -> Iterator[tuple[Connection, Any]]:
        """Return each connection with its process."""
        return zip(chip.connections, self.connections)


def steps_per_sample(chip: ChipNetwork) -> int:
    """Wall-clock steps from a sample's first frame to its last layer's last logical step."""
    return chip.num_steps + len(chip.layers)


def run_length(chip: ChipNetwork, batch: int) -> int:
    """Wall-clock steps of a run of ``batch`` samples."""
    return LEAD + batch * steps_per_sample(chip)


def build(chip: ChipNetwork, messages: np.ndarray) -> Graph:
    """Build the process graph for samples ``messages``, int32 ``(batch, num_steps, input_size)``.

    Raises :class:`ChipError` for plastic (``learning9``) connections, whose odd weights Lava would truncate, and
    :class:`BackendUnavailableError` without Lava.
    """
    require_lava()
    from lava.proc.io.sink import RingBuffer as Sink

    neurons = tuple(_neurons(layer) for layer in chip.layers)
    source = build_source(messages, steps_per_sample(chip))
    connections = tuple(build_connection(c) for c in chip.connections)
    for c, process in zip(chip.connections, connections):
        wire(c, (source if c.pre == INPUT else neurons[c.pre]).s_out, process, neurons[c.post].a_in)
    length = source.data.shape[1]
    sinks = tuple(Sink(shape=(layer.size,), buffer=length) for layer in chip.layers)
    for neuron, sink in zip(neurons, sinks):
        neuron.s_out.connect(sink.a_in)
    return Graph(source, neurons, connections, sinks)


def _neurons(layer: LIF) -> Any:
    from lava.proc.lif.process import LIF as LavaLIF

    # Lava's threshold is one number, which its CPU models compare with as it comes: an array of them as well
    vth = layer.vth if isinstance(layer.vth, int) else layer.thresholds
    settings = {"du": layer.du, "dv": layer.dv, "vth": vth, "bias_exp": layer.bias_exp}
    return LavaLIF(shape=(layer.size,), bias_mant=np.zeros(layer.size, np.int32), **settings)


def build_source(messages: np.ndarray, period: int) -> Any:
    """A Lava ``RingBuffer``: ``LEAD`` silent steps, then each sample and silence up to ``period`` steps."""
    from lava.proc.io.source import RingBuffer as Source

    batch, num_steps, size = messages.shape
    data = np.zeros((LEAD + batch * period, size), np.int32)
    data[LEAD:].reshape(batch, period, size)[:, :num_steps] = messages
    return Source(data=np.ascontiguousarray(data.T))


def run(
    chip: ChipNetwork,
    x: np.ndarray,
    record: tuple[str, ...] = (),
    stall_timeout: float = 30.0,
    execute: Callable[..., Any] = LavaRun,
) -> Result:
    """Run a batch in the Lava runtime: the same arguments and result as :func:`ottt_loihi.sim.inference.reference.run`.

    ``execute``: what runs a graph, from a process and ``stall_timeout``. Raises :class:`LavaError` when a process dies
    or nothing moves for ``stall_timeout`` seconds.
    """
    messages = check_input(chip, x)
    graph = build(chip, messages)
    recorder = Recorder(chip, len(messages), record)
    with execute(graph.source, stall_timeout=stall_timeout) as lava:
        buffers = [getattr(p, "a_buf" if isinstance(c, Conv) else "a_buff") for c, p in graph.pairs(chip)]
        drive(chip, lava, graph.neurons, buffers, len(messages), recorder)
        for layer, sink in enumerate(graph.sinks):
            recorder.add_spikes(layer, lava.get(sink.data))
    return recorder.result()


def drive(
    chip: ChipNetwork, lava: LavaRun, neurons: tuple[Any, ...], buffers: list[Any], batch: int, recorder: Recorder
) -> None:
    """Run ``batch`` samples on LIF processes, starting each layer at its first logical step (module docstring)."""
    lava.steps(LEAD)
    for sample in range(batch):
        _clear(lava, neurons, buffers)
        for wall in range(1, steps_per_sample(chip) + 1):
            for index in _starting(chip, wall):
                _start_layer(chip, lava, neurons, index)
            lava.steps(1)
            for index, t in _working(chip, wall):
                recorder.add(lava, neurons[index], sample, index, t)


def _clear(lava: LavaRun, neurons: tuple[Any, ...], buffers: list[Any]) -> None:
    for process in neurons:
        for var in (process.u, process.v, process.bias_mant):
            lava.set(var, np.zeros(var.shape, np.int32))
    for var in buffers:
        lava.set(var, np.zeros(var.shape, np.int32))


def _start_layer(chip: ChipNetwork, lava: LavaRun, neurons: tuple[Any, ...], index: int) -> None:
    layer = chip.layers[index]
    for value, var in ((layer.u_init, neurons[index].u), (layer.bias_mant, neurons[index].bias_mant)):
        if value.any():
            lava.set(var, shaped_like(value, var.shape))


def _starting(chip: ChipNetwork, wall: int) -> Iterator[int]:
    return (index for index in range(len(chip.layers)) if wall == index + 2)


def _working(chip: ChipNetwork, wall: int) -> Iterator[tuple[int, int]]:
    """Yield the layers that are inside their sample at this step of the run, each with its time step from 0."""
    for index in range(len(chip.layers)):
        t = wall - index - 2
        if 0 <= t < chip.num_steps:
            yield index, t


def flat(values: np.ndarray, time_axis: bool = False) -> np.ndarray:
    """A process's values ``(neurons,)`` or ``(neurons, time)``; Lava's frames are (W, H, C), ours (C, H, W)."""
    if values.ndim - time_axis == 3:
        values = values.transpose((2, 1, 0, 3)[: values.ndim])
    return values.reshape(-1, values.shape[-1]) if time_axis else values.reshape(-1)


def shaped_like(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Values in our order as a process of that shape has them; the inverse of :func:`flat`."""
    if len(shape) != 3:
        return values.reshape(shape)
    return np.ascontiguousarray(values.reshape(shape[::-1]).transpose(2, 1, 0))


class Recorder:
    """Collects states at logical steps and turns them into a :class:`Result`."""

    def __init__(self, chip: ChipNetwork, batch: int, record: tuple[str, ...]) -> None:
        self.chip, self.batch, self.record, self.period = chip, batch, record, steps_per_sample(chip)
        self.arrays = no_states(chip, batch)

    def add(self, lava: LavaRun, neuron: Any, sample: int, layer: int, t: int) -> None:
        readout = layer == len(self.chip.layers) - 1
        for name in ("u", "v"):
            if name in self.record or (name == "v" and readout):
                self.arrays[name][layer][t, sample] = flat(lava.get(getattr(neuron, name)))

    def add_spikes(self, layer: int, data: np.ndarray) -> None:
        """data: ``(neurons, wall-clock steps of the whole run)``."""
        for sample in range(self.batch):
            begin = LEAD + sample * self.period + layer + 1
            self.arrays["s"][layer][:, sample] = data[:, begin : begin + self.chip.num_steps].T

    def result(self) -> Result:
        return as_result(self.chip, self.arrays, self.record)


def wire(c: Connection, spikes: Any, process: Any, current: Any) -> None:
    """Wire a connection process between two ports; for a Conv, from our (C, H, W) to Lava's (W, H, C) and back."""
    if isinstance(c, Conv):
        spikes.reshape(c.input_shape).transpose((2, 1, 0)).connect(process.s_in)
        process.a_out.transpose((2, 1, 0)).reshape((c.shape[0],)).connect(current)
    else:
        spikes.connect(process.s_in)
        process.a_out.connect(current)


def build_connection(c: Connection) -> Any:
    """The stock process of a connection; ChipError for a plastic one."""
    if c.weight_format != "inference8":
        raise ChipError(
            f"{c.label}: a plastic connection's odd weights would be truncated by Lava; to_inference() it first"
        )
    return _conv(c) if isinstance(c, Conv) else _matrix(c)


def _conv(c: Conv) -> Any:
    """Return Lava's Conv, a true convolution over (W, H, C): so the kernel is transposed and flipped."""
    from lava.proc.conv.process import Conv as LavaConv

    return LavaConv(
        weight=np.ascontiguousarray(c.weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)),
        input_shape=c.input_shape[::-1],
        padding=c.padding[::-1],
        stride=c.stride[::-1],
        dilation=c.dilation[::-1],
        groups=c.groups,
        num_message_bits=c.num_message_bits,
    )


def _matrix(c: Connection) -> Any:
    from lava.proc.dense.process import DelayDense
    from lava.proc.dense.process import Dense as LavaDense
    from lava.proc.sparse.process import DelaySparse
    from lava.proc.sparse.process import Sparse as LavaSparse
    from scipy.sparse import csr_matrix

    settings = {
        "weight_exp": c.weight_exp,
        "num_weight_bits": c.num_weight_bits,
        "num_message_bits": c.num_message_bits,
    }
    if not isinstance(c, (Diagonal, Sparse)):
        plain, delayed, weight, delays = LavaDense, DelayDense, np.array(c.weight), c.delay
    else:
        diagonal = (np.arange(len(c.weight)),) * 2
        places = diagonal if isinstance(c, Diagonal) else (c.rows, c.columns)
        plain, delayed = LavaSparse, DelaySparse
        weight = csr_matrix((c.weight, places), shape=c.shape)
        delays = csr_matrix((np.full(len(c.weight), c.delay), places), shape=c.shape)
    if c.delay == 0:
        return plain(weights=weight, **settings)
    return delayed(weights=weight, delays=delays, max_delay=c.delay, **settings)

"""The Lava graph of a stream of samples, for the simulator or a chip, and its run (``converters/lava/stream.py``).

::

    source ─ (adapter) ─▶ connections ─▶ LIFReset ─▶ … ─▶ readout
                                            └ (adapter) ─▶ sink, one a layer

The adapters stand where the graph is built for a chip. Nothing is written while it runs, and no more is read than was
asked for: spikes are in the sinks; a readout whose score is its last v is read once a sample.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.converters.lava.graph import build_connection, flat, wire
from ottt_loihi.converters.lava.stream import LEAD, Stream, as_result, no_states, require_stream
from ottt_loihi.sim.inference.reference import Result
from ottt_loihi.sim.network import INPUT, ChipNetwork

if TYPE_CHECKING:
    from ottt_loihi.converters.lava.backends import LavaBackend

TAIL = 2  # steps after the last one, for an adapter on the way out


@dataclass(frozen=True)
class StreamGraph:
    """Lava processes, not yet running: the source, a ``LIFReset`` and a sink for each layer, the connections."""

    source: Any
    neurons: tuple[Any, ...]
    connections: tuple[Any, ...]
    sinks: tuple[Any, ...]
    steps: int


def build(backend: LavaBackend, chip: ChipNetwork, messages: np.ndarray, stream: Stream) -> StreamGraph:
    """Build the graph for samples ``messages``, int32 ``(batch, num_steps, input_size)``.

    Raises
    ------
    ChipError
        for plastic connections, and for a layer that begins with a current of its own
    BackendUnavailableError
        where the backend is not there
    """
    require_stream(chip)
    backend.require()
    steps = stream.length(len(messages)) + backend.lag_out + TAIL
    neurons = tuple(_neurons(chip, index, stream) for index in range(len(chip.layers)))
    source, spikes = backend.source(source_data(messages, stream, steps), chip.message_bits)
    connections = tuple(build_connection(c) for c in chip.connections)
    for c, process in zip(chip.connections, connections):
        wire(c, spikes if c.pre == INPUT else neurons[c.pre].s_out, process, neurons[c.post].a_in)
    sinks = tuple(backend.sink(neuron.s_out, steps, 0) for neuron in neurons)
    return StreamGraph(source, neurons, connections, sinks, steps)


def source_data(messages: np.ndarray, stream: Stream, steps: int) -> np.ndarray:
    """Return the source's messages, int32 ``(input_size, steps)``: ``LEAD`` silent steps, then a sample each period."""
    batch, num_steps, size = messages.shape
    data = np.zeros((size, steps), np.int32)
    for sample in range(batch):
        start = LEAD + sample * stream.period
        data[:, start : start + num_steps] = messages[sample].T
    return data


def _neurons(chip: ChipNetwork, index: int, stream: Stream) -> Any:
    from lava.proc.lif.process import LIFReset

    layer = chip.layers[index]
    # Lava's threshold is one number, which its CPU models compare with as it comes: an array of them as well
    vth = layer.vth if isinstance(layer.vth, int) else layer.thresholds
    return LIFReset(
        shape=(layer.size,),
        du=layer.du,
        dv=layer.dv,
        vth=vth,
        bias_mant=np.array(layer.bias_mant.reshape(-1)),
        bias_exp=layer.bias_exp,
        reset_interval=stream.interval,
        reset_offset=stream.first(index),
        name=f"neuron[{index}]",
    )


def run(
    backend: LavaBackend,
    chip: ChipNetwork,
    messages: np.ndarray,
    stream: Stream,
    record: tuple[str, ...] = (),
    stall_timeout: float = 30.0,
) -> Result:
    """Run a stream; the result is that of :func:`~ottt_loihi.converters.lava.stream.expected`.

    Raises :class:`LavaError` when a process dies or nothing moves for ``stall_timeout`` seconds, and what
    :func:`build` does.
    """
    graph, batch = build(backend, chip, messages, stream), len(messages)
    states = no_states(chip, batch)
    stops = reads(chip, stream, batch, record)
    with backend.execute(graph.source, stall_timeout=stall_timeout) as lava:
        for step in sorted({*stops, graph.steps}):
            lava.steps(step - lava.steps_done)
            for name, layer, sample, t in stops.get(step, ()):
                states[name][layer][t, sample] = flat(lava.get(getattr(graph.neurons[layer], name)))
        for layer, sink in enumerate(graph.sinks):
            data = lava.get(sink.data)
            for sample in range(batch):
                begin = stream.step(sample, layer, 0) - 1 + backend.lag_out
                states["s"][layer][:, sample] = data[:, begin : begin + chip.num_steps].T
    return as_result(chip, states, record)


def reads(
    chip: ChipNetwork, stream: Stream, batch: int, record: tuple[str, ...]
) -> dict[int, list[tuple[str, int, int, int]]]:
    """Return, for each step, the variables to read after it, as (variable, layer, sample, time step).

    Spikes are not among them: the sinks keep those.
    """
    last, steps, found = len(chip.layers) - 1, range(chip.num_steps), defaultdict(list)
    wanted = {(name, layer, t) for name in {"u", "v"} & set(record) for layer in range(last + 1) for t in steps}
    if chip.readout != "spike_count":
        begin = chip.num_steps - 1 if chip.readout == "last_v" else 0
        wanted |= {("v", last, t) for t in range(begin, chip.num_steps)}
    for name, layer, t in sorted(wanted):
        for sample in range(batch):
            found[stream.step(sample, layer, t)].append((name, layer, sample, t))
    return found

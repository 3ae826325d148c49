"""The same ProcessModels without the runtime: stepped one after the other inside this operating system process.

Lava's runtime spends about nine tenths of its time on messages between operating system processes. Here a channel is a
Python list. Lava compiles the graph, builds the models and their ports with its own code, and its own port classes do
the summing and casting; only what lies under them is replaced. The results are bit for bit the runtime's.

Order within a step. Every connection sends the buffer of the step before, first thing. So all buffers are delivered
before anything runs; then the neurons run, each after those that send to it within the step; then the connections.
Messages that a connection really sends are compared with those that were delivered in its name.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.converters.lava.models import ChipModels, SimulatorModels
from ottt_loihi.converters.lava.runtime import compiled, require_lava

from ottt_loihi.errors import LavaError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lava.magma.core.process.process import AbstractProcess
    from lava.magma.core.process.variable import Var

# out-ports of connections, and what they send first: Dense and Sparse, Conv
BUFFERED = {"a_out": ("a_buff", "a_buf"), "error_out": ("error_buff",)}


class InProcessRun:
    """Drop-in for :class:`~ottt_loihi.converters.lava.runtime.LavaRun`, 4 to 7 times faster for our learning graphs.

    Takes graphs of neurons and buffered connections (Lava's Dense, Sparse, ours) without RefPorts and without cycles
    among neurons inside one step.

    Raises
    ------
    BackendUnavailableError
        without Lava
    LavaError
        for a graph that does not compile or needs what this executor does not do, and when a model raises
    """

    def __init__(
        self,
        process: AbstractProcess,
        tag: str = "fixed_pt",
        models: Mapping[type, type] | None = None,
        choice: SimulatorModels | ChipModels | None = None,
    ) -> None:
        self._process, self._choice = process, choice or SimulatorModels(tag, dict(models or {}))
        self.steps_done = 0

    def __enter__(self) -> InProcessRun:
        require_lava()
        executable = compiled(self._process, self._choice)
        self._channels = _connect(executable)
        self._built = {process: builder.build() for process, builder in executable.proc_builders.items()}
        for process, model in self._built.items():
            if getattr(model, "var_ports", None):
                raise LavaError(f"{process.name}: RefPorts and VarPorts need the Lava runtime")
        self._buffered = [
            (channel, self._built[channel.source], buffer)
            for channel in self._channels
            if (buffer := _buffer(self._built[channel.source], channel.name))
        ]
        for channel, _, _ in self._buffered:
            channel.delivered = []
        self._order = self._run_order()
        return self

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: no process has to be ended. The method exists because LavaRun has it."""

    def steps(self, count: int) -> None:
        """Run ``count`` ≥ 1 time steps."""
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
            raise UsageError(f"steps: expected an integer ≥ 1, got {count!r}")
        for _ in range(int(count)):
            self._step()
            self.steps_done += 1

    def get(self, var: Var) -> np.ndarray:
        """The value of a Var, a copy; of a sparse matrix all elements."""
        value = getattr(self._model(var), var.name)
        return value.toarray() if hasattr(value, "toarray") else np.array(value)

    def set(self, var: Var, value: np.ndarray) -> None:
        """Overwrite a Var. Raises :class:`UsageError` for a sparse matrix, as :class:`LavaRun` does."""
        if hasattr(var.init, "tocsr"):
            raise UsageError(f"{var.name}: a sparse matrix cannot be set while it runs; build the process with it")
        model = self._model(var)
        getattr(model, var.name)[...] = value
        model.on_var_update()

    def _model(self, var: Var) -> Any:
        return self._built[var.process]

    def _step(self) -> None:
        for channel, model, buffer in self._buffered:
            channel.deliver(_due(getattr(model, buffer), channel))
        for process, model in self._order:
            model.time_step += 1
            try:
                model.run_spk()
            except Exception as error:
                raise LavaError(
                    f"Lava process {process.name} ({type(process).__name__}) raised {type(error).__name__}: {error} "
                    f"(in step {self.steps_done + 1})"
                ) from error
        for _, model in self._order:
            if model.lrn_guard():
                model.run_lrn()

    def _run_order(self) -> list[tuple[AbstractProcess, Any]]:
        """Return the order in which processes run: neurons as they send to each other in a step, then connections."""
        buffered = {id(channel) for channel, _, _ in self._buffered}
        connections = {channel.source for channel, _, _ in self._buffered}
        needs = {p: set() for p in self._built if p not in connections}  # type: ignore[var-annotated]
        for channel in self._channels:
            if id(channel) not in buffered and channel.target in needs:
                needs[channel.target].add(channel.source)
        order: list[AbstractProcess] = []
        while len(order) < len(needs):
            ready = [p for p in needs if p not in order and needs[p] <= set(order)]
            if not ready:
                names = ", ".join(p.name for p in needs if p not in order)
                raise LavaError(f"the processes {names} wait for one another within a step; use the Lava runtime")
            order += ready
        order += [p for p in self._built if p in connections]
        return [(p, self._built[p]) for p in order]


class _Channel:
    """A queue between two ports, with the sender's shape and dtype, as Lava's shared memory has them."""

    def __init__(self, source: AbstractProcess, target: AbstractProcess, name: str, port: Any) -> None:
        self.source, self.target, self.name = source, target, name
        self.shape, self.d_type = port.shape, port.d_type
        self.queue: deque[np.ndarray] = deque()
        self.delivered: list[np.ndarray] | None = None  # a list where messages are delivered ahead of sending

    def send(self, data: np.ndarray) -> None:
        if data.shape != self.shape:
            raise AssertionError(f"port {self.name} sends shape {data.shape}, its channel has {self.shape}")
        message = np.array(data, self.d_type)  # copies: the sender may change its array
        if self.delivered is None:
            self.queue.append(message)
        elif not np.array_equal(self.delivered.pop(), message):
            raise AssertionError(f"port {self.name} sent something else than its buffer")

    def deliver(self, data: np.ndarray) -> None:
        message = np.array(data, self.d_type)
        self.delivered.append(message)  # type: ignore[union-attr]
        self.queue.append(message)

    def recv(self) -> np.ndarray:
        if not self.queue:
            raise AssertionError(f"nothing was sent to it on {self.name}; the Lava runtime would wait for ever")
        return self.queue.popleft()


class _End:
    """One end of a channel, under the name its process knows it by."""

    def __init__(self, channel: _Channel, name: str) -> None:
        self.name, self.shape, self.d_type = name, channel.shape, channel.d_type
        self.send, self.recv = channel.send, channel.recv


def _connect(executable: Any) -> list[_Channel]:
    """Put a channel under every pair of connected ports, as ``Runtime._build_channels`` does."""
    from lava.magma.compiler.builders.channel_builder import ChannelBuilderMp
    from lava.magma.core.process.ports.ports import create_port_id

    channels = []
    for builder in executable.channel_builders:
        if type(builder) is not ChannelBuilderMp:
            raise LavaError(f"{type(builder).__name__}: this kind of channel needs the Lava runtime")
        source, target = builder.src_port_initializer, builder.dst_port_initializer
        channel = _Channel(builder.src_process, builder.dst_process, source.name, source)
        executable.proc_builders[builder.src_process].set_csp_ports([_End(channel, source.name)])
        end = _End(channel, target.name)
        executable.proc_builders[builder.dst_process].set_csp_ports([end])
        port_id = create_port_id(builder.src_process.id, source.name)
        executable.proc_builders[builder.dst_process].add_csp_port_mapping(port_id, end)
        channels.append(channel)
    return channels


def _due(buffer: np.ndarray, channel: _Channel) -> np.ndarray:
    """Return what a connection sends now; Lava's delay connections keep a column for each step still to come."""
    return buffer[..., 0] if buffer.ndim > len(channel.shape) else buffer


def _buffer(model: Any, port: str) -> str | None:
    """Return the name of what a model sends on a port before it receives anything, or None."""
    return next((name for name in BUFFERED.get(port, ()) if hasattr(model, name)), None)

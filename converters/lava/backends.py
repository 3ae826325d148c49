"""Backends that run an integer network: one object each, in one registry for all commands.

==============  ====================================================================================================
``sim``         the chip-exact simulator, without Lava
``inprocess``   Lava's own ProcessModels, stepped inside this operating system process
``lava``        the same in Lava's runtime, an operating system process for each
``loihi2``      a Loihi 2, through Intel's Lava extension for it, which is not public; never tried on a chip
==============  ====================================================================================================

Importing this module loads neither Lava nor the simulator, so that ``--help`` stays instant.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ottt_loihi.converters.lava.installed import lava_problem
from ottt_loihi.converters.lava.models import ADAPTERS

from ottt_loihi.errors import BackendUnavailableError, LavaError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from ottt_loihi.converters.lava.board import Prepared
    from ottt_loihi.converters.lava.models import ChipModels, SimulatorModels
    from ottt_loihi.sim.inference.reference import Result
    from ottt_loihi.sim.network import ChipNetwork

NO_EXTENSION = (
    "loihi2 needs Intel's Lava extension for Loihi 2 (lava.proc.embedded_io and models for the chip), which members of "
    "its research community get and this environment does not have; ottt-export --target loihi2 --kit writes what to "
    "take to a machine that has it"
)


@dataclass(frozen=True)
class Backend:
    """A place where integer networks run.

    Attributes
    ----------
    name
        what it is asked for by
    title
        what tables call it
    reads
        states that a run can record
    streams
        samples follow one another without the host, and a network is prepared for that (:meth:`prepare`)
    """

    name: str
    title: str
    reads: tuple[str, ...] = ("u", "v", "s")
    streams: bool = False

    def problem(self) -> str:
        """Return one line with the reason why the backend cannot be used here, or an empty string if it can."""
        return ""

    def require(self) -> None:
        """Raise :class:`BackendUnavailableError`, saying what to do, unless it can be used here."""
        if problem := self.problem():
            raise BackendUnavailableError(problem)

    def prepare(self, chip: ChipNetwork, x: np.ndarray | None = None) -> Prepared:
        """Return the network as it runs here, and what that changes on samples ``x``; as it is where nothing has to."""
        from ottt_loihi.converters.lava.board import Prepared

        return Prepared(chip)

    def run(
        self,
        chip: ChipNetwork,
        x: np.ndarray,
        record: tuple[str, ...] = (),
        *,
        stall_timeout: float = 30.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Result:
        """Run a batch; arguments and result are those of :func:`ottt_loihi.sim.inference.reference.run`.

        Raises
        ------
        UsageError
            for a state that cannot be read here
        LavaError
            when a process dies or nothing moves for ``stall_timeout`` seconds
        """
        self.check_record(record)
        return self._run(chip, x, record, stall_timeout, progress)

    def _run(self, chip: ChipNetwork, x: np.ndarray, record: Any, stall_timeout: float, progress: Any) -> Result:
        from ottt_loihi import sim

        return sim.run(chip, x, record, progress=progress)

    def expected(self, chip: ChipNetwork, x: np.ndarray) -> Result:
        """Return what :meth:`run` gives with every state that can be read here, as the simulator computes it."""
        from ottt_loihi import sim

        return sim.run(chip, x, self.reads)

    def check_record(self, record: tuple[str, ...]) -> None:
        """Refuse states that no run here can give."""
        if missing := [name for name in record if name not in self.reads]:
            raise UsageError(
                f"record: {self.name} gives {', '.join(self.reads)} at every step, not {', '.join(missing)}; "
                "compare those in sim or lava"
            )


@dataclass(frozen=True)
class LavaBackend(Backend):
    """A place where Lava processes run.

    Attributes
    ----------
    in_process
        stepped inside this operating system process, or in Lava's runtime
    lag_in, lag_out
        steps that a message takes from the source to the network, and from the network to a sink, beyond none
    """

    in_process: bool = False
    lag_in: int = 0
    lag_out: int = 0

    def problem(self) -> str:
        return lava_problem()

    def models(self, host: Mapping[type, type]) -> SimulatorModels | ChipModels:
        """Return which ProcessModels a graph may get here; host: models, by Process class, of what feeds a chip."""
        from ottt_loihi.converters.lava.models import SimulatorModels

        return SimulatorModels()

    def to_network(self, port: Any, message_bits: int) -> Any:
        """Return the port of the network that receives the messages of a port of the host."""
        return port

    def source(self, data: np.ndarray, message_bits: int) -> tuple[Any, Any]:
        """Return a process that sends ``data``, int32 ``(size, steps)``, and the port that the network connects to."""
        from lava.proc.io.source import RingBuffer

        source = RingBuffer(data=data)
        return source, self.to_network(source.s_out, message_bits)

    def sink(self, port: Any, steps: int, message_bits: int) -> Any:
        """Return a process that stores the messages of a port in ``data``, ``(size, steps)``."""
        from lava.proc.io.sink import RingBuffer

        sink = RingBuffer(shape=port.shape, buffer=steps)
        port.connect(sink.a_in)
        return sink

    def execute(self, process: Any, stall_timeout: float = 30.0, host: Mapping[type, type] | None = None) -> Any:
        """Return the run of a graph, a context manager: ``LavaRun`` or ``InProcessRun``; host: as in :meth:`models`."""
        from ottt_loihi.converters.lava.inprocess import InProcessRun
        from ottt_loihi.converters.lava.runtime import LavaRun

        choice = self.models(host or {})
        if self.in_process:
            return InProcessRun(process, choice=choice)
        return LavaRun(process, choice=choice, stall_timeout=stall_timeout)

    def _run(self, chip: ChipNetwork, x: np.ndarray, record: Any, stall_timeout: float, progress: Any) -> Result:
        from ottt_loihi.converters.lava import graph

        self.require()
        return graph.run(chip, x, record, stall_timeout, execute=self.execute)

    def stream(
        self,
        chip: ChipNetwork,
        x: np.ndarray,
        record: tuple[str, ...] = (),
        *,
        stall_timeout: float = 30.0,
        interval: int | None = None,
    ) -> Result:
        """Run samples that follow one another (``converters/lava/stream.py``); ``interval``: of the resets.

        Raises what :meth:`run` does, and :class:`ChipError` for a layer that begins with a current of its own.
        """
        from ottt_loihi.converters.lava import stream_graph
        from ottt_loihi.converters.lava.stream import make_stream
        from ottt_loihi.sim.inference.reference import check_input

        self.check_record(record)
        clock = make_stream(chip, interval, self.lag_in)
        return stream_graph.run(self, chip, check_input(chip, x), clock, record, stall_timeout)


@dataclass(frozen=True)
class Loihi2(LavaBackend):
    """A Loihi 2: adapters of Intel's extension between host and cores, models that need a neuro core, nothing written
    and no membrane read while a sample runs.

    Attributes
    ----------
    own
        ProcessModel by Process class, in place of what ``Loihi2HwCfg`` selects; how tests put stand-ins there
    interval
        steps between two resets of a neuron, for chips on which it cannot be any number; default: T
    """

    own: Mapping[type, type] = field(default_factory=dict)
    interval: int | None = None

    def problem(self) -> str:
        return lava_problem() or ("" if has_adapters() else NO_EXTENSION)

    def models(self, host: Mapping[type, type]) -> ChipModels:
        from ottt_loihi.converters.lava.models import ChipModels

        return ChipModels(self.own, host)

    def to_network(self, port: Any, message_bits: int) -> Any:
        from lava.proc import embedded_io

        adapter = embedded_io.spike.PyToNxAdapter(shape=port.shape, num_message_bits=message_bits)
        port.connect(adapter.inp)
        return adapter.out

    def sink(self, port: Any, steps: int, message_bits: int) -> Any:
        from lava.proc import embedded_io

        adapter = embedded_io.spike.NxToPyAdapter(shape=port.shape, num_message_bits=message_bits)
        port.connect(adapter.inp)
        return super().sink(adapter.out, steps, message_bits)

    def prepare(self, chip: ChipNetwork, x: np.ndarray | None = None) -> Prepared:
        from ottt_loihi.converters.lava import board

        return board.prepare(chip, x, self.interval)

    def expected(self, chip: ChipNetwork, x: np.ndarray) -> Result:
        from ottt_loihi.converters.lava.stream import expected, make_stream, why_exact
        from ottt_loihi.sim.inference.reference import check_input

        clock = make_stream(chip, self.interval, self.lag_in)
        if why_exact(chip, clock):
            return super().expected(chip, x)
        return expected(chip, check_input(chip, x), clock)

    def _run(self, chip: ChipNetwork, x: np.ndarray, record: Any, stall_timeout: float, progress: Any) -> Result:
        """Run a prepared network; :class:`LavaError` where the readout's sum left its 24 bits."""
        result = self.stream(chip, x, record, stall_timeout=stall_timeout, interval=self.interval)
        if chip.readout == "last_v" and result.spike_counts[-1]:
            raise LavaError("the readout fired: its sum left 24 bits in some sample, and its scores are wrong")
        return result


def has_adapters() -> bool:
    """Return whether Intel's adapters between host and cores can be imported."""
    try:
        return importlib.util.find_spec(ADAPTERS) is not None
    except (ImportError, ValueError):
        return False


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("sim", "chip-exact simulator"),
        LavaBackend("inprocess", "Lava's models (fixed_pt) in this process", in_process=True),
        LavaBackend("lava", "Lava runtime (fixed_pt)"),
        Loihi2("loihi2", "Loihi 2", reads=("s",), streams=True),
    )
}


def find(name: str, where: str = "backend") -> Backend:
    """Return a backend by its name.

    Raises
    ------
    UsageError
        for an unknown one, naming those there are
    """
    if name not in BACKENDS:
        raise UsageError(f"{where}: expected one of {', '.join(BACKENDS)}, got {name!r}")
    return BACKENDS[name]

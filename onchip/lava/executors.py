"""The executors of learning: ``sim.learn``, and Lava's processes, in-process or in the runtime.

Every executor starts from the state of a :class:`~ottt_loihi.sim.learning.learner.Learner` and returns one, so a
run can switch backends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from ottt_loihi.converters.lava.backends import find
from ottt_loihi.onchip.lava.graph import begin_at, host_models
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.onchip.stream import Stream
from ottt_loihi.sim.learning.learner import Learner


class SimRun:
    """Learns a stream with ``sim.learn``."""

    def __init__(self, stream: Stream, learner: Learner) -> None:
        self._stream, self._learner = stream, learner

    def learn(self, samples: int) -> None:
        done = self._learner.samples
        self._learner.learn(*self._stream.part(done, done + samples))

    def variables(self) -> dict[str, np.ndarray]:
        """As :meth:`~ottt_loihi.sim.learning.learner.Learner.variables`."""
        return self._learner.variables()

    def learner(self) -> Learner:
        """Return the present state."""
        return self._learner


class GraphRun:
    """Learns a stream with Lava's processes; run: LavaRun or InProcessRun of ``graph``."""

    def __init__(self, graph: Any, run: Any, learner: Learner) -> None:
        self._graph, self._run, self._learner, self._samples = graph, run, learner, learner.samples

    def learn(self, samples: int) -> None:
        self._run.steps(samples * self._graph.period)
        self._samples += samples

    def variables(self) -> dict[str, np.ndarray]:
        """The simulator's variables, as Lava's processes have them."""
        known = self._learner.variables()
        return {name: self._run.get(var) for name, var in self._graph.variables().items() if name in known}

    def learner(self) -> Learner:
        """Return the present state, as the simulator's."""
        self._learner.assign(self._samples, self.variables())
        return self._learner


@contextmanager
def executor(
    stream: Stream, backend: str, settings: Settings, stall_timeout: float, learner: Learner
) -> Iterator[SimRun | GraphRun]:
    """Learns ``stream`` from the sample on, and from the state, that ``learner`` has reached."""
    if backend == "sim":
        yield SimRun(stream, learner)
        return
    place = find(backend)
    graph = stream.build(settings, place)
    begin_at(graph, learner)
    with place.execute(graph.source, stall_timeout, host_models()) as run:
        yield GraphRun(graph, run, learner)

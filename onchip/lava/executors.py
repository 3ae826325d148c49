"""The executors of learning, ``sim.learn`` and Lava's processes, in-process or in the runtime; and their comparison.

Every executor starts from the state of a :class:`~ottt_loihi.sim.learning.learner.Learner` and returns one, so a
run can switch backends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from ottt_loihi.converters.lava.backends import find
from ottt_loihi.onchip.lava import stock
from ottt_loihi.onchip.lava.graph import begin_at, host_models
from ottt_loihi.onchip.network.trainable import PENDING, make_plan
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.onchip.stream import Data, Stream
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.subspace import Subspace
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi import checks
from ottt_loihi.errors import VerificationError


class SimRun:
    """Learns ``stream`` with ``sim.learn``."""

    def __init__(self, stream: Stream, learner: Learner) -> None:
        self.stream, self._learner = stream, learner
        self._answers: list[np.ndarray] = []

    def learn(self, samples: int) -> None:
        presented = self.stream.presented
        done = self._learner.samples // presented - self.stream.before
        answers = self._learner.learn(*self.stream.presentations(done, done + samples))
        self._answers.append(answers[::presented])

    def answers(self) -> np.ndarray:
        """Return the classes answered to the samples that this run has learnt, int32, at their first presentation."""
        return np.concatenate([np.zeros(0, np.int32), *self._answers])

    def average(self) -> None:
        """Take the weights into their running mean."""
        self._learner.mean.move(self._learner.weights())

    def variables(self) -> dict[str, np.ndarray]:
        """Return :meth:`~ottt_loihi.sim.learning.learner.Learner.variables`."""
        return self._learner.variables()

    def learner(self) -> Learner:
        """Return the present state."""
        return self._learner


class GraphRun:
    """Learns ``stream`` with Lava's processes; run: LavaRun or InProcessRun of ``graph``."""

    def __init__(self, stream: Stream, graph: Any, run: Any, learner: Learner) -> None:
        self.stream, self._graph, self._run, self._learner = stream, graph, run, learner
        self._first = self._samples = learner.samples

    def learn(self, samples: int) -> None:
        presented = samples * self.stream.presented
        self._run.steps(presented * self._graph.period)
        self._samples += presented

    def answers(self) -> np.ndarray:
        """Return the classes answered to the samples that this run has learnt, int32, at their first presentation."""
        found = self._run.get(self._graph.readout.predictions)
        return found[self._first : self._samples : self.stream.presented]

    def average(self) -> None:
        """Take the weights into their running mean."""
        self._learner.mean.move([self._run.get(process.weights) for process in self._graph.plastic])

    def variables(self) -> dict[str, np.ndarray]:
        """Return the simulator's variables, with the values that Lava's processes have."""
        known = self._learner.variables()
        return {name: self._run.get(var) for name, var in self._graph.variables().items() if name in known}

    def learner(self) -> Learner:
        """Return the present state, as the simulator's."""
        self._learner.assign(self._samples, self.variables())
        return self._learner


@contextmanager
def executor(stream: Stream, backend: str, stall_timeout: float, learner: Learner) -> Iterator[SimRun | GraphRun]:
    """Yield an executor that learns ``stream`` from the sample and the state that ``learner`` has reached."""
    if backend == "sim":
        yield SimRun(stream, learner)
        return
    place = find(backend)
    graph = stream.build(place)
    begin_at(graph, learner)
    with place.execute(graph.source, stall_timeout, host_models()) as run:
        yield GraphRun(stream, graph, run, learner)


@dataclass(frozen=True)
class Repetition:
    """A stretch of learning that ``sim.learn`` and Lava's runtime went through with the same result."""

    steps: int  # of Lava
    variables: int  # how many were compared
    sim_steps_per_second: float
    lava_steps_per_second: float


def repeat_in_lava(
    chip: ChipNetwork,
    data: Data | Callable[[int], Data],
    steps: int,
    *,
    settings: Settings | None = None,
    stall_timeout: float = 10.0,
    subspaces: Sequence[Subspace] | None = None,
    known: Data | None = None,
) -> Repetition:
    """Learn for at least ``steps`` Lava steps with ``sim.learn`` and in the Lava runtime, and compare everything.

    Weights, traces, membranes, random states and counters, all elements. Rounded up to whole samples; the data is gone
    through as often as it takes.

    Raises
    ------
    VerificationError
        naming the first variable and element that differ
    UsageError
        for wrong data, or settings that Lava's runtime cannot learn with
    BackendUnavailableError
        where Lava is not installed
    """
    find("lava").require()  # before minutes of sim.learn
    steps = checks.integer(steps, "steps")
    settings = settings or Settings()
    plan = make_plan(chip, settings.logit_scale or PENDING)
    stock.require(plan, "lava", settings)
    stream = Stream(plan, data, steps, settings, subspaces, known)
    per_sample = stream.steps_per_sample
    samples = -(-steps // per_sample)
    stream.epochs = -(-samples // stream.per_epoch)
    _learnt(stream, "sim", 1, stall_timeout)  # numba compiles
    expected, sim_seconds = _learnt(stream, "sim", samples, stall_timeout)
    found, lava_seconds = _learnt(stream, "lava", samples, stall_timeout)
    steps = samples * per_sample
    for name, value in found.items():
        _check_equal(name, expected[name], value, steps)
    return Repetition(steps, len(found), steps / sim_seconds, steps / lava_seconds)


def _learnt(stream: Stream, backend: str, samples: int, stall_timeout: float) -> tuple[dict[str, np.ndarray], float]:
    """Return the variables after so many samples, and the seconds these took."""
    with executor(stream, backend, stall_timeout, stream.learner()) as run:
        started = time.monotonic()
        run.learn(samples)
        seconds = time.monotonic() - started
        return run.variables(), seconds


def _check_equal(name: str, sim: np.ndarray, lava: np.ndarray, steps: int) -> None:
    if not np.array_equal(sim, lava):
        place = tuple(int(i) for i in np.argwhere(sim != lava)[0])
        raise VerificationError(
            f"{name} differs at {place} after {steps} steps: "
            f"{sim[place]} in sim.learn, {lava[place]} in the Lava runtime"
        )

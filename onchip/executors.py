"""What carries a stream's learning out: ``sim.learn``, or Lava's processes in-process or in the runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from ottt_loihi.converters.lava_runtime import LavaRun
from ottt_loihi.onchip.checkpoint import Checkpoint
from ottt_loihi.onchip.inprocess import InProcessRun
from ottt_loihi.onchip.result import CurvePoint
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.onchip.stream import Stream
from ottt_loihi.sim.subspace import Subspace

BACKENDS = ("sim", "inprocess", "lava")


class SimRun:
    """Learns a stream with ``sim.learn``."""

    def __init__(self, stream: Stream, settings: Settings) -> None:
        self._stream, self._learner = stream, stream.learner(settings)

    def save(self, checkpoint: Checkpoint, curve: Sequence[CurvePoint]) -> None:
        checkpoint.save(self._learner, [(point.samples, point.accuracy) for point in curve])

    def resume(self, checkpoint: Checkpoint) -> list[CurvePoint]:
        """Take up the state that was kept; returns the curve."""
        self._learner, curve = checkpoint.load(self._learner.network)
        return [CurvePoint(*point) for point in curve]

    @property
    def samples(self) -> int:
        return self._learner.samples

    def learn(self, samples: int) -> None:
        part = slice(self._learner.samples, self._learner.samples + samples)
        self._learner.learn(self._stream.packed[part], self._stream.labels[part])

    def variables(self) -> dict[str, np.ndarray]:
        return self._learner.variables()

    def weights(self) -> list[np.ndarray]:
        return self._learner.weights()

    def biases(self) -> list[np.ndarray] | None:
        return self._learner.biases()

    def subspaces(self) -> tuple[Subspace, ...]:
        return tuple(s for s in self._learner.subspaces() if s is not None)

    def counters(self) -> dict[str, int]:
        counts = self._learner.variables(("y1_saturated", "error_saturated"))
        return {name.replace("readout[0]", "readout"): int(value[0]) for name, value in counts.items()}


class GraphRun:
    """Learns a stream with Lava's processes, in-process or in the runtime."""

    def __init__(self, stream: Stream, graph: Any, run: Any, settings: Settings) -> None:
        self._graph, self._run, self._learns_bias = graph, run, settings.learn_bias
        self._subspaces, self._per_sample = stream.subspaces or (), graph.period

    def learn(self, samples: int) -> None:
        self._run.steps(samples * self._per_sample)

    def weights(self) -> list[np.ndarray]:
        return [self._run.get(p.weights) for p in self._graph.plastic]

    def biases(self) -> list[np.ndarray] | None:
        layers = (*self._graph.neurons, self._graph.readout)
        return [self._run.get(p.bias) for p in layers] if self._learns_bias else None

    def subspaces(self) -> tuple[Subspace, ...]:
        return tuple(replace(s, rows=self._run.get(p.rows)) for s, p in zip(self._subspaces, self._graph.plastic))

    def counters(self) -> dict[str, int]:
        return {
            f"{process.name}.{kind}": int(self._run.get(getattr(process, kind))[0])
            for process in (*self._graph.neurons, self._graph.readout)
            for kind in ("y1_saturated", "error_saturated")
        }


@contextmanager
def executor(stream: Stream, backend: str, settings: Settings, stall_timeout: float) -> Iterator[SimRun | GraphRun]:
    if backend == "sim":
        yield SimRun(stream, settings)
        return
    graph = stream.build(settings)
    source = graph.source
    with InProcessRun(source) if backend == "inprocess" else LavaRun(source, stall_timeout=stall_timeout) as run:
        yield GraphRun(stream, graph, run, settings)

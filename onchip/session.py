"""One run of learning: steps it, evaluates on the way with the weights frozen, keeps what was read last."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ottt_loihi.onchip.checkpoint import Checkpoint
from ottt_loihi.onchip.lava.executors import GraphRun, SimRun
from ottt_loihi.onchip.network.backbone import packed_spikes, predictions
from ottt_loihi.onchip.network.trainable import Plan, make_plan, with_weights
from ottt_loihi.onchip.result import CurvePoint, LearningResult
from ottt_loihi.onchip.stream import Data
from ottt_loihi.sim import Simulator
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.network import ChipNetwork

CHUNK = 16  # samples between two reports to ``progress``


def accuracy(chip: ChipNetwork, x: np.ndarray, labels: np.ndarray) -> float:
    """Part of the samples that the frozen network classifies correctly, with the exact simulator."""
    return float((Simulator(chip).run(x).predictions == labels).mean())


class Session:
    """One run: steps it, evaluates on the way, keeps what was read last.

    Attributes
    ----------
    kept
        where its states are kept, or None
    curve
        of the part of the run that lies behind it
    """

    def __init__(
        self,
        plan: Plan,
        run: SimRun | GraphRun,
        test: Data | None,
        kept: Checkpoint | None = None,
        curve: Sequence[CurvePoint] | None = None,
    ) -> None:
        self.plan, self.executor, self.test, self.kept = plan, run, test, kept
        self._received: np.ndarray | None = None  # of the test data, behind a frozen backbone
        self._pending: list[tuple[int, ChipNetwork]] = []  # points that are measured when the next one is
        self.curve = list(curve or [])
        self.seconds = 0.0
        self._read(run.learner(), measure=curve is None)

    def run(
        self,
        total: int,
        every: int,
        keep_every: int,
        progress: Callable[[int, int, float | None], None] | None,
        stop_at: float | None = None,
    ) -> bool:
        """Learn from ``total`` samples, or until the accuracy is reached; True if interrupted."""
        done = self.done
        try:
            while done < total:
                stops = [(done // count + 1) * count for count in (every, keep_every)]
                until = min(total, *stops)
                chunk = min(CHUNK, until - done)
                started = time.monotonic()
                self.executor.learn(chunk)
                self.seconds += time.monotonic() - started
                done += chunk
                if done == until:
                    self._stop(done in (stops[0], total))
                if progress is not None:
                    progress(done, total, self.curve[-1].accuracy if self.curve else None)
                if stop_at is not None and self.done == done and self.curve[-1].accuracy >= stop_at:
                    break
        except KeyboardInterrupt:
            return True
        return False

    def _stop(self, measure: bool) -> None:
        """At a point of the curve, or where only the state is kept."""
        learner = self.executor.learner()
        if measure:
            self._read(learner)
        self._measure()
        if self.kept is not None:
            self.kept.save(learner, [(point.samples, point.accuracy) for point in self.curve])

    def _read(self, learner: Learner, measure: bool = True) -> None:
        self.done, self.counters = learner.samples, counters(learner)
        self.chip = with_weights(self.plan, learner.weights(), learner.biases())
        self.subspaces = tuple(s for s in learner.subspaces() if s is not None)
        if measure and self.test is not None:
            self._pending.append((self.done, self.chip))

    def _measure(self) -> None:
        """Measure the points of the curve that are due. The first one waits for the second: learning begins at once."""
        while self._pending:
            done, chip = self._pending[0]
            self.curve.append(CurvePoint(done, self._accuracy(chip, self.test)))
            del self._pending[0]

    def _accuracy(self, chip: ChipNetwork, test: Data) -> float:
        if self.plan.front is None:
            return accuracy(chip, *test)
        if self._received is None:
            self._received = packed_spikes(self.plan.front, test[0])
        return float((predictions(make_plan(chip, self.plan.unit).chip, self._received) == test[1]).mean())

    def result(
        self, rates: Sequence[float], per_sample: int, interrupted: bool, settings: dict[str, Any]
    ) -> LearningResult:
        self._measure()
        plan = self.plan
        dense = make_plan(self.chip, plan.unit).dense
        return LearningResult(
            chip=self.chip,
            curve=tuple(self.curve),
            samples=self.done,
            steps=self.done * per_sample,
            rates=tuple(rates),
            counters=self.counters,
            messages=self.done * plan.chip.num_steps,
            rails=tuple(float(((c.weight == -256) | (c.weight == 255)).mean()) for c in dense),
            moved=tuple(float((c.weight != old.weight).mean()) for c, old in zip(dense, plan.dense)),
            seconds=self.seconds,
            interrupted=interrupted,
            settings=settings,
            subspaces=self.subspaces or None,
        )


def counters(learner: Learner) -> dict[str, int]:
    """Saturated messages by process and kind, as ``neuron[0].y1_saturated``."""
    counts = learner.variables(("y1_saturated", "error_saturated"))
    return {name.replace("readout[0]", "readout"): int(value[0]) for name, value in counts.items()}

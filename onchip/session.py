"""One run of learning: steps it, evaluates on the way with the weights frozen, keeps what was read last."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ottt_loihi.onchip.checkpoint import Checkpoint
from ottt_loihi.onchip.executors import GraphRun, SimRun
from ottt_loihi.onchip.front import packed_spikes, predictions
from ottt_loihi.onchip.plan import Plan, make_plan, with_weights
from ottt_loihi.onchip.result import CurvePoint, LearningResult
from ottt_loihi.onchip.stream import Data
from ottt_loihi.sim import Simulator
from ottt_loihi.sim.network import ChipNetwork

CHUNK = 16  # samples between two reports to ``progress``


def accuracy(chip: ChipNetwork, x: np.ndarray, labels: np.ndarray) -> float:
    """Part of the samples that the frozen network classifies correctly, with the exact simulator."""
    return float((Simulator(chip).run(x).predictions == labels).mean())


class Session:
    """One run: steps it, evaluates on the way, keeps what was read last."""

    def __init__(
        self,
        plan: Plan,
        per_sample: int,
        run: SimRun | GraphRun,
        test: Data | None,
        checkpoint: Checkpoint | None = None,
        resume: bool = False,
    ) -> None:
        self.plan, self.per_sample, self.executor, self.test, self.checkpoint = plan, per_sample, run, test, checkpoint
        self.heard = None if test is None or plan.front is None else packed_spikes(plan.front, test[0])
        self.curve: list[CurvePoint] = []
        self.seconds, self.done = 0.0, 0
        if resume:
            self.curve = run.resume(checkpoint)
            self.done = run.samples
        self._read(measure=not resume)

    def run(
        self,
        total: int,
        every: int,
        progress: Callable[[int, int, float | None], None] | None,
        stop_at: float | None = None,
    ) -> bool:
        """Learn from ``total`` samples, or until the accuracy is reached; True if interrupted."""
        done = self.done
        try:
            while done < total:
                until = min(total, (done // every + 1) * every)
                chunk = min(CHUNK, until - done)
                started = time.monotonic()
                self.executor.learn(chunk)
                self.seconds += time.monotonic() - started
                done += chunk
                if done == until:
                    self.done = done
                    self._read()
                    if self.checkpoint is not None:
                        self.executor.save(self.checkpoint, self.curve)
                if progress is not None:
                    progress(done, total, self.curve[-1].accuracy if self.curve else None)
                if stop_at is not None and done == until and self.curve[-1].accuracy >= stop_at:
                    break
        except KeyboardInterrupt:
            return True
        return False

    def _read(self, measure: bool = True) -> None:
        self.chip = with_weights(self.plan, self.executor.weights(), self.executor.biases())
        self.counters, self.subspaces = self.executor.counters(), self.executor.subspaces()
        if measure and self.test is not None:
            self.curve.append(CurvePoint(self.done, self._accuracy(self.test)))

    def _accuracy(self, test: Data) -> float:
        if self.heard is None:
            return accuracy(self.chip, *test)
        return float((predictions(make_plan(self.chip, self.plan.unit).chip, self.heard) == test[1]).mean())

    def result(self, rates: Sequence[float], interrupted: bool, settings: dict[str, Any]) -> LearningResult:
        plan = self.plan
        dense = make_plan(self.chip, plan.unit).dense
        return LearningResult(
            chip=self.chip,
            curve=tuple(self.curve),
            samples=self.done,
            steps=self.done * self.per_sample,
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

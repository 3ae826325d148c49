"""Learning on the chip: stream samples through a plastic network, and measure its accuracy now and then.

:func:`learn` runs Lava's learning engine: in Lava's runtime, in-process, or as ``sim.learn`` computes it without Lava,
much faster; bit for bit the same. While it learns the weights are read now and then and evaluated, frozen, with the
exact simulator.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ottt_loihi.converters.lava.backends import find
from ottt_loihi.onchip.checkpoint import CHANGED_SINCE_0_1, Checkpoint, curve_version, streams_of_0_1
from ottt_loihi.onchip.lava import stock
from ottt_loihi.onchip.lava.executors import GraphRun, SimRun, executor
from ottt_loihi.onchip.network.backbone import cut, packed_spikes, plastic, predictions
from ottt_loihi.onchip.network.trainable import PENDING, Plan, make_plan, with_weights
from ottt_loihi.onchip.result import CurvePoint, LearningResult
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.onchip.stream import Data, Stream, check_data
from ottt_loihi.sim import Simulator
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.rule import Rule
from ottt_loihi.sim.learning.subspace import Subspace
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi import checks
from ottt_loihi.errors import LavaError, UsageError

ORIGIN = "learnt on the chip"
CHUNK = 16  # samples between two reports to ``progress``


def learn(
    chip: ChipNetwork,
    data: Data | Callable[[int], Data],
    *,
    test: Data | None = None,
    epochs: int = 1,
    backend: str = "sim",
    settings: Settings | None = None,
    evaluate_every: int | None = None,
    progress: Callable[[int, int, float | None], None] | None = None,
    stall_timeout: float = 10.0,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    stop_at: float | None = None,
    subspaces: Sequence[Subspace] | None = None,
    known: Data | None = None,
    validation: Data | None = None,
    after: LearningResult | None = None,
) -> LearningResult:
    """Let a network learn online, one sample after the other, each plastic weight after every time step.

    Parameters
    ----------
    chip
        a plastic network: from :func:`~ottt_loihi.onchip.network.fresh.fresh_network`, or an exported one after
        :func:`~ottt_loihi.sim.learning.weight_formats.make_plastic`
    data
        spikes 0 or 1 ``(n, T, *input_shape)`` and labels ``(n,)``, −1 for a sample that is not learnt from; or a
        function of the epoch's number, 0 …, that gives them, so that every epoch can be encoded afresh
    test
        the same, for the accuracy curve
    epochs
        number of passes through the data, each in another order
    backend
        ``"sim"``; or with Lava the same result, slower: ``"inprocess"`` (Lava's models), ``"lava"`` (Lava's runtime)
    evaluate_every
        samples between two points of the curve; default about ten points an epoch
    progress
        called with (samples done, samples in all, last accuracy)
    stall_timeout
        of the Lava runtime, in seconds
    checkpoint
        a path without suffix for the state (``checkpoint.py``), which is saved at every point of the curve
    checkpoint_every
        number of samples after which the state is saved, too; default: only at the points of the curve
    resume
        continue from that state, with the same bits as without a stop. The backend may be another one, and ``epochs``
        may be larger
    stop_at
        accuracy on ``validation``, 0 … 1, of the network to deploy, at which learning ends; looked at at every point
        of the curve
    subspaces
        for HLOP: a subspace for each connection, which learning does not change
        (:func:`~ottt_loihi.onchip.network.hlop.watch`)
    known
        spikes and labels that the network has already learnt. Its logit scale, its noise and its usual share of
        mistakes are measured on them; without them, scale and noise are measured on ``data``. With ``shuffle=False``
        the traces are measured on them, too, so that no later sample of a stream has an influence
    validation
        messages and labels for ``stop_at`` that are in neither ``data`` nor ``test``
    after
        result of an earlier call, whose ``chip`` continues with the same rule, rates, feedback and random numbers. So
        a stream in its order (``shuffle=False``) can be cut into several calls without changing the result

    Raises
    ------
    FileError
        for a checkpoint that is missing, damaged, or of another network
    UsageError
        for wrong data, labels out of range, unknown names, rates that vanish or overflow in integers
    ChipError
        for a network that cannot learn here
    LavaError, BackendUnavailableError
        when Lava fails, saying what is kept and where, or is not there
    """
    if after is not None:
        _require_alone(settings=settings, subspaces=subspaces, known=known, checkpoint=checkpoint)
        settings, subspaces = after.chosen(), after.subspaces
    settings = settings or Settings()
    version = curve_version(Path(checkpoint)) if resume and checkpoint is not None else None
    if version in (1, 2) and settings.loss is None:
        settings = replace(settings, loss=Rule.loss)  # the default up to version 0.2.0
    find(backend).require()
    plan = make_plan(chip, settings.logit_scale or PENDING)
    stock.require(plan, backend, settings)
    if test is not None:
        test = check_data(chip, *test, what="test data")
    if (stop_at is None) != (validation is None):
        raise UsageError("stop_at and validation belong together: an accuracy, and the data to measure it on")
    enough = None
    if validation is not None:
        enough = (check_data(chip, *validation, what="validation data"), checks.number(stop_at, "stop_at", 0, 1))
    earlier = None if after is None else _state(after, plan)
    stream = Stream(plan, data, epochs, settings, subspaces, known, after)
    total = stream.total
    default = max(1, total // (10 * epochs))
    every = default if evaluate_every is None else checks.integer(evaluate_every, "evaluate_every")
    keep_every = every if checkpoint_every is None else checks.integer(checkpoint_every, "checkpoint_every")
    kept, curve, answered, chosen = None, None, [], {}
    if checkpoint is not None:
        kept = Checkpoint(Path(checkpoint), stream, every)
    if kept is None and (resume or checkpoint_every is not None):
        raise UsageError(f"{'resume' if resume else 'checkpoint_every'}: say where, with checkpoint=")
    if resume and kept is not None:
        streams = tuple(streams_of_0_1(stream, chip, settings)) if version == 1 else (stream,)
        stream, learner, curve, answered = _resumed(streams, kept)
        changed = [name for name in CHANGED_SINCE_0_1 if getattr(settings, name) != getattr(stream.settings, name)]
        if version == 1 and changed:
            chosen = {"kept_by_state": changed}
    else:
        learner = earlier or stream.learner()
    try:
        with executor(stream, backend, stall_timeout, learner) as run:
            session = Session(run, test, kept, curve, answered)
            interrupted = session.run(total, every, keep_every, progress, enough)
    except LavaError as error:
        if kept is None:
            raise
        raise LavaError(f"{error}; {kept.resume_hint(stream.presented)}") from error
    return session.result(interrupted, {"backend": backend, "epochs": epochs, **vars(stream.settings), **chosen})


def _require_alone(**given: Any) -> None:
    """Refuse what a call has from the earlier one that it goes on from."""
    if names := [name for name, value in given.items() if value is not None]:
        raise UsageError(f"after: the earlier call's settings and state are used; leave out {', '.join(names)}")


def _state(after: LearningResult, plan: Plan) -> Learner:
    """Return a copy of the state that a result ended in; raises for another network than its own."""
    ended = zip(after.learner.weights(), plan.dense)
    if not all(np.array_equal(weights, c.matrix()) for weights, c in ended):
        raise UsageError("after: the network is another one than the earlier call's; give the chip of that result")
    return after.learner.copy()


def _resumed(may_be: Sequence[Stream], kept: Checkpoint) -> tuple[Stream, Learner, list[CurvePoint], list[int]]:
    """Return the stream that a state was saved with, its learner, and its curve and answers up to there."""
    networks = [one.network() for one in may_be]
    learner, points, answered = kept.load(*networks)
    found = next(one for one, network in zip(may_be, networks) if network.layers is learner.network.layers)
    tested, rule, done = found.settings.tested, learner.network.rule, learner.samples // found.presented
    if len(answered) < done and tested:
        raise UsageError(f"{kept.curve}: lacks the answers before the stop; start again, without --resume")
    found.settings = replace(found.settings, rounding=rule.rounding, encoding=rule.encoding)
    return found, learner, [CurvePoint(*point) for point in points if point[0] <= done], answered[:done]


def accuracy(chip: ChipNetwork, x: np.ndarray, labels: np.ndarray) -> float:
    """Return the part of the samples that the frozen network classifies correctly, with the exact simulator."""
    return float((Simulator(chip).run(x).predictions == labels).mean())


class Session:
    """One run: steps it, evaluates now and then, and holds the state that was read last.

    Attributes
    ----------
    kept
        where its states are kept, or None
    curve, answered
        of the part of the run that lies behind it
    """

    def __init__(
        self,
        run: SimRun | GraphRun,
        test: Data | None,
        kept: Checkpoint | None = None,
        curve: Sequence[CurvePoint] | None = None,
        answered: Sequence[int] = (),
    ) -> None:
        self.plan, self.executor, self.test, self.kept = run.stream.plan, run, test, kept
        self._answered, self._first = list(answered), run.learner().samples // run.stream.presented - run.stream.before
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
        enough: tuple[Data, float] | None = None,
    ) -> bool:
        """Learn from ``total`` samples, or until the accuracy on some data is ``enough``; True if interrupted."""
        done = self.done
        try:
            while done < total:
                stops = [(done // count + 1) * count for count in (every, keep_every)]
                mean_at = self._next_of_mean(done)
                until = min(total, mean_at, *stops)
                chunk = min(CHUNK, until - done)
                started = time.monotonic()
                self.executor.learn(chunk)
                self.seconds += time.monotonic() - started
                done += chunk
                if done == mean_at:
                    self.executor.average()
                if done in (total, *stops):
                    self._stop(done in (stops[0], total))
                if progress is not None:
                    progress(done, total, self.curve[-1].accuracy if self.curve else None)
                if enough is not None and self.done == done:
                    data, wanted = enough
                    if accuracy(self._averaged() or self._chip(self.learner.weights()), *data) >= wanted:
                        break
        except KeyboardInterrupt:
            return True
        return False

    def _next_of_mean(self, done: int) -> int:
        """Return after how many samples of this call the running mean takes its next point; sys.maxsize: never.

        Counted from the first call's first sample: a stream that is cut has the same points.
        """
        stream = self.executor.stream
        if every := stream.settings.average_every:
            return ((stream.before + done) // every + 1) * every - stream.before
        return sys.maxsize

    def _stop(self, measure: bool) -> None:
        """Measure the curve's points that are due, one here if ``measure``, and save the state."""
        learner = self.executor.learner()
        if measure:
            self._read(learner)
        self._measure()
        if self.kept is not None:
            self.kept.save(learner, [(point.samples, point.accuracy) for point in self.curve], self._answers())

    def _read(self, learner: Learner, measure: bool = True) -> None:
        stream = self.executor.stream
        self.done = learner.samples // stream.presented - stream.before
        self.learner, self.answers = learner.copy(), self._answers()
        if measure and self.test is not None:
            self._pending.append((self.done, self._chip(learner.weights())))

    def _chip(self, weights: Sequence[np.ndarray]) -> ChipNetwork:
        """Return the network with weights that were learnt, and the biases of the state that was read last."""
        chip = with_weights(self.plan, weights, self.learner.biases())
        if not self.done:
            return chip
        return replace(chip, provenance={**chip.provenance, "origin": ORIGIN}, untrained=False)

    def _averaged(self) -> ChipNetwork | None:
        """Return the same with the mean of the weights; None where there is none."""
        mean = self.learner.mean
        return self._chip(mean.rounded()) if mean.points else None

    def _answers(self) -> tuple[int, ...] | None:
        """Return what was answered to every sample of the run; None where that is not known, or samples only learnt."""
        if self.executor.stream.presented == 1 or len(self._answered) < self._first:
            return None
        return (*self._answered, *self.executor.answers().tolist())

    def _measure(self) -> None:
        """Measure the points of the curve that are due. The first one waits for the second: learning begins at once."""
        while self._pending:
            done, chip = self._pending[0]
            self.curve.append(CurvePoint(done, self._accuracy(chip, self.test)))
            del self._pending[0]

    def _accuracy(self, chip: ChipNetwork, test: Data) -> float:
        if self.plan.backbone is None:
            return accuracy(chip, *test)
        if self._received is None:
            self._received = packed_spikes(self.plan.backbone, test[0])
        return float((predictions(cut(chip)[1], self._received) == test[1]).mean())

    def result(self, interrupted: bool, settings: dict[str, Any]) -> LearningResult:
        self._measure()
        learner, stream = self.learner, self.executor.stream
        chip = self._chip(learner.weights())
        dense = plastic(chip)
        return LearningResult(
            chip=chip,
            averaged=self._averaged(),
            curve=tuple(self.curve),
            samples=self.done,
            steps=self.done * stream.steps_per_sample,
            rates=tuple(stream.rates),
            rails=tuple(float(((c.weight == -256) | (c.weight == 255)).mean()) for c in dense),
            moved=tuple(float((c.weight != old.weight).mean()) for c, old in zip(dense, self.plan.dense)),
            seconds=self.seconds,
            interrupted=interrupted,
            settings=settings,
            answers=self.answers,
            came=tuple(stream.came(self.done).tolist()),
            learner=learner,
        )

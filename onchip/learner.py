"""Learning on the chip: stream samples through a plastic network, and watch what it learns.

:func:`learn` runs Lava's learning engine: in Lava's runtime, in-process, or as ``sim.learn`` computes it without Lava,
much faster; bit for bit the same. While it learns the weights are read now and then and evaluated, frozen, with the
exact simulator.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ottt_loihi.converters.lava.backends import find
from ottt_loihi.onchip.checkpoint import Checkpoint
from ottt_loihi.onchip.lava import stock
from ottt_loihi.onchip.lava.executors import executor
from ottt_loihi.onchip.lava.repetition import Repetition, repeat_in_lava
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.onchip.result import CurvePoint, LearningResult
from ottt_loihi.onchip.session import Session, accuracy
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.onchip.stream import Data, Stream, check_data
from ottt_loihi.sim.learning.subspace import Subspace
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi import checks
from ottt_loihi.errors import LavaError, UsageError

__all__ = [
    "CurvePoint",
    "LearningResult",
    "Repetition",
    "Settings",
    "accuracy",
    "learn",
    "repeat_in_lava",
]


def learn(
    chip: ChipNetwork,
    data: Data | Callable[[int], Data],
    *,
    test: Data | None = None,
    passes: int = 1,
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
) -> LearningResult:
    """Let a network learn online, one sample after the other, each plastic weight after every time step.

    Parameters
    ----------
    chip
        a plastic network: from :func:`~ottt_loihi.onchip.network.fresh.fresh_network`, or an exported one after
        :func:`~ottt_loihi.sim.learning.freeze.make_plastic`
    data
        spikes 0 or 1 ``(n, T, *input_shape)`` and labels ``(n,)``; or a function of the pass's number, 0 …, that gives
        them, so that every pass can be encoded afresh
    test
        the same, for the accuracy curve
    passes
        how often the data is gone through, in another order each time
    backend
        ``"sim"``; or with Lava the same result, slower: ``"inprocess"`` (Lava's models), ``"lava"`` (Lava's runtime)
    evaluate_every
        samples between two points of the curve; default about ten points a pass
    progress
        called with (samples done, samples in all, last accuracy)
    stall_timeout
        of the Lava runtime, in seconds
    checkpoint
        a path without suffix, where the state is kept (``checkpoint.py``): at every point of the curve, and
    checkpoint_every
        after so many samples, again and again; default: at the curve's points alone
    resume
        go on from there, bit for bit as if there had been no stop, in any backend, whichever had stopped; with more
        ``passes``, longer
    stop_at
        accuracy on the test data, 0 … 1, at which learning has done enough and ends
    subspaces
        HLOP: what learning keeps out of, one per plastic connection (:func:`~ottt_loihi.onchip.network.hlop.watch`)

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
    settings = settings or Settings()
    find(backend).require()
    plan = make_plan(chip, settings.unit)
    stock.require(plan, backend, settings)
    if test is not None:
        test = check_data(chip, *test, what="test data")
    stream = Stream(plan, data, passes, settings, subspaces)
    total = stream.total
    default = max(1, total // (10 * passes))
    every = default if evaluate_every is None else checks.integer(evaluate_every, "evaluate_every")
    keep_every = every if checkpoint_every is None else checks.integer(checkpoint_every, "checkpoint_every")
    kept, curve, kept_by_state = None, None, []
    if checkpoint is not None:
        kept = Checkpoint(Path(checkpoint), lambda count: stream.part(0, min(count, stream.per_pass)), every)
    if stop_at is not None and (test is None or not 0 < stop_at <= 1):
        raise UsageError(f"stop_at: expected an accuracy in 0 … 1 and test data to measure it on, got {stop_at}")
    if kept is None and (resume or checkpoint_every is not None):
        raise UsageError(f"{'resume' if resume else 'checkpoint_every'}: say where, with checkpoint=")
    learner = stream.learner(settings)
    if resume and kept is not None:
        learner, points = kept.load(learner.network)
        stored = {"rounding": learner.network.rounding, "encoding": learner.network.options.encoding}
        kept_by_state = [name for name, value in stored.items() if getattr(settings, name) != value]
        settings = replace(settings, **stored)
        curve = [CurvePoint(*point) for point in points]
    try:
        with executor(stream, backend, settings, stall_timeout, learner) as run:
            session = Session(plan, run, test, kept, curve)
            interrupted = session.run(total, every, keep_every, progress, stop_at)
    except LavaError as error:
        if kept is None:
            raise
        raise LavaError(f"{error}; {kept.told()}") from error
    chosen = {"backend": backend, "passes": passes, **vars(settings)}
    if kept_by_state:
        chosen["kept_by_state"] = kept_by_state
    per_sample = plan.steps_per_sample(settings.feedback, settings.schedule, settings.silent_epochs, settings.input_lag)
    return session.result(stream.rates, per_sample, interrupted, chosen)

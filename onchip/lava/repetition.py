"""The same stretch of learning in ``sim.learn`` and in Lava's runtime, compared variable by variable."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ottt_loihi.onchip.lava import stock
from ottt_loihi.onchip.lava.executors import executor
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.onchip.stream import Data, Stream, check_data
from ottt_loihi.sim.learning.subspace import Subspace
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi import checks
from ottt_loihi.errors import VerificationError


@dataclass(frozen=True)
class Repetition:
    """A stretch of learning that ``sim.learn`` and Lava's runtime went through with the same result."""

    steps: int
    variables: int
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
) -> Repetition:
    """Learn for at least ``steps`` Lava steps with ``sim.learn`` and in the Lava runtime, and compare everything.

    Weights, traces, membranes, random states and counters, all elements. Rounded up to whole samples; the data is gone
    through as often as it takes.

    Raises
    ------
    VerificationError
        naming the first variable and element that differ
    """
    steps = checks.integer(steps, "steps")
    settings = settings or Settings()
    plan = make_plan(chip, settings.unit)
    stock.require(plan, "lava", settings)
    per_sample = plan.steps_per_sample(settings.feedback, settings.schedule, settings.silent_epochs, settings.input_lag)
    samples = -(-steps // per_sample)
    first = check_data(chip, *(data(0) if callable(data) else data), what="data")
    stream = Stream(plan, data, -(-samples // len(first[1])), settings, subspaces)
    _learnt(stream, "sim", settings, 1, stall_timeout)  # numba compiles
    expected, sim_seconds = _learnt(stream, "sim", settings, samples, stall_timeout)
    found, lava_seconds = _learnt(stream, "lava", settings, samples, stall_timeout)
    steps = samples * per_sample
    for name, value in found.items():
        _check_equal(name, expected[name], value, steps)
    return Repetition(steps, len(found), steps / sim_seconds, steps / lava_seconds)


def _learnt(
    stream: Stream, backend: str, settings: Settings, samples: int, stall_timeout: float
) -> tuple[dict[str, np.ndarray], float]:
    """The variables after so many samples, and the seconds these took."""
    with executor(stream, backend, settings, stall_timeout, stream.learner(settings)) as run:
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

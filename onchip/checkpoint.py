"""Resuming of learning: the simulator's state is in ``<name>.h5``, curve and answers are in ``<name>.json``.

The state holds weights, traces, feedback and the number of samples, which all random numbers follow from, so a resumed
run ends in the same bits. The curve is written first: after a kill between the two it is a point ahead, and that point
is measured, and its samples are answered, again.

Runs that version 0.1 began go on with what that version chose where nothing was chosen. A state holds a digest of its
network, rates included, so these have to be equal to the last bit: they were relative to the traces of the first 64
samples, learnt feedback started at random, and the logit scale was the network's own scale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from ottt_loihi.onchip.network.trainable import make_plan, trace_energy
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.onchip.stream import Stream
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.network import LearningNetwork
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi.errors import FileError, UsageError
from ottt_loihi.files import atomic_write

FORMAT, VERSION = "ottt-loihi learning curve", 3  # 1: of version 0.1; 2: of 0.2.0; their defaults were others
SEEN = 1000  # samples that stand for the data
MAX_BYTES = 1 << 24

RATES_OF_0_1 = {
    "readout_rate": 0.02,
    "hidden_rate": 1.0,
    "learn_when": "always",
    "usual_mistakes": 0,
    "average_every": 0,
}
FEEDBACK_OF_0_1 = "random"
CHANGED_SINCE_0_1 = ("rounding", "encoding", "feedback", "learn_when", "readout_rate", "hidden_rate")
CALIBRATION_SAMPLES = 64


def curve_version(path: Path) -> int | None:
    """Return the version of the state kept at a path without suffix; None where there is none that can be read."""
    try:
        return _read(path.with_name(path.name + ".json"))["version"]
    except FileError:
        return None


class Checkpoint:
    """The file in which a run of learning is kept.

    Parameters
    ----------
    path
        without suffix
    stream
        the samples; the first ones of the first epoch, in order, stand for them
    every
        samples between two points of the curve
    """

    def __init__(self, path: Path, stream: Stream, every: int) -> None:
        self.state, self.curve = path.with_name(path.name + ".h5"), path.with_name(path.name + ".json")
        self._stream, self._every, self._version = stream, every, VERSION
        self._learnt: int | None = None

    @cached_property
    def _data(self) -> str:
        packed, labels = self._stream.part(0, min(SEEN, self._stream.per_epoch))
        return hashlib.sha256(packed.tobytes() + labels.astype(np.int64).tobytes()).hexdigest()

    def save(self, learner: Learner, curve: Sequence[tuple[int, float]], answers: Sequence[int] | None = None) -> None:
        """Write both files atomically. answers: those of all samples so far, if samples are answered."""
        document = {
            "format": FORMAT,
            "version": self._version,  # a run that version 0.1 began stays one
            "data": self._data,
            "every": self._every,
            "curve": list(curve),
            **({} if answers is None else {"answers": list(answers)}),
        }
        with atomic_write(self.curve) as temporary:
            temporary.write_text(json.dumps(document), encoding="utf-8")
        learner.save(self.state)
        self._learnt = learner.samples

    def load(self, *networks: LearningNetwork) -> tuple[Learner, list[tuple[int, float]], list[int]]:
        """Return the learner, of the first of ``networks`` that it fits, the curve and the answers, as they were saved.

        The answers are empty where samples are not answered, or an earlier version did not keep them.

        Raises
        ------
        UsageError
            for a run of other data, or with other points of the curve
        FileError
            for files that are missing, damaged, or of another network or rule
        """
        document = _read(self.curve)
        if document["data"] != self._data:
            raise UsageError(
                f"{self.curve}: a run on other data, or in another order (with --stop-at, a tenth of the samples is "
                "left out: give it as before); start without --resume"
            )
        if document["every"] != self._every:
            raise UsageError(
                f"{self.curve}: the curve has a point every {document['every']} samples, now every {self._every}; use "
                "the original evaluate_every, or start without --resume"
            )
        learner = Learner.load(self.state, *networks)
        self._learnt, self._version = learner.samples, document["version"]
        return learner, document["curve"], document["answers"]

    def resume_hint(self, presented: int) -> str:
        """Return a sentence for a failed run: the state that was kept, and how to resume."""
        if self._learnt is None:
            return f"no state had been kept in {self.state} yet: start again"
        samples = self._learnt // presented
        return f"the state after {samples:,} samples is kept in {self.state}: go on from there with resume"


def _read(path: Path) -> dict:
    """Return the checked contents of a curve's file."""
    if not path.exists():
        raise FileError(f"{path}: no run to go on with; start without --resume")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document["version"]
        points = [(int(n), float(accuracy)) for n, accuracy in document["curve"]]
        answers = [int(label) for label in document.get("answers", ())]
        if document["format"] != FORMAT:
            raise ValueError(f"it is {document['format']!r}")
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise FileError(f"{path}: no learning curve of ours, or damaged ({type(error).__name__})") from None
    if version not in range(1, VERSION + 1):
        raise FileError(f"{path}: version {version!r}, this program reads up to {VERSION}; update ottt-loihi")
    read = {"version": version, "curve": points, "answers": answers}
    return read | {name: document.get(name) for name in ("data", "every")}


def streams_of_0_1(stream: Stream, chip: ChipNetwork, settings: Settings) -> Iterator[Stream]:
    """Yield the stream as version 0.1 may have learnt it: with the given feedback; and, for today's default, its own.

    Parameters
    ----------
    stream
        of the run as it would begin today
    chip, settings
        given to ``learn``

    Raises
    ------
    UsageError
        where no logit scale is given, and the network has none
    """
    chosen = replace(settings, **{k: v for k, v in RATES_OF_0_1.items() if getattr(settings, k) is None})
    kinds = (chosen.feedback,) if chosen.feedback != Settings.feedback else (chosen.feedback, FEEDBACK_OF_0_1)
    plan = make_plan(chip, settings.logit_scale)
    energies = trace_energy(plan, stream.first(CALIBRATION_SAMPLES), stream.subspaces, chosen)
    for kind in kinds:
        old = copy(stream)
        old.settings = replace(chosen, feedback=kind, logit_scale=plan.logit_scale)
        old.plan = replace(plan, chip=replace(plan.chip, untrained=True))  # learnt feedback starts at random
        old.rates = [part / energy for part, energy in zip(chosen.rates(len(plan.hidden)), energies, strict=True)]
        old.presented = 2 if chosen.learn_when == "mistaken" else 1
        yield old

"""Runs that version 0.1 began go on with what that version chose where nothing was chosen.

A state holds a digest of its network, rates included, so these have to be equal to the last bit: they were relative to
the traces of the first 64 samples, learnt feedback started at random, and the logit scale was the network's own scale.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path

from ottt_loihi.onchip.checkpoint import curve_version
from ottt_loihi.onchip.network.trainable import Plan, make_plan, trace_energy
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.onchip.stream import Stream
from ottt_loihi.sim.network import ChipNetwork

RATES = {"readout_rate": 0.02, "hidden_rate": 1.0, "learn_when": "always", "usual_mistakes": 0, "average_every": 0}
FEEDBACK = "random"
CHOSEN = ("rounding", "encoding", "feedback", "learn_when", "readout_rate", "hidden_rate")  # defaults that changed
CALIBRATION_SAMPLES = 64


def began(checkpoint: str | os.PathLike[str]) -> bool:
    """Whether version 0.1 wrote the state at this path without suffix; False where none is, or it cannot be read."""
    return curve_version(Path(checkpoint)) == 1


def streams(stream: Stream, chip: ChipNetwork, settings: Settings) -> Iterator[Stream]:
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
    chosen = replace(settings, **{k: v for k, v in RATES.items() if getattr(settings, k) is None})
    kinds = (chosen.feedback,) if chosen.feedback != Settings.feedback else (chosen.feedback, FEEDBACK)
    plan = make_plan(chip, settings.logit_scale)
    energies = trace_energy(plan, stream.first(CALIBRATION_SAMPLES), stream.subspaces, chosen)
    for kind in kinds:
        old = copy(stream)
        old.settings = replace(chosen, feedback=kind, logit_scale=plan.logit_scale)
        old.plan = _as_untrained(plan)
        old.rates = [part / energy for part, energy in zip(chosen.rates(len(plan.hidden)), energies, strict=True)]
        old.presented = 2 if chosen.learn_when == "mistaken" else 1
        yield old


def _as_untrained(plan: Plan) -> Plan:
    """Return the plan of a network whose learnt feedback starts at random."""
    return replace(plan, chip=replace(plan.chip, untrained=True))

"""Samples that follow one another in time, run as one recording: no state is reset between them.

Exact is what a run of one long sample is: the recording *is* one, of n·T steps, so every u, v and spike of the oracle,
the simulator and Lava's processes is equal. A sample's scores are the readout's over its own T steps. The first sample
is the same as with resets. On the chip nothing has to be done at the end of a sample but to read the readout.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from ottt_loihi.sim.inference.reference import LEAST, Result, read_out
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi.errors import UsageError


def as_recording(chip: ChipNetwork, x: np.ndarray) -> tuple[ChipNetwork, np.ndarray]:
    """Return the network of n·T steps and the one sample ``(1, n·T, *input_shape)`` that messages ``x`` are together.

    Parameters
    ----------
    x
        ``(n, T, *input_shape)``, in their order

    Raises
    ------
    UsageError
        for a network whose first connection the host computes, a sample at a time, and for no samples
    """
    if chip.host is not None:
        raise UsageError(
            "continuous: the host computes the first connection, sample by sample; export with --input graded or spikes"
        )
    if not len(x):
        raise UsageError("continuous: expected at least one sample, got none")
    steps = len(x) * chip.num_steps
    return replace(chip, num_steps=steps), x.reshape(1, steps, *x.shape[2:])


def run_continuous(backend: Any, chip: ChipNetwork, x: np.ndarray) -> Result:
    """Run messages ``(n, T, *input_shape)`` as one recording. The scores of a sample are those of its own steps.

    ``backend``: of ``converters/lava/backends.py``. Raises what its ``run`` and :func:`as_recording` do.
    """
    whole, recording = as_recording(chip, x)
    name = "s" if chip.readout == "spike_count" else "v"
    found = backend.run(whole, recording, (name,))
    states = found.states[name][-1].reshape(len(x), chip.num_steps, -1)
    return replace(found, scores=window_scores(chip.readout, states), states={})


def window_scores(readout: str, states: np.ndarray) -> np.ndarray:
    """Return the scores of each sample, int64 ``(n, classes)``, of the readout's states ``(n, T, classes)``."""
    scores = np.full((len(states), states.shape[2]), LEAST if readout == "max_v" else 0, np.int64)
    for now in states.swapaxes(0, 1):
        scores = read_out(readout, scores, now, now)
    return scores

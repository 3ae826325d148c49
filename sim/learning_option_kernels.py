"""The learning rule's options, compiled: what ``sim/learning_kernels.py`` needs beyond the plain rule."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ottt_loihi.sim.kernels import called
from ottt_loihi.sim.learning_losses import EXP_TABLE, PROBABILITY_BITS, logit_steps
from ottt_loihi.sim.learning_options import LOSSES, Options

SOFTMAX, HINGE = LOSSES.index("softmax"), LOSSES.index("hinge")


class Chosen(NamedTuple):
    """Options as numbers. loss: its place in ``LOSSES`` · only_wrong: ``learn_when`` is ``wrong`` · logit_mantissa,
    logit_shift: of ``learning_losses.logit_steps``.
    """

    loss: int
    only_wrong: bool
    logit_mantissa: int
    logit_shift: int


def choose(options: Options, target: int) -> Chosen:
    """target: what stands for a logit of 1, aligned to the state."""
    return Chosen(LOSSES.index(options.loss), options.learn_when == "wrong", *logit_steps(target))


@called
def write_error(chosen, v, label, target, e):
    """``learning_losses.integer_error`` of membranes v, int32, into e, int64, both ``(classes,)``."""
    if chosen.loss == SOFTMAX:
        softmax_error(chosen, v, label, target, e)
    elif chosen.loss == HINGE:
        hinge_error(v, label, target, e)
    else:
        for k in range(len(v)):
            e[k] = np.int64(v[k]) - (target if k == label else 0)


@called
def softmax_error(chosen, v, label, target, e):
    """Cross-entropy from the table."""
    largest, total = np.int64(v[0]), np.int64(0)
    for k in range(len(v)):
        largest = max(largest, np.int64(v[k]))
    half = np.int64(1) << (chosen.logit_shift - 1)
    for k in range(len(v)):
        steps = ((largest - v[k]) * chosen.logit_mantissa + half) >> chosen.logit_shift
        e[k] = EXP_TABLE[steps] if steps < len(EXP_TABLE) else 0
        total += e[k]
    for k in range(len(v)):
        p = ((e[k] << PROBABILITY_BITS) + total // 2) // total
        p -= (1 << PROBABILITY_BITS) if k == label else 0
        e[k] = (p * target + (1 << (PROBABILITY_BITS - 1))) >> PROBABILITY_BITS


@called
def hinge_error(v, label, target, e):
    """Crammer and Singer's hinge."""
    rival = 1 if label == 0 else 0
    for k in range(len(v)):
        e[k] = 0
        if k != label and v[k] > v[rival]:
            rival = k
    if np.int64(v[label]) - v[rival] < target:
        e[label], e[rival] = -target, target

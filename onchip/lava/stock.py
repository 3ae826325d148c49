"""Plastic connections of Lava's own class, for a chip: Lava looks models up by the exact class of a process.

``LearningDense`` has no reset of x1, so silent epochs follow each sample (``Rule.silent_epochs``); a trace that is
the step's spike alone is its ``x0``. It begins with even weights, and its random numbers begin with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from ottt_loihi.onchip.network.trainable import Plan
from ottt_loihi.sim.learning.rule import Rule
from ottt_loihi.sim.network import ChipNetwork, Dense

from ottt_loihi.errors import UsageError

FEEDBACKS = ("random", "opzo", "local")  # the others read the transposed weights of a plastic connection


def connection(weight: np.ndarray, rule: Any, weight_exp: int, name: str) -> Any:
    """Return a ``LearningDense``; :class:`UsageError` for odd weights, which it would change at its first step."""
    from lava.proc.dense.process import LearningDense

    if odd := int((weight & 1).sum()):
        raise UsageError(
            f"{name}: {odd:,} of {weight.size:,} weights are odd, and Lava's LearningDense makes them even at its "
            "first step; start from onchip.lava.stock.even_weights, which says how many change"
        )
    return LearningDense(weights=weight, learning_rule=rule, weight_exp=weight_exp, name=name)


def even_weights(chip: ChipNetwork) -> tuple[ChipNetwork, int]:
    """Return the network with the plastic weights that a ``LearningDense`` begins with, and how many are changed.

    Odd ones are lowered by 1, as Lava would do it; learning moves them by ones from there.
    """
    connections, changed = [], 0
    for c in chip.connections:
        if c.weight_format == "learning9":
            changed += int((c.weight & 1).sum())
            c = replace(c, weight=c.weight & ~1)
        connections.append(c)
    return replace(chip, connections=tuple(connections)), changed


def is_chosen(rule: Rule) -> bool:
    """Whether dense connections are of Lava's own class: one random number for all weights, no transposed ones."""
    return rule.silent_epochs > 0 and rule.rounding == "lava" and rule.feedback in FEEDBACKS


def require(plan: Plan, backend: str, rule: Rule) -> None:
    """Refuse settings that a backend cannot learn with.

    A chip has models of Lava's own connections at best. In Lava's runtime the population behind a ``LearningDense``
    differs from run to run.

    Raises
    ------
    UsageError
        with what to choose
    """
    is_stock = is_chosen(rule)
    if backend == "lava" and is_stock:
        raise UsageError(
            "backend lava: behind Lava's own LearningDense its runtime gives other numbers from run to run; use "
            "inprocess, or rounding per-synapse"
        )
    if backend == "loihi2" and not (is_stock and all(isinstance(c, Dense) for c in plan.dense)):
        raise UsageError(
            f"backend loihi2: learns in dense connections with rounding lava, silent_epochs ≥ 1 and feedback "
            f"{' or '.join(FEEDBACKS)}, so that they are of Lava's own class; got rounding {rule.rounding}, "
            f"silent_epochs {rule.silent_epochs}, feedback {rule.feedback}"
        )


def require_start(plastic: Iterable[Any], samples: int) -> None:
    """Refuse to go on after so many samples where a connection cannot: Lava's random numbers begin with it."""
    if samples and any(type(process).__module__.startswith("lava.") for process in plastic):
        raise UsageError(
            f"after {samples:,} samples: Lava's LearningDense draws its random numbers from the beginning, so it "
            "cannot go on where another run stopped; go on in sim"
        )

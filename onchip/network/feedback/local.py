"""TESS: every hidden layer has its own class neurons, and learns from their error."""

from __future__ import annotations

from ottt_loihi.onchip.network.feedback.random import Fixed
from ottt_loihi.onchip.network.trainable import Plan
from ottt_loihi.sim.learning import local
from ottt_loihi.sim.learning.rule import Rule


class Local(Fixed):
    """``matrix · e`` with the error e of the layer's own class neurons (``sim/learning/local.py``)."""

    kind = "local"
    travels = "local"

    @classmethod
    def begin(cls, plan: Plan, layer: int, rule: Rule, own_seed: int) -> tuple[Local, float]:
        """As :meth:`~ottt_loihi.onchip.network.feedback.random.Random.begin`."""
        size = plan.hidden[layer].size
        matrix = local.WEIGHT * local.signs(plan.classes, size).T
        return cls(matrix, own_seed, gain=local.scale(rule.kappa, size)), local.units(plan.classes)

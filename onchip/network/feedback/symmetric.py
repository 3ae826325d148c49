"""Symmetric feedback: the transposed weights of the layer above."""

from __future__ import annotations

from ottt_loihi.onchip.network.trainable import Plan
from ottt_loihi.sim.learning.network import Feedback
from ottt_loihi.sim.learning.rule import Rule


class Symmetric(Feedback):
    """Feedback ``Wᵀ · e`` with the error e of the next layer. It needs no weights and no process."""

    kind = "symmetric"
    travels = "layerwise"

    @classmethod
    def begin(cls, plan: Plan, layer: int, rule: Rule, own_seed: int) -> tuple[None, float]:
        """As :meth:`~ottt_loihi.onchip.network.feedback.random.Random.begin`."""
        return None, plan.resolution(layer + 1)

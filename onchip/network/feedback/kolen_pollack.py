"""Kolen–Pollack feedback: a twin of the connection to the layer above, which learns alike.

It starts elsewhere, or, where the connection has learnt already, at the same weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ottt_loihi.onchip.network.trainable import Plan
from ottt_loihi.sim.learning.network import Feedback
from ottt_loihi.sim.learning.rule import Rule
from ottt_loihi.sim.network import Sparse


class KolenPollack(Feedback):
    """``matrixᵀ · e`` with the error e of the layer above. Source: Kolen and Pollack 1994; Akrout et al. 2019."""

    kind = "kolen-pollack"
    travels = "layerwise"
    twin = True

    @classmethod
    def begin(cls, plan: Plan, layer: int, rule: Rule, own_seed: int) -> tuple[KolenPollack, float]:
        """As :meth:`~ottt_loihi.onchip.network.feedback.random.Random.begin`."""
        above = plan.dense[layer + 1]
        matrix = start_weights(plan, layer + 1, above.shape, rule.seed)
        if isinstance(above, Sparse):  # the twin has the same synapses
            matrix *= above.mask()
        return cls(matrix, own_seed), plan.resolution(layer + 1)

    def process(self, layer: int, builder: Any) -> Any:
        """As :meth:`~ottt_loihi.onchip.network.feedback.random.Fixed.process`: a plastic connection like the other."""
        return builder.connection(layer + 1, self.matrix, f"feedback[{layer}]", self.seed)


def start_weights(plan: Plan, layer: int, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Return where learnt feedback starts, int32: random, uniform, with the standard deviation of the layer's weights.

    Kolen–Pollack's twin of weights that have learnt already starts as they do: a host that loads the one loads both.
    """
    if shape == plan.dense[layer].shape and not plan.chip.untrained:
        return np.clip(plan.dense[layer].matrix(), -255, 255).astype(np.int32)
    spread = np.sqrt(3.0) * max(1.0, float(plan.dense[layer].weight.std()))
    drawn = np.random.default_rng([seed, *shape]).uniform(-spread, spread, shape)
    return np.clip(np.round(drawn), -255, 255).astype(np.int32)

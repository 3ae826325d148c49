"""Feedback with fixed weights; random ones are direct feedback alignment."""

from __future__ import annotations

from typing import Any

import numpy as np
from ottt_loihi.onchip.network.trainable import Plan
from ottt_loihi.sim.learning.network import Feedback
from ottt_loihi.sim.learning.rule import Rule

FEEDBACK_MAX = 254


class Fixed(Feedback):
    """Feedback ``matrix · e`` with constant weights. A subclass defines the error e and the matrix."""

    def process(self, layer: int, builder: Any) -> Any:
        """Return the Lava process, named ``feedback[layer]``, in a graph of ``onchip.lava.graph.Builder``."""
        from lava.proc.dense.process import Dense

        return Dense(weights=self.matrix, num_message_bits=8, name=f"feedback[{layer}]")


class Random(Fixed):
    """``matrix · e`` with the readout's error e."""

    kind = "random"

    @classmethod
    def begin(cls, plan: Plan, layer: int, rule: Rule, own_seed: int) -> tuple[Random, float]:
        """Return the feedback of a hidden layer, and how many of its units an error of 1.0 causes.

        Parameters
        ----------
        rule
            with the seed of the matrices of all layers
        own_seed
            of the rounding of this layer's matrix
        """
        matrix, units = quantized_feedback(random_feedback(plan, rule.seed)[layer])
        return cls(matrix, own_seed), units


def random_feedback(plan: Plan, seed: int) -> list[np.ndarray]:
    """Return B per hidden layer, float64 ``(hidden, classes)``, uniform in ±1/√classes: the same as torch's rules draw.

    Layer after layer from ``default_rng(seed)``, as ``ottt_loihi.rules.three_factor.ThreeFactorLoop``.
    """
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, (layer.size, plan.classes)) / np.sqrt(plan.classes) for layer in plan.hidden]


def quantized_feedback(matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """Return (even integers up to ±254, integer units per 1.0)."""
    scale = FEEDBACK_MAX / np.abs(matrix).max()
    return (2 * np.round(matrix * scale / 2)).astype(np.int32), float(scale)

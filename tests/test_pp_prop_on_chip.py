"""pp-prop on LIF neurons in Lava's floating point: OTTT's learning rule, and y1 times (1 + λ^t)/(1 + λ)."""

import numpy as np
import pytest
from learning_cases import assert_lava_learns
from ottt_loihi.sim.learning.rule import Rule

from ottt_loihi.rules.three_factor import ThreeFactorLoop

T, BETA = 5, 0.5


def factor(t: int) -> float:
    """What pp-prop's gradient is of OTTT's, in time step t = 1 … T (``test_rules_identities.py``)."""
    return (1 + BETA**t) / (1 + BETA)


class PPPropLoop(ThreeFactorLoop):
    """The three-factor loop; in hidden layers with pp-prop's filtered surrogate in place of the surrogate."""

    def start(self):
        super().start()
        self.t = 0

    def step(self, x, target):
        found, self.t = super().step(x, target), self.t + 1
        for layer in range(len(self.weights) - 1):
            found.delta_w[layer] = found.delta_w[layer] * factor(self.t)
        return found


@pytest.mark.lava
@pytest.mark.parametrize(
    ("feedback", "hidden", "phases"), [("symmetric", (9,), 4), ("random", (9, 7), 5), ("symmetric", (9, 7), 6)]
)
def test_floating_point_is_the_equation(feedback, hidden, phases, monkeypatch):
    pytest.importorskip("lava.magma.core.process.process")
    from ottt_loihi.onchip.lava.float_graph import build_float_graph
    from ottt_loihi.onchip.lava.processes.neuron import OTTTNeuronModelFloat

    learn = OTTTNeuronModelFloat.learn

    def filtered(self, third_factor, halvings):
        learn(self, third_factor, halvings)
        _, t = self._feedback.time_step_at(self.time_step)
        self.y1 = self.y1 * factor(t + 1)

    monkeypatch.setattr(OTTTNeuronModelFloat, "learn", filtered)
    rng, sizes = np.random.default_rng(3), (12, *hidden, 3)
    x, labels = rng.integers(0, 2, (25, T, 12), np.uint8), rng.integers(0, 3, 25)
    weights = [rng.normal(0, 2 / np.sqrt(n), (m, n)) for n, m in zip(sizes, sizes[1:])]  # noqa: RUF007
    loop = PPPropLoop(weights, learning_rate=0.05, time_steps=T, surrogate="rectangle", feedback=feedback)
    for frames, label in zip(x, labels):
        loop.learn(frames[np.newaxis], np.eye(3)[[label]])
    rule = Rule(encoding="signed", feedback=feedback)
    graph = build_float_graph(
        weights, np.packbits(x, axis=-1), labels, learning_rate=0.05, feedback=loop.feedback, rule=rule
    )
    assert graph.period == phases * T
    assert_lava_learns(graph, len(x), weights, loop.weights)

"""Random networks that learn, with rates and data, for property tests; and what Lava's floating point is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import Plan, make_plan
from ottt_loihi.sim.learning.network import LearningNetwork
from ottt_loihi.sim.learning.rule import ENCODINGS, LOSSES, SCHEDULES, SIGNALS, WHEN, Rule
from ottt_loihi.sim.learning.subspace import Subspace


@dataclass(frozen=True)
class Case:
    """plan, rates and the rest are the arguments of ``learning_network`` and ``build_graph``."""

    plan: Plan
    rates: tuple[float, ...]
    rule: Rule
    x: np.ndarray
    labels: np.ndarray
    gate: np.ndarray
    subspaces: tuple[Subspace, ...] | None = None

    @property
    def packed(self) -> np.ndarray:
        return np.packbits(self.x, axis=-1)

    def network(self) -> LearningNetwork:
        return learning_network(self.plan, self.rates, self.rule, self.subspaces)


@st.composite
def learning_cases(draw: st.DrawFn, max_hidden: int = 3) -> Case:
    """Any depth, leak and reset; biases; weights from tiny to clipped; rates from gentle to saturating."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    hidden = tuple(draw(st.lists(st.integers(1, 40), max_size=max_hidden)))
    inputs, classes, steps = draw(st.integers(1, 40)), draw(st.integers(2, 20)), draw(st.integers(1, 5))
    decay, reset = draw(st.sampled_from([0.1, 0.5, 0.75, 0.9])), draw(st.sampled_from(["subtract", "zero"]))
    resolution, density = draw(st.sampled_from([32, 128, 300])), draw(st.sampled_from([1.0, 0.4]))
    chip = fresh_network((inputs,), hidden, classes, steps, decay, reset, resolution, 1, density)
    layers = []
    for layer in chip.layers:
        mantissa = rng.integers(-40, 60, layer.shape) * draw(st.booleans())
        layers.append(replace(layer, bias_mant=mantissa, bias_exp=6))
    gain = draw(st.sampled_from([1, 3]))
    connections = [
        c
        if c.weight_format != "learning9"
        else replace(c, weight=np.clip(gain * c.weight, -256, 255), weight_exp=draw(st.integers(-1, 2)))
        for c in chip.connections
    ]
    samples, feedback = draw(st.integers(1, 8)), draw(st.sampled_from(SIGNALS))
    protected, limit = draw(st.booleans()), draw(st.sampled_from([100, 6000, 32767]))
    plan = make_plan(replace(chip, layers=tuple(layers), connections=tuple(connections)))
    return Case(
        plan=plan,
        subspaces=_subspaces(rng, plan, limit) if protected and density == 1 else None,
        rates=tuple(draw(st.sampled_from([0.02, 0.2, 2.0])) for _ in range(len(hidden) + 1)),
        rule=replace(
            draw(learning_rules(feedback)),
            seed=draw(st.integers(0, 2**20)),
            halve_every=draw(st.integers(0, 3)),
            rounding=draw(st.sampled_from(["lava", "per-synapse", "per-synapse-1"])),
        ),
        x=(rng.random((samples, steps, inputs)) < draw(st.sampled_from([0.1, 0.5, 1.0]))).astype(np.uint8),
        labels=rng.integers(0, classes, samples),
        gate=rng.random(samples) < draw(st.sampled_from([0.5, 1.0])),
    )


@st.composite
def learning_rules(draw: st.DrawFn, feedback: str) -> Rule:
    """Any choice, and half of the time the plain rule."""
    if draw(st.booleans()):
        return Rule(feedback=feedback)
    return Rule(
        feedback=feedback,
        loss=draw(st.sampled_from(LOSSES)),
        learn_when=draw(st.sampled_from(WHEN if feedback != "local" else WHEN[:1])),
        usual_mistakes=draw(st.sampled_from([0, 9000, 1 << 15])),
        learn_bias=draw(st.booleans()),
        schedule=draw(st.sampled_from(SCHEDULES if feedback != "opzo" else SCHEDULES[:1])),
        encoding=draw(st.sampled_from(ENCODINGS)),
    )


def _subspaces(rng: np.random.Generator, plan: Plan, limit: int) -> tuple[Subspace, ...]:
    """Rows from tiny to senseless, some of them fixed."""
    found = []
    for c in plan.dense:
        rows = rng.integers(-limit, limit + 1, (rng.integers(0, c.shape[1] + 1), c.shape[1]))
        fixed, shift = int(rng.integers(0, len(rows) + 1)), int(rng.integers(0, 20))
        found.append(Subspace(rows, fixed, shift, int(rng.integers(0, 1000))))
    return tuple(found)


def assert_lava_learns(graph, samples: int, before, expected, feedback=None) -> None:
    """Run a floating-point graph on so many samples: its weights move from ``before`` to ``expected``, within 1e-12.

    feedback: the weights of the feedback after it, where they are looked at.
    """
    from ottt_loihi.converters.lava.inprocess import InProcessRun

    with InProcessRun(graph.source, tag="floating_pt") as run:
        run.steps(samples * graph.period)
        for process, weights, old in zip(graph.plastic, expected, before):
            np.testing.assert_allclose(run.get(process.weights), weights, rtol=0, atol=1e-12)
            assert np.abs(weights - old).max() > 0.01
        if feedback is not None:
            for process, weights in zip(graph.feedback, feedback, strict=True):
                np.testing.assert_allclose(run.get(process.weights), weights, rtol=0, atol=1e-12)

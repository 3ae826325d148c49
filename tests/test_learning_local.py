"""TESS on the chip: class neurons of each hidden layer; oracle, simulator, Lava's models and runtime learn the same."""

from dataclasses import replace

import numpy as np
import pytest
from learning_cases import assert_lava_learns
from ottt_loihi.onchip import Settings, fresh_network, learn
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.schedule import Schedule
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim.learning import local
from ottt_loihi.sim.learning import reference as oracle
from ottt_loihi.sim.learning.rule import Rule

from ottt_loihi import sim
from ottt_loihi.errors import UsageError
from ottt_loihi.rules.three_factor import ThreeFactorLoop

T = 5
BOTH = dict(lambda_pre=0.5, lambda_post=0.2, alpha_post=1.0)
CHOICES = [
    BOTH,
    BOTH | {"encoding": "signed", "kappa": 3.0, "learn_bias": True},
    {"schedule": "pipelined"},
    {"schedule": "pipelined", "encoding": "signed", "loss": "softmax", "kappa": 1.0},
    {"encoding": "split"},
]


def chip(hidden=(9, 7)):
    return fresh_network((12,), hidden, 3, T, resolution=128, seed=1)


def data(count=20):
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, (count, T, 12), np.uint8), rng.integers(0, 3, count)


def network(hidden=(9, 7), **options):
    plan = make_plan(chip(hidden))
    return learning_network(plan, [0.3] * (len(hidden) + 1), Rule(feedback="local", seed=3, **options))


@pytest.mark.parametrize("hidden", [(9,), (9, 7), (9, 8, 7)])
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_variable_equals_the_oracle(choice, hidden):
    part, (x, labels) = network(hidden, **choice), data(30)
    gate = np.arange(30) % 5 != 1
    found = sim.learn(part, np.packbits(x, axis=-1), labels, gate).variables()
    expected = oracle.learn(part, x, labels, gate)
    for name, value in found.items():
        np.testing.assert_array_equal(expected[name], value, name)
    moved = found["plastic[0].weights"] != part.layers[0].connection.weight
    assert moved[1:].mean() > 0.1
    assert not moved[0].any()  # B is 0 for the first neuron of a layer


def test_a_layer_learns_the_same_whatever_the_layers_above_it_are():
    x, labels = data(30)
    found = []
    for sign in (1, -1):
        part = network(**BOTH)
        turned = [replace(layer.connection, weight=sign * layer.connection.weight) for layer in part.layers[1:]]
        above = [replace(layer, connection=c) for layer, c in zip(part.layers[1:], turned)]
        found.append(sim.learn(replace(part, layers=(part.layers[0], *above)), np.packbits(x, axis=-1), labels))
    np.testing.assert_array_equal(*(one.weights()[0] for one in found))
    assert (found[0].weights()[1] != found[1].weights()[1]).any()


@pytest.mark.parametrize("classes", [3, 10])
def test_the_signs_and_errors_are_those_of_the_rule_in_torch(classes):
    torch = pytest.importorskip("torch")
    from ottt_loihi.rules import tess

    found = local.signs(classes, 200)
    np.testing.assert_array_equal(found, tess.signs(classes, 200).numpy())
    assert local.signs(3, 8).tolist()[1:] == [[0, -1, 1, 1, -1, -1, 1, 1], [0, 1, -1, 1, -1, 1, -1, 1]]
    assert torch is not None


@pytest.mark.parametrize("kappa", [None, 1.0, 7.5])
def test_the_integers_are_the_line_to_a_64th(kappa):
    z = np.arange(-40, 41)
    for label in (0, 5):
        exact = local.float_errors(z.astype(float), label, kappa, 60)
        found = local.errors(2 * z, label, *local.scale(kappa, 60)) / 64
        assert np.abs(found - exact).max() <= 1 / 64


@pytest.mark.parametrize("hidden", range(1, 5))
def test_pipelined_the_delays_do_not_grow_with_the_depth(hidden):
    schedule = Schedule(hidden, "local", pipelined=True)
    for layer in range(hidden):
        assert schedule.feedback_phase(layer) - schedule.update_phase(layer) == 2
        assert schedule.feedback_phase(layer) - (schedule.update_phase(layer) - 1) == 3
    assert Schedule(hidden, "local").latency == hidden + 3


class TESSLoop(ThreeFactorLoop):
    """The three-factor loop with local signals, in float64: m = (κ/N)·Bᵀ·2e/classes."""

    def _errors(self, o, target, surrogate):
        delta, label, classes = super()._errors(o, target, surrogate), int(target[0].argmax()), o.shape[1]
        for layer, s in enumerate(self.spikes):
            b = local.signs(classes, s.size)
            e = local.float_errors(b @ s, label, None, s.size)
            delta[layer] = (0.25 * b.T @ (2 * e) / classes)[np.newaxis]
        return delta

    def fire(self, layer, u):
        if layer == 0:
            self.spikes = []
        self.spikes.append(super().fire(layer, u)[0])
        return self.spikes[-1][np.newaxis]


@pytest.mark.lava
class TestLava:
    @pytest.fixture(autouse=True)
    def _lava(self):
        pytest.importorskip("lava.magma.core.process.process")

    @pytest.mark.parametrize("hidden", [(9,), (9, 7), (9, 8, 7)])
    def test_floating_point_is_the_equation(self, hidden):
        from ottt_loihi.onchip.lava.float_graph import build_float_graph

        rng, sizes, (x, labels) = np.random.default_rng(3), (12, *hidden, 3), data(25)
        weights = [rng.normal(0, 2 / np.sqrt(n), (m, n)) for n, m in zip(sizes, sizes[1:])]  # noqa: RUF007
        loop = TESSLoop(weights, learning_rate=0.1, time_steps=T, surrogate="rectangle")
        for frames, label in zip(x, labels):
            loop.learn(frames[np.newaxis], np.eye(3)[[label]])
        packed = np.packbits(x, axis=-1)
        graph = build_float_graph(
            weights, packed, labels, learning_rate=0.1, feedback=None, rule=Rule(feedback="local")
        )
        assert graph.period == (len(hidden) + 3) * T
        assert_lava_learns(graph, len(x), weights, loop.weights)

    @pytest.mark.parametrize("choice", CHOICES[:3], ids=str)
    def test_lavas_models_learn_the_same(self, choice):
        settings = Settings(feedback="local", hidden_rate=2.0, readout_rate=0.1, **choice)
        found, expected = (learn(chip(), data(8), backend=b, settings=settings) for b in ("sim", "inprocess"))
        assert (found.chip, found.counters) == (expected.chip, expected.counters)
        assert min(found.moved[:2]) > 0.1
        assert found.steps == (8 * (T + 4) if "schedule" in choice else 8 * T * 5)

    @pytest.mark.slow
    def test_lavas_runtime_learns_the_same(self):
        settings = Settings(feedback="local", hidden_rate=2.0, readout_rate=0.1, schedule="pipelined")
        found, expected = (learn(chip(), data(8), backend=b, settings=settings) for b in ("sim", "lava"))
        assert (found.chip, found.counters) == (expected.chip, expected.counters)

    def test_stopped_in_the_simulator_and_resumed_in_lava(self, tmp_path):
        settings = Settings.of_rule("tess", hidden_rate=2.0, readout_rate=0.1)
        runs = dict(settings=settings, evaluate_every=10, checkpoint=tmp_path / "state")
        learn(chip(), data(10), **runs)
        resumed = learn(chip(), data(10), epochs=2, resume=True, backend="inprocess", **runs)
        assert resumed.chip == learn(chip(), data(10), epochs=2, settings=settings).chip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: network(learn_when="mistaken"),
            "learn_when: class neurons .* use always, or another",
        ),
        (lambda: network(kappa=0), "kappa: expected a number"),
        (lambda: network(**BOTH, schedule="pipelined"), "use schedule phased, or alpha_post 0"),
        (lambda: Settings.of_rule("tess", feedback="random"), "feedback: rule tess has feedback local, got random"),
        (
            lambda: Settings.of_rule("ottt", alpha_post=1.0),
            "alpha_post: rule ottt has none; choose rule s-tllr or",
        ),
        (lambda: Settings.of_rule("s-tllr", kappa=1.0), "kappa: rule s-tllr has none; choose rule tess"),
        (lambda: Settings.of_rule("tes"), "rule: expected one of ottt, s-tllr, tess"),
        (
            lambda: Rule(kappa=1.0),
            "kappa: belongs to feedback local .* leave it out",
        ),
    ],
)
def test_refused_with_the_nearest_thing_that_works(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_what_is_not_chosen_is_the_rules():
    chosen = Settings.of_rule("tess", feedback=None, alpha_post=0.0, kappa=None)
    assert (chosen.feedback, chosen.lambda_pre, chosen.alpha_post, chosen.kappa) == ("local", 0.5, 0.0, None)

"""CUBA-OTTT on the chip: the trace is a difference of two; oracle, simulator, Lava's models and runtime are equal."""

from dataclasses import replace

import numpy as np
import pytest
from commands import assert_one_line, run_here
from learning_cases import assert_lava_learns
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.onchip import Settings, fresh_network, learn, watch
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim.inference import reference as inference
from ottt_loihi.sim.learning import bias, currents, integers
from ottt_loihi.sim.learning import reference as oracle
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.rule import Rule
from ottt_loihi.sim.learning.weight_formats import make_plastic
from ottt_loihi.sim.network import Diagonal

from ottt_loihi import sim
from ottt_loihi.errors import ChipError, UsageError
from ottt_loihi.nn.models import mlp
from ottt_loihi.rules.three_factor import ThreeFactorLoop

T = 5
CHOICES = [
    ({}, "kolen-pollack"),
    ({"encoding": "signed", "learn_bias": True}, "random"),
    ({"encoding": "split", "schedule": "pipelined"}, "symmetric"),
    ({"schedule": "pipelined"}, "local"),
    ({"loss": "softmax"}, "opzo"),
]


def chip(current=0.5, decay=0.8, hidden=(9, 7)):
    return fresh_network((12,), hidden, 3, T, decay, "zero", 128, seed=1, current_decay=current)


def data(count=20):
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, (count, T, 12), np.uint8), rng.integers(0, 3, count)


def network(feedback="random", rounding="per-synapse", current=0.5, decay=0.8, **options):
    plan = make_plan(chip(current, decay))
    return learning_network(plan, [0.3] * 3, Rule(feedback=feedback, seed=3, rounding=rounding, **options))


@pytest.mark.parametrize(("current", "decay", "rounding"), [(0.5, 0.8, "per-synapse"), (0.6, 0.3, "lava")])
@pytest.mark.parametrize(("choice", "feedback"), CHOICES, ids=str)
def test_every_variable_equals_the_oracle(choice, feedback, current, decay, rounding):
    part, (x, labels) = network(feedback, rounding, current, decay, **choice), data(30)
    found = sim.learn(part, np.packbits(x, axis=-1), labels).variables()
    expected = oracle.learn(part, x, labels)
    for name, value in found.items():
        np.testing.assert_array_equal(expected[name], value, name)
    moved = [(found[f"plastic[{i}].weights"] != layer.connection.weight).mean() for i, layer in enumerate(part.layers)]
    assert sum(moved) > 0.1
    assert found["plastic[0].x2"].any()


def test_forward_it_is_the_exact_simulator():
    net, (x, labels) = chip(), data()
    learner = Learner(network())
    found = learner.learn(np.packbits(x, axis=-1), labels, gate=False)
    np.testing.assert_array_equal(found, inference.run(net, x).predictions)


@pytest.mark.parametrize(("fast", "slow"), [(0.5, 0.8), (0.1, 0.9), (0.3, 0.5)])
@pytest.mark.parametrize("pre_phase", [1, 3])
def test_the_difference_is_the_trace(fast, slow, pre_phase):
    """Within the rounding of the traces, and never saturated."""
    part = currents.Slow(slow, currents.impulses(fast, slow, 4, pre_phase)[1])
    first = currents.impulses(fast, slow, 4, pre_phase)[0]
    unit = currents.effective((fast, first), part, 4, pre_phase)
    x, a, e, found, expected = np.zeros(2), 0.0, 0.0, [], []
    left = [integers.impulse_left(d, 4, pre_phase) for d in (fast, slow)]
    for t in range(60):
        spike = t < 40
        x = x * (fast, slow) + spike * np.array([first * left[0], part.impulse * left[1]])
        a = fast * a + spike
        e = slow * e + a
        assert x.max() <= integers.TRACE_MAX
        found.append((x[1] - x[0]) / unit)
        expected.append(e)
    assert np.abs(np.array(found) / np.array(expected) - 1).max() < 0.2
    assert np.corrcoef(found, expected)[0, 1] > 0.999


def test_the_biases_trace_is_that_of_an_input_that_always_fires():
    assert bias.lengths(0.5, 4, 1.0, False, True, 0.8) == pytest.approx((1.0, 2.3, 3.59, 4.747))


class CubaLoop(ThreeFactorLoop):
    """The three-factor loop with current-based neurons that reset to zero, in float64."""

    def __init__(self, *arguments, current, **settings):
        self.current = current
        super().__init__(*arguments, reset="zero", **settings)

    def start(self):
        super().start()
        self.c = [np.zeros(len(w)) for w in self.weights[:-1]]
        self.a = [np.zeros(w.shape[1]) for w in self.weights[:-1]]
        self.e = [np.zeros(w.shape[1]) for w in self.weights[:-1]]

    def _forward(self, x):
        spikes, membranes, traces = [], [], []
        for layer, weight in enumerate(self.weights[:-1]):
            self.c[layer] = self.current * self.c[layer] + weight @ x[0]
            self.a[layer] = self.current * self.a[layer] + x[0]
            self.e[layer] = self.beta * self.e[layer] + self.a[layer]
            u = (self.beta * self.v[layer] + self.c[layer]).reshape(1, -1)
            s = self.fire(layer, u)
            self.v[layer] = u[0] * (1 - s[0])
            spikes.append(s)
            membranes.append(u)
            traces.append(self.e[layer][np.newaxis])
            x = s
        o = x @ self.weights[-1].T
        return [*spikes, o], [*membranes, o], [*traces, x]


@pytest.mark.lava
class TestLava:
    @pytest.fixture(autouse=True)
    def _lava(self):
        pytest.importorskip("lava.magma.core.process.process")

    @pytest.mark.parametrize(
        ("current", "decay", "hidden"), [(0.5, 0.8, (9, 7)), (0.8, 0.5, (9,)), (0.52, 0.48, (9, 7))]
    )  # the last as A-OTPE's ẑ, λ ∓ ε, would have it
    def test_floating_point_is_the_equation(self, current, decay, hidden):
        from ottt_loihi.onchip.lava.float_graph import build_float_graph

        rng, sizes, (x, labels) = np.random.default_rng(3), (12, *hidden, 3), data(25)
        weights = [rng.normal(0, 1 / np.sqrt(n), (m, n)) for n, m in zip(sizes, sizes[1:])]  # noqa: RUF007
        loop = CubaLoop(weights, current=current, beta=decay, learning_rate=0.02, time_steps=T, surrogate="rectangle")
        for frames, label in zip(x, labels):
            loop.learn(frames[np.newaxis], np.eye(3)[[label]])
        common = dict(learning_rate=0.02, feedback=None, decay=decay, current=current, reset="zero")
        common["rule"] = Rule(feedback="symmetric")
        graph = build_float_graph(weights, np.packbits(x, axis=-1), labels, **common)
        assert graph.period == (2 * len(hidden) + 2) * T
        assert_lava_learns(graph, len(x), weights, loop.weights)

    @pytest.mark.parametrize("rate", [0.0, -0.1, float("nan")])
    def test_floating_point_refuses_a_rate_that_is_not_positive(self, rate):
        from ottt_loihi.onchip.lava.float_graph import build_float_graph

        weights, (x, labels) = [np.zeros((9, 12)), np.zeros((3, 9))], data(2)
        with pytest.raises(UsageError, match=f"learning_rate > 0; got subtract, 0.5, 1.0, {rate}"):
            build_float_graph(
                weights,
                np.packbits(x, axis=-1),
                labels,
                learning_rate=rate,
                feedback=None,
                rule=Rule(feedback="symmetric"),
                decay=0.5,
                v_threshold=1.0,
                reset="subtract",
            )

    def test_floating_point_refuses_s_tllr_and_halves_rates(self):
        from ottt_loihi.onchip.lava.float_graph import build_float_graph

        weights, common = [np.ones((3, 12)), np.ones((3, 3))], dict(learning_rate=0.1, feedback=None, reset="zero")
        x, labels = data(2)
        rule = Rule(feedback="symmetric", lambda_pre=0.3)
        with pytest.raises(UsageError, match="current-based neurons take both traces; use rule ottt"):
            build_float_graph(weights, np.packbits(x, axis=-1), labels, rule=rule, current=0.8, **common)
        rule = Rule(feedback="symmetric", halve_every=2)
        graph = build_float_graph(weights, np.packbits(x, axis=-1), labels, rule=rule, **common)
        assert {p.proc_params["rule"].halve_every for p in (*graph.neurons, graph.readout)} == {2}

    @pytest.mark.parametrize(("choice", "feedback"), CHOICES[:3], ids=str)
    def test_lavas_models_learn_the_same(self, choice, feedback):
        settings = Settings(feedback=feedback, hidden_rate=2.0, readout_rate=0.1, **choice)
        found, expected = (learn(chip(), data(8), backend=b, settings=settings) for b in ("sim", "inprocess"))
        assert (found.chip, found.counters) == (expected.chip, expected.counters)
        assert min(found.moved[:2]) > 0.1

    @pytest.mark.slow
    def test_lavas_runtime_learns_the_same(self):
        settings = Settings(feedback="random", hidden_rate=2.0, readout_rate=0.1)
        found, expected = (learn(chip(), data(8), backend=b, settings=settings) for b in ("sim", "lava"))
        assert (found.chip, found.counters) == (expected.chip, expected.counters)

    def test_stopped_in_the_simulator_and_resumed_in_lava(self, tmp_path):
        settings = Settings(feedback="random", hidden_rate=2.0, readout_rate=0.1)
        runs = dict(settings=settings, evaluate_every=10, checkpoint=tmp_path / "state")
        learn(chip(), data(10), **runs)
        resumed = learn(chip(), data(10), epochs=2, resume=True, backend="inprocess", **runs)
        assert resumed.chip == learn(chip(), data(10), epochs=2, settings=settings).chip


def subtracting():
    """A layer with a current, and the self-connection of a reset by subtraction."""
    net = chip()
    return replace(net, connections=(*net.connections, Diagonal(0, 0, np.full(9, -60))))


def exported(reset):
    """A CubaLIF as ottt-export makes it; with a reset by subtraction its current is in connections with delays."""
    net = mlp((12, 9, 3), time_steps=T, alpha=0.5, beta=0.8, reset=reset)
    return make_plastic(quantize(from_torch(net)).chip)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: make_plan(exported("subtract"), 1), ChipError, r"hidden 1\): 5 connections .* that reset to zero"),
        (lambda: make_plan(subtracting()), ChipError, "reset by subtraction cannot learn: .* reset to zero"),
        (lambda: make_plan(chip(0.5, 0.5)), ChipError, "two that are different .* change one by 0.1"),
        (lambda: network(current=0.97, decay=0.98), UsageError, r"too coarse; use 0\.7 and 0\.9, the nearest"),
        (lambda: network(lambda_pre=0.5), UsageError, "layer 1 has current-based neurons, .* use rule ottt"),
        (lambda: fresh_network(current_decay=0.5), UsageError, "current-based neurons reset to zero on the chip"),
        (lambda: fresh_network(current_decay=1), UsageError, "current_decay: expected a number"),
    ],
)
def test_refused_with_the_nearest_thing_that_works(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--current-decay 0.8", "decay by 0.800 and 0.800: .* use 0.75 and 0.85, the nearest"),
        ("--current-decay 0.5 --membrane-decay 0.5", "decay by 0.500 and 0.500"),
        ("--current-decay 1.0", "--current-decay: expected 0 (no current), or 0.001 … 0.999, got 1.0"),
        ("--current-decay 0.5 --membrane-decay 0", "--membrane-decay: expected 0.001 … 0.999, got 0.0"),
        ("--membrane-decay 0.99999", "--membrane-decay: expected 0.001 … 0.999"),
    ],
)
def test_decays_of_the_command_that_cannot_learn_are_refused_before_anything_is_read(line, message, monkeypatch):
    monkeypatch.setattr("ottt_loihi.data.load_data", lambda *arguments, **options: pytest.fail("data were read"))
    assert_one_line(run_here("ottt-learn", *line.split()), 2, *message.split(" .* "))


def test_the_pair_that_a_message_names_works():
    for fast, slow in ((0.8, 0.8), (0.97, 0.98), (0.5, 0.5), (0.001, 0.99)):
        with pytest.raises(UsageError, match="too coarse") as refused:
            currents.impulses(*sorted((fast, slow)), 4, 1)
        named = str(refused.value).partition("use ")[2].split(",")[0].split(" and ")
        assert currents.impulses(*map(float, named), 4, 1)


def test_exported_neurons_that_reset_to_zero_learn():
    plan = make_plan(exported("zero"), 1)
    assert (plan.decay, plan.slow) == ((pytest.approx(0.5, abs=1e-3),), (pytest.approx(0.8, abs=1e-3),))


def test_hlop_is_refused():
    with pytest.raises(UsageError, match=r"subspaces: .* current-based neurons have two; learn without"):
        learn(chip(), data(), settings=Settings(), subspaces=watch(chip(), data()[0], [2] * 3))

"""S-TLLR on the chip: oracle, simulator, Lava's models and runtime learn the same; floating point is the equation."""

from dataclasses import replace

import numpy as np
import pytest
from learning_cases import assert_lava_learns
from ottt_loihi.onchip import Settings, fresh_network, learn
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim.learning import eligibility
from ottt_loihi.sim.learning import reference as oracle
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.rule import FEEDBACKS, ROUNDINGS, Rule

from ottt_loihi import sim
from ottt_loihi.errors import UsageError
from ottt_loihi.rules.three_factor import ThreeFactorLoop

T = 4
STLLR = dict(lambda_pre=0.75, lambda_post=0.5, alpha_post=1.0)
CHOICES = [
    {},
    {"encoding": "signed", "alpha_post": -1.0},
    {"alpha_post": -0.3, "learn_bias": True, "loss": "softmax"},
    {"alpha_post": 8.0, "lambda_pre": None},
    {"lambda_pre": 0.0, "lambda_post": 0.0},
]


def chip(hidden=(9, 7), density=1.0):
    return fresh_network((12,), hidden, 3, T, resolution=128, seed=1, density=density)


def data(count=20):
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, (count, T, 12), np.uint8), rng.integers(0, 3, count)


def network(options, feedback="random", rounding="per-synapse", rate=0.3, density=1.0):
    rule = replace(options, feedback=feedback, seed=3, rounding=rounding)
    return learning_network(make_plan(chip(density=density)), [rate] * 3, rule)


def assert_equal(found, expected):
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, name)


@pytest.mark.parametrize("feedback", FEEDBACKS)
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_variable_equals_the_oracle(choice, feedback):
    options = Rule(**STLLR | choice)
    rounding = ROUNDINGS[(CHOICES.index(choice) + FEEDBACKS.index(feedback)) % 3]
    part, (x, labels) = network(options, feedback, rounding, density=0.5 if feedback == "symmetric" else 1.0), data(30)
    found = sim.learn(part, np.packbits(x, axis=-1), labels).variables()
    assert_equal(oracle.learn(part, x, labels), found)
    plain = sim.learn(network(replace(options, alpha_post=0.0), feedback, rounding), np.packbits(x, axis=-1), labels)
    assert (found["plastic[0].weights"] != plain.variables()["plastic[0].weights"]).any()
    assert "plastic[0].y2" in found
    assert "plastic[2].y2" not in found


def test_with_alpha_post_0_and_the_neurons_own_decay_it_is_ottt():
    x, labels = data()
    packed = np.packbits(x, axis=-1)
    found = sim.learn(network(Rule(lambda_pre=0.5)), packed, labels)
    assert_equal(found.variables(), sim.learn(network(Rule()), packed, labels).variables())


def test_what_the_engine_adds_clips_after_each_product():
    part = eligibility.After(64, 2048, 3, 1, (1, 1))
    w, spikes = np.array([[255, -256]]), np.array([1, 1])
    second = eligibility.second_product("factored", np.array([127]), np.array([-127]), part)
    found = eligibility.accumulated(w, np.array([[2016, -2017]]), second, spikes)
    assert found.tolist() == [[(1 << 15) - 1 + second[0], -(1 << 15) - 1]]


def test_h_is_the_decaying_sum_of_surrogates_and_fits_in_a_message():
    rng, h, exact = np.random.default_rng(0), np.zeros(200, np.int32), np.zeros(200)
    part = eligibility.after(1.0, 0.75, 60.0, 0.1)
    for _ in range(40):
        active = rng.random(200) < 0.7
        h, exact = eligibility.moved(h, active, part.keep, part.impulse), 0.75 * exact + active
        assert eligibility.message(h).max() <= 127
        assert np.abs(eligibility.message(h) / part.impulse - exact).max() < 1.1 / part.impulse
    assert part.impulse * 2**part.shift == pytest.approx(60, rel=0.02)


class STLLRLoop(ThreeFactorLoop):
    """The three-factor loop with S-TLLR's eligibility, in float64."""

    def __init__(self, *arguments, options, **settings):
        self.options = options
        super().__init__(*arguments, **settings)

    def start(self):
        super().start()
        self.h = [np.zeros(len(w)) for w in self.weights[:-1]]
        self.tr = [np.zeros(w.shape[1]) for w in self.weights[:-1]]

    def step(self, x, target):
        found, chosen, decay = super().step(x, target), self.options, self.options.lambda_pre
        for layer, pre in enumerate([x, *found.s[:-2]]):
            self.tr[layer] = self.beta * self.tr[layer] + pre[0] if decay is None else decay * self.tr[layer] + pre[0]
            psi, delta = found.surrogate[layer][0], found.delta[layer][0]
            e = np.outer(psi, self.tr[layer]) + chosen.alpha_post * np.outer(self.h[layer], pre[0])
            found.delta_w[layer] = -self.learning_rate * delta[:, None] * e
            self.h[layer] = chosen.lambda_post * self.h[layer] + psi
        return found


@pytest.mark.lava
class TestLava:
    @pytest.fixture(autouse=True)
    def _lava(self):
        pytest.importorskip("lava.magma.core.process.process")

    @pytest.mark.parametrize("encoding", ["factored", "signed"])
    @pytest.mark.parametrize(
        ("feedback", "hidden", "phases"), [("symmetric", (9,), 4), ("random", (9, 7), 5), ("symmetric", (9, 7), 6)]
    )
    def test_floating_point_is_the_equation(self, feedback, hidden, phases, encoding):
        from ottt_loihi.onchip.lava.float_graph import build_float_graph

        options, rng, sizes = (
            Rule(**STLLR | {"alpha_post": -0.7, "encoding": encoding}),
            np.random.default_rng(3),
            (12, *hidden, 3),
        )
        weights = [rng.normal(0, 2 / np.sqrt(n), (m, n)) for n, m in zip(sizes, sizes[1:])]  # noqa: RUF007
        common = dict(learning_rate=0.05, time_steps=T, surrogate="rectangle", feedback=feedback)
        loop, (x, labels) = STLLRLoop(weights, options=options, **common), data(25)
        for frames, label in zip(x, labels):
            loop.learn(frames[np.newaxis], np.eye(3)[[label]])
        packed = np.packbits(x, axis=-1)
        rule = replace(options, feedback=feedback)
        graph = build_float_graph(weights, packed, labels, learning_rate=0.05, feedback=loop.feedback, rule=rule)
        assert graph.period == phases * T
        assert_lava_learns(graph, len(x), weights, loop.weights)

    @pytest.mark.parametrize(
        ("choice", "feedback", "density"),
        [(CHOICES[0], "kolen-pollack", 1.0), (CHOICES[1], "random", 1.0), (CHOICES[2], "symmetric", 0.8)],
    )
    def test_lavas_models_learn_the_same(self, choice, feedback, density):
        settings = Settings(feedback=feedback, hidden_rate=2.0, readout_rate=0.1, **STLLR | choice)
        found, expected = (
            learn(chip(density=density), data(8), backend=b, settings=settings) for b in ("sim", "inprocess")
        )
        assert found.chip == expected.chip
        assert found.counters == expected.counters
        assert min(found.moved[:2]) > 0.1

    @pytest.mark.slow
    def test_lavas_runtime_learns_the_same(self):
        settings = Settings(feedback="random", hidden_rate=2.0, readout_rate=0.1, **STLLR)
        found, expected = (learn(chip(), data(8), backend=b, settings=settings) for b in ("sim", "lava"))
        assert (found.chip, found.counters) == (expected.chip, expected.counters)


@pytest.mark.parametrize("encoding", ["factored", "signed"])
def test_stopped_and_resumed_is_not_stopped(tmp_path, encoding):
    part, (x, labels) = network(Rule(**STLLR, encoding=encoding)), data(30)
    packed = np.packbits(x, axis=-1)
    whole = sim.learn(part, packed, labels)
    sim.learn(part, packed[:13], labels[:13]).save(tmp_path / "state.h5")
    second = Learner.load(tmp_path / "state.h5", part)
    second.learn(packed[13:], labels[13:])
    assert_equal(second.variables(), whole.variables())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(lambda_pre=1), r"lambda_pre: 1 saturates a trace of seven bits; use at most 0.9921, which is 1 − 1/127"),
        (dict(lambda_post=1.0), "lambda_post: 1.0 saturates a trace of seven bits; use at most 0.9921"),
        (dict(lambda_pre=-0.1), "lambda_pre: expected a number"),
        (dict(schedule="pipelined"), "alpha_post: in a pipelined schedule .* use schedule phased, or alpha_post 0"),
        (dict(encoding="split"), "alpha_post: encoding split .* use encoding factored or signed, or alpha_post 0"),
        (dict(alpha_post=float("nan")), "alpha_post: expected a number"),
        (dict(alpha_post="much"), "alpha_post: expected a number"),
    ],
)
def test_refused_with_the_nearest_thing_that_works(change, message):
    with pytest.raises(UsageError, match=message):
        Rule(**STLLR | change)


@pytest.mark.parametrize("alpha", [1e-4, -1e4])
def test_an_alpha_that_seven_bits_do_not_hold(alpha):
    with pytest.raises(UsageError, match=r"alpha_post: .* does not fit in seven bits; expected 0, or 0\.\d+ … \d+"):
        network(Rule(**STLLR | {"alpha_post": alpha}))


def test_hlop_is_refused():
    from ottt_loihi.onchip import watch

    plan = make_plan(chip())
    subspaces = watch(chip(), data()[0], [2] * len(plan.dense))
    with pytest.raises(UsageError, match=r"HLOP watches and projects OTTT's traces.*use rule ottt"):
        learn(chip(), data(), settings=Settings(feedback="random", **STLLR), subspaces=subspaces)

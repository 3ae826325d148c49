"""OTPE in Lava's learning engine: with R in the synapse's tag exact in floating point; what ``t`` costs in integers."""

import numpy as np
import pytest
from learning_cases import assert_lava_learns
from ottt_loihi.sim.learning.integers import FOREVER, trace_time_constant
from ottt_loihi.sim.learning.rule import Rule

pytestmark = pytest.mark.lava
pytest.importorskip("lava.magma.core.process.process")

from ottt_loihi.converters.lava.inprocess import InProcessRun  # noqa: E402
from ottt_loihi.onchip.lava.float_graph import build_float_graph  # noqa: E402

from ottt_loihi.errors import UsageError  # noqa: E402
from ottt_loihi.rules.three_factor import ThreeFactorLoop  # noqa: E402

DW, DT = "2^-1*u0*t*y3+u0*x1*y1*y3", "u0*x1*y1-2^-1*u0*t"


def connection(weights, tags, dw, dt, impulse):
    """Lava's own connection with λ = ½ and a learning epoch of one step."""
    from lava.magma.core.learning.learning_rule import Loihi3FLearningRule
    from lava.proc.dense.process import LearningDense

    traces = {"x1_impulse": impulse, "x1_tau": trace_time_constant(0.5, 1), "x2_impulse": 0, "x2_tau": FOREVER}
    rule = Loihi3FLearningRule(dw=dw, dt=dt, **traces, t_epoch=1, rng_seed=1)
    rule.y1_tau = rule.y2_tau = rule.y3_tau = FOREVER
    return LearningDense(weights=weights, tag_1=tags, learning_rule=rule, name="plastic")


def test_the_tag_is_r_and_weights_learn_from_it():
    """R[t] = λ·R[t−1] + f·x̂ and Δw = y3·R[t]: dw sees the tag of the step before, so it has a second product."""
    rng, (steps, pre, post) = np.random.default_rng(0), (12, 6, 5)
    x, y = rng.random((steps, pre)) < 0.5, rng.normal(size=(steps, post))
    f = (rng.random((steps, post)) < 0.6).astype(float)
    weights = rng.normal(size=(post, pre))
    process = connection(weights.copy(), np.zeros((post, pre)), DW, DT, 1.0)
    trace, r = np.zeros(pre), np.zeros((post, pre))
    with InProcessRun(process, tag="floating_pt") as run:
        model = run._model(process.weights)
        for t in range(steps):
            model.time_step = t + 1
            model._process_pre_spikes(x[t])
            model.y1, model.y3 = f[t], y[t]
            model.run_lrn()
            trace = 0.5 * trace + x[t]
            r = 0.5 * r + np.outer(f[t], trace)
            weights = weights + y[t][:, np.newaxis] * r
            np.testing.assert_allclose(model.tag_1, r, rtol=0, atol=1e-12)
            np.testing.assert_allclose(model.weights, weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("exponent", "dropped"), [(-7, 5), (-4, 2), (-2, 0)])
def test_in_integers_the_product_of_tag_and_y3_drops_five_bits(exponent, dropped):
    """``x1*y1`` drops three and ``x1*y1*y3`` ten, each before the exponent gives back exponent + 7 of them."""
    process = connection(np.zeros((1, 1), int), np.zeros((1, 1), int), f"2^{exponent}*u0*t*y3", "0*u0*x1", 64)
    with InProcessRun(process) as run:
        model = run._model(process.weights)
        for tag, y in ((8, 16), (100, 64), (-100, 127), (120, -64)):
            model.tag_1, model.y1, model.y3 = np.full((1, 1), tag), np.array([0]), np.array([y])
            arguments = model._extract_applier_args(*model._compute_trace_histories())
            found = model._learning_rule_appliers["weights"].apply(np.zeros((1, 1), int), **arguments)
            assert found.item() == (tag * y >> 5) << (exponent + 7)
            assert abs(found.item() - tag * y / 2**dropped) < 2**5 / 2**dropped


class OTPELoop(ThreeFactorLoop):
    """The three-factor loop with OTPE in all hidden layers but the last, in float64; batches of one."""

    def start(self):
        super().start()
        self.r = [np.zeros_like(w) for w in self.weights]
        self.sums, self.length = [np.zeros(len(w)) for w in self.weights], 0.0

    def _errors(self, o, target, surrogate):
        self.length = self.beta * self.length + 1
        hidden = range(self.num_layers - 2)
        for layer in hidden:
            self.sums[layer] = self.beta * self.sums[layer] + surrogate[layer][0]
        means = [self.sums[layer][np.newaxis] / self.length for layer in hidden]
        return super()._errors(o, target, [*means, *surrogate[len(means) :]])

    def step(self, x, target):
        found = super().step(x, target)
        for layer in range(self.num_layers - 2):
            self.r[layer] = self.beta * self.r[layer] + np.outer(found.surrogate[layer], found.trace[layer])
            found.delta_w[layer] = -self.learning_rate * found.delta[layer].T * self.r[layer]
        return found


def graph(weights, decay=0.5, feedback=None, otpe=True, **choices):
    rng = np.random.default_rng(0)
    x, labels = np.packbits(rng.integers(0, 2, (12, 5, 12), np.uint8), axis=-1), rng.integers(0, 3, 12)
    rule = Rule(feedback="symmetric" if feedback is None else "random", **choices)
    common = dict(learning_rate=0.05, feedback=feedback, decay=decay, rule=rule, otpe=otpe)
    return build_float_graph(weights, x, labels, **common), np.unpackbits(x, axis=-1)[..., :12], labels


def start(sizes=(12, 9, 8, 7, 3)):
    rng = np.random.default_rng(3)
    return [rng.normal(0, 2 / np.sqrt(n), (m, n)) for n, m in zip(sizes, sizes[1:])]  # noqa: RUF007


@pytest.mark.parametrize(
    ("decay", "feedback"),
    [(0.5, "symmetric"), (0.75, "symmetric"), pytest.param(0.875, "random", marks=pytest.mark.slow)],
)
def test_the_graph_learns_otpe_in_floating_point(decay, feedback):
    """Three hidden layers: the first two from their tags, and ḡ·δ goes down from them."""
    weights = start()
    settings = dict(beta=decay, learning_rate=0.05, time_steps=5, surrogate="rectangle", feedback=feedback)
    loop = OTPELoop(weights, **settings)
    built, x, labels = graph(weights, decay, loop.feedback)
    for frames, label in zip(x, labels):
        loop.learn(frames[np.newaxis], np.eye(3)[[label]])
    plain = ThreeFactorLoop(weights, **settings)
    for frames, label in zip(x, labels):
        plain.learn(frames[np.newaxis], np.eye(3)[[label]])
    assert_lava_learns(built, len(x), weights, loop.weights)
    assert np.abs(plain.weights[0] - loop.weights[0]).max() > 0.01  # it is not OTTT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(decay=0.7), "decay: a synapse's tag decays by 0.5, 0.75, 0.875, 0.9375, got 0.7"),
        (dict(schedule="pipelined"), "otpe: expected schedule phased, got pipelined"),
        (dict(encoding="signed"), "otpe: expected encoding factored, got signed"),
        (dict(alpha_post=1.0), "otpe: expected feedback symmetric or random, dense weights, and neither S-TLLR's"),
    ],
)
def test_the_graph_refuses_what_tags_cannot_hold(change, message):
    with pytest.raises(UsageError, match=message):
        graph(start(), **change)

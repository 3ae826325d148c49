"""Learnt feedback: that it learns what it should, in the plain loop and in integers."""

import numpy as np
import pytest
from ottt_loihi.onchip.network import feedback
from ottt_loihi.onchip.network.feedback.random import Random
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim.learning import integers, reference
from ottt_loihi.sim.learning import rule as rules
from ottt_loihi.sim.learning.learner import Learner

from ottt_loihi.errors import UsageError
from ottt_loihi.rules.three_factor import KolenPollackLoop, OPZOLoop


def cosine(a, b):
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def network(seed=0, sizes=(20, 30, 4)):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(0, 2 / np.sqrt(n), (m, n)) for n, m in zip(sizes, sizes[1:])]  # noqa: RUF007
    return weights, rng


@pytest.mark.slow
def test_momentum_becomes_the_transposed_readout_weights():
    """With the weights frozen, M's rows point along those of W_outᵀ, times how often a neuron is near its threshold."""
    weights, rng = network()
    loop = OPZOLoop(weights, noise=0.25, averaging=13, signs=lambda layer: rng.choice([-1, 1], 30), learning_rate=0.0)
    near = np.zeros(30)
    for _ in range(20_000):
        loop.start()
        factors = loop.step(rng.integers(0, 2, (1, 20)), np.eye(4)[[rng.integers(4)]])
        near += np.abs(factors.u[0][0] - 1) < 0.25
        loop.apply(factors.delta_w)
    expected = weights[-1].T * (near / 20_000 / (2 * 0.25))[:, None]
    assert cosine(loop.feedback[0], expected) > 0.9
    scale = (loop.feedback[0] * expected).sum() / (expected**2).sum()
    assert scale == pytest.approx(1 - np.exp(-20_000 / 2**13), rel=0.15)


def test_kolen_pollack_aligns_the_twins_with_the_weights():
    weights, rng = network()
    for w in weights[1:]:
        w *= 0.05
    twins = [rng.normal(0, 0.05, w.shape) for w in weights[1:]]
    loop = KolenPollackLoop(weights, twins, learning_rate=0.05)
    before = cosine(loop.twins[0], loop.weights[1])
    patterns = rng.integers(0, 2, (4, 1, 3, 20))
    for step in range(400):
        loop.learn(patterns[step % 4], np.eye(4)[[step % 4]])
    assert abs(before) < 0.3
    assert cosine(loop.twins[0], loop.weights[1]) > 0.8
    np.testing.assert_allclose(loop.twins[0] - loop.weights[1], twins[0] - weights[1], atol=1e-12)


@pytest.mark.parametrize(("product", "expected"), [(64, 0.125 * 64 - 3.0), (-64, -0.125 * 64 - 3.0), (0, -3.0)])
def test_the_integer_momentum_step_is_right_on_average(product, expected):
    count = 200_000
    random = np.random.default_rng(0).integers(0, 2**32, count, dtype=np.uint32)
    weights = np.full(count, 96)
    mantissa, shift = integers.mantissa_and_shift(4.0, "gain")
    moved = integers.momentum_step(weights, np.full(count, product), mantissa, shift, 5, random) - weights
    assert moved.mean() == pytest.approx(expected, abs=0.01)
    assert moved.max() - moved.min() <= 1


def test_noise_is_fair_and_differs_between_neurons():
    state, total = integers.xorshift32_seeds(3, 200), np.zeros(200)
    for _ in range(1000):
        state = integers.xorshift32(state)
        z = integers.noise_signs(state)
        assert set(np.unique(z)) <= {-1, 1}
        total += z
    assert abs(total.mean()) < 5 * np.sqrt(1000 / 200)
    assert 20 < total.std() < 45


@pytest.mark.parametrize("averaging", [0, 25, 3.0, True])
def test_an_averaging_out_of_range_is_refused(averaging):
    with pytest.raises(UsageError, match=r"averaging: expected an integer 1 … 24"):
        integers.check_averaging(averaging, "feedback")


def test_wrong_twins_and_batches_are_refused():
    weights, _ = network()
    with pytest.raises(UsageError, match="twins: expected shapes"):
        KolenPollackLoop(weights, [np.ones((2, 2))])
    with pytest.raises(UsageError, match="noise > 0"):
        OPZOLoop(weights, noise=0, averaging=3, signs=lambda layer: np.ones(30))
    loop = OPZOLoop(weights, noise=0.2, averaging=3, signs=lambda layer: np.ones(30))
    with pytest.raises(UsageError, match="batches of one"):
        loop.step(np.zeros((2, 20)), np.eye(4)[[0, 1]])


class OneSign(Random):
    """The readout's error through the signs of fixed random weights."""

    kind = "one-sign"

    @classmethod
    def begin(cls, plan, layer, rule, own_seed):
        found, _ = Random.begin(plan, layer, rule, own_seed)
        return cls(64 * np.sign(found.matrix), own_seed), 64.0


def test_a_new_kind_of_feedback_is_one_class(monkeypatch):
    """A class and its name: the simulator, its oracle and the seeds know no kind by name."""
    monkeypatch.setitem(feedback.KINDS, "one-sign", OneSign)
    monkeypatch.setitem(rules.NAMES, "feedback", (*rules.SIGNALS, "one-sign"))
    plan, rng = make_plan(fresh_network((12,), (9, 7), 3, 4, resolution=128, seed=1)), np.random.default_rng(0)
    x, labels = rng.integers(0, 2, (30, 4, 12), np.uint8), rng.integers(0, 3, 30)
    found = {}
    for kind in ("one-sign", "random"):
        part = learning_network(plan, [0.3] * 3, rules.Rule(feedback=kind))
        learner = Learner(part)
        learner.learn(np.packbits(x, axis=-1), labels)
        found[kind], expected = learner.variables(), reference.learn(part, x, labels)
        for name, value in found[kind].items():
            np.testing.assert_array_equal(expected[name], value, name)
    assert set(np.unique(found["one-sign"]["feedback[0].weights"])) == {-64, 64}
    weights = (found[kind]["plastic[0].weights"] for kind in found)
    assert (np.not_equal(*weights)).mean() > 0.1

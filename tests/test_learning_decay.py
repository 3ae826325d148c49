"""Weight decay: right on average, towards zero, at its time, independent of rounding, resumed."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim.learning import integers
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.rule import Rule

from ottt_loihi import sim
from ottt_loihi.errors import UsageError


def network(rule):
    plan = make_plan(fresh_network((12,), (20, 9), 3, 4, resolution=128, seed=1))
    return learning_network(plan, [0.1] * 3, rule)


def data(count=30, seed=0):
    rng = np.random.default_rng(seed)
    return np.packbits(rng.integers(0, 2, (count, 4, 12), np.uint8), axis=-1), rng.integers(0, 3, count)


@pytest.mark.parametrize("shift", [1, 3, 8, 15])
def test_a_step_is_right_on_average_and_never_changes_a_sign(shift):
    w = np.repeat(np.arange(-256, 256), 2000).reshape(512, 2000)
    after = integers.decay_step(w, shift, integers.decay_draws(5, 3, w.shape))
    np.testing.assert_allclose(after.mean(axis=1), w[:, 0] * (1 - 0.5**shift), atol=5 * 0.5 / np.sqrt(2000))
    assert not after[256].any()
    assert (after * w >= 0).all()
    assert (np.abs(after) <= np.abs(w)).all()


def test_its_numbers_are_not_those_of_rounding():
    a, b = integers.decay_draws(5, 3, (300, 300)), integers.synapse_hash(5, 3, (300, 300))
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02


def test_weights_decay_after_every_fifth_sample_and_without_an_error():
    part = network(Rule(decay_every=5, decay_shift=3))
    learner, seen = Learner(part), []
    packed, labels = data(11)
    for sample in range(11):
        learner.learn(packed[sample : sample + 1], labels[sample : sample + 1], gate=False)
        seen.append(np.abs(learner.weights()[1]).sum())
    assert [a != b for a, b in pairwise(seen)] == [number % 5 == 0 for number in range(2, 12)]
    assert seen[-1] == pytest.approx(np.abs(part.layers[1].connection.weight).sum() * (7 / 8) ** 2, rel=0.05)


def test_frozen_layers_do_not_decay_and_learnt_feedback_does():
    part = network(Rule(feedback="kolen-pollack", decay_every=1, decay_shift=1))
    layers = (replace(part.layers[0], plastic=False), *part.layers[1:])
    learner = sim.learn(replace(part, layers=layers), *data(9), gate=False)
    np.testing.assert_array_equal(learner.weights()[0], part.layers[0].connection.weight)
    assert not np.abs(learner.weights()[1]).max() > 8
    for layer in range(2):
        start = np.abs(part.layers[layer].feedback.matrix).sum()
        assert np.abs(learner.variables()[f"feedback[{layer}].weights"]).sum() < 0.05 * start


def test_stopped_and_resumed_is_not_stopped(tmp_path):
    part, (packed, labels) = network(Rule(decay_every=4)), data()
    whole = sim.learn(part, packed, labels)
    sim.learn(part, packed[:14], labels[:14]).save(tmp_path / "state.h5")
    second = Learner.load(tmp_path / "state.h5", part)
    second.learn(packed[14:], labels[14:])
    for name, value in whole.variables().items():
        np.testing.assert_array_equal(value, second.variables()[name], name)


@pytest.mark.parametrize(
    "change", [{"decay_every": -1}, {"decay_every": True}, {"decay_shift": 0}, {"decay_shift": 16}]
)
def test_out_of_range(change):
    with pytest.raises(UsageError, match=r"decay_(every|shift): expected an integer \d+ … \d+, got "):
        Rule(**change)

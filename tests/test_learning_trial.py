"""Test, then learn: a sample is learnt from where its answer was wrong, as fast as mistakes are more than usual."""

from dataclasses import replace

import numpy as np
import pytest
from ottt_loihi.onchip import Settings, fresh_network, learn
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim.learning import trial
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.rule import Rule

STEPS, CLASSES = 4, 3


def network(**options):
    chip = fresh_network((12,), (20,), CLASSES, STEPS, resolution=128, seed=1)
    rule = Rule(**{"learn_when": "mistaken", "feedback": "kolen-pollack", **options})
    return learning_network(make_plan(chip), [0.1, 0.1], rule)


def data(count=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (count, STEPS, 12), np.uint8), rng.integers(0, CLASSES, count)


def taught(learner, x, y):
    """Present it twice; return the answer to the first time."""
    packed = np.packbits(x[None], axis=-1)
    answer = learner.learn(packed, np.array([y]), gate=False)[0]
    learner.learn(packed, np.array([y]))
    return answer


def weights(learner):
    return np.concatenate([w.ravel() for w in learner.weights()])


def test_only_samples_that_were_answered_wrongly_are_learnt_from():
    learner, changed, right = Learner(network()), [], []
    for x, y in zip(*data()):
        before = weights(learner)
        right.append(taught(learner, x, y) == y)
        changed.append(not np.array_equal(before, weights(learner)))
    assert changed == [not r for r in right]
    assert 5 < sum(right) < 35


def test_the_answer_is_the_one_before_the_label_was_known():
    """Presented once, an open gate learns from every sample: there was no answer."""
    x, y = data(1)
    learner = Learner(network())
    before = weights(learner)
    learner.learn(np.packbits(x, axis=-1), y)
    assert not np.array_equal(before, weights(learner))


def test_the_average_follows_mistakes_and_slows_learning():
    state = trial.fresh_trial(0)
    for _ in range(300):
        state[0] = 1
        state = trial.judged(state, 0)
    assert state[1] > 0.98 * trial.UNITY
    for _ in range(1000):
        state[0] = 0
        state = trial.judged(state, 0)
    assert 0 <= state[1] < 0.01 * trial.UNITY
    assert trial.halvings(state[1], 0) > 5
    some = trial.UNITY // 16
    assert [trial.halvings(some // part, 0) for part in (0.1, 1, 2, 4, 8)] == [0, 0, 1, 2, 3]
    assert trial.halvings(4 * some + some // 8, 4 * some) == trial.halvings(some // 8, 0)
    assert trial.halvings(some, some) == trial.FULL_BITS - 1


def test_a_network_that_is_as_right_as_usual_hardly_moves():
    def moved(usual):
        learner = Learner(network(usual_mistakes=usual))
        before = weights(learner)
        for x, y in zip(*data()):
            taught(learner, x, y)
        return np.abs(weights(learner) - before).sum()

    assert moved(trial.UNITY) < moved(0) / 20


@pytest.mark.parametrize("stop", [1, 7, 20])
def test_stopped_and_resumed_is_not_stopped(tmp_path, stop):
    x, y = data()
    whole, first = Learner(network()), Learner(network())
    for one in range(len(y)):
        taught(whole, x[one], y[one])
    for one in range(stop):
        taught(first, x[one], y[one])
    first.save(tmp_path / "state.h5")
    second = Learner.load(tmp_path / "state.h5", network())
    for one in range(stop, len(y)):
        taught(second, x[one], y[one])
    for name, value in whole.variables().items():
        np.testing.assert_array_equal(value, second.variables()[name], name)


@pytest.mark.lava
def test_learning_in_lava_is_the_same():
    pytest.importorskip("lava.magma.core.process.process")
    chip = fresh_network((12,), (9,), CLASSES, STEPS, resolution=128, seed=1)
    settings = Settings(learn_when="mistaken", readout_rate=0.1, hidden_rate=2.0, usual_mistakes=3000)
    found, expected = (learn(chip, data(12), backend=name, settings=settings) for name in ("sim", "inprocess"))
    assert found.chip == expected.chip
    assert found.samples == expected.samples == 12
    assert found.counters == expected.counters
    assert max(found.moved) > 0.1


def test_a_checkpoint_counts_samples(tmp_path):
    chip = fresh_network((12,), (9,), CLASSES, STEPS, resolution=128, seed=1)
    settings = Settings(learn_when="mistaken", halve_every=15)

    def run(name, **options):
        return learn(
            chip,
            data(30),
            test=data(10, 1),
            settings=settings,
            checkpoint=tmp_path / name,
            evaluate_every=10,
            **options,
        )

    run("state")
    resumed, whole = run("state", epochs=2, resume=True), run("whole", epochs=2)
    assert resumed.chip == whole.chip
    assert resumed.curve == whole.curve
    assert resumed.samples == 60


@pytest.mark.parametrize(("usual", "warned"), [(1 << 15, False), (0, True)])
def test_a_network_that_is_right_need_not_move(usual, warned):
    """Without more mistakes than usual its rates are no reason for weights that stay."""
    chip = replace(fresh_network((12,), (20,), CLASSES, STEPS, resolution=128, seed=1), untrained=False)
    chosen = Settings(usual_mistakes=usual, learn_when="mistaken", logit_scale=900, readout_rate=1e-6, hidden_rate=1e-6)
    found = learn(chip, data(), settings=chosen)
    assert max(found.moved) < 0.01
    assert any("rounded to nothing" in line for line in found.warnings) == warned

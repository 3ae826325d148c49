"""The readout's errors: the table's softmax against the true one."""

import numpy as np
import pytest
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim.learning import losses
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.rule import LOSSES, Rule

from ottt_loihi import sim
from ottt_loihi.errors import FileError, UsageError

SCALES = (3, 320, 2048, 8192)


def membranes(logit_scale, count=300, classes=10, seed=0):
    """Logits up to ±8, within 24 bits."""
    rng = np.random.default_rng(seed)
    v = rng.normal(0, rng.choice([0.1, 1, 4], (count, 1)), (count, classes)) * (logit_scale << 6)
    return np.clip(v, -(2**23) + 1, 2**23 - 1).astype(np.int32)


def data(count=30, seed=0):
    rng = np.random.default_rng(seed)
    return np.packbits(rng.integers(0, 2, (count, 4, 12), np.uint8), axis=-1), rng.integers(0, 3, count)


def network(rule, hidden=(20,)):
    chip = fresh_network((12,), hidden, 3, 4, resolution=128, seed=1)
    return learning_network(make_plan(chip), [0.1] * (len(hidden) + 1), rule)


@pytest.mark.parametrize("logit_scale", SCALES)
def test_the_tables_softmax_is_close_to_the_true_one(logit_scale):
    """Measured: at most 0.0038 in a probability, 0.0005 on average; the error message has steps of 1/64."""
    deviation = []
    for v in membranes(logit_scale):
        x = np.exp((v - v.max()) / (logit_scale << 6))
        deviation.append(np.abs(losses.probabilities(v, logit_scale << 6) / 4096 - x / x.sum()))
    assert np.max(deviation) < 0.004
    assert np.mean(deviation) < 0.0006


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("logit_scale", SCALES)
def test_integer_and_float_errors_agree(loss, logit_scale):
    for v in membranes(logit_scale, 50):
        found = losses.integer_error(loss, v, 4, logit_scale << 6)
        expected = losses.float_error(loss, v.astype(float), 4, logit_scale << 6)
        assert np.abs(found - expected).max() <= (0.005 * (logit_scale << 6) + 1 if loss == "softmax" else 0)


def test_softmax_of_equals_and_of_extremes():
    target = 64
    np.testing.assert_array_equal(losses.probabilities(np.zeros(4, np.int32), target), 1024)
    far = np.array([2**23 - 1, -(2**23) + 1], np.int32)
    np.testing.assert_array_equal(losses.probabilities(far, target), [4096, 0])
    np.testing.assert_array_equal(losses.integer_error("softmax", far, 0, target), 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_learns_something_else(loss):
    plain = sim.learn(network(Rule()), *data()).weights()[0]
    other = sim.learn(network(Rule(loss=loss)), *data()).weights()[0]
    assert np.array_equal(plain, other) == (loss == "mse")
    assert not np.array_equal(other, network(Rule()).layers[0].connection.weight)


@pytest.mark.parametrize("change", [{"loss": "mae"}, {"learn_when": "wrong"}])
def test_unknown_names(change):
    with pytest.raises(UsageError, match=r"(loss|learn_when): expected one of .*, got "):
        Rule(**change)


def test_a_state_of_other_options_is_refused(tmp_path):
    sim.learn(network(Rule(loss="softmax")), *data()).save(tmp_path / "state.h5")
    Learner.load(tmp_path / "state.h5", network(Rule(loss="softmax")))
    for other in (Rule(), Rule(loss="softmax", learn_when="mistaken")):
        with pytest.raises(FileError, match="the state of another network or rule"):
            Learner.load(tmp_path / "state.h5", network(other))


def test_hinge_is_refused_and_so_is_a_state_that_learnt_with_it(tmp_path, monkeypatch):
    """Up to 0.2 it was a loss; a state holds a digest of its rule's choices."""
    with pytest.raises(UsageError, match="loss: expected one of mse, softmax, got 'hinge'"):
        Rule(loss="hinge")
    with monkeypatch.context() as then:
        then.setattr(Rule, "since_first", lambda self: {"loss": "hinge"})
        sim.learn(network(Rule()), *data()).save(tmp_path / "state.h5")
    for rule in (Rule(), Rule(loss="softmax")):
        with pytest.raises(FileError, match="the state of another network or rule"):
            Learner.load(tmp_path / "state.h5", network(rule))

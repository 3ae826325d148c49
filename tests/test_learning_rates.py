"""Rates that nobody chose: a network learns from scratch, and one that has learnt keeps what it can."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from ottt_loihi.onchip import Settings, fresh_network, learn
from ottt_loihi.onchip.learner import accuracy
from ottt_loihi.onchip.network import rates
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.onchip.stream import Stream
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.weight_formats import make_plastic, to_inference

from ottt_loihi.errors import UsageError

CLASSES, TRAINED = 4, 250


def channels(steps):
    """Where there are few steps, more channels: every recording says about as much."""
    return max(16, 192 // steps)


def recordings(steps, seed=0, contrast=0.5):
    """Events of channels whose rates are each class's own; no step says much alone."""
    chance = 0.25 + contrast * np.random.default_rng(1).random((CLASSES, 1, channels(steps)))
    y = np.random.default_rng(seed).integers(0, CLASSES, 2 * TRAINED)
    x = (np.random.default_rng(seed + 1).random((len(y), steps, channels(steps))) < chance[y]).astype(np.uint8)
    return (x[:TRAINED], y[:TRAINED]), (x[TRAINED:], y[TRAINED:])


@cache
def taught(steps, hidden, loss, feedback="kolen-pollack"):
    train, test = recordings(steps)
    chip = fresh_network((channels(steps),), hidden, CLASSES, steps, decay=0.8)
    result = learn(chip, train, epochs=3, settings=Settings(loss=loss, halve_every=TRAINED, feedback=feedback))
    return make_plastic(to_inference(result.chip).chip), train, test


@pytest.mark.parametrize("loss", ["mse", "softmax"])
@pytest.mark.parametrize(("steps", "hidden"), [(4, (48,)), (4, (32, 32)), (16, (48,)), (16, (32, 32)), (64, (48,))])
def test_a_network_learns_from_scratch_and_keeps_what_it_knows(steps, hidden, loss):
    """Whatever T, depth and loss."""
    chip, train, test = taught(steps, hidden, loss)
    before = accuracy(to_inference(chip).chip, *test)
    assert before > (0.8 if len(hidden) > 1 else 0.9)
    after = learn(chip, train, settings=Settings(loss=loss))
    assert after.settings["learn_when"] == "mistaken"
    assert accuracy(to_inference(after.chip).chip, *test) > before - 0.01


def test_rates_that_do_not_know_the_time_steps_wreck_it():
    """What the test above protects from."""
    chip, train, test = taught(64, (48,), "mse")
    before = accuracy(to_inference(chip).chip, *test)
    old = Settings(readout_rate=0.02, hidden_rate=1.0, feedback="random", learn_when="always")
    assert accuracy(to_inference(learn(chip, train, settings=old).chip).chip, *test) < before - 0.2


@pytest.mark.parametrize("feedback", ["kolen-pollack", "random", "symmetric", "opzo"])
def test_every_feedback_learns_with_its_own_rates(feedback):
    chip, _, test = taught(6, (48,), "mse", feedback)
    assert accuracy(to_inference(chip).chip, *test) > 0.9


def test_a_changed_world_is_learnt():
    """Channels are wired up in another order: all that the network knew is wrong, and its usual mistakes are few."""
    chip, (x, y), (x_test, y_test) = taught(16, (48,), "mse")
    order = np.random.default_rng(5).permutation(channels(16))
    new = x_test[..., order], y_test
    assert accuracy(to_inference(chip).chip, *new) < 0.4
    result = learn(chip, (x[..., order], y), epochs=3, known=(x, y))
    assert accuracy(to_inference(result.chip).chip, *new) > 0.55


def test_the_logit_scale_is_the_lead_of_a_network_that_has_learnt_and_the_scale_of_a_fresh_one():
    chip, train, _ = taught(16, (48,), "mse")
    for loss, parts in (("mse", (1, 1)), ("softmax", (8, 4))):
        fresh = fresh_network((channels(16),), (48,), CLASSES, 16)
        scales = [learn(c, train, settings=Settings(loss=loss)).settings["logit_scale"] for c in (fresh, chip)]
        assert scales[0] == fresh.logit_scale // parts[0]
        if loss == "mse":
            lead = scales[1]
        assert scales[1] == lead // parts[1]
    assert lead < chip.logit_scale  # a step says little: its readout stays below the target


def test_kolen_pollack_starts_at_weights_that_have_learnt():
    chip, train, _ = taught(4, (12, 9), "mse")
    layers = Stream(make_plan(chip, 1), train, 1, Settings()).learner().network.layers
    for below, above in pairwise(layers):
        np.testing.assert_array_equal(below.feedback.matrix, np.clip(above.connection.weight, -255, 255))


def test_rates_are_measured_on_a_draw_over_all_samples():
    """The recording begins with rest, which is silent."""
    (x, y), _ = recordings(4)
    x = np.concatenate([np.zeros_like(x), x])
    y = np.concatenate([np.zeros_like(y), y])
    chosen = rates.drawn(len(x), 0)
    assert len(set(chosen)) == rates.CALIBRATION_SAMPLES
    assert (chosen >= TRAINED).sum() > 100
    np.testing.assert_array_equal(rates.drawn(5, 3), np.arange(5))
    assert learn(fresh_network((channels(4),), (12,), CLASSES, 4), (x, y)).samples == 2 * TRAINED


def test_hidden_rates_are_one_for_all_or_for_each():
    assert Settings(hidden_rate=2.0, readout_rate=0.1).rates(2) == [2.0, 2.0, 0.1]
    assert Settings(hidden_rate=(1.0, 2.0), readout_rate=0.1).rates(2) == [1.0, 2.0, 0.1]
    with pytest.raises(UsageError, match=r"hidden_rate: expected .* one for each of 1 hidden layers, got \(1"):
        Settings(hidden_rate=(1.0, 2.0), readout_rate=0.1).rates(1)
    assert Settings(hidden_rate=[1, np.float32(2)]).hidden_rate == (1.0, 2.0)
    with pytest.raises(UsageError, match=r"hidden_rate\[1\]: expected a number .*, got -2\.0"):
        Settings(hidden_rate=(1.0, -2.0))


@pytest.mark.parametrize("wrong", ["1", True, 1j, {}, [["1"]], float("inf")])
def test_rates_that_are_no_numbers(wrong):
    for name in ("readout_rate", "hidden_rate"):
        with pytest.raises(UsageError, match=rf"{name}(\[0\])?: expected a number"):
            Settings(**{name: wrong})


def test_gains_say_what_hidden_layers_do_to_the_readout():
    """Twice the readout's weights are four times the gain, and all neurons count by how often their rectangle is 1."""
    chip = fresh_network((channels(6),), (20, 10), CLASSES, 6)
    x = recordings(6)[0][0][:50]
    plan = make_plan(chip)
    small = rates.feedback_gains(plan, x, "symmetric", 0)
    last = chip.connections[-1]
    twice = replace(chip, connections=(*chip.connections[:-1], replace(last, weight=2 * last.weight)))
    assert rates.feedback_gains(make_plan(twice), x, "symmetric", 0) == pytest.approx([4 * g for g in small])
    active = rates.surrogate_rates(plan, x)
    expected = (last.weight.astype(float) ** 2 * active[1]).sum() / plan.resolution(2) ** 2 / CLASSES
    assert small[1] == pytest.approx(expected)
    assert all(0 < f.mean() < 1 for f in active)


@pytest.mark.parametrize("kind", [{}, {"reset": "zero"}, {"reset": "zero", "decay": 0.8, "current_decay": 0.5}])
def test_surrogate_rates_are_those_of_the_neurons_that_learn(kind):
    """The rectangle of every time step, read from a learner that ends there."""
    count, x, membranes = 4, recordings(4)[0][0][:30, :, :12], []
    labels = np.zeros(len(x), int)
    for steps in range(1, count + 1):
        plan = make_plan(fresh_network((12,), (20,), CLASSES, steps, seed=2, **kind))
        learner = Learner(learning_network(plan, [0.1, 0.1]))
        packed, vth = np.packbits(x[:, :steps], axis=-1), int(plan.hidden[0].vth) << 6
        for sample in range(len(x)):
            learner.learn(packed[sample : sample + 1], labels[sample : sample + 1], gate=False)
            membranes.append(learner.state.membrane[:20].astype(np.int64))
    told = np.max(membranes, axis=0) < 2 * vth  # beyond, a spike that reset v counts as inside
    found, expected = rates.surrogate_rates(plan, x)[0], np.mean(np.abs(np.array(membranes) - vth) < vth, axis=0)
    np.testing.assert_allclose(found[told], expected[told], atol=1e-12)
    assert told.sum() > 10
    assert 0.05 < found.mean() < 0.95


def test_what_is_counted_in_samples_does_not_depend_on_presentations():
    chip, (x, y) = fresh_network((channels(4),), (12,), CLASSES, 4), recordings(4)[0]
    settings = Settings(halve_every=7)
    rules = [Stream(make_plan(chip), (x, y), 1, replace(settings, learn_when=w)).rule for w in ("always", "mistaken")]
    assert [rule.halve_every for rule in rules] == [7, 14]


@pytest.mark.parametrize("count", [1, 3])
def test_rates_are_not_measured_on_one_sample(count):
    """Or on repetitions of it, as a stuck sensor sends them; a rate of 0 was kept, and the next call refused it."""
    chip, (x, y), _ = taught(4, (48,), "mse")
    alike = x[:1].repeat(count, 0), y[:1].repeat(count)
    with pytest.raises(UsageError, match=f"rates: the readout is the same for every one of the {count} samples"):
        learn(chip, alike, settings=Settings(shuffle=False))
    given = Settings(shuffle=False, readout_rate=0.01, hidden_rate=0.1)
    assert learn(chip, alike, settings=given).settings["readout_rate"] == 0.01
    assert learn(chip, alike, settings=Settings(shuffle=False), known=(x, y)).settings["readout_rate"] > 0


def test_stop_at_is_measured_on_samples_that_are_not_learnt_from():
    """``ottt-learn --stop-at``: a tenth of the training samples, in neither what is learnt nor the test."""
    from ottt_loihi.cli.learn_scenario import make_scenario

    plain = make_scenario(None, "none", 8, 1.0, None, 3, None)
    apart = make_scenario(None, "none", 8, 1.0, None, 3, None, validate=True)
    assert plain.validation is None
    (_, labels), (_, of_learnt), (_, of_kept) = plain.training(0), apart.training(0), apart.validation
    assert (len(of_learnt), len(of_kept), apart.samples) == (1293, 144, 1293)
    assert np.array_equal(np.bincount(of_learnt) + np.bincount(of_kept), np.bincount(labels))
    again = make_scenario(None, "none", 8, 1.0, None, 3, None, validate=True)
    assert np.array_equal(again.validation[1], of_kept)
    assert np.array_equal(plain.test[1], apart.test[1])


@pytest.mark.parametrize(("given", "scratch", "learnt"), [(None, "softmax", "mse"), ("mse", "mse", "mse")])
def test_the_loss_that_is_not_chosen_is_softmax_from_scratch_and_squared_afterwards(given, scratch, learnt):
    (x, y), _ = recordings(4)
    fresh = fresh_network((channels(4),), (12,), CLASSES, 4, decay=0.8)
    first = learn(fresh, (x[:40], y[:40]), settings=Settings(loss=given))
    deployed = make_plastic(to_inference(first.chip).chip)
    second = learn(deployed, (x[:40], y[:40]), known=(x[:40], y[:40]), settings=Settings(loss=given))
    assert (first.settings["loss"], second.settings["loss"]) == (scratch, learnt)
    assert first.chip == learn(fresh, (x[:40], y[:40]), settings=Settings(loss=scratch)).chip

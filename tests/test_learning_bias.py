"""Biases that learn: as a weight from a neuron that always fires, within 13 bits, exact after learning, resumed."""

from dataclasses import replace

import numpy as np
import pytest
from ottt_loihi.onchip import Settings, fresh_network, learn
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import make_plan, with_weights
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.learning import integers
from ottt_loihi.sim.learning.bias import BiasLearning, lengths, with_bias
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.rule import Rule

from ottt_loihi import sim
from ottt_loihi.errors import FileError, UsageError

BIAS = Rule(learn_bias=True)


def chip(reset="subtract", hidden=(20,), steps=4, decay=0.5):
    return fresh_network((12,), hidden, 3, steps, decay, reset, 128, seed=1)


def data(count=40, seed=0, steps=4):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (count, steps, 12), np.uint8), rng.integers(0, 3, count)


def network(plan, rule=BIAS, rate=0.1):
    return learning_network(plan, [rate] * len(plan.dense), rule)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_the_learnt_network_computes_what_the_learner_computed_last(reset):
    """Weights and biases put into the ChipNetwork: its exact simulator has the learner's membranes."""
    plan, (x, labels) = make_plan(chip(reset, (20, 9))), data()
    learner = sim.learn(network(plan), np.packbits(x, axis=-1), labels)
    learnt = with_weights(plan, learner.weights(), learner.biases())
    assert all(layer.bias_mant.any() for layer in learnt.layers)
    predictions = reference.run(learnt, x).predictions
    states = reference.run(learnt, x[:1], ("u", "v")).states
    np.testing.assert_array_equal(learner.learn(np.packbits(x, axis=-1), labels, gate=False), predictions)
    learner.learn(np.packbits(x[:1], axis=-1), labels[:1], gate=False)
    for layer in range(2):
        for name in "uv":
            found = learner.variables()[f"neuron[{layer}].{name}"]
            np.testing.assert_array_equal(found, states[name][layer][-1, 0], f"{name} of layer {layer}")


@pytest.mark.parametrize(("reset", "hidden"), [("subtract", (40,)), ("zero", (40,)), ("zero", ())])
def test_a_bias_moves_as_far_as_the_weight_of_an_input_that_always_fires(reset, hidden):
    """Averaged over neurons and repetitions of one sample; the engine's floor costs the weight a little."""
    plan = make_plan(chip(reset, hidden, steps=3))
    x, moved = np.ones((1, 3, 12), np.uint8), []
    for seed in range(150):
        part = learning_network(plan, [0.02] * len(plan.dense), replace(BIAS, seed=seed))
        learner = sim.learn(part, np.packbits(x, axis=-1), np.array([1]))
        bias = learner.biases()[0] / 64 * (0.5 if reset == "subtract" and hidden else 1)
        moved.append((learner.weights()[0].mean(axis=1) - plan.dense[0].weight.mean(axis=1), bias))
    weight, bias = np.mean(moved, axis=0)
    assert np.abs(weight).max() > 0.5
    if not hidden:
        assert (weight * bias).sum() / (weight**2).sum() == pytest.approx(1, abs=0.1)
    assert np.corrcoef(weight, bias)[0, 1] > 0.8


def test_a_bias_ends_at_13_bits_and_u_follows_it():
    rule = BiasLearning((1.0,), exponent=6, in_u=True)
    bias, y1 = np.array([4090 << 6, -4090 << 6, 0], np.int32), np.array([100, -100, 100])
    change = rule.change(bias, y1, 0, np.zeros(3, np.uint32))
    np.testing.assert_array_equal(bias + change, [4095 << 6, -4096 << 6, 100 << 6])


def test_the_trace_of_a_bias_is_the_sum_of_decays():
    assert lengths(0.5, 3, 2.0, False) == (2.0, 3.0, 3.5)
    assert lengths(0.5, 2, 1.0, True) == (2.0, 3.0)
    assert lengths(0.0, 3, 1.0, False) == (1.0, 1.0, 1.0)


def test_rounding_is_right_on_average():
    rule = BiasLearning((0.013, 0.37))
    random = integers.xorshift32_seeds(1, 20000)
    for t, gain in enumerate(rule.gains):
        change = rule.change(np.zeros(20000, np.int32), np.full(20000, -3), t, random)
        assert change.mean() == pytest.approx(-3 * gain, abs=0.02)


def test_a_learnt_bias_keeps_the_layers_exponent_and_membrane():
    layer = replace(chip().layers[0], bias_mant=np.arange(20), bias_exp=3, u_init=-(np.arange(20) << 3))
    bias = (np.arange(20) + 5) << 3
    learnt = with_bias(layer, bias)
    assert learnt.bias_exp == 3
    np.testing.assert_array_equal(learnt.bias_mant, np.arange(20) + 5)
    np.testing.assert_array_equal(learnt.u_init, -bias)


def test_stopped_and_resumed_is_not_stopped(tmp_path):
    part, (x, labels) = network(make_plan(chip(hidden=(20, 9)))), data()
    packed = np.packbits(x, axis=-1)
    whole = sim.learn(part, packed, labels)
    sim.learn(part, packed[:17], labels[:17]).save(tmp_path / "state.h5")
    second = Learner.load(tmp_path / "state.h5", part)
    second.learn(packed[17:], labels[17:])
    for name, value in whole.variables().items():
        np.testing.assert_array_equal(value, second.variables()[name], name)
    with pytest.raises(FileError, match="the state of another network or rule"):
        Learner.load(tmp_path / "state.h5", network(make_plan(chip(hidden=(20, 9))), Rule()))


def test_learning_goes_on_from_learnt_biases():
    x, labels = data(20)
    settings = Settings(learn_bias=True, learn_when="always", readout_rate=0.02, hidden_rate=1.0, feedback="random")
    first = learn(chip(), (x, labels), settings=settings)
    assert first.chip.layers[0].bias_mant.any()
    second = learn(first.chip, (x, labels), settings=settings)
    assert (second.chip.layers[0].bias_mant != first.chip.layers[0].bias_mant).any()
    plain = learn(first.chip, (x, labels))
    assert plain.chip.layers == first.chip.layers


def test_not_a_bool():
    with pytest.raises(UsageError, match="learn_bias: expected true or false, got 1"):
        Rule(learn_bias=1)

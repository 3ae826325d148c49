from dataclasses import replace

import numpy as np
import pytest
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.learning.weight_formats import make_plastic, to_inference
from ottt_loihi.sim.network import Dense


def spikes(chip, count=20):
    return np.random.default_rng(0).integers(0, 2, (count, chip.num_steps, *chip.input_shape), np.uint8)


def with_weights(chip, function):
    changed = [replace(c, weight=function(c.weight)) if isinstance(c, Dense) else c for c in chip.connections]
    return replace(chip, connections=tuple(changed))


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_small_weights_freeze_without_loss(reset):
    chip = with_weights(fresh_network(reset=reset), lambda w: np.clip(w, -128, 127))
    frozen = to_inference(chip)
    assert frozen.changed == 0
    assert all(c.doubled for c in frozen.connections)
    assert all(c.weight_format == "inference8" for c in frozen.chip.connections)
    x = spikes(chip)
    before, after = reference.run(chip, x, ("u", "v", "s")), reference.run(frozen.chip, x, ("u", "v", "s"))
    np.testing.assert_array_equal(before.scores, after.scores)
    for name in "uvs":
        for a, b in zip(before.states[name], after.states[name]):
            np.testing.assert_array_equal(a, b)


def test_large_weights_become_even_and_are_counted():
    chip = fresh_network(hidden=(), classes=10, input_shape=(52,))
    weight = np.arange(-256, 264).reshape(10, 52).clip(-256, 255).astype(np.int32)
    frozen = to_inference(with_weights(chip, lambda _: weight))
    new = frozen.chip.connections[0].weight
    assert not (new % 2).any()
    assert new.max() == 254
    assert np.abs(new - weight).max() == 1
    assert frozen.changed == (weight % 2 != 0).sum()
    assert (new - weight)[weight < 253].sum() == 0  # half up, half down


def test_purely_inhibitory_minus_256_is_counted():
    chip = with_weights(fresh_network(hidden=(), input_shape=(3,)), lambda w: np.full_like(w, -256))
    frozen = to_inference(chip)
    assert (frozen.chip.connections[0].weight == -255).all()
    assert frozen.changed == 30


@pytest.mark.parametrize("headroom", [False, True])
def test_a_frozen_network_made_plastic_computes_the_same(headroom):
    chip = to_inference(fresh_network()).chip
    plastic = make_plastic(chip, headroom)
    assert [c.weight_format for c in plastic.connections if isinstance(c, Dense)] == ["learning9"] * 2
    assert np.abs(plastic.connections[0].weight).max() <= (128 if headroom else 256)
    x = spikes(chip)
    np.testing.assert_array_equal(reference.run(chip, x).scores, reference.run(plastic, x).scores)


def test_make_plastic_leaves_plastic_weights_alone():
    chip = fresh_network()
    assert make_plastic(chip) == chip

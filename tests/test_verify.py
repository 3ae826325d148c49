import numpy as np
import pytest
from networks import random_messages
from ottt_loihi.converters import verify
from ottt_loihi.sim.inference import reference
from test_lava import mlp

from ottt_loihi.errors import VerificationError


def test_the_first_divergence_is_named():
    chip = mlp("zero")
    x = random_messages(chip, batch=2)
    a, b = (reference.run(chip, x, ("u", "v", "s")) for _ in range(2))
    assert verify.compare(chip, a, b).first is None
    b.states["v"][1][5, 0, 3] += 7  # later in time, to be passed over
    b.states["v"][0][2, 1, 4] += 9
    found = verify.compare(chip, a, b)
    assert found.different == 2
    value = int(a.states["v"][0][2, 1, 4])
    assert str(found.first) == (f"sample 1, step 3, layer 0 (hidden), neuron 4: v = {value} against {value + 9}")
    with pytest.raises(VerificationError, match=r"Lava against sim: 2 of \d+ states differ, first at sample 1, step 3"):
        found.raise_if_different("Lava against sim")


def test_layers_that_were_not_recorded_are_passed_over():
    chip = mlp("zero")
    x = random_messages(chip, batch=2)
    a, b = reference.run(chip, x, ("v",)), reference.run(chip, x, ("v",))
    b.states["v"][0] = None
    found = verify.compare(chip, a, b)
    assert found.first is None
    assert found.compared == a.scores.size + a.states["v"][1].size


def test_scores_alone_are_compared_too():
    chip = mlp("zero")
    x = random_messages(chip, batch=2)
    a, b = (reference.run(chip, x) for _ in range(2))
    b.scores[1, 3] += 1
    assert verify.compare(chip, a, b).first.variable == "score"


def test_agreement_counts():
    chip = mlp("zero")
    result = reference.run(chip, random_messages(chip, batch=4), ("s",))
    spikes = [result.states["s"][0].copy()]
    spikes[0][1, 2, 3] ^= True
    scores = result.scores.astype(float)
    scores[0] = -scores[0]
    labels = result.predictions
    tally = verify.Tally(chip)
    for part in (slice(0, 1), slice(1, 4)):  # batch by batch, as a large test set is
        states = {"s": [s[:, part] for s in result.states["s"]]}
        batch = reference.Result(result.scores[part], states, result.spike_counts)
        tally.add([s[:, part] for s in spikes], scores[part], batch, labels[part])
    found = tally.agreement()
    for matrix, accuracy in ((found.classes_float, found.accuracy_float), (found.classes_chip, found.accuracy_chip)):
        np.testing.assert_array_equal(np.sum(matrix, axis=1), np.bincount(labels, minlength=len(matrix)))
        assert accuracy == np.trace(matrix) / len(labels)
    assert found.predictions == found.accuracy_float == 0.75
    assert found.accuracy_chip == 1.0
    assert found.spikes_equal[0] == 1 - 1 / spikes[0].size
    assert (found.first.step, found.first.sample, found.first.neuron) == (2, 2, 3)
    assert found.spike_rates_chip[0] == pytest.approx(result.spike_counts[0] / spikes[0].size)
    np.testing.assert_allclose(found.spike_rates_float[0], spikes[0].mean())
    assert np.trace(found.confusion) == 3
    assert np.sum(found.confusion) == 4


def test_silent_and_always_firing_neurons_and_dead_layers():
    chip = mlp("zero")
    shape = (chip.num_steps, 2, *chip.layers[0].shape)
    fired, silent = np.ones(shape, bool), np.zeros(shape, bool)
    scores, labels, counts = np.zeros((2, chip.layers[-1].size)), np.zeros(2, int), np.zeros(2, np.int64)
    for on_chip, expected in ((silent, (shape[2], 0, (chip.layers[0].name,))), (fired, (0, shape[2], ()))):
        tally = verify.Tally(chip)
        tally.add([fired], scores, reference.Result(scores, {"s": [on_chip]}, counts), labels)
        found = tally.agreement()
        assert (found.silent[0], found.always[0], found.dead) == expected

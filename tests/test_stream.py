"""The samples of a run, one epoch in memory at a time, in the order that a seed says; and the logit scale."""

import tracemalloc

import numpy as np
import pytest
from networks import random_messages
from ottt_loihi.onchip import Settings, fresh_network, learn
from ottt_loihi.onchip import learner as session_module
from ottt_loihi.onchip import stream as stream_module
from ottt_loihi.onchip.learner import accuracy
from ottt_loihi.onchip.network import backbone as backbone_module
from ottt_loihi.onchip.network import rates
from ottt_loihi.onchip.network.trainable import estimate_logit_scale, make_plan
from ottt_loihi.onchip.stream import Stream
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.weight_formats import make_plastic
from test_backbone import network as behind_a_backbone

from ottt_loihi.errors import UsageError

SAMPLES, STEPS = 30, 6


def epochs(called=None, samples=SAMPLES):
    """A function of the epoch's number whose spikes differ from epoch to epoch."""

    def data(number):
        if called is not None:
            called.append(number)
        rng = np.random.default_rng(number)
        return rng.integers(0, 2, (samples, STEPS, 16), np.uint8), rng.integers(0, 3, samples)

    return data


def stream(data, count, **settings):
    return Stream(make_plan(fresh_network((16,), (8,), 3, STEPS)), data, count, Settings(**settings))


@pytest.mark.parametrize("shuffle", [True, False])
def test_parts_are_those_of_the_whole(shuffle):
    found = stream(epochs(), 4, shuffle=shuffle)
    x, expected = found.everything()
    whole = np.packbits(x, axis=-1)
    assert found.total == len(expected) == 4 * SAMPLES
    for begin, end in ((0, 7), (25, 35), (59, 60), (10, 120), (3, 3 + SAMPLES)):
        packed, labels = found.part(begin, end)
        np.testing.assert_array_equal(packed, whole[begin:end])
        np.testing.assert_array_equal(labels, expected[begin:end])
    assert not np.array_equal(whole[:SAMPLES], whole[SAMPLES : 2 * SAMPLES])


def test_a_pass_is_made_when_it_is_learnt():
    called = []
    found = stream(epochs(called), 50)
    found.part(0, SAMPLES)
    assert called == [0]
    found.part(7 * SAMPLES - 1, 7 * SAMPLES + 1)  # a resumed run makes no epoch before
    assert called == [0, 6, 7]


def test_memory_does_not_grow_with_the_epochs():
    def peak(count):
        tracemalloc.start()
        try:
            found = stream(epochs(samples=2000), count)
            for number in range(count):
                found.part(number * 2000, (number + 1) * 2000)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # whatever is loaded once
    assert peak(12) < 1.2 * peak(3)


def test_epochs_of_other_lengths_are_refused():
    found = stream(lambda number: epochs(samples=SAMPLES + number)(number), 2)
    with pytest.raises(UsageError, match=r"data: expected 30 samples in every epoch, got 31 in 1"):
        found.part(SAMPLES, SAMPLES + 1)


def test_the_logit_scale_is_estimated_without_a_record_of_every_membrane():
    """A record of v would take 300 · 12 · 3,010 · 4 bytes, 43 MB."""
    chip = fresh_network((16,), (3000,), 10, 12)
    labels = np.arange(300) % 10
    x = np.zeros((300, 12, 16), np.uint8)
    x[np.arange(300), :, labels] = 1
    with pytest.raises(UsageError, match="does not lead"):
        estimate_logit_scale(chip, x[:10], labels[:10])  # numba is loaded
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="does not lead"):
            estimate_logit_scale(chip, x, labels)
        assert tracemalloc.get_traced_memory()[1] < 15e6
    finally:
        tracemalloc.stop()


@pytest.fixture
def through_backbone(monkeypatch):
    """Numbers of samples that have gone through a frozen backbone, and that were learnt, in order."""
    seen = []

    def packed_spikes(backbone, x):
        if backbone is not None:
            seen.append(("backbone", len(x)))
        return backbone_module.packed_spikes(backbone, x)

    monkeypatch.setattr(stream_module, "packed_spikes", packed_spikes)
    monkeypatch.setattr(session_module, "packed_spikes", packed_spikes)
    step = Learner.learn
    monkeypatch.setattr(
        Learner, "learn", lambda self, *data, **k: (seen.append(("learnt", len(data[1]))), step(self, *data, **k))[1]
    )
    return seen


@pytest.mark.parametrize("shuffle", [True, False])
def test_learning_begins_before_a_pass_has_gone_through_the_backbone(through_backbone, monkeypatch, shuffle):
    """Each sample goes through it once, a few ahead of learning; the test data when a point of the curve is due."""
    monkeypatch.setattr(stream_module, "AHEAD", 8)
    monkeypatch.setattr(rates, "CALIBRATION_SAMPLES", 3)
    monkeypatch.setattr(session_module, "CHUNK", 4)
    chip = make_plastic(behind_a_backbone(), layers=[2, 3])
    rng = np.random.default_rng(1)
    x, labels = random_messages(chip, 40, 3, 0.6), rng.integers(0, 4, 40)
    test = random_messages(chip, 5, 4, 0.6), rng.integers(0, 4, 5)
    result = learn(chip, (x, labels), test=test, epochs=2, evaluate_every=20, settings=Settings(shuffle=shuffle))
    assert [what for what, _ in through_backbone[:3]] == ["backbone", "backbone", "learnt"]
    assert through_backbone[0][1] + through_backbone[1][1] <= 3 + 8
    assert sum(n for what, n in through_backbone if what == "backbone") == len(x) + len(test[0])
    assert [point.samples for point in result.curve] == [0, 20, 40, 60, 80]
    whole = Stream(make_plan(chip), (x, labels), 2, Settings(shuffle=shuffle))
    expected = backbone_module.packed_spikes(make_plan(chip).backbone, whole.everything()[0])
    np.testing.assert_array_equal(whole.part(30, 50)[0], expected[30:50])
    assert result.curve[0].accuracy == accuracy(chip, *test)

"""The samples of a run: one pass in memory at a time, in the order that a seed says; what a unit is estimated on."""

import tracemalloc

import numpy as np
import pytest
from ottt_loihi.onchip import Settings, fresh_network
from ottt_loihi.onchip.network.trainable import estimate_unit, make_plan
from ottt_loihi.onchip.stream import Stream

from ottt_loihi.errors import UsageError

SAMPLES, STEPS = 30, 6


def passes(called=None, samples=SAMPLES):
    """A function of the pass's number whose spikes differ from pass to pass."""

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
    found = stream(passes(), 4, shuffle=shuffle)
    whole = found.everything()
    assert found.total == len(whole.labels) == 4 * SAMPLES
    for begin, end in ((0, 7), (25, 35), (59, 60), (10, 120), (3, 3 + SAMPLES)):
        packed, labels = found.part(begin, end)
        np.testing.assert_array_equal(packed, whole.packed[begin:end])
        np.testing.assert_array_equal(labels, whole.labels[begin:end])
    assert not np.array_equal(whole.packed[:SAMPLES], whole.packed[SAMPLES : 2 * SAMPLES])


def test_a_pass_is_made_when_it_is_learnt():
    called = []
    found = stream(passes(called), 50)
    found.part(0, SAMPLES)
    assert called == [0]
    found.part(7 * SAMPLES - 1, 7 * SAMPLES + 1)  # a resumed run makes no pass before
    assert called == [0, 6, 7]


def test_memory_does_not_grow_with_the_passes():
    def peak(count):
        tracemalloc.start()
        try:
            found = stream(passes(samples=2000), count)
            for number in range(count):
                found.part(number * 2000, (number + 1) * 2000)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # whatever is loaded once
    assert peak(12) < 1.2 * peak(3)


def test_passes_of_other_lengths_are_refused():
    found = stream(lambda number: passes(samples=SAMPLES + number)(number), 2)
    with pytest.raises(UsageError, match=r"data: expected 30 samples in every pass, got 31 in 1"):
        found.part(SAMPLES, SAMPLES + 1)


def test_the_unit_is_estimated_without_a_record_of_every_membrane():
    """A record of v would take 300 · 12 · 3,010 · 4 bytes, 43 MB."""
    chip = fresh_network((16,), (3000,), 10, 12)
    labels = np.arange(300) % 10
    x = np.zeros((300, 12, 16), np.uint8)
    x[np.arange(300), :, labels] = 1
    with pytest.raises(UsageError, match="does not lead"):
        estimate_unit(chip, x[:10], labels[:10])  # numba is loaded
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="does not lead"):
            estimate_unit(chip, x, labels)
        assert tracemalloc.get_traced_memory()[1] < 15e6
    finally:
        tracemalloc.stop()

"""What each coding sends, against its definition step by step; and that training gets the bits of data/."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ottt_loihi.data import CODINGS, Step, encode, from_arrays, prepare, rate_code
from ottt_loihi.data.codings import coded_shape, message_value, parse_coding
from ottt_loihi.data.codings.chance import uniform
from ottt_loihi.data.kept import kept
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.inputs import ConstantInput
from ottt_loihi.training.encoding import encode as encode_for_training
from ottt_loihi.training.encoding import fit_encoding

RNG = np.random.default_rng(0)
IMAGES = RNG.random((5, 3, 4)).astype(np.float32)
SERIES = RNG.random((5, 9, 3)).astype(np.float32)
ALL = [
    Step("rate"),
    Step("regular"),
    Step("regular", {"phase": "fixed"}),
    Step("latency"),
    Step("delta", {"threshold": 0.2}),
    Step("population", {"neurons": 5}),
    Step("thermometer", {"levels": 4}),
    Step("graded"),
    Step("graded", {"unit": 0.5}),
]
WITH_TIME = [step for step in ALL if CODINGS[step.name].time != "none"]
WITHOUT = [step for step in ALL if CODINGS[step.name].time != "axis"]


def name(step):
    return str(step)


@pytest.mark.parametrize("step", WITH_TIME, ids=name)
def test_a_sample_does_not_depend_on_its_batch(step):
    whole = encode(SERIES, step, 9, seed=3, time_axis=True)
    assert whole.shape == (5, 9, *coded_shape(step, (3,)))
    few = encode(SERIES[[3, 1]], step, 9, seed=3, indices=np.array([3, 1]), time_axis=True)
    np.testing.assert_array_equal(few, whole[[3, 1]])


@pytest.mark.parametrize("step", WITH_TIME, ids=name)
def test_training_gets_the_same_with_a_time_axis(step):
    coded = encode(SERIES, step, 9, seed=7, time_axis=True)
    found = encode_for_training(SERIES, step, 4, 7, np.arange(5), time_axis=True)
    np.testing.assert_array_equal(found.numpy(), (coded * np.float32(message_value(step))).astype(found.numpy().dtype))


@pytest.mark.parametrize("step", WITHOUT, ids=name)
def test_training_gets_the_same_of_images(step):
    coded = encode(IMAGES, step, 6, seed=7)
    assert coded.shape == (5, 6, *coded_shape(step, (3, 4)))
    found = encode_for_training(IMAGES, step, 6, 7, np.arange(5), time_axis=False)
    np.testing.assert_array_equal(found.numpy(), (coded * np.float32(message_value(step))).astype(found.numpy().dtype))


def test_constant_and_frames_are_given_as_they_are():
    constant = encode_for_training(IMAGES, "constant", 6, 0, np.arange(5), time_axis=False)
    assert isinstance(constant, ConstantInput)
    assert constant.num_steps == 6
    np.testing.assert_array_equal(encode(IMAGES, Step("constant"), 6)[:, 5], np.rint(255.0 * IMAGES.astype(float)))
    spikes = (SERIES > 0.5).astype(np.uint8)
    assert torch.equal(encode_for_training(spikes, "frames", 3, 0, np.arange(5), time_axis=True), torch.tensor(spikes))
    np.testing.assert_array_equal(encode(spikes.astype(np.int64), Step("frames"), 9, time_axis=True), spikes)
    for wrong in (SERIES, 2 * spikes):
        with pytest.raises(UsageError, match="frames are spikes, 0 or 1"):
            encode(wrong, Step("frames"), 9, time_axis=True)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32, 2**64 + 5, 2**130 + 1])
def test_the_numbers_of_all_samples_are_those_of_a_generator_each(seed):
    indices = np.array([0, 1, 5, 2**32 - 1, 2**32, 2**40 + 3])
    found = uniform(seed, indices, (3, 5))
    for of_one, index in zip(found, indices):
        np.testing.assert_array_equal(of_one, np.random.default_rng([seed, int(index)]).random((3, 5), np.float32))


def test_rate_is_rate_code():
    np.testing.assert_array_equal(encode(IMAGES, Step("rate"), 6, seed=2), rate_code(IMAGES, 6, seed=2))
    series = encode(np.tile(SERIES, (1, 400, 1))[:, :3600], Step("rate"), 3600, time_axis=True)
    np.testing.assert_allclose(series.mean(axis=1), np.tile(SERIES, (1, 400, 1)).mean(axis=1), atol=0.04)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30))
def test_regular_accumulates_and_fires(values):
    x = np.array(values, np.float32).reshape(1, -1, 1)
    found = encode(x, Step("regular", {"phase": "fixed"}), len(values), time_axis=True)[0, :, 0]
    charge, fired = 0.5, []
    for value in values:
        charge += value
        fired.append(int(charge >= 1))
        charge -= fired[-1]
    assert abs(int(found.sum()) - sum(fired)) <= 1  # the charge is summed in another order
    assert abs(found.sum() - sum(values)) <= 1


def test_regular_spaces_its_spikes_evenly():
    found = encode(np.full((1, 1), 0.25, np.float32), Step("regular", {"phase": "fixed"}), 12)[0, :, 0]
    assert found.tolist() == [0, 1, 0, 0] * 3
    random = encode(np.full((1, 200), 0.25, np.float32), Step("regular"), 12)[0]
    assert (random.sum(axis=0) == 3).all()
    assert len({tuple(row) for row in random.T}) == 4  # four phases
    assert not encode(np.zeros((1, 1), np.float32), Step("regular"), 12).any()
    assert encode(np.ones((1, 50), np.float32), Step("regular"), 12).all()


def test_latency_is_one_spike_the_earlier_the_larger():
    x = np.array([[1.0, 0.5, 0.1, 0.0]], np.float32)
    found = encode(x, Step("latency"), 11)[0]
    assert found.sum(axis=0).tolist() == [1, 1, 1, 0]
    assert found[:, :3].argmax(axis=0).tolist() == [0, 5, 9]


def test_delta_follows_the_value():
    x = np.array([0, 0.1, 0.35, 0.35, 0.35, 0.0, 0.0, 0.0], np.float32).reshape(1, -1, 1)
    found = encode(x, Step("delta", {"threshold": 0.1}), 8, time_axis=True)[0, :, :, 0]
    assert found[:, 0].tolist() == [0, 1, 1, 1, 0, 0, 0, 0]
    assert found[:, 1].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    kept = 0.1 * (found[:, 0].astype(int) - found[:, 1]).cumsum()
    assert abs(kept[-1] - x[0, -1, 0]) <= 0.1 + 1e-6
    still = encode(np.full((1, 8, 1), 0.7, np.float32), Step("delta"), 8, time_axis=True)
    assert not still.any()


def test_population_prefers_one_neuron():
    x = np.array([[0.0, 0.5, 1.0]], np.float32)
    found = encode(x, Step("population", {"neurons": 3, "width": 0.3}), 20)[0]
    assert found.sum(axis=0).argmax(axis=0).tolist() == [0, 1, 2]
    assert found[:, 0, 0].all()  # the rate at the preferred value is 1


def test_thermometer_counts_levels():
    x = np.array([[0.0, 0.13, 0.5, 1.0]], np.float32)
    found = encode(x, Step("thermometer", {"levels": 4}), 2)[0]
    assert found[0].sum(axis=0).tolist() == [0, 1, 2, 4]
    np.testing.assert_array_equal(found[0], found[1])


def test_delays_send_spikes_again():
    spikes = (RNG.random((2, 10, 3)) < 0.4).astype(np.uint8)
    found = encode(spikes.astype(float), Step("delays", {"copies": 4, "apart": 3}), 10, time_axis=True)
    assert found.shape == (2, 10, 4, 3)
    for line in range(4):
        for t in range(10):
            before = spikes[:, t - 3 * line] if t >= 3 * line else np.zeros((2, 3))
            np.testing.assert_array_equal(found[:, t, line], before)
    trained = encode_for_training(spikes, "delays:copies=4,apart=3", 10, 0, np.arange(2), time_axis=True)
    np.testing.assert_array_equal(trained.numpy(), found)
    np.testing.assert_array_equal(encode(spikes, Step("delays", {"copies": 1}), 10, time_axis=True)[:, :, 0], spikes)
    with pytest.raises(UsageError, match="delays needs spikes, the data are analog"):
        prepare(from_arrays(SERIES, np.arange(5) % 2, time_axis=True), "delays")
    short = from_arrays(np.eye(9, dtype=np.uint8).reshape(3, 9, 3), np.arange(3) % 2, time_axis=True, test_share=0.4)
    assert prepare(short, "delays:copies=3,apart=4").input_shape == (3, 3)
    with pytest.raises(UsageError, match=r"delays\(copies=3, apart=5\) needs samples of at least 11 time steps, got 9"):
        prepare(short, "delays:copies=3,apart=5")
    with pytest.raises(UsageError, match="needs samples of at least 13 time steps, got 9"):
        prepare(short, "delays")


def test_slots_have_lines_of_their_own():
    spikes = (RNG.random((2, 10, 3)) < 0.4).astype(np.uint8)
    found = encode(spikes, Step("slots", {"parts": 4}), 10, time_axis=True)
    assert found.shape == (2, 10, 4, 3)
    for t, part in enumerate([0, 0, 0, 1, 1, 2, 2, 2, 3, 3]):  # ⌊4t/10⌋
        for line in range(4):
            np.testing.assert_array_equal(found[:, t, line], spikes[:, t] if line == part else np.zeros((2, 3)))
    assert found.sum() == spikes.sum()
    with pytest.raises(UsageError, match=r"slots\(parts=11\) needs samples of at least 11 time steps, got 10"):
        encode(spikes, Step("slots", {"parts": 11}), 10, time_axis=True)
    with pytest.raises(UsageError, match="slots needs spikes, the data are analog"):
        prepare(from_arrays(SERIES, np.arange(5) % 2, time_axis=True), "slots")


def test_graded_messages_and_their_unit():
    np.testing.assert_array_equal(
        encode(SERIES, Step("graded"), 9, time_axis=True), np.rint(SERIES.astype(float) * 255)
    )
    counts = np.arange(27).reshape(1, 9, 3)
    np.testing.assert_array_equal(encode(counts, Step("graded", {"unit": 1.0}), 9, time_axis=True), counts)
    with pytest.raises(UsageError, match=r"hold 0 … 255, got values in \[0, 520\]"):
        encode(20 * counts, Step("graded", {"unit": 1.0}), 9, time_axis=True)


def test_neurons_of_a_value_are_channels_of_an_image():
    delta = Step("delta")
    assert coded_shape(delta, (40,)) == (2, 40)
    assert coded_shape(delta, (8, 8)) == (2, 8, 8)
    assert coded_shape(delta, (3, 8, 8)) == (6, 8, 8)
    assert coded_shape(Step("rate"), (3, 8, 8)) == (3, 8, 8)
    x = RNG.random((2, 5, 3, 4, 4)).astype(np.float32)
    found = encode(x, delta, 5, time_axis=True)
    alone = encode(x.reshape(2, 5, 48), delta, 5, time_axis=True)
    np.testing.assert_array_equal(found.reshape(2, 5, 2, 48), alone)


def test_codings_by_name():
    assert parse_coding("delta:threshold=0.05") == Step("delta", {"threshold": 0.05})
    assert parse_coding({"name": "population", "neurons": 4}) == Step("population", {"neurons": 4})
    assert parse_coding("regular:phase=fixed") == Step("regular", {"phase": "fixed"})
    for wrong, says in (
        ("dleta", "did you mean 'delta'"),
        ("delta:treshold=1", "delta has no option 'treshold'; it has threshold"),
        ("delta:threshold=-1", "delta.threshold: expected a number > 0"),
        ("delta:0.1", "expected name:option=value"),
        ("regular:phase=odd", "regular.phase: expected one of random, fixed"),
        ("population:neurons=1", "population.neurons"),
        ({"threshold": 1}, "or a table with a name"),
        (3, "expected a name"),
    ):
        with pytest.raises(UsageError, match=says):
            parse_coding(wrong)


def test_what_does_not_fit_is_refused():
    for step, x, settings, says in (
        (Step("delta"), IMAGES, {}, "delta needs samples with a time axis"),
        (Step("latency"), SERIES, {"time_axis": True}, "latency needs samples without"),
        (Step("regular"), SERIES, {"time_axis": True}, "expected samples of 6 time steps, got 9"),
        (Step("regular"), 2 * IMAGES, {}, r"intensities in \[0, 1\]"),
        (Step("regular"), IMAGES, {"seed": -1}, "seed ≥ 0"),
        (Step("regular"), IMAGES, {"indices": np.arange(3)}, "expected 5 indices"),
    ):
        with pytest.raises(UsageError, match=says):
            encode(x, step, 6, **settings)


def test_the_coding_of_a_network_s_input():
    assert fit_encoding(None, (7, 3, 4), (3, 4)) == (Step("rate"), False)
    assert fit_encoding(None, (7, 9, 3, 4), (3, 4)) == (Step("frames"), True)
    assert fit_encoding("delta", (7, 9, 3), (2, 3)) == (Step("delta"), True)
    assert fit_encoding("regular", (7, 9, 3), (3,)) == (Step("regular"), True)
    assert fit_encoding("population:neurons=4", (7, 3), (4, 3)) == (parse_coding("population:neurons=4"), False)
    with pytest.raises(UsageError, match=r"expected images \(n, 3, 4\)"):
        fit_encoding(None, (7, 4, 3), (3, 4))
    with pytest.raises(UsageError, match="got 'frames'"):
        fit_encoding("frames", (7, 3, 4), (3, 4))


def test_what_a_coding_keeps():
    """Low intensities are no spike in one step, and in 12 steps they are several."""
    y = np.arange(90) % 2
    x = (0.1 + 0.2 * y[:, None] + 0.02 * np.random.default_rng(0).random((90, 4))).astype(np.float32)
    data = prepare(from_arrays(x, y, time_axis=False), "regular:phase=fixed")
    none, several = kept(data, 1), kept(data, 12)
    assert none.values == several.values == 1
    assert none.coded < 0.7
    assert several.coded == 1
    with pytest.raises(UsageError, match="2 classes"):
        kept(prepare(from_arrays(x, np.zeros(90, int), num_classes=1), "rate"), 12)

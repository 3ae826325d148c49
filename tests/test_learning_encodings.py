"""The encodings of y1: the same learning, bit for bit where its range allows; Lava's engine and its language."""

from dataclasses import replace

import numpy as np
import pytest
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim.learning import encodings, integers
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.rule import FEEDBACKS, Rule

from ottt_loihi import sim
from ottt_loihi.errors import FileError, UsageError

ALL = encodings.ENCODINGS


def network(encoding, feedback="random", rate=0.1, **options):
    plan = make_plan(fresh_network((12,), (20, 9), 3, 4, resolution=128, seed=1))
    return learning_network(plan, [rate] * 3, Rule(feedback=feedback, encoding=encoding, **options))


def data(count=60, seed=0):
    rng = np.random.default_rng(seed)
    return np.packbits(rng.integers(0, 2, (count, 4, 12), np.uint8), axis=-1), rng.integers(0, 3, count)


@pytest.mark.parametrize("feedback", FEEDBACKS)
@pytest.mark.parametrize("encoding", ["split", "factored"])
def test_split_and_factored_learn_the_weights_of_signed(encoding, feedback):
    signed = sim.learn(network("signed", feedback, learn_bias=True), *data())
    other = sim.learn(network(encoding, feedback, learn_bias=True), *data())
    for a, b in zip((*signed.weights(), *signed.biases()), (*other.weights(), *other.biases())):
        np.testing.assert_array_equal(a, b)


def test_messages_are_unsigned_seven_bits():
    y, f, r = np.arange(-63, 64), np.arange(127) % 2 == 0, np.arange(-63, 64)
    for encoding in ("factored", "split"):
        sent = encodings.messages(encoding, y, f, r)
        assert tuple(sent) == encodings.PORTS[encoding]
        unsigned = {port: value for port, value in sent.items() if port != "y3"}
        assert all(value.min() >= 0 and value.max() <= 127 for value in unsigned.values())


def test_every_encoding_adds_what_signed_adds():
    rng = np.random.default_rng(0)
    x1, r, f = rng.integers(0, 128, 50), rng.integers(-63, 64, 70), rng.integers(0, 2, 70)
    expected = encodings.engine_change("signed", x1, {"y1": r * f})
    for encoding in ALL:
        found = encodings.engine_change(encoding, x1, encodings.messages(encoding, r * f, f, r))
        np.testing.assert_array_equal(found, expected, encoding)


def test_with_half_the_dropped_bits_are_rounded_to_nearest():
    rng = np.random.default_rng(0)
    x1, r, f = rng.integers(-127, 128, 50), rng.integers(-63, 64, 70), rng.integers(0, 2, 70)
    exact = x1 * (r * f)[:, np.newaxis] / 8
    for encoding in ALL:
        found = encodings.engine_change(encoding, x1, encodings.messages(encoding, r * f, f, r), integers.HALF)
        np.testing.assert_array_equal(found, np.floor(exact + 0.5), encoding)


def test_what_the_three_factors_would_lose_without_64_f_and_the_mantissa_2():
    """``u0*x1*y1*y3`` with y1 = f: 127·127/2^10 is the largest update; 51 % of the positive ones are lost."""
    rng = np.random.default_rng(0)
    x1, r = rng.integers(0, 128, 10**5), rng.integers(-40, 41, 10**5)
    exact, naive = x1 * r / 2**10, (x1 * r) >> 10
    assert (naive == np.floor(exact)).all()
    assert ((naive == 0) & (exact > 0)).sum() / (exact > 0).sum() > 0.5  # lost
    assert (naive - exact).mean() == pytest.approx(-0.5, abs=0.05)  # and all too low by half a step


@pytest.mark.lava
@pytest.mark.parametrize("encoding", ALL)
def test_lavas_engine_computes_the_change(encoding):
    pytest.importorskip("lava.magma.core.process.process")
    from ottt_loihi.converters.lava.inprocess import InProcessRun
    from ottt_loihi.onchip.lava.processes.plastic import OTTTDense
    from ottt_loihi.onchip.lava.rule import OTTTLearningRule

    rng = np.random.default_rng(2)
    x1, w = rng.integers(0, 128, 30), rng.integers(-256, 256, (40, 30))
    r, f = rng.integers(-127, 128, 40), rng.integers(0, 2, 40)
    sent = encodings.messages(encoding, r * f, f, r)
    process = OTTTDense(w, OTTTLearningRule(1, 1, 0.0, encoding=encoding), 1, rounding="per-synapse", seed=9)
    with InProcessRun(process) as run:
        model = run._model(process.weights)
        model.x1, model.time_step = x1, 1  # the step in which the first epoch ends
        for port, value in sent.items():
            setattr(model, port, value)
        before = model.weights.copy()
        model.run_lrn()
        after = model.weights
    change = encodings.engine_change(encoding, x1, sent)
    draws = 127 - integers.synapse_draws(9, 0, w.shape).astype(np.int64)
    np.testing.assert_array_equal(after, np.clip(((before << 7) + change + draws) >> 7, -256, 255))
    assert (after != before).any()


@pytest.mark.parametrize("encoding", ["split", "factored"])
def test_stopped_and_resumed_is_not_stopped(tmp_path, encoding):
    part, (packed, labels) = network(encoding), data(30)
    whole = sim.learn(part, packed, labels)
    sim.learn(part, packed[:13], labels[:13]).save(tmp_path / "state.h5")
    second = Learner.load(tmp_path / "state.h5", part)
    second.learn(packed[13:], labels[13:])
    for name, value in whole.variables().items():
        np.testing.assert_array_equal(value, second.variables()[name], name)
    with pytest.raises(FileError, match="the state of another network or rule"):
        Learner.load(tmp_path / "state.h5", network("signed"))


def test_a_state_without_options_has_the_old_fields_and_digest(tmp_path):
    """Files of versions that knew no options go on."""
    import h5py

    sim.learn(network("signed"), *data(5)).save(tmp_path / "state.h5")
    with h5py.File(tmp_path / "state.h5") as file:
        assert set(file) == {
            "weights", "spikes", "trace", "u", "v", "membrane", "y1", "error", "noise", "rng", "scores",
            "y1_saturated", "error_saturated", "feedback_saturated", "correct",
        }  # fmt: skip
    assert replace(network("signed"), rule=Rule(encoding="signed")).digest() == network("signed").digest()


@pytest.mark.lava
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(encoding="morse"), "encoding: expected one of factored, signed, split, got 'morse'"),
        (dict(impulse=100), "impulse: 100 saturates the trace"),
        (dict(decay=0.995), "decay: λ = 0.995 leaves no room"),
    ],
)
def test_the_rule_refuses(change, message):
    pytest.importorskip("lava.magma.core.process.process")
    from ottt_loihi.onchip.lava.rule import OTTTLearningRule

    with pytest.raises(UsageError, match=message):
        OTTTLearningRule(**(dict(epoch=4, pre_phase=1, decay=0.5) | change))

"""sim.learn equals the plain NumPy oracle, Lava's models and Lava's runtime; it resumes; it refuses what it must."""

import hashlib
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from learning_cases import learning_cases
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim.learning import integers
from ottt_loihi.sim.learning import learner as learning
from ottt_loihi.sim.learning import reference as learning_reference
from ottt_loihi.sim.learning.encodings import PORTS
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.rule import Rule

from ottt_loihi import sim
from ottt_loihi.errors import FileError, UsageError

RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def assert_equal(expected, found):
    for name, value in found.items():
        np.testing.assert_array_equal(expected[name], value, name)


def small(rounding="per-synapse", hidden=(20,), inputs=12, **rule):
    chip = fresh_network((inputs,), hidden, 3, 4, resolution=128, seed=1)
    return learning_network(make_plan(chip), [0.1] * (len(hidden) + 1), Rule(rounding=rounding, **rule))


def samples(count=30, inputs=12, seed=0):
    rng = np.random.default_rng(seed)
    return np.packbits(rng.integers(0, 2, (count, 4, inputs), np.uint8), axis=-1), rng.integers(0, 3, count)


@settings(max_examples=80, **RELAXED)
@given(case=learning_cases())
def test_every_variable_equals_the_oracle(case):
    network = case.network()
    found = sim.learn(network, case.packed, case.labels, case.gate).variables()
    assert_equal(learning_reference.learn(network, case.x, case.labels, case.gate), found)
    of_feedback = {"random": 1, "symmetric": 0, "kolen-pollack": 1, "opzo": 3, "local": 1}[case.rule.feedback]
    of_layer = 9 + case.rule.learn_bias + len(PORTS[case.rule.encoding]) + (case.subspaces is not None)
    of_hidden = of_feedback + case.rule.learn_bias
    of_run = case.rule.learn_when == "mistaken"
    assert len(found) == of_layer * len(network.layers) + of_hidden * (len(network.layers) - 1) + of_run


@pytest.mark.lava
@pytest.mark.parametrize("examples", [4, pytest.param(25, marks=pytest.mark.slow)])
def test_every_variable_equals_lavas_models(examples):
    pytest.importorskip("lava.magma.core.process.process")
    from ottt_loihi.converters.lava.inprocess import InProcessRun

    @settings(max_examples=examples, **RELAXED)
    @given(case=learning_cases())
    def compare(case):
        compare_with_lava(case, InProcessRun)

    compare()


def compare_with_lava(case, executor):
    from ottt_loihi.onchip.lava.graph import build_graph

    found = sim.learn(case.network(), case.packed, case.labels, case.gate).variables()
    graph = build_graph(case.plan, case.packed, case.labels, case.rates, case.rule, case.gate, case.subspaces)
    with executor(graph.source) as run:
        run.steps(len(case.x) * graph.period)
        expected = {name: run.get(var) for name, var in graph.variables().items()}
    assert_equal(expected, found)


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize(("rounding", "steps"), [("lava", 1000), ("per-synapse", 2500)])
def test_thousands_of_steps_of_the_lava_runtime(rounding, steps):
    pytest.importorskip("lava.magma.core.process.process")
    from ottt_loihi.onchip import Settings, repeat_in_lava

    from ottt_loihi.data import load_digits, rate_code

    split = load_digits()
    data = rate_code(split.x_train[:100], 6, 1), split.y_train[:100]
    repetition = repeat_in_lava(fresh_network(), data, steps, settings=Settings(rounding=rounding))
    assert repetition.steps >= steps


def test_something_is_learnt_and_frozen_layers_stay():
    network = small(hidden=(20, 15))
    layers = (replace(network.layers[0], plastic=False), *network.layers[1:])
    frozen = replace(network, layers=layers)
    learner = sim.learn(frozen, *samples())
    same = [np.array_equal(w, part.connection.weight) for w, part in zip(learner.weights(), network.layers)]
    assert same == [True, False, False]
    assert not np.array_equal(sim.learn(network, *samples()).weights()[0], network.layers[0].connection.weight)


def test_a_closed_gate_learns_nothing_and_still_predicts():
    network = small()
    learner = Learner(network)
    predictions = learner.learn(*samples(), gate=False)
    for weight, part in zip(learner.weights(), network.layers):
        np.testing.assert_array_equal(weight, part.connection.weight)
    assert len(set(predictions.tolist())) > 1
    assert learner.variables()["readout[0].correct"] == (predictions == samples()[1]).sum()


class TestLive:
    """A sensor's sample is predicted when it comes; its label comes later or never."""

    def test_step_and_teach_are_a_closed_and_an_open_gate(self):
        packed, labels = samples()
        x = np.unpackbits(packed, axis=-1, count=12)
        live, whole = Learner(small()), Learner(small())
        found = []
        for one, label in zip(x, labels):
            found.append(live.step(one))
            live.teach(int(label))
        gate = np.tile([False, True], len(labels))
        expected = whole.learn(np.repeat(packed, 2, axis=0), np.repeat(labels, 2), gate)
        assert found == expected[::2].tolist()
        assert found != expected[1::2].tolist()  # while it is learnt the label is known
        kept = {name: value for name, value in whole.variables().items() if not name.endswith("correct")}
        assert_equal(live.variables(), kept)

    def test_a_sample_without_a_label_changes_no_weight(self):
        learner = Learner(small())
        for one in np.unpackbits(samples()[0], axis=-1, count=12):
            learner.step(one)
        for weight, part in zip(learner.weights(), learner.network.layers):
            np.testing.assert_array_equal(weight, part.connection.weight)

    def test_a_label_does_not_reach_a_sample_from_before_another_state(self):
        learner = Learner(small())
        learner.step(np.unpackbits(samples()[0][0], axis=-1, count=12))
        learner.assign(0, Learner(small()).variables())
        with pytest.raises(UsageError, match="expected a sample first"):
            learner.teach(0)

    def test_bad_input_keeps_the_state(self):
        learner, good = Learner(small()), np.zeros((4, 12))
        with pytest.raises(UsageError, match="teach: expected a sample first"):
            learner.teach(0)
        for bad in (np.zeros((3, 12)), np.zeros((4, 11)), np.zeros(4)):
            with pytest.raises(UsageError, match="expected a sample of 4 time steps and 12 inputs"):
                learner.step(bad)
        for value in (np.nan, 2, 0.5):
            with pytest.raises(UsageError, match="expected spikes 0 or 1"):
                learner.step(np.full((4, 12), value))
        assert learner.samples == 0
        learner.step(good)
        with pytest.raises(UsageError, match="label"):
            learner.teach(3)
        learner.teach(2)
        assert learner.samples == 2
        with pytest.raises(UsageError, match="there was none since the last label"):
            learner.teach(2)


class TestRandom:
    def test_lavas_numbers_are_lavas(self):
        """The streams skip ahead to where Lava's generators are."""
        lava_random = pytest.importorskip("lava.magma.core.learning.random")
        trace, weights = lava_random.TraceRandom(7, 8), lava_random.ConnVarRandom()
        of_trace, of_weights = [], []
        for _ in range(20):
            for _ in range(2 * 4):
                trace.advance()
            of_trace.append(trace.random_trace_decay)
            weights.advance()
            of_weights.append(weights.random_stochastic_round)
        np.testing.assert_array_equal(learning.lava_trace_random(7, 4, 5, 15), of_trace[5:])
        r = learning.lava_weight_random(5, 15)
        for k in range(128):
            np.testing.assert_array_equal(k + r >= 128, np.array(of_weights[5:]) < k / 128)

    def test_mix32_is_a_bijection_that_spreads_every_bit(self):
        x = np.arange(1 << 16, dtype=np.uint32)
        assert len(np.unique(integers.mix32(x))) == len(x)
        for bit in range(32):
            flipped = integers.mix32(x) ^ integers.mix32(x ^ np.uint32(1 << bit))
            share = [((flipped >> np.uint32(place)) & 1).mean() for place in range(32)]
            assert np.abs(np.array(share) - 0.5).max() < 0.03, bit

    @pytest.mark.parametrize("share", [1, 4])
    def test_draws_of_synapses_are_uniform_and_independent(self, share):
        draws = np.stack([integers.synapse_draws(3, epoch, (50, 60), share) for epoch in range(200)]).astype(float)
        counts = np.bincount(draws.astype(int).ravel(), minlength=128)
        assert len(counts) == 128
        expected = draws.size / 128
        assert ((counts - expected) ** 2 / expected).sum() < 127 + 5 * np.sqrt(2 * 127)
        normal = (draws - draws.mean()) / draws.std()
        for shift in ((1, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0), (0, 0, 1), (1, 1, 1), (0, 7, 3)):
            other = np.roll(normal, shift, axis=(0, 1, 2))
            assert abs((normal * other).mean()) < 5 / np.sqrt(draws.size), shift
        assert normal.reshape(200, -1).mean(axis=1).std() == pytest.approx(1 / np.sqrt(3000), rel=0.2)

    @pytest.mark.parametrize("rounding", ["lava", "per-synapse", "per-synapse-1"])
    def test_rounding_per_synapse_is_independent_and_right_on_average(self, rounding):
        """One update of Δw = ⌊127·5 / 8⌋ / 128 = 0.617 in 4000 synapses."""
        network = small(rounding, hidden=(), inputs=4000)
        connection = replace(network.layers[0].connection, weight=np.zeros((3, 4000), int))
        part = replace(network.layers[0], connection=connection, y1=(1, 12))  # an error of 320 << 6 becomes a y1 of 5
        network = replace(network, layers=(part,), logit_scale=5 << 6, num_steps=1)
        learner = sim.learn(network, np.full((1, 1, 500), 255, np.uint8), np.zeros(1, int))
        right, *others = learner.weights()[0]
        assert not np.any(others)
        if rounding == "lava":
            assert len(set(right.tolist())) == 1
        else:
            assert set(right.tolist()) == {0, 1}
            assert right.mean() == pytest.approx(79 / 128, abs=4 * np.sqrt(0.25 / 4000))


class TestResume:
    @pytest.mark.parametrize("rounding", ["lava", "per-synapse", "per-synapse-1"])
    def test_stopped_and_resumed_is_not_stopped(self, tmp_path, rounding):
        network, (packed, labels) = small(rounding, hidden=(20, 9), halve_every=10), samples(60)
        whole = sim.learn(network, packed, labels)
        first = sim.learn(network, packed[:23], labels[:23])
        first.save(tmp_path / "state.h5")
        second = Learner.load(tmp_path / "state.h5", network)
        assert second.samples == 23
        second.learn(packed[23:], labels[23:])
        assert_equal(whole.variables(), second.variables())

    def test_a_state_of_version_0_1_goes_on_with_its_own_rounding(self, tmp_path):
        """Digest and weights are those of commit ca2cd2d, whose ``per-synapse`` had a hash for each synapse."""
        digest = "beb4122a79756463637bf9bb50c02d3c2e004875003d6ba0470fc67e20b6403b"
        weights = "7126a3958865659a127b8abe25f6a48e281239c734173cb60a6ba446fd79e07c"
        (packed, labels), path = samples(), tmp_path / "state.h5"
        old = small("per-synapse-1", encoding="signed")
        sim.learn(old, packed[:13], labels[:13]).save(path)
        with h5py.File(path) as file:
            assert file.attrs["network"].decode() == digest
        learner = Learner.load(path, small("per-synapse"))
        assert (learner.network.rule.rounding, learner.network.rule.encoding) == ("per-synapse-1", "signed")
        learner.learn(packed[13:], labels[13:])
        learnt = b"".join(w.astype(np.int32).tobytes() for w in learner.weights())
        assert hashlib.sha256(learnt).hexdigest() == weights
        with pytest.raises(FileError, match="the state of another network or rule"):
            Learner.load(path, small("lava"))
        sim.learn(small("per-synapse"), packed[:13], labels[:13]).save(path)
        assert Learner.load(path, small("per-synapse")).network.rule.rounding == "per-synapse"
        with pytest.raises(FileError, match="the state of another network or rule"):
            Learner.load(path, small("per-synapse-1"))

    def test_chunks_do_not_matter(self, monkeypatch):
        network, data = small("lava"), samples()
        whole = sim.learn(network, *data)
        monkeypatch.setattr(learning, "CHUNK_STEPS", 28)
        assert_equal(whole.variables(), sim.learn(network, *data).variables())

    def test_the_state_of_another_network_or_rule_is_refused(self, tmp_path):
        sim.learn(small(), *samples()).save(tmp_path / "state.h5")
        for other in (small("lava"), small(hidden=(19,)), small(halve_every=3), small(seed=2)):
            with pytest.raises(FileError, match=r"state\.h5: the state of another network or rule"):
                Learner.load(tmp_path / "state.h5", other)

    def test_learnt_weights_make_no_other_network(self):
        network = small()
        c = replace(network.layers[0].connection, weight=network.layers[0].connection.weight + 1)
        assert replace(network, layers=(replace(network.layers[0], connection=c), *network.layers[1:])).digest() == (
            network.digest()
        )

    def test_foreign_newer_and_damaged_files(self, tmp_path):
        path = tmp_path / "state.h5"
        with pytest.raises(FileError, match="no such file"):
            Learner.load(path, small())
        with h5py.File(path, "w") as file:
            file.attrs["format"] = np.bytes_(b"something else")
        with pytest.raises(FileError, match="not a learning state"):
            Learner.load(path, small())
        learner = sim.learn(small(), *samples())
        learner.save(path)
        with h5py.File(path, "a") as file:
            file.attrs["version"] = 2
        with pytest.raises(FileError, match="format version 2"):
            Learner.load(path, small())
        learner.save(path)
        with h5py.File(path, "a") as file:
            del file["rng"]
            file["rng"] = np.zeros(3, np.uint32)
        with pytest.raises(FileError, match=r"/rng: expected uint32 \(48,\), found uint32 \(3,\)"):
            Learner.load(path, small())
        learner.save(path)
        with h5py.File(path, "a") as file:
            file["weights"][0] = 300
        with pytest.raises(FileError, match=r"/weights: expected -256 … 255, found .* … 300"):
            Learner.load(path, small())
        learner.save(path)
        with h5py.File(path, "a") as file:
            file["trace"][0] = 128  # an index beyond the table of decayed traces
        with pytest.raises(FileError, match=r"/trace: expected 0 … 127, found 0 … 128"):
            Learner.load(path, small())
        learner.save(path)
        with h5py.File(path, "a") as file:
            file.attrs["samples"] = -1
        with pytest.raises(FileError, match="/@samples: expected a number ≥ 0, found -1"):
            Learner.load(path, small())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, :3], y), r"packed: expected uint8 \(n, 4, 2\), got uint8 \(30, 3, 2\)"),
        (lambda x, y: (x.astype(int), y), "packed: expected uint8"),
        (lambda x, y: (x, y[:-1]), r"labels: expected integers \(30,\)"),
        (lambda x, y: (x, y + 1.0), "labels: expected integers"),
        (lambda x, y: (x, y + 1), "labels: expected 0 … 2, got 1 … 3"),
        (lambda x, y: (x, y, np.ones(3, bool)), r"gate: expected a bool or shape \(30,\)"),
    ],
)
def test_wrong_data(change, message):
    with pytest.raises(UsageError, match=message):
        sim.learn(small(), *change(*samples()))


def test_wrong_rounding():
    with pytest.raises(UsageError, match="rounding: expected one of per-synapse, per-synapse-1, lava, got 'up'"):
        small("up")

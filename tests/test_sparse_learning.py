"""Sparse plastic connections: only existing synapses learn, alike in sim, in Lava's models and in Lava's runtime."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from learning_cases import assert_lava_learns
from ottt_loihi.onchip import LavaRun, Settings, fresh_network, learn, repeat_in_lava, watch
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim import storage
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.rule import FEEDBACKS, Rule
from ottt_loihi.sim.learning.weight_formats import make_plastic, to_inference
from ottt_loihi.sim.network import Dense, Sparse

from ottt_loihi import sim
from ottt_loihi.data import load_digits, rate_code
from ottt_loihi.errors import ChipError, FileError, LavaError, UsageError


def chip(density=0.3, hidden=(20, 15), **kwargs):
    return fresh_network(hidden=hidden, density=density, **kwargs)


def digits(count=60):
    split = load_digits()
    return rate_code(split.x_train[:count], 6, 1), split.y_train[:count]


def packed(x):
    return np.packbits(x.reshape(*x.shape[:2], -1), axis=-1)


def synapses(network):
    return [c for c in network.connections if isinstance(c, Sparse)]


def learnt(network, count=60, **rule):
    x, labels = digits(count)
    rates = [0.02] * len(make_plan(network).dense)
    return sim.learn(learning_network(make_plan(network), rates, Rule(**rule)), packed(x), labels)


class TestFreshNetwork:
    def test_every_neuron_hears_as_many(self):
        network = fresh_network(density=0.2)
        for c, heard in zip(synapses(network), (13, 26)):
            assert c.weight_format == "learning9"
            np.testing.assert_array_equal(c.mask().sum(axis=1), heard)
        assert fresh_network(density=0.2) == network
        assert (
            fresh_network(density=0.2, seed=1).connections[0].columns.tolist() != synapses(network)[0].columns.tolist()
        )

    def test_a_density_of_one_is_dense_and_the_smallest_leaves_one_synapse(self):
        assert fresh_network(density=1.0) == fresh_network()
        assert isinstance(fresh_network().connections[0], Dense)
        assert all((c.mask().sum(axis=1) == 1).all() for c in synapses(fresh_network(density=1e-6)))

    def test_one_density_for_each_connection(self):
        network = fresh_network(density=(0.2, 1.0))
        assert [type(c) for c in make_plan(network).dense] == [Sparse, Dense]
        assert network.connections[0] == fresh_network(density=0.2).connections[0]

    @pytest.mark.parametrize("density", [0, -0.1, 1.1, float("nan"), (0.2, 0), "many"])
    def test_a_density_out_of_range(self, density):
        with pytest.raises(UsageError, match=r"density: expected a number in \(0, 1\], got"):
            fresh_network(density=density)

    def test_a_density_for_each_of_other_connections(self):
        with pytest.raises(UsageError, match=r"density: expected one number, or one for each of 2 connections, got"):
            fresh_network(density=(0.2,))


class TestSim:
    @pytest.mark.parametrize("rounding", ["lava", "per-synapse", "per-synapse-1"])
    @pytest.mark.parametrize("feedback", FEEDBACKS)
    def test_no_other_weight_ever_leaves_zero(self, feedback, rounding):
        network = chip()
        learner = learnt(network, feedback=feedback, rounding=rounding)
        for weight, c in zip(learner.weights(), synapses(network)):
            assert not weight[~c.mask()].any()
            assert (weight != c.matrix())[c.mask()].mean() > 0.3
        if feedback == "kolen-pollack":
            twin = learner.variables()["feedback[1].weights"]
            assert twin.any()
            assert not twin[~synapses(network)[2].mask()].any()

    @pytest.mark.parametrize("feedback", FEEDBACKS)
    def test_with_every_synapse_it_learns_what_a_dense_connection_learns(self, feedback):
        """Random numbers belong to (post, pre), so they do not move."""
        dense = fresh_network(hidden=(20, 15))
        rows, columns = {}, {}
        for c in make_plan(dense).dense:
            rows[c.post], columns[c.post] = (index.ravel() for index in np.indices(c.shape))
        full = [
            Sparse(c.pre, c.post, c.shape, rows[c.post], columns[c.post], c.weight.ravel(), weight_format="learning9")
            if isinstance(c, Dense)
            else c
            for c in dense.connections
        ]
        expected = learnt(dense, feedback=feedback).variables()
        found = learnt(replace(dense, connections=tuple(full)), feedback=feedback).variables()
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(value, found[name], name)

    def test_a_synapse_of_weight_zero_grows(self):
        network = chip(hidden=())
        silent = replace(network, connections=tuple(replace(c, weight=0 * c.weight) for c in network.connections))
        (weight,) = learnt(silent).weights()
        assert (weight[synapses(silent)[0].mask()] != 0).mean() > 0.3

    def test_stopped_and_resumed_is_not_stopped_and_other_synapses_are_refused(self, tmp_path):
        network = learning_network(make_plan(chip()), [0.02] * 3, Rule(feedback="kolen-pollack"))
        x, labels = digits()
        first = sim.learn(network, packed(x)[:23], labels[:23])
        first.save(tmp_path / "state.h5")
        second = Learner.load(tmp_path / "state.h5", network)
        second.learn(packed(x)[23:], labels[23:])
        whole = sim.learn(network, packed(x), labels).variables()
        for name, value in second.variables().items():
            np.testing.assert_array_equal(whole[name], value, name)
        other = learning_network(make_plan(chip(seed=1)), [0.02] * 3, Rule(feedback="kolen-pollack"))
        with pytest.raises(FileError, match="the state of another network"):
            Learner.load(tmp_path / "state.h5", other)


class TestChipNetwork:
    def test_learnt_frozen_stored_and_made_plastic_again(self, tmp_path):
        result = learn(chip(), digits(), test=digits(20))
        assert all(part > 0.3 for part in result.moved)
        for before, after in zip(synapses(chip()), synapses(result.chip)):
            np.testing.assert_array_equal(before.mask(), after.mask())
        storage.save(result.chip, tmp_path / "learnt.h5")
        assert storage.load(tmp_path / "learnt.h5") == result.chip
        frozen = to_inference(result.chip, layers=[0, 1, 2]).chip
        assert {c.weight_format for c in frozen.connections} == {"inference8"}
        plastic = make_plastic(frozen)
        assert [c.weight_format for c in synapses(plastic)] == ["learning9"] * 3
        x = digits(20)[0]
        np.testing.assert_array_equal(reference.run(frozen, x).scores, reference.run(plastic, x).scores)
        make_plan(plastic)

    def test_beside_dense_connections_sparse_ones_stay_fixed_unless_asked_for(self):
        sparse, dense = to_inference(chip()).chip, to_inference(fresh_network(hidden=(20, 15))).chip
        mixed = replace(sparse, connections=(*sparse.connections[:-1], dense.connections[-1]))
        assert [c.weight_format for c in synapses(make_plastic(mixed))] == ["inference8"] * 2
        assert [c.weight_format for c in synapses(make_plastic(mixed, sparse=True))] == ["learning9"] * 2
        make_plan(make_plastic(mixed))
        make_plan(make_plastic(mixed, sparse=True))
        with pytest.raises(UsageError, match=r"layer\[0\] \(hidden 1\) has no dense inference connection into it"):
            make_plastic(mixed, layers=[0])
        assert [c.weight_format for c in synapses(make_plastic(mixed, layers=[1], sparse=True))][1] == "learning9"

    def test_delays_and_second_connections_are_refused(self):
        network = chip(hidden=())
        (c,) = network.connections
        for connections in ((replace(c, delay=1),), (c, c)):
            with pytest.raises(ChipError, match="exactly one dense or sparse connection, from the layer before it"):
                make_plan(replace(network, connections=connections))

    def test_hlop_is_refused_by_name(self):
        refused = r"plastic connection 0 \(connection input→layer\[0\]\) is sparse, and HLOP needs dense ones"
        with pytest.raises(UsageError, match=refused):
            watch(chip(), digits()[0], 5)
        subspaces = watch(fresh_network(hidden=(20, 15)), digits()[0], 5)
        with pytest.raises(UsageError, match=refused):
            learn(chip(), digits(), subspaces=subspaces)

    def test_rates_are_measured_on_what_a_neuron_hears(self):
        few, many = (learn(chip(density, (200,)), digits(), evaluate_every=60).rates[0] for density in (0.25, 1.0))
        assert few / many == pytest.approx(4, rel=0.15)


@pytest.mark.slow
def test_the_command_line(tmp_path):
    command = [sys.executable, "-c", "from ottt_loihi.cli import learn; learn.main()", "-o", str(tmp_path), "--json"]
    scratch = [*command, "--density", "0.5", "--epochs", "1", "--hidden", "30"]
    done = subprocess.run(scratch, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] > 0.4
    assert [c.weight.size for c in synapses(storage.load(tmp_path / "scratch-learnt.h5"))] == [30 * 32, 10 * 15]
    again = [*command, str(tmp_path / "scratch-inference.h5"), "--epochs", "1"]
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert min(json.loads(done.stdout)["weights_moved"]) > 0.1


@pytest.mark.lava
class TestLava:
    @pytest.fixture(autouse=True)
    def lava(self):
        pytest.importorskip("lava.magma.core.process.process")

    @pytest.mark.parametrize(
        "settings",
        [
            pytest.param(Settings(rounding="lava"), marks=pytest.mark.slow),
            pytest.param(Settings(feedback="kolen-pollack"), marks=pytest.mark.slow),
            pytest.param(Settings(feedback="symmetric", learn_bias=True), marks=pytest.mark.slow),
            pytest.param(Settings(feedback="opzo", encoding="factored"), marks=pytest.mark.slow),
            pytest.param(Settings(schedule="pipelined"), marks=pytest.mark.slow),
        ],
        ids=["random", "kolen-pollack", "symmetric", "opzo", "pipelined"],
    )
    def test_the_runtime_learns_the_same(self, settings):
        assert repeat_in_lava(chip(hidden=(12, 9)), digits(6), 120, settings=settings).variables > 20

    @pytest.mark.slow
    def test_all_backends_give_the_same_network(self):
        results = [learn(chip(hidden=(12,)), digits(8), backend=backend) for backend in ("sim", "inprocess", "lava")]
        assert results[0].chip == results[1].chip == results[2].chip
        assert results[0].chip != chip(hidden=(12,))

    @pytest.mark.parametrize("feedback", ["random", "symmetric"])
    def test_float_learning_is_the_loop_with_a_mask(self, feedback):
        from ottt_loihi.onchip.lava.float_graph import build_float_graph
        from scipy.sparse import csr_matrix

        from ottt_loihi.rules.three_factor import ThreeFactorLoop

        rng = np.random.default_rng(3)
        masks = [rng.random(shape) < 0.5 for shape in ((9, 12), (3, 9))]
        weights = [mask * rng.normal(0, 1, mask.shape) for mask in masks]
        loop = ThreeFactorLoop(weights, feedback=feedback, feedback_seed=5, learning_rate=0.05, time_steps=4)
        back = None if loop.feedback is None else [m.copy() for m in loop.feedback]
        x, labels = rng.integers(0, 2, (30, 4, 12)).astype(np.uint8), rng.integers(0, 3, 30)
        for frames, label in zip(x, labels):
            loop.start()
            for frame in frames:
                delta = loop.step(frame[np.newaxis], np.eye(3)[[label]]).delta_w
                for weight, change, mask in zip(loop.weights, delta, masks):
                    weight += change * mask
        stored = [csr_matrix(weight) for weight in weights]
        graph = build_float_graph(
            stored, packed(x), labels, learning_rate=0.05, feedback=back, rule=Rule(feedback=feedback)
        )
        assert_lava_learns(graph, 30, weights, loop.weights)

    def test_a_running_sparse_matrix_cannot_be_set(self):
        from ottt_loihi.converters.lava.inprocess import InProcessRun

        for executor in (InProcessRun, LavaRun):
            connection = ours(even_weights())
            with executor(connection) as run, pytest.raises(UsageError, match="a sparse matrix cannot be set"):
                run.set(connection.weights, np.zeros((5, 6)))

    def test_an_unknown_rounding(self):
        from ottt_loihi.onchip.lava.processes.plastic import OTTTSparse
        from ottt_loihi.onchip.lava.rule import OTTTLearningRule

        with pytest.raises(
            UsageError, match=r"plastic\.rounding: expected one of per-synapse, per-synapse-1, lava, got 'no'"
        ):
            OTTTSparse(even_weights(), OTTTLearningRule(4, 1, 0.5), 16, rounding="no")

    def test_without_extras_it_is_lavas_learning_sparse_to_the_last_bit(self):
        from lava.proc.sparse.process import LearningSparse
        from ottt_loihi.onchip.lava.rule import OTTTLearningRule

        weights = even_weights()
        stock = drive(LearningSparse(weights=weights, learning_rule=OTTTLearningRule(4, 1, 0.5)))
        for step, (a, b) in enumerate(zip(stock, drive(ours(weights)))):
            for name, left, right in zip(("weights", "x1", "a_buff"), a, b):
                np.testing.assert_array_equal(left, right, f"{name} at step {step + 1}")
        assert (stock[-1][0] % 2).any()

    def test_lava_drops_synapses_of_weight_zero_and_one_at_the_first_step(self):
        """Guard: ours keep them."""
        from lava.proc.sparse.process import LearningSparse
        from ottt_loihi.onchip.lava.rule import OTTTLearningRule

        weights = even_weights()
        weights.data[:4] = 0, 1, 0, 1
        places = weights.copy()
        places.data[:] = 1
        few = (places.toarray() > 0) & (np.abs(weights.toarray()) < 2)
        stock = drive(LearningSparse(weights=weights, learning_rule=OTTTLearningRule(4, 1, 0.5)))
        assert few.sum() >= 4
        assert not stock[-1][0][few].any()
        assert drive(ours(weights))[-1][0][few].all()
        connection = LearningSparse(weights=weights, learning_rule=OTTTLearningRule(4, 1, 0.5))
        with LavaRun(connection) as run:
            run.steps(1)
            with pytest.raises(LavaError, match="Lava drops those of weight 0"):
                run.get(connection.weights)


def even_weights():
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(1)
    rows, columns = np.nonzero(rng.random((5, 6)) < 0.6)
    weights = 2 * rng.integers(5, 60, len(rows)) * rng.choice([-1, 1], len(rows))
    return csr_matrix((weights.astype(np.int32), (rows, columns)), (5, 6))


def ours(weights):
    from ottt_loihi.onchip.lava.processes.plastic import OTTTSparse
    from ottt_loihi.onchip.lava.rule import OTTTLearningRule

    return OTTTSparse(weights, OTTTLearningRule(4, 1, 0.5), reset_interval=10**6)


def drive(connection, steps=48, epoch=4):
    """Weights, traces and activations after each step, driven by the same spikes and y1."""
    from lava.proc.io.source import RingBuffer
    from ottt_loihi.converters.lava.inprocess import InProcessRun

    rng = np.random.default_rng(0)
    spikes = np.where(np.arange(steps) % epoch == 0, rng.integers(0, 2, (6, steps)), 0)
    RingBuffer(data=spikes).s_out.connect(connection.s_in)
    RingBuffer(data=rng.integers(-100, 100, (5, steps))).s_out.connect(connection.s_in_y1)
    with InProcessRun(connection) as run:
        seen = []
        for _ in range(steps):
            run.steps(1)
            seen.append([run.get(getattr(connection, name)) for name in ("weights", "x1", "a_buff")])
    return seen

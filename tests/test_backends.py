"""Backends: one registry; samples that follow one another; and the door to a chip, opened with stand-ins."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from networks import chip_networks, random_messages
from ottt_loihi.converters.lava import board, stream
from ottt_loihi.converters.lava.backends import BACKENDS, Loihi2, find
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Conv, Dense, Diagonal

from ottt_loihi import sim
from ottt_loihi.errors import BackendUnavailableError, ChipError, LavaError, UsageError

EVERYTHING = ("u", "v", "s")
FEW = dict(deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


def mlp(reset="zero", bias=0, seed=0, recurrent=0, num_steps=6):
    rng = np.random.default_rng(seed)
    hidden, readout = rng.integers(-60, 60, (32, 16)) * 2, rng.integers(-128, 128, (10, 32)) * 2
    b = np.full(32, bias)
    lif = LIF((32,), 4095, 2048, 200, b, 6, name="hidden")
    connections = [Dense(INPUT, 0, hidden), Dense(0, 1, readout)]
    if reset == "subtract":
        lif = LIF((32,), 2047, 4096, 200, b, 6, -(b << 6), name="hidden")
        connections.append(Diagonal(0, 0, np.full(32, -100)))
    if recurrent:
        connections.append(Dense(0, 0, 2 * rng.integers(-recurrent, recurrent, (32, 32))))
    layers = (lif, LIF((10,), 4095, 4096, 131071, name="readout"))
    return ChipNetwork((16,), layers, tuple(connections), num_steps)


def assert_equal_runs(expected, found, names=EVERYTHING):
    for name in names:
        for layer, (left, right) in enumerate(zip(expected.states[name], found.states[name], strict=True)):
            np.testing.assert_array_equal(left, right, err_msg=f"{name} of layer {layer}")
    np.testing.assert_array_equal(expected.scores, found.scores)
    np.testing.assert_array_equal(expected.spike_counts, found.spike_counts)


class TestRegistry:
    def test_every_backend_is_found_by_its_name(self):
        assert list(BACKENDS) == ["sim", "inprocess", "lava", "loihi2"]
        assert all(find(name).name == name for name in BACKENDS)

    def test_an_unknown_one_is_one_line(self):
        with pytest.raises(UsageError, match="backend: expected one of sim, inprocess, lava, loihi2, got 'loihi1'"):
            find("loihi1")

    def test_sim_needs_nothing(self):
        chip, x = mlp(), random_messages(mlp(), 2)
        BACKENDS["sim"].require()
        assert BACKENDS["sim"].prepare(chip, x).chip is chip
        assert_equal_runs(sim.run(chip, x, EVERYTHING), BACKENDS["sim"].run(chip, x, EVERYTHING))

    @pytest.mark.lava
    def test_without_intels_package_loihi2_says_so(self):
        chip = mlp()
        with pytest.raises(BackendUnavailableError, match=r"Intel's Lava extension.*does not have; ottt-export"):
            find("loihi2").run(chip, random_messages(chip, 1))

    def test_states_that_nothing_reads_are_refused(self):
        with pytest.raises(UsageError, match="loihi2 gives s at every step, not u, v"):
            find("loihi2").check_record(EVERYTHING)


class TestStream:
    """Samples that follow one another equal separate ones where it is said so."""

    @settings(max_examples=60, **FEW)
    @given(chip=chip_networks(), longer=st.integers(0, 3), lag=st.integers(0, 2))
    def test_an_exact_stream_equals_separate_samples(self, chip, longer, lag):
        chip = replace(chip, layers=tuple(replace(layer, u_init=0) for layer in chip.layers))
        clock = stream.make_stream(chip, chip.num_steps + longer, lag)
        x = random_messages(chip, batch=4)
        found = stream.expected(chip, reference.check_input(chip, x), clock)
        if stream.why_exact(chip, clock):
            assert_equal_runs(reference.run(chip, x, EVERYTHING), found)

    @pytest.mark.parametrize(
        ("chip", "period", "exact"),
        [
            (mlp(), 6, True),
            (mlp("subtract"), 12, True),
            (mlp("zero", recurrent=60), 12, False),
            (mlp("subtract", bias=201), 12, False),
        ],
        ids=["zero", "subtract", "recurrent", "a bias that fires"],
    )
    def test_what_is_exact(self, chip, period, exact):
        clock = stream.make_stream(chip)
        assert clock.period == period
        assert bool(stream.why_exact(chip, clock)) == exact

    def test_one_silent_step_would_not_be_enough(self):
        """Why an interval of silent steps follows a sample: what a neuron sends late reaches the next one."""
        chip = replace(mlp("subtract"), layers=(LIF((32,), 2047, 4096, 40), mlp().layers[1]))
        x = random_messages(chip, batch=6)
        messages, clock = reference.check_input(chip, x), stream.make_stream(chip)
        apart = reference.run(chip, x, EVERYTHING)
        short = stream.expected(chip, messages, replace(clock, interval=7, period=7))
        assert any((a != b).any() for a, b in zip(apart.states["u"], short.states["u"]))
        assert_equal_runs(apart, stream.expected(chip, messages, clock))

    def test_a_start_of_its_own_is_refused(self):
        with pytest.raises(ChipError, match="hidden: begins with a current of its own"):
            stream.require_stream(mlp("subtract", bias=5))

    @pytest.mark.lava
    @pytest.mark.parametrize(
        ("backend", "chip"),
        [("inprocess", mlp("subtract")), ("inprocess", mlp(recurrent=60)), ("lava", mlp("subtract"))],
        ids=["subtract", "recurrent", "runtime"],
    )
    def test_lava_streams_as_expected(self, backend, chip):
        x = random_messages(chip, batch=3, seed=1)
        clock = stream.make_stream(chip, 7)
        expected = stream.expected(chip, reference.check_input(chip, x), clock)
        assert expected.spike_counts[0] > 30
        assert_equal_runs(expected, BACKENDS[backend].stream(chip, x, EVERYTHING, interval=7))

    @pytest.mark.lava
    @pytest.mark.parametrize("graded", [False, True])
    def test_convolutions_biases_and_slow_currents_stream(self, graded):
        rng = np.random.default_rng(5)
        conv = Conv(INPUT, 0, 2 * rng.integers(-60, 90, (2, 1, 3, 3)), (1, 5, 5), num_message_bits=8 * graded)
        layers = (
            LIF((2, 3, 3), 1000, 700, 200, rng.integers(-9, 30, (2, 3, 3)), 6),
            LIF((7,), -1, 1024, 300, rng.integers(-9, 30, 7), 6),
            LIF((4,), 4095, 4096, 131071),
        )
        weights = (2 * rng.integers(-60, 70, (7, 18)), 2 * rng.integers(-60, 60, (4, 7)))
        chip = ChipNetwork((1, 5, 5), layers, (conv, Dense(0, 1, weights[0]), Dense(1, 2, weights[1])), 4)
        x = random_messages(chip, batch=5, seed=2)
        assert_equal_runs(reference.run(chip, x, EVERYTHING), BACKENDS["inprocess"].stream(chip, x, EVERYTHING))


class TestBoard:
    """What a network becomes for a chip, and what that changes."""

    def test_the_readout_adds_up_to_the_same_scores(self):
        chip, x = mlp(), random_messages(mlp(), 20)
        found = board.prepare(chip, x)
        assert (found.chip.readout, found.chip.layers[-1].dv) == ("last_v", 0)
        np.testing.assert_array_equal(sim.run(found.chip, x).scores, sim.run(chip, x).scores)
        assert (found.changed_spikes, found.changed_predictions) == (0, 0)

    def test_sums_that_leave_24_bits_are_divided_and_counted(self):
        chip = mlp(num_steps=60)
        loud = replace(chip.connections[1], weight=np.clip(chip.connections[1].weight, 0, 254), weight_exp=3)
        chip = replace(chip, connections=(chip.connections[0], loud))
        x = random_messages(chip, 8)
        found = board.prepare(chip, x)
        assert "divided by" in found.notes[0]
        shift = loud.weight_exp - found.chip.connections[1].weight_exp
        result = sim.run(found.chip, x)
        assert not result.spike_counts[-1]
        assert np.abs((sim.run(chip, x).scores >> shift) - result.scores).max() <= 64 * 60

    def test_registers_and_starts_are_said_and_counted(self):
        chip = mlp("subtract", bias=20)
        found = board.prepare(chip, random_messages(chip, 20))
        text = " ".join(found.notes)
        assert "registers: dv = 4095 for 4096 in hidden" in text
        assert "start: u = 0 in hidden" in text
        assert found.changed_spikes > 0
        assert f"{found.changed_spikes:,} of" in text
        assert max(layer.dv for layer in found.chip.layers) <= 4095

    def test_a_readout_with_memory_cannot_be_read_once(self):
        chip = replace(mlp(), layers=(mlp().layers[0], LIF((10,), 4095, 2048, 131071, name="readout")))
        with pytest.raises(ChipError, match="readout: the sum of v over a sample needs v at every step"):
            board.prepare(chip)

    def test_recurrence_is_compared_not_promised(self):
        chip = mlp(recurrent=60)
        assert "compared with separate samples" in board.prepare(chip, random_messages(chip, 5)).notes[-1]
        assert "was not compared" in board.prepare(chip).notes[-1]


@pytest.mark.lava
class TestLoihi2:
    """The graph for a chip, with stand-ins for Intel's adapters and models."""

    @pytest.fixture(autouse=True)
    def _stand_ins(self, monkeypatch):
        pytest.importorskip("lava.magma")
        from stand_ins import loihi2

        loihi2.install(monkeypatch)
        self.models = loihi2.MODELS

    def chip(self, **settings):
        return Loihi2("loihi2", "stand-ins", ("s",), True, own=self.models, **settings)

    @pytest.mark.parametrize(
        "chip", [mlp("zero", bias=3), mlp("subtract", bias=3), mlp(recurrent=60)], ids=["zero", "subtract", "recurrent"]
    )
    def test_every_result_is_the_simulators(self, chip):
        backend, x = self.chip(in_process=True), random_messages(chip, 5, seed=3)
        prepared = backend.prepare(chip, x).chip
        found = backend.run(prepared, x, ("s",))
        assert_equal_runs(backend.expected(prepared, x), found, ("s",))
        assert found.spike_counts[0] > 50

    def test_in_the_runtime_too(self):
        chip = mlp("subtract")
        backend, x = self.chip(), random_messages(chip, 2, seed=3)
        prepared = backend.prepare(chip, x).chip
        assert_equal_runs(sim.run(prepared, x, ("s",)), backend.run(prepared, x, ("s",)), ("s",))

    def test_adapters_that_take_a_step(self, monkeypatch):
        from stand_ins import loihi2

        monkeypatch.setattr(loihi2.PyToNxAdapter, "delay", 2)
        monkeypatch.setattr(loihi2.NxToPyAdapter, "delay", 1)
        chip = mlp("subtract")
        backend, x = self.chip(in_process=True, lag_in=2, lag_out=1, interval=8), random_messages(chip, 3, seed=3)
        prepared = backend.prepare(chip, x).chip
        assert_equal_runs(sim.run(prepared, x, ("s",)), backend.run(prepared, x, ("s",)), ("s",))

    def test_the_schedule(self):
        """One read of v a sample, no writes, and every process has a model that asks for the chip."""
        from ottt_loihi.converters.lava import stream_graph

        chip = board.prepare(mlp("subtract")).chip
        backend, clock = self.chip(in_process=True), stream.make_stream(chip)
        assert stream_graph.reads(chip, clock, 3, ("s",)) == {1 + 2 + 6 + n * 12: [("v", 1, n, 5)] for n in range(3)}
        graph = stream_graph.build(backend, chip, np.zeros((3, 6, 16), np.int32), clock)
        with backend.execute(graph.source) as run:
            names = sorted(type(model).__name__ for model in run._built.values())
        assert [name for name in names if not name.startswith("Nc")] == [
            *["NxToPyModel"] * 2, *["PyReceiveModelFixed"] * 2, "PySendModelFixed", "PyToNxModel"
        ]  # fmt: skip
        offsets = [neuron.proc_params["reset_offset"] for neuron in graph.neurons]
        assert offsets == [3, 4]

    def test_a_model_of_the_host_is_refused(self):
        from lava.proc.lif.models import PyLifResetModelBitAcc
        from lava.proc.lif.process import LIFReset

        backend = replace(self.chip(in_process=True), own={**self.models, LIFReset: PyLifResetModelBitAcc})
        chip = board.prepare(mlp()).chip
        with pytest.raises(LavaError, match=r"neuron\[0\] \(LIFReset\) got PyLifResetModelBitAcc"):
            backend.run(chip, random_messages(chip, 1))

    def test_without_the_map_the_public_wheel_has_no_model(self):
        chip = board.prepare(mlp()).chip
        with pytest.raises(LavaError, match="cannot compile the graph: NameError"):
            replace(self.chip(in_process=True), own={}).run(chip, random_messages(chip, 1))

    def test_a_sum_that_leaves_24_bits_is_not_silent(self):
        chip = board.prepare(mlp(num_steps=60)).chip
        loud = replace(chip.connections[1], weight=np.full((10, 32), 254), weight_exp=6)
        chip = replace(chip, connections=(chip.connections[0], loud))
        with pytest.raises(LavaError, match="the readout fired"):
            self.chip(in_process=True).run(chip, random_messages(chip, 1))

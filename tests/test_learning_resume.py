"""A run of learning that ended before its end goes on in any backend, whichever ended, bit for bit."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from learning_cases import learning_cases
from ottt_loihi.onchip import Settings, learn
from ottt_loihi.sim import storage
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.weight_formats import to_inference
from test_learner import digits, small
from test_learner import run as command
from test_learning import RELAXED, assert_equal

from ottt_loihi.errors import LavaError, UsageError

SAMPLES, EVERY = 12, 5


def run(folder=None, backend="sim", resume=False, chip=None, **chosen):
    checkpoint = None if folder is None else folder / "state"
    return learn(
        small() if chip is None else chip,
        digits(SAMPLES),
        test=digits(20, 300),
        backend=backend,
        settings=Settings(**{"feedback": "kolen-pollack", "halve_every": 4} | chosen),
        evaluate_every=EVERY,
        checkpoint=checkpoint,
        checkpoint_every=None if folder is None else 4,
        resume=resume,
    )


@pytest.mark.lava
class TestDying:
    @pytest.fixture(autouse=True)
    def _lava(self):
        pytest.importorskip("lava.magma.core.process.process")

    def die(self, monkeypatch, folder, backend, sample, **chosen):
        """The readout raises in a sample; returns what the error says."""
        from ottt_loihi.onchip.lava.processes.readout import OTTTReadoutModelFixed

        update = OTTTReadoutModelFixed.update

        def fail(self, a):
            if self._update.time_step_at(self.time_step)[0] == sample:
                raise ValueError("broken")
            update(self, a)

        with monkeypatch.context() as broken:
            broken.setattr(OTTTReadoutModelFixed, "update", fail)
            with pytest.raises(LavaError, match=r"readout \(OTTTReadout\) raised ValueError: broken") as caught:
                run(folder, backend, **chosen)
        return str(caught.value)

    @pytest.mark.slow
    @pytest.mark.parametrize("died", ["inprocess", "lava"])
    def test_a_run_that_died_goes_on_in_every_backend(self, monkeypatch, tmp_path, died):
        whole, folder = run(rounding="lava"), tmp_path / "died"
        message = self.die(monkeypatch, folder, died, 9, rounding="lava")
        assert f"the state after 8 samples is kept in {folder}/state.h5: go on from there with resume" in message
        for backend in ("sim", "inprocess", "lava"):
            shutil.copytree(folder, tmp_path / backend)
            again = run(tmp_path / backend, backend, resume=True, rounding="lava")
            assert again.chip == whole.chip
            assert (again.curve, again.counters, again.samples) == (whole.curve, whole.counters, SAMPLES)

    def test_dying_twice_and_between_two_backends(self, monkeypatch, tmp_path):
        self.die(monkeypatch, tmp_path, "inprocess", 5)
        from ottt_loihi.onchip.lava.processes.readout import OTTTReadoutModelFixed

        def fail(self, a):
            raise ValueError(f"broken in step {self.time_step}")

        with monkeypatch.context() as broken:
            broken.setattr(OTTTReadoutModelFixed, "update", fail)
            with pytest.raises(LavaError, match=r"broken in step 123.*the state after 5 samples is kept"):
                run(tmp_path, "inprocess", resume=True)
        assert run(tmp_path, resume=True).chip == run().chip

    def test_before_anything_was_kept_it_says_so(self, monkeypatch, tmp_path):
        message = self.die(monkeypatch, tmp_path, "inprocess", 2)
        assert f"no state had been kept in {tmp_path}/state.h5 yet: start again" in message

    @pytest.mark.slow
    def test_a_killed_run_in_lava_goes_on_and_leaves_no_process(self, tmp_path):
        """kill -9: nobody ends Lava's processes but they themselves."""
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import test_learning_resume as t\n"
            "import os, multiprocessing; from ottt_loihi.onchip.checkpoint import Checkpoint\n"
            "saved = Checkpoint.save\n"
            "def save(self, *arguments):\n    saved(self, *arguments)\n"
            "    print(*(p.pid for p in multiprocessing.active_children()), flush=True); os.kill(os.getpid(), 9)\n"
            "Checkpoint.save = save\n"
            "t.run(Path(sys.argv[2]), 'lava')\n"
        )
        command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
        done = subprocess.run(command, timeout=120, check=False, stdout=subprocess.PIPE, text=True)
        assert done.returncode == -9
        processes = [Path("/proc", pid) for pid in done.stdout.split()]
        assert len(processes) > 5
        if sys.platform == "linux":
            deadline = time.monotonic() + 10
            while any(process.exists() for process in processes) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not any(process.exists() for process in processes)
        assert run(tmp_path, resume=True).chip == run().chip


@pytest.mark.lava
@pytest.mark.slow
@settings(max_examples=12, **RELAXED)
@given(case=learning_cases())
def test_lavas_models_go_on_where_a_learner_stands_and_say_where_they_are(case):
    """Any network, rule and option: half of the samples without Lava, half with it, and the state given back."""
    pytest.importorskip("lava.magma.core.process.process")
    from ottt_loihi.converters.lava.inprocess import InProcessRun
    from ottt_loihi.onchip.lava.graph import begin_at, build_graph

    whole, half, count = Learner(case.network()), Learner(case.network()), len(case.x)
    whole.learn(case.packed, case.labels, case.gate)
    half.learn(case.packed[: count // 2], case.labels[: count // 2], case.gate[: count // 2])
    graph = build_graph(case.plan, case.packed, case.labels, case.rates, case.rule, case.gate, case.subspaces)
    begin_at(graph, half)
    with InProcessRun(graph.source) as run:
        run.steps((count - count // 2) * graph.period)
        found = {name: run.get(var) for name, var in graph.variables().items()}
    expected = whole.variables()
    assert_equal(found, expected)  # Lava's have ports beside them that this encoding does not use
    half.assign(count, found)
    assert half.samples == count
    # y1, y2 and y3 of a connection are the last step's messages and no state: nothing follows from them
    state = {name: value for name, value in half.variables().items() if name.split(".")[1] not in ("y1", "y2", "y3")}
    assert_equal(expected, state)


def test_a_state_that_does_not_fit_is_named():
    from test_learning import samples as random_samples
    from test_learning import small as network

    learner = Learner(network())
    learner.learn(*random_samples())
    state = learner.variables()
    for name, value, message in (
        ("plastic[1].weights", None, r"plastic\[1\]\.weights: expected int16 \(3, 20\), got nothing"),
        ("neuron[0].rng", state["neuron[0].rng"][1:], r"neuron\[0\]\.rng: expected uint32 \(20,\), got \(19,\)"),
        ("plastic[0].weights", state["plastic[0].weights"] + 40000, "expected values of int16, got"),
    ):
        changed = {k: v for k, v in {**state, name: value}.items() if v is not None}
        with pytest.raises(UsageError, match=message):
            Learner(network()).assign(30, changed)
    again = Learner(network())
    again.assign(30, state)
    for copy in (learner, again):
        copy.learn(*random_samples(seed=1))
    assert_equal(learner.variables(), again.variables())


def test_where_to_keep_the_state_has_to_be_said():
    for wrong, message in (
        ({"resume": True}, "resume: say where, with checkpoint="),
        ({"checkpoint_every": 3}, "checkpoint_every: say where, with checkpoint="),
        ({"checkpoint_every": 0, "checkpoint": "x"}, "checkpoint_every: expected a positive integer, got 0"),
    ):
        with pytest.raises(UsageError, match=message):
            learn(small(), digits(5), **wrong)


def test_how_often_the_state_is_kept_changes_nothing(tmp_path):
    assert replace(run(tmp_path), seconds=0.0) == replace(run(), seconds=0.0)


def test_the_command_says_which_run_it_replaces(tmp_path):
    storage.save(to_inference(small()).chip, tmp_path / "model.h5")
    line = [tmp_path / "model.h5", "--epochs", 1, "--stop-at", 0.01, "-o", tmp_path]
    done = [command(*line), command(*line), command(*line, "--resume")]
    assert [run.returncode for run in done] == [0, 0, 0]
    assert ["state.h5 is replaced; --resume would" in run.stderr for run in done] == [False, True, False]


@pytest.mark.lava
@pytest.mark.slow
def test_the_command_goes_on_in_lava(tmp_path):
    """An epoch of it stops at the curve's first point, 129 samples, and goes on to the next, in Lava and in sim."""
    pytest.importorskip("lava.magma.core.process.process")
    storage.save(to_inference(small()).chip, tmp_path / "model.h5")
    line = [tmp_path / "model.h5", "--epochs", 1, "--stop-at", 0.01, "--feedback", "opzo", "--json", "-o"]
    assert command(*line, tmp_path / "lava").returncode == 0
    shutil.copytree(tmp_path / "lava", tmp_path / "sim")
    learnt = []
    for backend in ("lava", "sim"):
        done = command(*line, tmp_path / backend, "--backend", backend, "--resume")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["samples"] == 258
        learnt.append(storage.load(tmp_path / backend / "more-learnt.h5"))
    assert learnt[0].connections == learnt[1].connections
    assert learnt[0].connections != small().connections

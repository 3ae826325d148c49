"""The guarded Lava runner: it ends, whatever the processes do."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ottt_loihi.converters.lava import runtime
from ottt_loihi.converters.lava.models import check_models
from ottt_loihi.converters.lava.runtime import LavaRun, require_lava

from ottt_loihi.errors import BackendUnavailableError, LavaError, UsageError

TESTS = Path(__file__).parent

SCRIPT = """
import sys
from lava_processes.misbehaving import Misbehaving, Waiting
from ottt_loihi.errors import LavaError
from ottt_loihi.converters.lava.runtime import LavaRun
source, sink = Misbehaving(sys.argv[1], at=5), Waiting()
source.out.connect(sink.inp)
try:
    with LavaRun(sink, stall_timeout=1) as run:
        run.steps(100)
except LavaError as error:
    print(error)
"""


def graph(deed, at=5):
    from lava_processes.misbehaving import Misbehaving, Waiting

    source, sink = Misbehaving(deed, at), Waiting()
    source.out.connect(sink.inp)
    return source, sink


def test_without_lava_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setattr(runtime, "lava_problem", lambda: "Lava is not installed: pip install it")
    with pytest.raises(BackendUnavailableError, match="Lava is not installed: pip install it"):
        require_lava()


@pytest.mark.lava
class TestRun:
    @pytest.fixture(autouse=True)
    def _lava(self):
        pytest.importorskip("lava.magma")

    def test_steps_get_and_set(self):
        _, sink = graph("nothing")
        with LavaRun(sink) as run:
            run.steps(100)
            assert run.get(sink.total).tolist() == [5050]
            assert run.get(sink.total).dtype == "int32"
            run.set(sink.total, [3])
            run.steps(1)
            assert run.get(sink.total).tolist() == [104]
            assert run.steps_done == 101

    @pytest.mark.parametrize(
        ("deed", "message"),
        [
            (
                "raise",
                r"Lava process culprit \(Misbehaving\) raised ValueError: a deliberate mistake at misbehaving\.py",
            ),
            ("die", r"Lava process culprit \(Misbehaving\) died with exit code 3"),
            ("break", r"Lava process culprit \(Misbehaving\) could not be built: ValueError: cannot be built"),
            ("stall", r"stalled .*culprit \(Misbehaving\) is at misbehaving\.py:\d+ in run_spk"),
        ],
    )
    def test_a_bad_process_is_one_clear_error_in_seconds(self, deed, message):
        _, sink = graph(deed)
        before, started = set(threading.enumerate()), time.monotonic()  # other tests of this process may have some
        with pytest.raises(LavaError, match=message), LavaRun(sink, stall_timeout=0.5) as run:
            run.steps(100)
        assert time.monotonic() - started < 10
        assert set(threading.enumerate()) <= before, "the next run forks with threads (Python ≥ 3.12 warns)"

    def test_a_spinning_process_is_ended(self, monkeypatch):
        monkeypatch.setattr(runtime, "BUSY_FACTOR", 4)
        _, sink = graph("spin")
        with pytest.raises(LavaError, match=r"did not finish .*culprit \(Misbehaving\) is at"):
            with LavaRun(sink, stall_timeout=0.5) as run:
                run.steps(100)

    @pytest.mark.parametrize("deed", ["nothing", "raise", "stall"])
    def test_the_interpreter_exits(self, deed):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, deed],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        assert ("culprit" in done.stdout) == (deed != "nothing")

    def test_an_ended_run_refuses_in_place_of_crashing(self):
        source, sink = graph("nothing")
        with LavaRun(sink) as run:
            run.steps(1)
        for use in (
            lambda: run.steps(1),
            lambda: run.get(sink.total),
            lambda: sink.total.get(),
            LavaRun(source).__enter__,
        ):
            with pytest.raises(LavaError, match="build new processes"):
                use()

    def test_without_with_it_says_how(self):
        _, sink = graph("nothing")
        with pytest.raises(LavaError, match=r"has not begun: with LavaRun\(process\) as run"):
            LavaRun(sink).steps(1)

    def test_an_error_of_the_caller_ends_the_run_too(self):
        _, sink = graph("nothing")
        run = LavaRun(sink)
        with pytest.raises(KeyError), run:
            raise KeyError
        pids = run._pids
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)

    def test_a_run_without_a_step_gives_its_variables_and_ends(self):
        _, sink = graph("nothing")
        with LavaRun(sink) as run:
            assert run.get(sink.total).tolist() == [0]
            run.set(sink.total, [5])
            run.steps(1)
            assert run.get(sink.total).tolist() == [6]
        _, sink = graph("nothing")
        with LavaRun(sink, stall_timeout=2):
            pass

    @pytest.mark.parametrize("count", [0, -1, 1.5, True])
    def test_a_wrong_step_count(self, count):
        _, sink = graph("nothing")
        with pytest.raises(UsageError, match="steps: expected an integer"), LavaRun(sink) as run:
            run.steps(count)

    def test_a_model_nobody_asked_for_is_refused(self):
        from lava.magma.core.run_configs import Loihi2SimCfg
        from lava_processes.misbehaving import Misbehaving, WaitingModel

        _, sink = graph("nothing")
        executable = sink.compile(Loihi2SimCfg(select_tag="fixed_pt"))
        check_models(executable, "fixed_pt")
        with pytest.raises(LavaError, match=r"culprit .* got MisbehavingModel, not a model tagged 'floating_pt'"):
            check_models(executable, "floating_pt")
        with pytest.raises(LavaError, match="got MisbehavingModel, not WaitingModel"):
            check_models(executable, "fixed_pt", {Misbehaving: WaitingModel})

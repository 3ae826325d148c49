"""What Lava 0.10 does that would hurt, and what keeps it from hurting us (LAVA.md §4 and §5).

Each test shows Lava's behaviour; when an upgrade changes it, the test fails and says which guard to look at again. The
guard is shown beside it, or named where another test file shows it.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.lava
pytest.importorskip("lava.magma.core.process.process")

from lava.magma.core.decorator import implements, requires, tag  # noqa: E402
from lava.magma.core.learning.learning_rule import Loihi3FLearningRule, LoihiLearningRule  # noqa: E402
from lava.magma.core.learning.random import ConnVarRandom, TraceRandom  # noqa: E402
from lava.magma.core.model.py.model import AbstractPyProcessModel  # noqa: E402
from lava.magma.core.process.process import AbstractProcess  # noqa: E402
from lava.magma.core.resources import CPU  # noqa: E402
from lava.magma.core.run_configs import Loihi2HwCfg, Loihi2SimCfg  # noqa: E402
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol  # noqa: E402
from lava.proc.dense.models import PyLearningDenseModelBitApproximate  # noqa: E402
from lava.proc.dense.process import LearningDense  # noqa: E402
from lava.proc.io.source import RingBuffer  # noqa: E402
from lava.proc.lif.process import LIF, LIFReset  # noqa: E402
from ottt_loihi.converters.lava.inprocess import InProcessRun  # noqa: E402
from ottt_loihi.converters.lava.models import check_models  # noqa: E402
from ottt_loihi.converters.lava.runtime import LavaRun  # noqa: E402
from ottt_loihi.onchip.lava.processes.neuron import OTTTNeuron  # noqa: E402
from ottt_loihi.onchip.lava.processes.plastic import OTTTDense  # noqa: E402
from ottt_loihi.onchip.lava.processes.readout import OTTTReadout  # noqa: E402
from ottt_loihi.onchip.lava.rule import OTTTLearningRule  # noqa: E402

from ottt_loihi.errors import LavaError, UsageError  # noqa: E402

TESTS = Path(__file__).parent


def three_factor(dw="u0*x1*y1", **settings):
    return Loihi3FLearningRule(dw=dw, **({"x1_impulse": 16, "x1_tau": 2, "t_epoch": 1, "rng_seed": 1} | settings))


def connect(connection, spikes, y1=None, bap=None):
    """Drive a connection of one synapse from lists with one value per step."""
    for values, port in ((spikes, connection.s_in), (y1, connection.s_in_y1), (bap, connection.s_in_bap)):
        if values is not None:
            RingBuffer(data=np.array([values])).s_out.connect(port)
    return connection


def run_in_process(connection, steps, tag="fixed_pt", name="weights"):
    with InProcessRun(connection, tag) as run:
        run.steps(steps)
        return run.get(getattr(connection, name))


@pytest.mark.parametrize("kind", [LIF, LIFReset])
def test_the_one_threshold_of_a_lif_may_be_an_array(kind):
    """It is documented as one number, and its Var has the shape (1,); our graph hands over one per neuron."""
    settings = {"reset_interval": 9, "reset_offset": 0} if kind is LIFReset else {}
    vth = np.array([1, 2, 3])
    neurons = kind(shape=(3,), du=4095, dv=4096, vth=vth, bias_mant=2 * 64 + 1, bias_exp=0, **settings)
    assert neurons.vth.shape == (1,)
    with InProcessRun(neurons, "fixed_pt") as run:
        run.steps(1)
        assert run.get(neurons.v).tolist() == [0, 0, 129]  # 129 > 64·1, 129 > 64·2, 129 < 64·3


class TestGrammarAndValidation:
    def test_a_product_without_a_dependency_is_an_error(self):
        with pytest.raises(Exception, match=r".*"):
            LoihiLearningRule(dw="x1*y1", x1_impulse=1, x1_tau=1)

    def test_u12_is_silently_another_rule(self):
        """Guard: our rule writes its own string."""
        assert LoihiLearningRule(dw="u12*x1", x1_impulse=1, x1_tau=1).decimate_exponent != 12

    def test_epoch_and_impulse_are_not_validated(self):
        assert three_factor(t_epoch=200).t_epoch == 200
        assert three_factor(x1_impulse=1000).x1_impulse == 1000
        with pytest.raises(UsageError):
            OTTTLearningRule(200, 1, 0.5)
        with pytest.raises(UsageError):
            OTTTLearningRule(4, 1, 0.5, impulse=1000)

    def test_a_tau_of_zero_gives_nan_weights(self):
        """Guard: OTTTLearningRule never passes 0, not even for traces it does not use."""
        rule = three_factor(x1_tau=0)
        stock = connect(LearningDense(weights=np.ones((1, 1)), learning_rule=rule), [1, 1, 1, 1], [1.0] * 4)
        assert np.isnan(run_in_process(stock, 3, "floating_pt")).all()
        ours = OTTTLearningRule(4, 1, 0.0)
        assert all(getattr(ours, f"{trace}_tau") > 0 for trace in ("x1", "x2", "y1", "y2", "y3"))

    def test_lava_decays_y(self):
        assert three_factor().y1_tau == 65535
        assert OTTTLearningRule(4, 1, 0.5).y1_tau == 1e18


class TestArithmeticOfLearning:
    def test_the_shift_floors(self):
        """A product of −1 is floored to −1 step of 2^e LSB: a bias unless e is small and y1 large, as in ours."""
        from lava.magma.core.learning.learning_rule_applier import LearningRuleApplierBitApprox

        def change(rule, y1):
            applier = LearningRuleApplierBitApprox(rule.active_product_series["dw"])
            arguments = {"shape": (1, 1), "u": 1, "x1_u": np.array([[1]]), "y1_u": np.array([[y1]])}
            return int(applier.apply(np.zeros((1, 1), int), **arguments)[0, 0]) / 2**7  # in weight LSB

        coarse, ours = three_factor(), OTTTLearningRule(4, 1, 0.5)
        assert change(coarse, 1) == 0
        assert change(coarse, -1) == -1
        assert change(ours, 7) == 0
        assert change(ours, -7) == -(2**-7)
        assert change(ours, 80) == 80 // 8 / 2**7

    def test_y1_is_what_was_sent_last(self):
        """Guard: our neurons hold y1 until the epoch ends."""

        def weight_after(y1):
            rule = three_factor("2^-4*u0*x1*y1", t_epoch=4, x1_tau=1e18)
            return run_in_process(
                connect(LearningDense(weights=np.zeros((1, 1)), learning_rule=rule), [1, 0, 0, 0, 0], y1), 4
            ).item()

        assert weight_after([0, 100, 100, 0, 0]) == 0
        assert weight_after([0, 0, 0, 100, 0]) > 0

    def test_a_bap_clips_negative_y1_to_zero(self):
        """Guard: our neurons have no bap port."""

        def weight_after(bap):
            rule = three_factor("2^-4*u0*x1*y1", x1_tau=1e18, x1_impulse=100)
            connection = LearningDense(weights=np.zeros((1, 1)), learning_rule=rule)
            return run_in_process(connect(connection, [1] * 3, [-100] * 3, bap), 3).item()

        assert weight_after([0, 0, 0]) < 0
        assert weight_after([1, 1, 1]) >= 0
        for process in (OTTTNeuron, OTTTReadout):
            assert "s_out_bap" not in process.__init__.__code__.co_names

    def test_weights_are_rounded_with_one_random_number_from_seed_2(self):
        """We copy this to stay bit-identical; it is why learning on the chip is noisier than it need be."""
        rng = np.random.default_rng(2)
        rng.random(1)
        random = ConnVarRandom()
        random.advance()
        assert random.random_stochastic_round == rng.random(1)[0]
        for seed in (1, 99):
            connection = OTTTDense(np.zeros((2, 2), int), OTTTLearningRule(4, 1, 0.5, seed=seed), 16)
            with InProcessRun(connection) as run:
                model = run._model(connection.weights)
                assert model._conn_var_random.random_stochastic_round == ConnVarRandom().random_stochastic_round

    def test_trace_randoms_advance_twice_a_step(self):
        random = TraceRandom(5, 6)
        for _ in range(2 * 3):
            random.advance()
        connection = OTTTDense(np.zeros((1, 1), int), OTTTLearningRule(4, 1, 0.5, seed=5), 16)
        with InProcessRun(connect(connection, [1, 0, 0, 0])) as run:
            run.steps(3)
            assert run._model(connection.weights)._x_random.random_trace_decay == random.random_trace_decay

    def test_a_fractional_impulse_is_biased(self):
        """x1 = 0.5 per spike should be 0.5 on average; guard: OTTTLearningRule takes integers only."""
        rule = three_factor("2^-7*u0*x1*y1", x1_impulse=1.5, x1_tau=1e-3)
        connection = connect(LearningDense(weights=np.zeros((1, 1)), learning_rule=rule), [1] * 400)
        with InProcessRun(connection) as run:
            seen = []
            for _ in range(400):
                run.steps(1)
                seen.append(run.get(connection.x1).item())
        assert abs(np.mean(seen) - 1.5) > 0.1

    def test_x1_saturates(self):
        rule = three_factor(x1_impulse=64, x1_tau=1e18)
        connection = connect(LearningDense(weights=np.zeros((1, 1)), learning_rule=rule), [1] * 4)
        assert run_in_process(connection, 4, name="x1") == 127

    def test_setting_a_variable_truncates_the_time_constant(self):
        """Guard: OTTTDense.on_var_update (tests/test_onchip.py)."""
        connection = LearningDense(weights=np.zeros((1, 1)), learning_rule=three_factor(x1_tau=1.44))
        with InProcessRun(connection) as run:
            assert run._model(connection.x1)._x_taus[0] == 1.44
            run.set(connection.x1, [0])
            assert run._model(connection.x1)._x_taus[0] == 1

    def test_odd_weights_are_truncated_at_the_first_step(self):
        """Guard: OTTTDense takes them as they are (tests/test_onchip.py)."""
        assert run_in_process(LearningDense(weights=np.full((1, 1), 7), learning_rule=three_factor()), 1) == 6

    def test_x1_never_forgets_a_sample(self):
        """Guard: OTTTDense's reset_interval."""
        rule = three_factor(t_epoch=4, x1_tau=1e18)
        connection = connect(LearningDense(weights=np.zeros((1, 1)), learning_rule=rule), [1] + [0] * 31)
        assert run_in_process(connection, 32, name="x1") == 16

    def test_the_sign_of_a_graded_pre_spike_is_lost(self):
        """Guard: feedback is a fixed Dense; nothing of ours learns from signed messages."""
        rule = three_factor(x1_tau=1e18)
        connection = LearningDense(weights=np.zeros((1, 1)), learning_rule=rule, num_message_bits=8)
        assert run_in_process(connect(connection, [-5, -5]), 1, name="x1") == 16


class TestRuntime:
    def test_a_learning_lif_whose_y_ports_are_connected_deadlocks(self):
        """Guard: neurons of our own; and LavaRun ends it."""
        from lava.proc.lif.process import LearningLIF

        rule = three_factor()
        connection = LearningDense(weights=np.zeros((1, 1)), learning_rule=rule)
        neuron = LearningLIF(shape=(1,), learning_rule=rule)
        connection.a_out.connect(neuron.a_in)
        neuron.s_out_y1.connect(connection.s_in_y1)
        with pytest.raises(LavaError, match="stalled"), LavaRun(connection, stall_timeout=0.5) as run:
            run.steps(3)

    def test_a_float_sent_through_an_integer_port_is_truncated_in_silence(self):
        """Guard: the floating-point models declare float ports; tests/test_onchip.py compares them to 1e-12."""
        from lava_processes.misbehaving import Misbehaving, Waiting

        source, sink = Misbehaving("fraction", 1), Waiting()
        source.out.connect(sink.inp)
        with LavaRun(sink) as run:
            run.steps(1)
            assert run.get(sink.total) == 1

    def test_an_untagged_model_is_taken_for_any_tag(self):
        """Guard: check_models."""
        from lava.proc.monitor.process import Monitor

        connection = OTTTDense(np.zeros((1, 1), int), OTTTLearningRule(4, 1, 0.5), 16)
        Monitor().probe(connection.weights, 4)
        executable = connection.compile(Loihi2SimCfg(select_tag="fixed_pt"))
        with pytest.raises(LavaError, match=r"\(Monitor\) got PyMonitorModel"):
            check_models(executable, "fixed_pt")

    def test_the_hardware_configuration_falls_back_to_the_cpu_in_silence(self):
        """Or breaks, where a Process has two models. Guard: we only ask for simulation; nothing claims hardware."""
        from lava.magma.core.model.py.model import PyLoihiProcessModel
        from lava.utils import loihi
        from lava_processes.misbehaving import Waiting

        executable = Waiting().compile(Loihi2HwCfg(select_tag="fixed_pt"))
        assert all(issubclass(b.proc_model, PyLoihiProcessModel) for b in executable.proc_builders.values())
        with pytest.raises(NameError, match="CLoihiProcessModel"):
            OTTTDense(np.zeros((1, 1), int), OTTTLearningRule(4, 1, 0.5), 16).compile(Loihi2HwCfg())
        assert not loihi.is_installed()

    def test_a_decorated_model_cannot_be_decorated_again_for_a_subclass(self):
        """Guard: our models inherit from Lava's undecorated bases."""

        class Mine(LearningDense):
            pass

        class MyModel(PyLearningDenseModelBitApproximate):
            pass

        with pytest.raises(AssertionError):
            tag("fixed_pt")(requires(CPU)(implements(proc=Mine, protocol=LoihiProtocol)(MyModel)))

    def test_every_file_beside_a_process_is_executed(self, tmp_path, monkeypatch):
        """Guard: onchip/lava/processes holds nothing but processes (tests/test_project.py)."""
        (tmp_path / "neighbours").mkdir()
        process = (TESTS / "lava_processes" / "misbehaving.py").read_text()
        (tmp_path / "neighbours" / "some_process.py").write_text(process)
        witness = tmp_path / "executed"
        (tmp_path / "neighbours" / "bystander.py").write_text(f"open({str(witness)!r}, 'w').close()\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        from neighbours.some_process import Waiting

        assert issubclass(Waiting, AbstractProcess)
        assert not witness.exists()
        Waiting().compile(Loihi2SimCfg(select_tag="fixed_pt"))
        assert witness.exists()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("deed", "after", "ends"),
        [("raise", "", False), ("nothing", "", False), ("nothing", "sink.stop(); sink.run(RunSteps(2), c)", "crash")],
    )
    def test_lava_alone_hangs_or_crashes(self, deed, after, ends):
        """An exception, a missing stop(), run() after stop(). Guard: LavaRun (tests/test_runtime.py)."""
        script = (
            "from lava.magma.core.run_conditions import RunSteps\n"
            "from lava.magma.core.run_configs import Loihi2SimCfg\n"
            "from lava_processes.misbehaving import Misbehaving, Waiting\n"
            f"source, sink, c = Misbehaving({deed!r}, 3), Waiting(), Loihi2SimCfg(select_tag='fixed_pt')\n"
            f"source.out.connect(sink.inp)\nsink.run(RunSteps(10), c)\n{after}\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            code = process.wait(8)
            assert ends == "crash", f"Lava ended by itself with {code}"
            assert code != 0
        except subprocess.TimeoutExpired:
            assert not ends
        finally:
            import signal

            os.killpg(process.pid, signal.SIGKILL)


def test_models_are_found_for_the_exact_class_alone():
    """A model of LearningDense is none of OTTTDense: docs/hardware.md lists all that a chip would need one for."""
    from lava.magma.compiler.compiler_graphs import ProcGroupDiGraphs

    weights = np.zeros((1, 1), int)
    stock, ours = LearningDense(weights=weights, learning_rule=three_factor()), OTTTDense(weights, three_factor(), 4)
    module = sys.modules[PyLearningDenseModelBitApproximate.__module__]
    find = ProcGroupDiGraphs._find_proc_models_in_module
    assert PyLearningDenseModelBitApproximate in find(stock, module)
    assert isinstance(ours, LearningDense)
    assert find(ours, module) == []


def test_every_process_of_learning_is_listed_for_the_hardware():
    page = (TESTS.parent / "docs/hardware.md").read_text()
    for path in (TESTS.parent / "onchip/lava/processes").glob("[!_]*.py"):
        module = importlib.import_module(f"ottt_loihi.onchip.lava.processes.{path.stem}")
        models = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, AbstractPyProcessModel)]
        for process in {model.implements_process for model in models} - {None}:
            assert f"`{process.__name__}`" in page, f"docs/hardware.md does not list {process.__name__}"

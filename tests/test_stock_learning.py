"""Learning with silent epochs in place of a reset: sim, its oracle, Lava's own LearningDense, stand-ins of a chip."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from learning_cases import learning_cases
from ottt_loihi.onchip.lava import stock
from ottt_loihi.onchip.learner import Settings, learn
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim.learning import reference
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.rule import Rule

from ottt_loihi.errors import UsageError

T = 4


def case(hidden=(9,), silent=2, encoding="factored", reset="subtract", count=12, **options):
    """(plan, packed spikes, labels, options) of a small network whose neurons fire often."""
    chip, _ = stock.even_weights(fresh_network((12,), hidden, 3, T, 0.5, reset, 128, 1))
    rng = np.random.default_rng(0)
    x, labels = rng.integers(0, 2, (count, T, 12), np.uint8), rng.integers(0, 3, count)
    return make_plan(chip), np.packbits(x, axis=-1), labels, Rule(encoding=encoding, silent_epochs=silent, **options)


def rates(plan):
    return [0.05] * len(plan.hidden) + [0.02]


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=learning_cases(), silent=st.integers(1, 4))
def test_the_kernel_equals_its_oracle(case, silent):
    rule = replace(case.rule, silent_epochs=silent, schedule="phased")
    network = replace(case, rule=rule, subspaces=None).network()
    learner = Learner(network)
    cut = len(case.x) // 2
    for part in (slice(cut), slice(cut, None)):
        learner.learn(case.packed[part], case.labels[part], case.gate[part])
    expected, found = reference.learn(network, case.x, case.labels, case.gate), learner.variables()
    for name, value in expected.items():
        if name in found:
            np.testing.assert_array_equal(found[name], value, name)


def test_the_trace_goes_on_and_grows_faint():
    """After silent epochs x1 is small, and not surely 0: λ = 0.5 leaves a quarter after two."""
    left = {}
    for silent in (1, 2, 6):
        plan, packed, labels, options = case(silent=silent, count=1)
        learner = Learner(learning_network(plan, rates(plan), replace(options, rounding="lava")))
        learner.learn(packed, labels)
        left[silent] = learner.variables()["plastic[0].x1"]
    assert left[1].max() > left[2].max() >= left[6].max()
    assert left[2].any()


def test_silent_epochs_need_the_phased_schedule():
    with pytest.raises(UsageError, match="silent_epochs: need the phased schedule"):
        Rule(silent_epochs=1, schedule="pipelined")


@pytest.mark.parametrize(
    ("backend", "change", "says"),
    [
        ("loihi2", {}, "backend loihi2: learns in dense connections with rounding lava, silent_epochs ≥ 1"),
        ("loihi2", {"rounding": "lava", "silent_epochs": 2, "feedback": "symmetric"}, "got rounding lava, silent_ep"),
        (
            "lava",
            {"rounding": "lava", "silent_epochs": 2, "feedback": "random"},
            "backend lava: behind Lava's own LearningDense",
        ),
    ],
)
def test_what_a_backend_cannot_learn_with(backend, change, says):
    chosen = Settings(**change)
    with pytest.raises(UsageError, match=says):
        stock.require(case()[0], backend, chosen)
    stock.require(case()[0], "inprocess", chosen)


@pytest.mark.lava
class TestLava:
    @pytest.fixture(autouse=True)
    def _lava(self):
        pytest.importorskip("lava.magma")

    @pytest.mark.parametrize(
        ("hidden", "encoding", "feedback", "reset"),
        [
            ((9,), "factored", "random", "subtract"),
            ((9, 7), "signed", "random", "zero"),
            ((9,), "split", "opzo", "subtract"),
            ((), "signed", "random", "subtract"),
        ],
    )
    def test_lavas_own_connection_learns_what_sim_learns(self, hidden, encoding, feedback, reset):
        """In-process: in the runtime the population behind a stock LearningDense differs from run to run."""
        from ottt_loihi.converters.lava.inprocess import InProcessRun
        from ottt_loihi.onchip.lava.graph import build_graph

        plan, packed, labels, options = case(hidden, encoding=encoding, reset=reset)
        rule = replace(options, feedback=feedback, seed=4, rounding="lava")
        learner = Learner(learning_network(plan, rates(plan), rule))
        learner.learn(packed, labels)
        graph = build_graph(plan, packed, labels, rates(plan), rule)
        assert {type(process).__name__ for process in graph.plastic} == {"LearningDense"}
        known = learner.variables()
        with InProcessRun(graph.source) as run:
            run.steps(len(labels) * graph.period)
            for name, var in graph.variables().items():
                if name in known:
                    np.testing.assert_array_equal(run.get(var), known[name], name)
        assert (known["plastic[0].weights"] != plan.dense[0].weight).mean() > 0.2
        if hidden:
            assert known["plastic[0].x1"].any()

    @pytest.mark.parametrize("feedback", ["kolen-pollack", "symmetric"])
    def test_what_asks_for_more_is_our_class(self, feedback):
        from ottt_loihi.converters.lava.inprocess import InProcessRun
        from ottt_loihi.onchip.lava.graph import build_graph

        plan, packed, labels, options = case(count=6)
        rule = replace(options, feedback=feedback, rounding="lava")
        learner = Learner(learning_network(plan, rates(plan), rule))
        learner.learn(packed, labels)
        graph = build_graph(plan, packed, labels, rates(plan), rule)
        assert {type(process).__name__ for process in graph.plastic} == {"OTTTDense"}
        with InProcessRun(graph.source) as run:
            run.steps(len(labels) * graph.period)
            for name, value in learner.variables().items():
                np.testing.assert_array_equal(run.get(graph.variables()[name]), value, name)

    @pytest.mark.parametrize(("feedback", "lag"), [("random", 0), ("opzo", 0), ("random", 2)])
    def test_the_graph_for_a_chip_learns_what_sim_learns(self, feedback, lag, monkeypatch):
        """Stand-ins for Intel's adapters and models: every plastic connection is Lava's own class, and finds one."""
        from ottt_loihi.converters.lava import backends
        from stand_ins import loihi2

        loihi2.install(monkeypatch)
        monkeypatch.setattr(loihi2.PyToNxAdapter, "delay", lag)
        chip = backends.Loihi2("loihi2", "stand-ins", own=loihi2.learning_models(), in_process=True)
        monkeypatch.setitem(backends.BACKENDS, "loihi2", chip)
        network, _ = stock.even_weights(fresh_network((12,), (9,), 3, T, 0.5, "subtract", 128, 1))
        rng = np.random.default_rng(0)
        data = rng.integers(0, 2, (12, T, 12), np.uint8), rng.integers(0, 3, 12)
        chosen = Settings(feedback=feedback, rounding="lava", silent_epochs=2, encoding="factored", input_lag=lag)
        expected, found = (learn(network, data, backend=name, settings=chosen) for name in ("sim", "loihi2"))
        assert found.chip == expected.chip
        assert found.counters == expected.counters
        assert found.moved[0] > 0.2

    def test_odd_weights_and_a_late_start_are_refused(self):
        from ottt_loihi.onchip.lava.graph import begin_at, build_graph

        plan, packed, labels, options = case()
        odd = make_plan(fresh_network((12,), (9,), 3, T, 0.5, "subtract", 128, 1))
        with pytest.raises(UsageError, match=r"plastic\[0\]: \d+ of 108 weights are odd"):
            build_graph(odd, packed, labels, rates(odd), replace(options, rounding="lava"))
        learner = Learner(learning_network(plan, rates(plan), replace(options, rounding="lava")))
        learner.learn(packed, labels)
        graph = build_graph(plan, packed, labels, rates(plan), replace(options, rounding="lava"))
        with pytest.raises(UsageError, match="after 12 samples: Lava's LearningDense draws"):
            begin_at(graph, learner)

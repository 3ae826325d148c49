"""The learning processes: forward as the exact simulator, learning as the three-factor loop, both executors alike."""

from dataclasses import replace

import numpy as np
import pytest
from learning_cases import assert_lava_learns
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.learning import integers
from ottt_loihi.sim.network import LIF, Dense

from ottt_loihi.rules.three_factor import KolenPollackLoop, OPZOLoop, ThreeFactorLoop

pytestmark = pytest.mark.lava
pytest.importorskip("lava.magma.core.process.process")

from ottt_loihi.converters.lava.inprocess import InProcessRun  # noqa: E402
from ottt_loihi.converters.lava.runtime import LavaRun  # noqa: E402
from ottt_loihi.onchip.lava.float_graph import build_float_graph  # noqa: E402
from ottt_loihi.onchip.lava.graph import build_graph  # noqa: E402
from ottt_loihi.onchip.lava.processes.plastic import OTTTDense  # noqa: E402
from ottt_loihi.onchip.lava.rule import OTTTLearningRule  # noqa: E402
from ottt_loihi.onchip.network.feedback.random import quantized_feedback, random_feedback  # noqa: E402
from ottt_loihi.onchip.network.scales import learning_network  # noqa: E402
from ottt_loihi.onchip.network.trainable import make_plan  # noqa: E402
from ottt_loihi.sim.learning.rule import FEEDBACKS, Rule  # noqa: E402

from ottt_loihi.errors import LavaError  # noqa: E402

T = 4


def samples(count, size=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (count, T, size), np.uint8), rng.integers(0, 3, count)


def packed(x):
    return np.packbits(x, axis=-1)


def network(hidden=(9,), reset="subtract", bias=False, seed=1):
    """A small plastic network whose neurons fire often enough to be worth comparing."""
    chip = fresh_network((12,), hidden, 3, T, 0.5, reset, 128, seed)
    if bias:
        rng = np.random.default_rng(seed)
        layers = []
        for layer in chip.layers:
            mantissa = rng.integers(-40, 40, layer.shape)
            layers.append(
                replace(layer, bias_mant=mantissa, bias_exp=6, u_init=-(mantissa << 6) if layer.dv == 4096 else 0)
            )
        layers[-1] = replace(layers[-1], u_init=0)
        chip = replace(chip, layers=tuple(layers))
    return chip


@pytest.mark.slow
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("hidden", [(), (9,), (9, 7)])
def test_forward_equals_the_exact_simulator_with_the_gate_closed(hidden, reset, bias):
    chip = network(hidden, reset, bias)
    x, labels = samples(8)
    states = reference.run(chip, x, ("u", "v", "s")).states
    plan = make_plan(chip)
    graph = build_graph(plan, packed(x), labels, [0.01] * (len(hidden) + 1), Rule(rounding="lava"), learn=False)
    before = [c.weight for c in plan.dense]
    with InProcessRun(graph.source) as run:
        for sample in range(len(x)):
            for t in range(T):
                run.steps(graph.epoch)
                for layer, neuron in enumerate(graph.neurons):
                    for name in "uvs":
                        expected = states[name][layer][t, sample]
                        np.testing.assert_array_equal(run.get(getattr(neuron, name)), expected, f"{name} {layer} {t}")
                np.testing.assert_array_equal(run.get(graph.readout.v), states["v"][-1][t, sample])
        for process, weight in zip(graph.plastic, before):
            np.testing.assert_array_equal(run.get(process.weights), weight)
        np.testing.assert_array_equal(run.get(graph.readout.predictions), reference.run(chip, x).predictions)
    if hidden:
        assert all(s.any() for s in states["s"][:-1]), "nothing fired: this compared nothing"


def float_case(hidden, feedback, reset, count):
    rng = np.random.default_rng(3)
    sizes = (12, *hidden, 3)
    weights = [rng.normal(0, 2 / np.sqrt(n), (m, n)) for n, m in zip(sizes, sizes[1:])]  # noqa: RUF007
    loop = reference_loop(weights, feedback, rng, reset)
    start = loop.twins if feedback == "kolen-pollack" else loop.feedback
    start = None if start is None else [m.copy() for m in start]
    x, labels = samples(count)
    for frames, label in zip(x, labels):
        loop.learn(frames[np.newaxis], np.eye(3)[[label]])
    settings = {"learning_rate": 0.05, "reset": reset, "noise": 0.25, "averaging": 5}
    graph = build_float_graph(weights, packed(x), labels, feedback=start, rule=Rule(feedback=feedback), **settings)
    return graph, loop, weights


def reference_loop(weights, feedback, rng, reset):
    common = dict(learning_rate=0.05, time_steps=T, reset=reset, surrogate="rectangle")
    if feedback == "kolen-pollack":
        return KolenPollackLoop(weights, [rng.normal(0, 0.5, w.shape) for w in weights[1:]], **common)
    if feedback == "opzo":
        states = [integers.xorshift32_seeds(layer, w.shape[0]) for layer, w in enumerate(weights[:-1])]

        def signs(layer):
            states[layer] = integers.xorshift32(states[layer])
            return integers.noise_signs(states[layer])

        return OPZOLoop(weights, noise=0.25, averaging=5, signs=signs, **common)
    return ThreeFactorLoop(weights, feedback=feedback, feedback_seed=5, **common)


@pytest.mark.slow
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize(
    ("hidden", "feedback"),
    [((), "random")] + [(hidden, kind) for hidden in ((9,), (9, 7)) for kind in FEEDBACKS],
)
def test_float_learning_is_the_three_factor_loop(hidden, feedback, reset):
    graph, loop, start = float_case(hidden, feedback, reset, 30)
    learnt = loop.twins if feedback == "kolen-pollack" else loop.feedback or []
    assert_lava_learns(graph, 30, start, loop.weights, learnt)


@pytest.mark.slow
def test_float_learning_in_the_lava_runtime_for_a_thousand_steps():
    graph, loop, _ = float_case((9,), "random", "subtract", 70)
    with LavaRun(graph.source, tag="floating_pt") as run:
        run.steps(70 * T * graph.epoch)
        assert run.steps_done >= 1000
        for process, expected in zip(graph.plastic, loop.weights):
            np.testing.assert_allclose(run.get(process.weights), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("feedback", "rounding"),
    [
        pytest.param("random", "lava", marks=pytest.mark.slow),
        pytest.param("kolen-pollack", "per-synapse", marks=pytest.mark.slow),
        pytest.param("symmetric", "lava", marks=pytest.mark.slow),
        pytest.param("random", "per-synapse", marks=pytest.mark.slow),
        pytest.param("opzo", "per-synapse", marks=pytest.mark.slow),
    ],
)
def test_fixed_point_learning_is_the_same_in_both_executors(feedback, rounding):
    x, labels = samples(12)
    plan = make_plan(network((9, 7)))
    values, rule = [], Rule(feedback=feedback, seed=4, rounding=rounding)
    for kind in (InProcessRun, LavaRun):
        graph = build_graph(plan, packed(x), labels, [0.05, 0.05, 0.02], rule)
        with kind(graph.source) as run:
            run.steps(len(x) * T * graph.epoch - 3)  # not at the end of an epoch: traces are still on their way
            values.append({name: run.get(var) for name, var in graph.variables().items()})
    for name in values[0]:
        np.testing.assert_array_equal(values[0][name], values[1][name], name)
    for layer, c in enumerate(plan.dense):
        assert (values[0][f"plastic[{layer}].weights"] != c.weight).mean() > 0.2
    if feedback in ("kolen-pollack", "opzo"):
        start = learning_network(plan, [0.05, 0.05, 0.02], rule).layers
        for layer in range(2):
            assert (values[0][f"feedback[{layer}].weights"] != start[layer].feedback.matrix).mean() > 0.1, layer


@pytest.mark.slow
@pytest.mark.parametrize("feedback", ["random", "symmetric"])
def test_fixed_point_learning_follows_the_float_rule(feedback):
    """Averaged over its random numbers, an integer update points where the exact one does, and is as long."""
    chip = replace(network((30, 20)), num_steps=1)
    doubled = [replace(c, weight=(c.weight * 2).clip(-256, 255)) if c.post == 1 else c for c in chip.connections]
    plan = make_plan(replace(chip, connections=tuple(c for c in doubled if isinstance(c, Dense))))
    repeats = 400
    x, labels = np.repeat(samples(1)[0][:, :1], repeats, axis=0), np.zeros(repeats, int)
    rates = [0.02, 0.04, 0.01]
    scales = [plan.resolution(layer) for layer in range(3)]
    weights = [c.weight / scale for c, scale in zip(plan.dense, scales)]
    moved = [np.zeros_like(w) for w in weights]
    graph = build_graph(plan, packed(x), labels, rates, Rule(feedback=feedback, seed=7, rounding="lava"))
    with InProcessRun(graph.source) as run:
        for _ in range(repeats):
            run.steps(graph.epoch)
            for total, process, c in zip(moved, graph.plastic, plan.dense):
                total += (run.get(process.weights) - c.weight) / repeats
                run.set(process.weights, c.weight)
    matrices = [m / s for m, s in map(quantized_feedback, random_feedback(plan, 7))]
    loop = ThreeFactorLoop(weights, feedback="symmetric" if feedback == "symmetric" else matrices, learning_rate=1.0)
    factors = loop.step(x[:1, 0], np.eye(3)[labels[:1]])
    for layer, (found, expected) in enumerate(zip(moved, factors.delta_w)):
        expected = expected * rates[layer] * scales[layer]
        assert np.abs(expected).max() > 0.2, f"layer {layer}: nothing to learn"
        cosine = (found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected)
        assert cosine > 0.9, f"layer {layer}"
        assert (found * expected).sum() / (expected**2).sum() == pytest.approx(1, abs=0.15), f"layer {layer}"


def test_halving_the_rates_halves_y1():
    chip = replace(network(()), num_steps=1)
    x, labels = np.repeat(samples(1)[0][:, :1], 60, axis=0), np.zeros(60, int)
    graph = build_graph(make_plan(chip), packed(x), labels, [0.02], Rule(halve_every=20, rounding="lava"))
    with InProcessRun(graph.source) as run:
        y1 = []
        for _ in range(60):
            run.steps(graph.epoch)
            y1.append(run.get(graph.readout.y1)[0])
            run.set(graph.plastic[0].weights, make_plan(chip).dense[0].weight)
    first, second, third = np.mean(np.reshape(y1, (3, 20)), axis=1)
    assert abs(first) > 8
    assert first / second == pytest.approx(2, rel=0.1)
    assert first / third == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize(("rounding", "independent"), [("lava", False), ("per-synapse", True)])
def test_how_weights_are_rounded(rounding, independent):
    """Synapses with the same update: Lava rounds them all alike, the chip each on its own, both right on average."""
    rule = OTTTLearningRule(1, 1, 0.0)
    size, steps, y1 = 400, 200, 5
    process = OTTTDense(np.zeros((1, size), int), rule, 1, rounding=rounding, seed=3)
    with InProcessRun(process) as run:
        model = run._model(process.weights)
        for model.time_step in range(1, steps + 1):
            model.x1, model.tx, model.y1 = np.zeros(size, int), np.ones(size, int), np.full(1, y1)
            model.run_lrn()
        weights = np.asarray(model.weights, float)
    assert (weights.std() > 1) == independent
    expected = steps * ((rule.effective_impulse * y1) // 8) / 128
    spread = np.sqrt(steps) / 2
    assert weights.mean() == pytest.approx(expected, abs=4 * spread / (np.sqrt(size) if independent else 1))


def test_saturated_messages_are_counted():
    x, labels = samples(6)
    graph = build_graph(make_plan(network()), packed(x), labels, [5.0, 5.0], Rule(rounding="lava"))
    with InProcessRun(graph.source) as run:
        run.steps(6 * T * graph.epoch)
        assert run.get(graph.neurons[0].y1_saturated) > 0
        assert run.get(graph.readout.y1_saturated) > 0
        assert np.abs(run.get(graph.readout.y1)).max() <= 127


def test_after_the_last_sample_nothing_more_is_learnt():
    x, labels = samples(2)
    graph = build_graph(make_plan(network()), packed(x), labels, [0.1, 0.1], Rule(rounding="lava"))
    with InProcessRun(graph.source) as run:
        run.steps(2 * T * graph.epoch)
        before = run.get(graph.plastic[0].weights)
        run.steps(3 * T * graph.epoch)
        np.testing.assert_array_equal(run.get(graph.plastic[0].weights), before)


class TestPlasticDense:
    """Our connection against Lava's, driven by the same spikes and y1."""

    STEPS = 48

    @staticmethod
    def drive(connection, steps=STEPS, epoch=4):
        from lava.proc.io.source import RingBuffer

        rng = np.random.default_rng(0)
        spikes = np.where(np.arange(steps) % epoch == 0, rng.integers(0, 2, (6, steps)), 0)
        y1 = rng.integers(-100, 100, (5, steps))
        RingBuffer(data=spikes).s_out.connect(connection.s_in)
        RingBuffer(data=y1).s_out.connect(connection.s_in_y1)
        with InProcessRun(connection) as run:
            seen = []
            for _ in range(steps):
                run.steps(1)
                seen.append([run.get(getattr(connection, name)) for name in ("weights", "x1", "a_buff")])
        return seen

    def test_without_a_reset_it_is_lavas_learning_dense_to_the_last_bit(self):
        from lava.proc.dense.process import LearningDense

        weights = 2 * np.random.default_rng(1).integers(-60, 60, (5, 6))
        stock = self.drive(LearningDense(weights=weights, learning_rule=OTTTLearningRule(4, 1, 0.5)))
        ours = self.drive(OTTTDense(weights, OTTTLearningRule(4, 1, 0.5), reset_interval=10**6))
        for step, (a, b) in enumerate(zip(stock, ours)):
            for name, left, right in zip(("weights", "x1", "a_buff"), a, b):
                np.testing.assert_array_equal(left, right, f"{name} at step {step + 1}")
        assert (stock[-1][0] % 2).any()

    def test_the_trace_of_one_sample_never_reaches_the_next(self):
        seen = self.drive(OTTTDense(np.zeros((5, 6), int), OTTTLearningRule(4, 1, 0.5), reset_interval=16))
        alone = self.drive(OTTTDense(np.zeros((5, 6), int), OTTTLearningRule(4, 1, 0.5), reset_interval=10**6))
        np.testing.assert_array_equal(seen[15][1], alone[15][1])
        assert not seen[16][1].any()
        assert seen[15][1].any()

    def test_odd_weights_stay_odd(self):
        weights = np.full((5, 6), 7)
        seen = self.drive(OTTTDense(weights, OTTTLearningRule(4, 1, 0.5), reset_interval=16), steps=3)
        np.testing.assert_array_equal(seen[-1][0], weights)

    def test_setting_a_variable_leaves_the_rule_alone(self):
        connection = OTTTDense(np.zeros((5, 6), int), OTTTLearningRule(4, 1, 0.5), reset_interval=16)
        with InProcessRun(connection) as run:
            before = run._model(connection.weights)._x_taus.copy()
            run.set(connection.weights, np.ones((5, 6)))
            np.testing.assert_array_equal(run._model(connection.weights)._x_taus, before)
            assert before[0] % 1


class TestInProcess:
    def test_a_raising_model_is_named(self):
        from lava_processes.misbehaving import Misbehaving, Waiting

        source, sink = Misbehaving("raise", 5), Waiting()
        source.out.connect(sink.inp)
        with InProcessRun(sink) as run, pytest.raises(LavaError, match=r"culprit \(Misbehaving\) raised .*step 5"):
            run.steps(10)

    def test_neurons_that_wait_for_one_another_are_refused(self):
        """Without a connection between them they would deadlock in Lava."""
        from lava.proc.lif.process import LIF as LavaLIF

        a, b = LavaLIF(shape=(1,), name="a"), LavaLIF(shape=(1,), name="b")
        a.s_out.connect(b.a_in)
        b.s_out.connect(a.a_in)
        with pytest.raises(LavaError, match="wait for one another"):
            InProcessRun(a).__enter__()

    def test_it_runs_stock_processes_as_the_runtime_does(self):
        from lava.proc.dense.process import Dense as LavaDense
        from lava.proc.lif.process import LIF as LavaLIF

        found = []
        for kind in (InProcessRun, LavaRun):
            neurons = LavaLIF(shape=(4,), du=1000, dv=500, vth=20, bias_mant=np.arange(4) * 30, bias_exp=5)
            connection = LavaDense(weights=np.random.default_rng(0).integers(-60, 60, (4, 4)) * 2)
            neurons.s_out.connect(connection.s_in)
            connection.a_out.connect(neurons.a_in)
            with kind(neurons) as run:
                run.steps(40)
                found.append((run.get(neurons.u), run.get(neurons.v), run.get(connection.a_buff)))
        for a, b in zip(*found):
            np.testing.assert_array_equal(a, b)
        assert found[0][0].any()


def test_parts_used_above_are_what_they_claim():
    """Guards the helper: biases and both formats really occur."""
    chip = network((9,), "zero", bias=True)
    assert isinstance(chip.layers[0], LIF)
    assert chip.layers[0].bias_mant.any()
    assert {c.weight_format for c in chip.connections if isinstance(c, Dense)} == {"learning9"}

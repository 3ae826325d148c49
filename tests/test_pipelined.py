"""The pipelined schedule: the oracle, Lava's models and its runtime agree; its delays are those that are documented."""

from dataclasses import replace

import numpy as np
import pytest
from ottt_loihi.onchip import Settings, fresh_network, learn
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.schedule import Schedule, Turn
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.learning import learner as learning
from ottt_loihi.sim.learning import reference as learning_reference
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.rule import Rule

from ottt_loihi import sim
from ottt_loihi.errors import UsageError

T, PIPELINED = 5, Rule(schedule="pipelined")
FEEDBACKS = ("random", "symmetric", "kolen-pollack")


def chip(hidden=(9, 7), reset="subtract"):
    return fresh_network((12,), hidden, 3, T, 0.5, reset, 128, seed=1)


def data(count=20, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (count, T, 12), np.uint8), rng.integers(0, 3, count)


def network(hidden=(9, 7), feedback="random", **options):
    plan = make_plan(chip(hidden))
    rule = replace(PIPELINED, feedback=feedback, seed=3, **options)
    return learning_network(plan, [0.1] * (len(hidden) + 1), rule)


@pytest.mark.parametrize("encoding", ["signed", "factored"])
@pytest.mark.parametrize("feedback", FEEDBACKS)
@pytest.mark.parametrize("hidden", [(), (9,), (9, 7), (9, 7, 8)])
def test_every_variable_equals_the_oracle(hidden, feedback, encoding):
    part, (x, labels) = network(hidden, feedback, encoding=encoding), data()
    found = sim.learn(part, np.packbits(x, axis=-1), labels).variables()
    expected = learning_reference.learn(part, x, labels)
    for name, value in found.items():
        np.testing.assert_array_equal(expected[name], value, name)
    moved = [
        (found[f"plastic[{i}].weights"] != layer.connection.weight).mean() > 0.1 for i, layer in enumerate(part.layers)
    ]
    assert sum(moved) >= len(hidden)  # the deepest layer may be silent


@pytest.mark.slow
# factored: a surrogate travels on its own, and what was sent last depends on how far down the error has come
@pytest.mark.lava
@pytest.mark.parametrize("feedback", FEEDBACKS)
@pytest.mark.parametrize(
    ("hidden", "encoding"), [((), "signed"), ((9,), "signed"), ((9, 7), "signed"), ((9, 7), "factored")]
)
def test_every_variable_equals_lavas_models(hidden, encoding, feedback):
    pytest.importorskip("lava.magma.core.process.process")
    from ottt_loihi.converters.lava.inprocess import InProcessRun
    from ottt_loihi.onchip.lava.graph import build_graph

    (x, labels), plan, rates = data(10), make_plan(chip(hidden)), [0.1] * (len(hidden) + 1)
    packed, rule = np.packbits(x, axis=-1), replace(PIPELINED, feedback=feedback, seed=3, encoding=encoding)
    graph = build_graph(plan, packed, labels, rates, rule)
    found = sim.learn(network(hidden, feedback, encoding=encoding), packed, labels).variables()
    with InProcessRun(graph.source) as run:
        run.steps(len(x) * graph.period)
        variables = graph.variables()
        for name, value in found.items():
            np.testing.assert_array_equal(run.get(variables[name]), value, name)
    assert graph.epoch == 1
    assert graph.period == T + Schedule(len(hidden), "direct" if feedback == "random" else "layerwise").latency - 1


@pytest.mark.lava
@pytest.mark.slow
def test_lavas_runtime_learns_the_same_in_fewer_steps():
    pytest.importorskip("lava.magma.core.process.process")
    results = [
        learn(chip((9,)), data(15), backend=backend, settings=Settings(schedule="pipelined", learn_bias=True))
        for backend in ("sim", "lava")
    ]
    assert results[0].chip == results[1].chip
    assert results[0].counters == results[1].counters
    assert results[0].steps == results[1].steps == 15 * (T + 3)
    assert learn(chip((9,)), data(15)).steps == 15 * 4 * T


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_forward_it_is_the_exact_simulator(reset):
    net, (x, labels) = chip(reset=reset), data()
    learner = Learner(learning_network(make_plan(net), [0.1] * 3, PIPELINED))
    predictions = learner.learn(np.packbits(x, axis=-1), labels, gate=False)
    np.testing.assert_array_equal(predictions, reference.run(net, x).predictions)
    states = reference.run(net, x[-1:], ("u", "v", "s")).states
    for layer in range(2):
        for name in "uvs":
            expected = states[name][layer][-1, 0]
            np.testing.assert_array_equal(learner.variables()[f"neuron[{layer}].{name}"], expected, name)


@pytest.mark.parametrize("feedback", ["direct", "layerwise"])
@pytest.mark.parametrize("hidden", range(1, 5))
def test_the_delays_are_the_documented_ones(hidden, feedback):
    schedule = Schedule(hidden, feedback, pipelined=True)
    for layer in range(hidden):
        surrogate = schedule.feedback_phase(layer) - schedule.update_phase(layer)
        trace = schedule.feedback_phase(layer) - (schedule.update_phase(layer) - 1)
        documented = hidden + 1 - layer if feedback == "direct" else 2 * (hidden - layer)
        assert (surrogate, trace) == (documented, documented + 1)
    assert schedule.epoch == 1
    assert schedule.period(6) == 6 + Schedule(hidden, feedback).epoch - 1
    assert Schedule(hidden, feedback).period(6) == 6 * Schedule(hidden, feedback).epoch


def test_a_turn_is_each_time_step_once():
    for schedule in (Schedule(2, "direct"), Schedule(2, "layerwise", True)):
        period = schedule.period(3)
        for phase in range(1, schedule.latency + 1):
            turn = Turn(phase, schedule.epoch, 3, period)
            seen = [found for step in range(1, 2 * period + 1) if (found := turn.time_step_at(step))]
            assert seen == [(sample, t) for sample in range(2) for t in range(3)]


def float_loop(weights, x, labels, rate, feedback, decay=0.5):
    """The schedule in float64: what Lava's processes do in each step, with plain matrices; reset by subtraction."""
    weights, layers = [w.copy() for w in weights], range(len(weights))
    last = len(weights) - 1
    back = [2 * last + 1 - layer if feedback is None else last + 2 for layer in range(last)]
    for frames, label in zip(x, labels):
        u, s = ([np.zeros(len(w)) for w in weights] for _ in range(2))
        trace = [np.zeros(w.shape[1]) for w in weights]
        current, third = [np.zeros(len(w)) for w in weights], [np.zeros(len(w)) for w in weights]
        for step in range(T + (2 * last + 1 if feedback is None and last else last + 2 if last else 1)):
            sent = [frames[step].astype(float) if step < T else np.zeros(frames.shape[1])]
            y1, error = ([np.zeros(len(w)) for w in weights] for _ in range(2))
            for layer in layers:
                working = 0 <= step - layer - 1 < T
                if working and layer < last:
                    u[layer] = decay * (u[layer] - s[layer]) + current[layer]
                    s[layer] = (u[layer] > 1).astype(float)
                if layer < last and 0 <= step - back[layer] < T:
                    error[layer] = third[layer] * (np.abs(u[layer] - 1) < 1)
                    y1[layer] = -rate * error[layer]
                if layer == last and working:
                    error[layer] = (current[layer] - np.eye(len(current[layer]))[label]) / T
                    y1[layer] = -rate * error[layer]
                sent.append(s[layer] * working)
            current = [w @ pre for w, pre in zip(weights, sent)]
            for layer in range(last):
                above = weights[layer + 1].T @ error[layer + 1]
                third[layer] = above if feedback is None else feedback[layer] @ error[last]
            for layer in layers:
                trace[layer] = sent[layer] + (decay * trace[layer] if layer < last else 0)
                weights[layer] += np.outer(y1[layer], trace[layer])
    return weights


@pytest.mark.slow
@pytest.mark.lava
@pytest.mark.parametrize("kind", ["symmetric", "random"])
@pytest.mark.parametrize("hidden", [(), (9,), (9, 7)])
def test_float_learning_is_the_loop(hidden, kind):
    pytest.importorskip("lava.magma.core.process.process")
    from ottt_loihi.converters.lava.inprocess import InProcessRun
    from ottt_loihi.onchip.lava.float_graph import build_float_graph

    rng = np.random.default_rng(3)
    sizes = (12, *hidden, 3)
    start = [rng.normal(0, 2 / np.sqrt(n), (m, n)) for n, m in zip(sizes, sizes[1:])]  # noqa: RUF007
    feedback = None if kind == "symmetric" else [rng.normal(0, 0.5, (n, 3)) for n in hidden]
    x, labels = data(25)
    graph = build_float_graph(
        start,
        np.packbits(x, axis=-1),
        labels,
        learning_rate=0.05,
        feedback=feedback,
        rule=replace(PIPELINED, feedback=kind),
    )
    with InProcessRun(graph.source, tag="floating_pt") as run:
        run.steps(len(x) * graph.period)
        found = [run.get(process.weights) for process in graph.plastic]
    for a, b, before in zip(found, float_loop(start, x, labels, 0.05, feedback), start):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
        assert np.abs(b - before).max() > 0.01


@pytest.mark.parametrize("rounding", ["per-synapse", "lava"])
def test_stopped_and_resumed_is_not_stopped(tmp_path, monkeypatch, rounding):
    plan, (x, labels) = make_plan(chip()), data(30)
    part = learning_network(plan, [0.1] * 3, replace(PIPELINED, halve_every=7, rounding=rounding))
    packed = np.packbits(x, axis=-1)
    whole = sim.learn(part, packed, labels)
    monkeypatch.setattr(learning, "CHUNK_STEPS", 20)
    sim.learn(part, packed[:11], labels[:11]).save(tmp_path / "state.h5")
    second = Learner.load(tmp_path / "state.h5", part)
    second.learn(packed[11:], labels[11:])
    for name, value in whole.variables().items():
        np.testing.assert_array_equal(value, second.variables()[name], name)


def test_noise_cannot_wait_for_its_error():
    with pytest.raises(UsageError, match="schedule: opzo learns from each time step's own noise"):
        learn(chip(), data(), settings=Settings(schedule="pipelined", feedback="opzo"))
    with pytest.raises(UsageError, match="schedule: expected one of phased, pipelined, got 'random'"):
        Settings(schedule="random")


@pytest.mark.slow
def test_digits_are_learnt_nearly_as_well():
    from ottt_loihi.onchip.learner import accuracy
    from ottt_loihi.sim.learning.weight_formats import to_inference

    from ottt_loihi.data import load_digits, rate_code

    split = load_digits()
    test = rate_code(split.x_test, 6, 0), split.y_test
    result = learn(
        fresh_network(), (rate_code(split.x_train, 6, 100), split.y_train), settings=Settings(schedule="pipelined")
    )
    assert accuracy(to_inference(result.chip).chip, *test) > 0.88


def test_a_frozen_front_has_no_phase_there():
    from ottt_loihi.onchip.network.scales import make_schedule

    with pytest.raises(UsageError, match="schedule: 2 frozen layers before them act in phases"):
        make_schedule(1, PIPELINED, 2)

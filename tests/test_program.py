"""The order of actions is data: what is in the list, and that a new operation is one function twice."""

import inspect
import re

import numpy as np
import pytest
from numba import njit
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim.inference.kernels import called
from ottt_loihi.sim.learning import kernels, reference
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.program import Op, program
from ottt_loihi.sim.learning.rule import Rule

PLAIN = {Op.READ, Op.RECEIVE, Op.FIRE, Op.ANSWER, Op.COMPARE, Op.THIRD, Op.SEND, Op.DECAY_TRACE, Op.UPDATE}
PLAIN |= {Op.NEXT_EPOCH, Op.FORGET_TRACES}


def network(hidden=(6,), steps=2, feedback="random", **options):
    plan = make_plan(fresh_network((5,), hidden, 3, steps, seed=1))
    return learning_network(plan, [0.2] * (len(hidden) + 1), Rule(feedback=feedback, **options))


def listed(part):
    return [(Op(op).name, layer, t) for op, layer, t in program(part).tolist()]


def test_phased_one_time_step_follows_the_other():
    step = [
        ("READ", 0), ("RECEIVE", 0), ("FIRE", 0), ("RECEIVE", 1), ("ANSWER", 1), ("COMPARE", 1),
        ("THIRD", 0), ("SEND", 0),
        ("DECAY_TRACE", 0), ("UPDATE", 0), ("DECAY_TRACE", 1), ("UPDATE", 1), ("NEXT_EPOCH", 0),
    ]  # fmt: skip
    assert listed(network())[2:] == [(name, layer, t) for t in range(2) for name, layer in step]


def test_pipelined_the_layers_work_on_different_time_steps():
    """K = 4: the hidden layer fires a step after the input, the readout one later, the error returns in the fourth."""
    found, part = listed(network(schedule="pipelined")), network(schedule="pipelined")
    steps = [[]]
    for name, layer, t in found:
        steps[-1].append((name, layer, t))
        if name == "NEXT_EPOCH":
            steps.append([])
    assert len(steps) - 1 == part.epochs_per_sample == 2 + 4 - 1
    names = [{action[0] for action in actions} for actions in steps]
    places = {name: [step for step, done in enumerate(names) if name in done] for name in Op.__members__}
    assert places["READ"] == [0, 1]
    assert places["FIRE"] == [1, 2]
    assert places["ANSWER"] == places["COMPARE"] == [2, 3]
    assert places["SEND"] == [3, 4]
    assert places["UPDATE"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({}, set()),
        ({"learn_bias": True}, {Op.MOVE_BIASES}),
        ({"feedback": "kolen-pollack"}, {Op.UPDATE_TWIN}),
        ({"feedback": "opzo"}, {Op.FOLLOW_NOISE}),
        ({"silent_epochs": 1}, {Op.START}),
        ({"schedule": "pipelined"}, {Op.START}),
    ],
)
def test_an_option_that_is_not_chosen_is_not_in_the_list(settings, more):
    found = {Op(op) for op in program(network(**settings))[:, 0].tolist()}
    assert found == (PLAIN | more) - ({Op.FORGET_TRACES} if "silent_epochs" in settings else set())


LOOP = inspect.getsource(kernels.learn.py_func).replace("@compiled\n", "")


def test_both_executors_know_every_operation():
    assert set(reference.OPERATIONS) == set(Op)
    branches = re.findall(r"if op (?:==|in) (.+):\n", LOOP)
    assert re.findall(r"[A-Z_]+", " ".join(branches)) == list(Op.__members__)
    assert [getattr(kernels, name) for name in Op.__members__] == list(Op)


def test_a_number_that_is_compiled_and_changed_elsewhere_is_noticed(monkeypatch):
    monkeypatch.setattr(kernels.integers, "TRACE_MAX", 63)
    with pytest.raises(AssertionError, match="TRACE_MAX: another number than elsewhere"):
        kernels._check_numbers()


MINE = Op.NEXT_EPOCH + 1


def follow_spikes(run, index, t):
    """``Δw = x0·sign(y)``: one LSB for each spike of this step, in the direction of the message."""
    layer = run.layers[index]
    layer.w = np.clip(layer.w + np.outer(np.sign(layer.y1), run.sent[index]), -256, 255)


@called
def compiled_follow_spikes(layer, sent, y1, weights):
    for i in range(layer.inputs):
        if sent[layer.source + i]:
            for j in range(layer.size):
                at, y = layer.weight + i * layer.width + j, y1[layer.neuron + j]
                weights[at] = min(max(weights[at] + np.sign(y), -256), 255)


BRANCH = """            elif op == MINE:
                compiled_follow_spikes(layer, sent, s.y1, s.weights)
"""


@pytest.mark.slow
def test_a_new_option_is_one_operation(monkeypatch):
    """One entry in the list, one function in NumPy, a compiled one and its branch: S-TLLR's x0·y2, nothing else."""
    part = network(steps=3)

    def longer(given):
        actions = program(given).tolist()
        return np.array([row for a in actions for row in (a, *([[MINE, a[1], a[2]]] * (a[0] == Op.UPDATE)))])

    branches = re.compile(r"            elif op == (\w+)[^\n]*\n(?: {16}[^\n]*\n)+")
    loop = branches.sub(lambda found: found[0] if Op[found[1]] in PLAIN else "", LOOP)  # less to compile
    names = vars(kernels) | {"MINE": int(MINE), "compiled_follow_spikes": compiled_follow_spikes}
    exec(loop.replace("            elif op == NEXT_EPOCH:", BRANCH + "            elif op == NEXT_EPOCH:"), names)
    rng = np.random.default_rng(0)
    x, labels = rng.integers(0, 2, (20, 3, 5), np.uint8), rng.integers(0, 3, 20)
    plain = reference.learn(part, x, labels)
    monkeypatch.setitem(reference.OPERATIONS, MINE, follow_spikes)
    monkeypatch.setattr(reference, "program", longer)
    monkeypatch.setattr(kernels, "learn", njit(names["learn"]))
    learner = Learner(part)
    learner._actions = longer(part)
    learner.learn(np.packbits(x, axis=-1), labels)
    expected = reference.learn(part, x, labels)
    for name, value in learner.variables().items():
        np.testing.assert_array_equal(expected[name], value, name)
    assert (expected["plastic[0].weights"] != plain["plastic[0].weights"]).any()

"""The fast engine has the plain engine's gradients, scores and losses for everything it accepts."""

import copy
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch.nn.utils import parametrize, prune

from ottt_loihi.errors import TrainingError, UsageError
from ottt_loihi.fast import chunks, steps
from ottt_loihi.fast import threads as threads_of
from ottt_loihi.nn.blocks import Block, Branch, Skip
from ottt_loihi.nn.connections import Conv2d, Linear, Readout
from ottt_loihi.nn.inputs import ConstantInput
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIF, Stream
from ottt_loihi.nn.surrogates import Rectangle, Sigmoid, Triangle
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.losses import CrossEntropy, SquaredError
from ottt_loihi.training import engine

RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@st.composite
def networks(draw):
    """Networks of every kind of block: linear or images, branches, streams, pooling, scales, dropout, both resets."""
    convention = draw(st.sampled_from(["paper", "authors"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    image = draw(st.booleans())
    shape = (2, 6, 4) if image else (5,)
    beta, blocks, input_shape = draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])), [], shape
    same = draw(st.booleans())  # all layers of one shape: streams and shortcuts fit
    delayed = draw(st.booleans())
    count = draw(st.integers(1, 3))
    shapes = []
    for index in range(count):
        scales = {
            "standardized": draw(st.booleans()),
            "skip_gain": convention == "paper" and draw(st.booleans()),
            "input_scale": draw(st.sampled_from([1.0, 2.74])),
            "output_scale": draw(st.sampled_from([1.0, 0.5])),
        }
        bias = draw(st.booleans())
        if image:
            pool = None if same or index == 0 or min(shape[1:]) < 2 else draw(st.sampled_from([None, 2]))
            out = 3 if not same else 2
            more = {} if same else {"stride": draw(st.sampled_from([1, 1, 2]))}
            more |= {"pool_after": draw(st.sampled_from([None, (3, 1, 1)]))}
            connection = Conv2d(shape[0], out, 3, bias, generator, padding=1, pool=pool, **more, **scales)
        else:
            connection = Linear(shape[0], 5 if same else draw(st.integers(2, 6)), bias, generator, **scales)
        shape = connection.output_shape(shape)
        shapes.append(shape)
        branches = []
        for source in range(count if same else 0):
            if source < index and draw(st.booleans()):
                branches.append(Branch(_between(draw, shape, generator, delayed), source, 0))
            if delayed and draw(st.integers(0, 3)) == 0:
                branches.append(Branch(_between(draw, shape, generator), source, draw(st.integers(1, 3))))
        skip = Skip(index - 1, 0.7) if same and index and draw(st.booleans()) else None
        surrogate = draw(st.sampled_from([Sigmoid(), Sigmoid(2.0), Rectangle(), Triangle()]))
        neuron = LIF(beta, 0.6, draw(st.sampled_from(["zero", "subtract"])), surrogate, convention)
        if index == count - 1 and index and draw(st.integers(0, 3)) == 0:
            neuron = Stream(beta)
        dropout = draw(st.sampled_from([0.0, 0.0, 0.4]))
        blocks.append(Block(connection, neuron, branches=branches, skip=skip, dropout=dropout))
        with torch.no_grad():
            for p in connection.parameters():
                if p.ndim < 2:
                    p.add_(0.3 * torch.rand(p.shape, generator=generator))
    if not image and draw(st.booleans()):
        input_shape = (1, 5)  # as grey images come
    inputs = shape[0] if not image else shape[0] * shape[1] * shape[2]
    readout = Readout(inputs, 3, draw(st.booleans()), generator)
    return Network(blocks, readout, input_shape=input_shape, time_steps=5, convention=convention).double()


def _between(draw, shape, generator, enlarging=True):
    bias = draw(st.booleans())
    if len(shape) == 1:
        return Linear(shape[0], shape[0], bias, generator)
    if enlarging and min(shape[1:]) % 2 == 0 and draw(st.booleans()):
        return Conv2d(shape[0], shape[0], 3, bias, generator, padding=1, pool=2, upsample=2)
    return Conv2d(shape[0], shape[0], 3, bias, generator, padding=1)


@st.composite
def cases(draw):
    net = draw(networks())
    kind = draw(st.sampled_from(["ottt", "ottt", "sltt", "sltt-k"]))
    settings = {"convention": net.convention} if kind == "ottt" else {"k": 2} if kind == "sltt-k" else {}
    update = draw(st.sampled_from(["step", "sequence"]))
    rule = make_rule(kind.partition("-")[0], update=update, **settings)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    x = torch.rand(4, 5, *net.input_shape, generator=generator, dtype=torch.float64)
    x = ConstantInput(x[:, 0], 5) if draw(st.booleans()) else (x > 0.6).double()
    loss = draw(st.sampled_from([SquaredError(), CrossEntropy(0.05, 0.1)]))
    return net, rule, x, torch.arange(4) % 3, loss


def same(found, expected, what):
    scale = 1 + float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * scale, msg=lambda text: f"{what}: {text}")


def check_equal(case, learn):
    net, rule, x, labels, loss = case
    other = copy.deepcopy(net)
    for one in (net, other):
        one.train()
    optimizers = [torch.optim.SGD(one.parameters(), 0.1, momentum=0.9) for one in (net, other)]
    for _ in range(2):  # the second batch begins with the weights that the first has made
        torch.manual_seed(5)
        try:
            expected = rule.train_batch(net, x, labels, loss, optimizers[0])
        except TrainingError:
            assume(False)  # a stream that feeds itself may grow until nothing of its rounding is left to compare
        assume(max(float(p.abs().max()) for p in net.parameters()) < 1e4)
        torch.manual_seed(5)
        found = learn(other, rule, x, labels, loss, optimizers[1])
        same(found.loss, expected.loss, "loss")
        same(found.scores, expected.scores, "scores")
    for (name, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
        same(q, p, name)


def by_steps(net, rule, x, labels, loss, optimizer):
    return rule.learn_batch(net, *rule.checked(net, x, labels), loss, optimizer, steps.OneByOne(rule))


@settings(max_examples=30, **RELAXED)
@given(case=cases())
def test_single_steps_learn_as_the_plain_engine(case):
    assert steps.why_not(case[0], case[1]) == ""
    check_equal(case, by_steps)


@settings(max_examples=35, **RELAXED)
@given(case=cases(), chunk=st.integers(2, 6))
def test_the_chosen_engine_learns_as_the_plain_one(case, chunk):
    net, rule, x, _, loss = case
    chosen = engine.choose(net, rule, loss, x.shape[1], chunk=chunk)
    assert chosen.name == "fast"
    assert (chosen.chunk > 1) == (chunks.why_not(net, rule, loss) == "")
    check_equal(case, chosen.train_batch)


def test_dropout_does_not_depend_on_the_memory_layout_of_an_engine():
    """torch 2.14 draws in the order of the memory, and the engines lay images out differently."""
    block = Block(Conv2d(1, 3, 3, padding=1), LIF(), dropout=0.4)
    current = torch.zeros(4, 3, 6, 5)
    masks = []
    for like in (current, current.contiguous(memory_format=torch.channels_last)):
        torch.manual_seed(5)
        masks.append(block.draw_mask(like))
    assert torch.equal(*masks)


@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_know_both_rectangles_at_their_ends(convention, dtype):
    """u = 0 and u = 2·Vth exactly: the paper's rectangle is 0 there, the released code's is 1."""
    net = Network(
        [Block(Linear(3, 3), LIF(0.0, 0.5, "zero", "rectangle", convention))],
        Readout(3, 2),
        input_shape=(3,),
        time_steps=4,
        convention=convention,
    ).to(dtype)
    with torch.no_grad():
        net.blocks[0].connection.weight.copy_(torch.eye(3))
    x = torch.tensor([0.0, 1.0, 1.25], dtype=dtype).expand(2, 4, 3).clone()
    rule, labels = make_rule("ottt", update="sequence", convention=convention), torch.tensor([0, 1])
    chosen = engine.choose(net, rule, SquaredError(), 4)
    assert chosen.chunk == 4
    other = copy.deepcopy(net)
    chosen.backward(net, rule, x, labels, SquaredError())
    rule.backward(other, x, labels, SquaredError())
    torch.testing.assert_close(net.blocks[0].connection.weight.grad, other.blocks[0].connection.weight.grad)
    assert bool(net.blocks[0].connection.weight.grad[:2].any()) == (convention == "authors")


def small(**settings):
    return Network(
        [Block(Linear(4, 3), LIF(surrogate="sigmoid"))], Readout(3, 2), input_shape=(4,), time_steps=3, **settings
    )


class MyLIF(LIF):
    pass


class MyLinear(Linear):
    pass


def with_neuron(neuron):
    return Network([Block(Linear(4, 3), neuron)], Readout(3, 2), input_shape=(4,), time_steps=3)


def hooked(register):
    net = small()
    register(net)
    return net


@pytest.mark.parametrize(
    ("net", "why"),
    [
        (with_neuron(MyLIF()), "MyLIF neurons"),
        (Network([Block(MyLinear(4, 3), LIF())], Readout(3, 2), input_shape=(4,), time_steps=3), "MyLinear"),
        (hooked(lambda net: net.blocks[0].connection.weight.register_hook(lambda g: g)), "a parameter has a hook"),
        (hooked(lambda net: net.blocks[0].register_forward_hook(lambda *a: None)), "a module has a hook"),
        (hooked(lambda net: prune.l1_unstructured(net.blocks[0].connection, "weight", 1)), "a hook"),
        (
            hooked(lambda net: net.blocks[0].connection.register_full_backward_pre_hook(lambda m, g: None)),
            "a module has a hook",
        ),
        (hooked(lambda net: setattr(net.blocks[0].neuron, "forward", None.__class__)), "a method forward of its own"),
        (hooked(lambda net: net.blocks.append(Block(net.readout, LIF()))), "a connection feeds two layers"),
        (
            hooked(lambda net: parametrize.register_parametrization(net.readout, "weight", torch.nn.Identity())),
            "its readout is a ParametrizedReadout",
        ),
    ],
)
def test_whatever_the_fast_engine_would_not_call_is_for_the_plain_one(net, why):
    rule = make_rule("ottt", update="sequence")
    chosen = engine.choose(net, rule, SquaredError(), 3)
    assert chosen.name == "plain"
    assert why in chosen.why
    with pytest.raises(UsageError, match=why):
        engine.choose(net, rule, SquaredError(), 3, engine="fast")


def test_a_hook_of_all_modules_and_a_method_set_on_a_rule_are_for_the_plain_engine():
    net, rule = small(), make_rule("ottt", update="sequence")
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *a: None)
    try:
        assert engine.choose(net, rule, SquaredError(), 3).why == "engine plain: all modules have a hook"
    finally:
        hook.remove()
    rule.step = lambda *arguments: None
    assert engine.choose(net, rule, SquaredError(), 3).why == "engine plain: the rule has a method step of its own"


def test_what_is_chosen_is_said():
    net, loss = small(), SquaredError()
    rule = make_rule("ottt", update="sequence")
    assert engine.choose(net, rule, loss, 6).why == "engine fast, 6 time steps at once"
    assert engine.choose(net, rule, loss, 48).chunk == 8
    assert engine.choose(net, make_rule("ottt"), loss, 6).why == (
        "engine fast, one time step at once: the optimiser steps after every time step"
    )
    assert "a loss of your own" in engine.choose(net, rule, lambda o, labels, steps: o.sum(), 6).why
    assert engine.choose(net, make_rule("bptt"), loss, 6).why == "engine plain: BPTT has no fast form"
    assert engine.choose(net, rule, loss, 6, engine="plain").name == "plain"
    with pytest.raises(UsageError, match="engine: expected one of auto, plain, fast"):
        engine.choose(net, rule, loss, 6, engine="quick")


def test_a_loop_of_ones_own_gets_the_gradients():
    net, rule, x, y = small(), make_rule("ottt", update="sequence"), torch.ones(2, 3, 4), torch.tensor([0, 1])
    expected = copy.deepcopy(net)
    engine.backward(expected, rule, x, y, SquaredError(), engine="plain")
    engine.backward(net, rule, x, y, SquaredError())
    for p, q in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_a_process_that_forks_after_a_fast_batch_goes_on_learning(monkeypatch):
    """The threads of the pool do not exist in the child, whose first batch waited for them for ever."""
    import multiprocessing

    monkeypatch.setattr(threads_of, "LONG_BATCH", 0)

    net, rule, x, y = small(), make_rule("ottt", update="sequence"), torch.ones(4, 3, 4), torch.tensor([0, 1, 0, 1])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine.backward(net, rule, x, y, SquaredError())
        child = multiprocessing.get_context("fork").Process(
            target=engine.backward, args=(net, rule, x, y, SquaredError())
        )
        child.start()
        child.join(30)
        assert child.exitcode == 0
    finally:
        torch.set_num_threads(before)
        child.kill()


@pytest.mark.parametrize(("long", "used"), [(0, 3), (float("inf"), 1)])
@pytest.mark.parametrize("update", ["step", "sequence"])
def test_step_by_step_torch_has_several_threads_for_long_products_alone(update, long, used, monkeypatch):
    monkeypatch.setattr(threads_of, "LONG_PRODUCT", long)
    seen, before = [], torch.get_num_threads()

    def loss(o, labels, num_steps):
        seen.append(torch.get_num_threads())
        return (o**2).mean()

    torch.set_num_threads(3)
    try:
        net, rule = small(), make_rule("ottt", update=update)
        chosen = engine.choose(net, rule, loss, 3)
        assert (chosen.name, chosen.chunk) == ("fast", 1)
        x, y = torch.ones(4, 3, 4), torch.tensor([0, 1, 0, 1])
        chosen.train_batch(net, rule, x, y, loss, torch.optim.SGD(net.parameters(), 0.1))
        assert torch.get_num_threads() == 3
        with pytest.raises(UsageError):
            chosen.train_batch(net, rule, x[:, 0], y, loss, torch.optim.SGD(net.parameters(), 0.1))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {used}


def test_a_gpu_is_no_reason_to_take_fewer_threads():
    weight = SimpleNamespace(is_cuda=True)
    net = SimpleNamespace(readout=SimpleNamespace(weight=weight))
    assert engine.Engine("fast", 1).useful_threads(net, torch.ones(4, 3, 4), 8) == 8

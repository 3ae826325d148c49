"""Several time steps at once: the gradients of one step after the other, for everything that fits."""

import re
from types import SimpleNamespace

import pytest
import torch

from ottt_loihi.errors import TrainingError
from ottt_loihi.fast import chunks, freed_memory, products
from ottt_loihi.fast import threads as threads_of
from ottt_loihi.nn.blocks import Block, Branch, Skip
from ottt_loihi.nn.connections import Conv2d, Linear, Readout
from ottt_loihi.nn.inputs import ConstantInput
from ottt_loihi.nn.models import conv, dsr, mlp, nf_resnet34
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIF
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.losses import CrossEntropy, Distilled, SquaredError
from ottt_loihi.training.engine import choose

T = 7


def residual(reset="subtract", surrogate="rectangle", convention="paper", dropout=0.0):
    """A stream from a current that was pooled, and shortcuts to images and past them."""
    connections = [
        Conv2d(3, 6, 5, True, padding=2, pool_after=(3, 2, 1)),  # 9 × 8 → 5 × 4
        Conv2d(6, 34, 3, True, padding=1),
        Conv2d(34, 6, 3, True, padding=1),
        Linear(24, 40, True, pool=2),
    ]
    ways = {
        2: [Branch(Conv2d(6, 6, 1), 0, 0)],
        3: [Branch(Linear(24, 40, pool=2), 2, 0), Branch(Linear(120, 40), 0, 0)],
    }
    blocks = [
        Block(
            connection,
            LIF(0.5, 1.0, reset, surrogate, convention),
            branches=ways.get(index, ()),
            skip=Skip(0, 0.9) if index == 2 else None,
            dropout=dropout,
        )
        for index, connection in enumerate(connections)
    ]
    return Network(blocks, Readout(40, 4, True), input_shape=(3, 9, 8), time_steps=T, convention=convention)


IMAGE = {"input_shape": (3, 9, 8), "num_classes": 4, "time_steps": T}
NETWORKS = {  # wide enough for products of events, and not
    "dense": lambda **common: mlp((30, 40, 33, 4), bias=True, time_steps=T, **common),
    "recurrent": lambda **common: mlp((30, 40, 33, 4), bias=True, recurrent=True, time_steps=T, **common),
    "sws recurrent": lambda **common: mlp((30, 40, 4), standardized=True, recurrent=True, time_steps=T, **common),
    "pooled": lambda **common: conv("40C3-AP2-36C3-GAP", bias=True, **IMAGE, **common),
    "sws": lambda **common: conv("34C3-33C5-AP2-8C3S2-40F", standardized=True, bias=True, **IMAGE, **common),
    "residual": residual,
    "shortcuts": lambda **common: mlp((30, 40, 40, 40, 4), shortcuts=True, time_steps=T, **common),
    "grouped": lambda **common: conv("6C3-8C3G2-AP2-40F", bias=False, **IMAGE, **common),
}


def make(kind, **common):
    torch.manual_seed(0)
    net = NETWORKS[kind](**common).double()
    for p in net.parameters():
        p.data *= 2.5 if p.ndim > 1 else 1
        if p.ndim == 1:
            p.data.uniform_(0.5, 2.5) if "sws" in kind else p.data.uniform_(0.1, 0.5)
    return net


def batch(net, n=5, steps=T, constant=False):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(4, (n,), generator=generator)
    shape = (n, 1 if constant else steps, *net.input_shape)
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (ConstantInput(x[:, 0], steps) if constant else (x < 0.15).double()), labels


ENTROPY = CrossEntropy()


def learn(net, rule, x, labels, loss=ENTROPY, optimizer=None, chunk=None):
    """Gradients of the plain engine, or of chunks of so many steps."""
    engine = choose(net, rule, loss, x.shape[1], "plain" if chunk is None else "fast", chunk)
    assert chunk is None or engine.chunk == min(chunk, x.shape[1])
    net.zero_grad()
    torch.manual_seed(3)  # of the dropout
    if optimizer is None:
        result = engine.backward(net, rule, x, labels, loss)
    else:
        result = engine.train_batch(net, rule, x, labels, loss, optimizer)
    return [result.loss, result.scores, *(p.grad for p in net.parameters())]


def assert_equal(found, expected, error=1e-12):
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).norm()) <= error * float(b.norm())


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("rule", ["ottt paper", "ottt authors", "sltt"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_of_every_network_and_rule(kind, rule, constant):
    name, *convention = rule.split()
    settings = {"convention": convention[0]} if convention else {}
    # the released code's rectangle has its edges in it, and is for single steps
    net = make(kind, **settings, **({"surrogate": "sigmoid"} if "authors" in rule else {}))
    x, labels = batch(net, constant=constant)
    expected = learn(net, make_rule(name, update="sequence", **settings), x, labels)
    assert all(float(part.abs().max()) > 0 for part in expected)  # every parameter learns
    for steps in (3, 8):  # T is no multiple of 3 and less than 8
        assert_equal(learn(net, make_rule(name, update="sequence", **settings), x, labels, chunk=steps), expected)


@pytest.mark.slow
@pytest.mark.parametrize("few", [0.0, 1.0])
@pytest.mark.parametrize("surrogate", ["sigmoid", "rectangle", "triangle"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_neurons_and_both_ways_of_multiplying(reset, surrogate, few, monkeypatch):
    monkeypatch.setattr(products, "FEW_OF_LINEAR", few)
    monkeypatch.setattr(products, "FEW_OF_CONV", few)
    for kind in NETWORKS:
        net = make(kind, reset=reset, surrogate=surrogate, dropout=0.3)
        net.blocks[0].neuron.v_init = 0.25
        x, labels = batch(net)
        expected = learn(net, make_rule("ottt", update="sequence"), x, labels)
        if kind in ("dense", "recurrent"):  # the order of an image's random numbers is that of its memory
            assert_equal(learn(net, make_rule("ottt", update="sequence"), x, labels, chunk=4), expected)
        net.eval()
        expected = learn(net, make_rule("ottt", update="sequence"), x, labels)
        for chunk in (4, 1):
            assert_equal(learn(net, make_rule("ottt", update="sequence"), x, labels, chunk=chunk), expected)


@pytest.mark.parametrize("kind", ["dense", "pooled"])
def test_single_steps_add_up_events(kind, monkeypatch):
    summed = set()
    for name in ("add_rows", "add_patches", "add_patch_gradients"):
        kernel = getattr(products.event_kernels, name)
        spy = lambda *args, name=name, kernel=kernel: (summed.add(name), kernel(*args))  # noqa: E731
        monkeypatch.setattr(products.event_kernels, name, spy)
    net = make(kind)
    x, labels = batch(net)
    expected = learn(net, make_rule("ottt", update="sequence"), x, labels)
    assert not summed
    assert_equal(learn(net, make_rule("ottt", update="sequence"), x, labels, chunk=1), expected)
    assert summed == ({"add_rows"} if kind == "dense" else {"add_patches", "add_patch_gradients"})


def test_float32_agrees_within_rounding():
    net = make("pooled", surrogate="sigmoid").float()
    x, labels = batch(net)
    expected = learn(net, make_rule("ottt", update="sequence"), x, labels)
    assert_equal(learn(net, make_rule("ottt", update="sequence"), x, labels, chunk=4), expected, 1e-5)


@pytest.mark.parametrize("samples", [1, 5])
def test_threads_share_the_samples_and_repeat_themselves(samples, monkeypatch):
    monkeypatch.setattr(threads_of, "LONG_BATCH", 0)
    net = make("pooled")
    x, labels = batch(net, samples)
    rule, threads = make_rule("ottt", update="sequence"), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = learn(net, rule, x, labels, chunk=4)
        torch.set_num_threads(3)
        several = learn(net, rule, x, labels, chunk=4)
        assert torch.get_num_threads() == 3
        again = learn(net, rule, x, labels, chunk=4)
    finally:
        torch.set_num_threads(threads)
    assert_equal(several, one)
    assert all(torch.equal(a, b) for a, b in zip(several, again))


def test_a_batch_that_is_soon_done_stays_whole():
    """Two slices of it took longer than the whole; the choice follows from network, batch and T alone."""
    net = make("pooled")
    x, labels = batch(net)
    rule, threads = make_rule("ottt", update="sequence"), torch.get_num_threads()
    one = learn(net, rule, x, labels, chunk=4)
    torch.set_num_threads(2)
    try:
        assert all(torch.equal(a, b) for a, b in zip(learn(net, rule, x, labels, chunk=4), one, strict=True))
    finally:
        torch.set_num_threads(threads)


def test_a_teacher_is_asked_about_the_right_samples(monkeypatch):
    monkeypatch.setattr(threads_of, "LONG_BATCH", 0)
    net = make("dense")
    x, labels = batch(net)
    loss = Distilled(SquaredError(), torch.randn(5, 4, dtype=torch.float64), 0.5, 2.0)
    expected = learn(net, make_rule("ottt", update="sequence"), x, labels, loss)
    torch.set_num_threads(2)
    try:
        assert_equal(learn(net, make_rule("ottt", update="sequence"), x, labels, loss, chunk=3), expected)
    finally:
        torch.set_num_threads(1)


def test_an_optimiser_steps_once():
    nets = [make("dense"), make("dense")]
    for net, steps in zip(nets, (None, 4)):
        x, labels = batch(net)
        rule = make_rule("ottt", update="sequence")
        learn(net, rule, x, labels, optimizer=torch.optim.SGD(net.parameters(), 0.1), chunk=steps)
    assert_equal(nets[1].parameters(), nets[0].parameters())


def test_frozen_parameters_stay_without_gradient():
    net = make("dense")
    net.blocks[0].connection.weight.requires_grad_(False)
    x, labels = batch(net)
    learn(net, make_rule("ottt", update="sequence"), x, labels, SquaredError(), chunk=4)
    assert net.blocks[0].connection.weight.grad is None
    assert net.blocks[1].connection.weight.grad is not None


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: conv("3C3-3C3-GAP", feedback=True), "block 1 has a delayed connection from elsewhere"),
        (
            lambda: nf_resnet34(3, input_shape=(2, 16, 16), stages=((4, 1),), convention="authors"),
            "block 3 has neurons",
        ),
        (lambda: dsr((6, 5, 3)), "dsr|neurons"),
    ],
)
def test_networks_that_do_not_fit_take_single_steps(net, message):
    rule, net = make_rule("ottt", update="sequence"), net()
    assert re.search(message, chunks.why_not(net, rule, SquaredError()))
    assert choose(net, rule, SquaredError(), 3).chunk < 2


@pytest.mark.parametrize(("block", "place"), [(None, "the readout"), (1, r"block 2 \(its membrane")])
def test_an_overflow_is_named_by_step_and_layer(block, place):
    net = make("dense")
    x, labels = batch(net)
    x[:, :2] = 0  # nothing fires for two steps
    for other in net.blocks:
        other.connection.bias.data.zero_()
    net.readout.weight.data[:] = 1e308
    if block is not None:
        net.blocks[block].connection.weight.data[0] = 1e308
    with pytest.raises(TrainingError, match=f"time step 3: the loss is (nan|inf); it begins in {place}"):
        learn(net, make_rule("ottt", update="sequence"), x, labels, chunk=4)


@pytest.mark.parametrize("given", [False, True])
def test_a_users_own_settings_of_malloc_stay(given, monkeypatch):
    asked = []
    library = SimpleNamespace(mallopt=lambda *setting: asked.append(setting))
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda _: library)
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    freed_memory.keep_freed_memory.__wrapped__()
    assert bool(asked) is not given

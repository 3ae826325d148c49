"""Training on a GPU: what the CPU computes, by kernels and graphs of its own, in memory that does not grow with T."""

import pytest
import torch
from test_engine import KINDS, batch, gradients, networks

from ottt_loihi.cli import train as ottt_train
from ottt_loihi.data import load_digits
from ottt_loihi.errors import TrainingError, UsageError
from ottt_loihi.fast.cuda_graph import GraphedRule
from ottt_loihi.nn.inputs import ConstantInput
from ottt_loihi.nn.models import conv, mlp
from ottt_loihi.nn.neurons import LIF
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.losses import CrossEntropy, SquaredError
from ottt_loihi.training.checkpoint import load
from ottt_loihi.training.config import make_config
from ottt_loihi.training.evaluation import evaluate
from ottt_loihi.training.run_folder import RunFolder
from ottt_loihi.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch sees")
RULES = {
    "OTTT_A": ("ottt", {"update": "sequence"}),
    "OTTT_O": ("ottt", {"update": "step"}),
    "SLTT": ("sltt", {}),
    "SLTT-K": ("sltt", {"k": 2}),
    "SAF-E": ("saf-e", {"update": "sequence"}),
    "SAF-F": ("saf-f", {}),
    "BPTT": ("bptt", {}),
    "OPZO": ("opzo", {"feedback": "random"}),
}
GRAPHED = ("OTTT_A", "SLTT", "SAF-E", "BPTT")
FEED_FORWARD = ("dense", "conv", "sws")


@pytest.fixture(autouse=True)
def same_every_time():
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def rule_of(name):
    kind, settings = RULES[name]
    return make_rule(kind, **settings)


def small(kind, **settings):
    """A float32 network on the GPU, with dropout where asked for."""
    common = {"surrogate": "sigmoid", "time_steps": 5, "seed": 3, **settings}
    if kind == "dense":
        return mlp((12, 40, 30, 3), bias=True, **common).cuda()
    return conv("8C3-AP2-16C3-GAP", input_shape=(2, 8, 8), num_classes=3, standardized=True, **common).cuda()


def test_a_training_records_by_itself_and_learns_the_same():
    split, nets = load_digits().first(200, 20), []
    for chunk in (None, 1):
        net = mlp((64, 40, 10), surrogate="sigmoid", dropout=0.2, seed=1).cuda()
        trainer = Trainer(net, make_rule("ottt", update="sequence"), batch_size=64, seed=2, chunk=chunk)
        trainer.fit(split, epochs=2)
        assert (trainer.chosen.recorder is None) == (chunk == 1)
        nets.append(net)
    assert all(torch.equal(p, q) for p, q in zip(*(net.parameters() for net in nets), strict=True))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradients_are_the_cpus(kind, name, constant):
    net = networks()[kind]
    if (name == "SAF-F" and kind not in (*FEED_FORWARD, "nf")) or (name == "OPZO" and kind not in FEED_FORWARD):
        pytest.skip("the rule does not train it")
    x, labels = batch(net, constant=constant)
    torch.manual_seed(0)
    expected, at_home = gradients(net, rule_of(name), x, labels)
    net.cuda()
    torch.manual_seed(0)
    found, away = gradients(net, rule_of(name), x, labels)
    torch.testing.assert_close(away.loss.cpu(), at_home.loss)
    torch.testing.assert_close(away.scores.cpu(), at_home.scores)
    for parameter, gradient in expected.items() if name != "OPZO" else ():  # its matrix is drawn on the device
        torch.testing.assert_close(found[parameter].cpu(), gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("surrogate", ["sigmoid", "rectangle", "triangle"])
@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize("shape", [(5,), (3, 700), (2, 16, 9, 9)])
def test_kernels_compute_the_step(shape, convention, surrogate, reset):
    from ottt_loihi.fast import triton_kernels as lif_triton

    neuron = LIF(0.5, 1.0, reset, surrogate, convention)
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    draw = lambda low, high: (torch.randint(low, high, shape, device="cuda") / 4).to(memory_format=layout)  # noqa: E731
    current, v, g = draw(-8, 9), draw(-8, 4), draw(-9, 9)
    u, v_new, s = current.clone(), v.clone(), torch.full_like(v, torch.nan)
    lif_triton.charge_fire_reset(u, v_new, s, neuron)
    expected = neuron(current, v)
    for found, wanted in ((u, expected.u), (v_new, expected.v), (s, expected.s)):
        assert torch.equal(found, wanted)
    found = lif_triton.times_surrogate(g, u.clone(), neuron)
    torch.testing.assert_close(found, g * neuron.surrogate(u, 1.0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["OTTT_A", "OTTT_O", "SAF-E", "SLTT"])
@pytest.mark.parametrize("kind", KINDS)
def test_rules_learn_the_same_with_the_kernels(kind, name, monkeypatch):
    net = networks()[kind].float().cuda()
    x, labels = batch(net)
    found, _ = gradients(net, rule_of(name), x, labels)
    for module in ("network", "rules.saf"):
        monkeypatch.setattr(f"ottt_loihi.{module}.has_kernels", lambda x: False)
    expected, _ = gradients(net, rule_of(name), x, labels)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind_of_products", ["", "bfloat16"])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("name", GRAPHED)
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_a_graph_gives_the_same_weights(kind, name, constant, kind_of_products):
    """Bit for bit, over batches of two sizes, with dropout and an optimiser. Then batches that only add gradients."""

    def learn(wrap):
        net = small(kind, dropout=0.2)
        rule, optimizer = wrap(rule_of(name)), torch.optim.Adam(net.parameters(), lr=0.01)
        seen = []
        for step in range(6):
            generator = torch.Generator().manual_seed(step)
            n = 32 if step % 3 else 20
            x = torch.rand(n, 5, *net.input_shape, generator=generator)
            x = ConstantInput(x[:, 0], 5) if constant else x
            labels = torch.randint(3, (n,), generator=generator)
            torch.manual_seed(step)
            # the cache would sum the gradients of BPTT's T steps in 16 bits; a graph has none
            with torch.autocast("cuda", torch.bfloat16, bool(kind_of_products), cache_enabled=False):
                result = rule.train_batch(net, x, labels, CrossEntropy(), optimizer)
            seen += [result.loss.clone(), result.scores.clone()]
        for _ in range(2):
            rule.train_batch(net, x, labels, CrossEntropy(), None)
        return [*seen, *net.state_dict().values()], [p.grad for p in net.parameters()]

    found, expected = learn(GraphedRule), learn(lambda rule: rule)
    assert all(torch.equal(a, b) for a, b in zip(found[0], expected[0], strict=True))
    for a, b in zip(found[1], expected[1], strict=True):  # sums in another order
        assert float((a - b).norm()) <= 1e-5 * float(b.norm())


def test_a_graph_stops_where_the_loss_is_not_finite():
    net = small("dense")
    rule = GraphedRule(rule_of("OTTT_A"))
    with torch.no_grad():
        net.readout.weight[0, 0] = torch.nan
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(TrainingError, match="time step 1: the loss is nan; it begins in the readout"):
        rule.train_batch(
            net,
            torch.rand(4, 5, 12),
            torch.zeros(4, dtype=torch.int64),
            SquaredError(),
            torch.optim.Adam(net.parameters()),
        )
    assert all(torch.equal(a, b) or torch.isnan(a).any() for a, b in zip(before, net.parameters()))


def test_a_graph_refuses_float16():
    net, rule = small("dense"), GraphedRule(rule_of("OTTT_A"))
    refused = pytest.raises(UsageError, match="cuda_graph: float16 looks at the size of errors")
    with torch.autocast("cuda", torch.float16), refused:
        rule.train_batch(net, torch.rand(4, 5, 12), torch.zeros(4, dtype=torch.int64), SquaredError(), None)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["OTTT_A", "BPTT", "SAF-E"])
def test_products_of_16_bits(name, kind):
    net = small("conv")
    x, labels = torch.rand(16, 5, 2, 8, 8), torch.arange(16) % 3
    expected, _ = gradients(net, rule_of(name), x, labels)
    with torch.autocast("cuda", kind):
        found, _ = gradients(net, rule_of(name), x, labels)
    for parameter, gradient in expected.items():
        assert found[parameter].dtype == torch.float32
        assert float((found[parameter] - gradient).norm()) <= 0.3 * float(gradient.norm())


def peak(net, rule, steps, constant, kind=None):
    x = torch.rand(64, steps, *net.input_shape).cuda()
    x = ConstantInput(x[:, 0], steps) if constant else x
    labels, optimizer = torch.arange(64) % 3, torch.optim.SGD(net.parameters(), lr=1e-3)
    with torch.autocast("cuda", kind, enabled=kind is not None):
        rule.train_batch(net, x, labels, SquaredError(), optimizer)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        rule.train_batch(net, x, labels, SquaredError(), optimizer)
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("products", [None, torch.bfloat16])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("name", ["OTTT_A", "OTTT_O"])
@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_time_steps(kind, name, constant, products):
    net = networks()[kind].float().cuda()
    least = max(2, 1 + max(net.delays.values(), default=0))
    few, many = (peak(net, rule_of(name), steps, constant, products) for steps in (least, 48))
    assert many <= 1.05 * few + 2 * 512 * len(net.blocks)  # CUDA allocates 512 bytes at a time


def fit(folder, epochs=3, resume=False, wrap=lambda rule: rule):
    digits = load_digits()
    net = mlp((64, 64, 10), surrogate="sigmoid", dropout=0.1).cuda()
    trainer = Trainer(net, wrap(rule_of("OTTT_A")), seed=5)
    trainer.fit(
        digits.x_train.reshape(-1, 64), digits.y_train, epochs, run=RunFolder(folder), resume=resume, checkpoint_every=7
    )
    return [p.cpu() for p in net.parameters()]


@pytest.mark.parametrize("wrap", [lambda rule: rule, GraphedRule])
def test_the_same_seed_gives_the_same_weights_also_resumed(tmp_path, monkeypatch, wrap):
    whole, again = fit(tmp_path / "a", wrap=wrap), fit(tmp_path / "b")
    assert all(torch.equal(a, b) for a, b in zip(whole, again))
    kind = type(wrap(rule_of("OTTT_A")))
    train_batch, seen = kind.train_batch, []

    def stopping(self, *arguments):
        seen.append(1)
        if len(seen) == 31:
            raise KeyboardInterrupt
        return train_batch(self, *arguments)

    monkeypatch.setattr(kind, "train_batch", stopping)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "c", wrap=wrap)
    monkeypatch.setattr(kind, "train_batch", train_batch)
    assert all(torch.equal(a, b) for a, b in zip(whole, fit(tmp_path / "c", resume=True, wrap=wrap)))


def test_what_was_trained_on_a_gpu_runs_on_the_cpu(tmp_path):
    changes = {"device": "cuda", "cuda_graph": True, "epochs": 20, "autocast": "bfloat16"}
    result = ottt_train.run(make_config({"rule": {"update": "sequence"}, "training": changes}), tmp_path / "run")
    assert result["test_accuracy"] > 0.9
    net, digits = load(tmp_path / "run" / "model.pt"), load_digits()
    assert net.readout.weight.device.type == "cpu"
    at_home = evaluate(net, digits.x_test, digits.y_test)
    assert abs(at_home.accuracy - result["test_accuracy"]) < 0.01  # a spike at the threshold may come or go
    away = evaluate(net.double().cuda(), digits.x_test, digits.y_test)
    assert abs(away.accuracy - at_home.accuracy) < 0.01

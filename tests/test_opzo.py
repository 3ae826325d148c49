"""OPZO: what its matrices become, and what its gradient is with the right ones."""

import pytest
import torch

from ottt_loihi.data import load_data
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.models import conv, mlp
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.losses import SquaredError
from ottt_loihi.training.evaluation import evaluate
from ottt_loihi.training.trainer import Trainer


def batch(n=32, steps=6):
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(n, steps, 12, generator=generator) < 0.4).double()
    return x, torch.arange(n) % 3


def gradients(net, rule, x, labels):
    net.zero_grad()
    rule.train_batch(net, x, labels, SquaredError(), None)
    return [p.grad.clone() for p in net.parameters()]


@pytest.mark.parametrize("convention", ["paper", "authors"])
def test_with_the_readouts_weights_it_is_ottt(convention):
    net, (x, labels) = mlp((12, 20, 3), bias=True, surrogate="sigmoid", convention=convention).double(), batch()
    rule = make_rule("opzo", feedback="random", convention=convention)
    first = gradients(net, rule, x, labels)
    expected = gradients(net, make_rule("ottt", update="sequence", convention=convention), x, labels)
    assert (first[0] - expected[0]).norm() > 0.1 * expected[0].norm()  # direct feedback alignment
    rule.matrices = [net.readout.weight.detach().t().clone()]
    for found, wanted in zip(gradients(net, rule, x, labels), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)


def test_the_matrix_finds_the_readouts_weights():
    net, (x, labels) = mlp((12, 20, 3)).double(), batch()
    torch.manual_seed(0)
    rule = make_rule("opzo", momentum=0.99)
    cosines = []
    for _ in range(40):
        gradients(net, rule, x, labels)
        cosines.append(float(torch.cosine_similarity(rule.matrices[0].flatten(), net.readout.weight.t().flatten(), 0)))
    assert cosines[0] < cosines[-1]
    assert cosines[-1] > 0.95


def test_layers_do_not_see_each_other():
    """The first layer's gradient needs no weight behind it but M: it stays when they change and spikes do not."""
    net, (x, labels) = mlp((12, 20, 15, 3), surrogate="sigmoid").double(), batch()
    rule = make_rule("opzo", feedback="random")
    before = gradients(net, rule, x, labels)
    rule.matrices[1].mul_(-3)
    after = gradients(net, rule, x, labels)
    assert torch.equal(before[0], after[0])
    torch.testing.assert_close(after[1], -3 * before[1])


@pytest.mark.slow
def test_digits():
    split = load_data("digits")
    net = mlp((64, 100, 100, 10), bias=True, surrogate="sigmoid", input_shape=split.input_shape)
    trainer = Trainer(net, make_rule("opzo"), loss="cross-entropy", encoding="constant")
    trainer.fit(split.x_train, split.y_train, 15)
    assert evaluate(net, split.x_test, split.y_test, encoding="constant").accuracy >= 0.94


def test_a_convolution_and_what_is_refused():
    net = conv("4C3-AP2-6C3-GAP", input_shape=(1, 8, 8), num_classes=3)
    x, labels = 4 * torch.rand(6, 4, 1, 8, 8), torch.arange(6) % 3
    gradients(net, make_rule("opzo"), x, labels)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters() if p.ndim > 1)
    with pytest.raises(UsageError, match="a row of layers"):
        gradients(mlp((12, 5, 3), recurrent=True).double(), make_rule("opzo"), *batch())
    rule = make_rule("opzo")
    gradients(mlp((12, 5, 3)).double(), rule, *batch())
    with pytest.raises(UsageError, match="another network's"):
        gradients(mlp((12, 6, 3)).double(), rule, *batch())
    with pytest.raises(UsageError, match="noise: expected a number"):
        make_rule("opzo", noise=0.0)
    with pytest.raises(UsageError, match="momentum: expected"):
        make_rule("opzo", momentum=1.5)

"""Weights of one bit: their scale, their gradient, their ensemble, their teacher, and the chip."""

import numpy as np
import pytest
import torch
from ottt_loihi.converters import torch_integer
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.quantize import quantize

from ottt_loihi import sim
from ottt_loihi.data import load_data
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.connections import binarize
from ottt_loihi.nn.description import construct, describe
from ottt_loihi.nn.models import conv, mlp
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.losses import CrossEntropy, Distilled, SquaredError
from ottt_loihi.training.evaluation import evaluate
from ottt_loihi.training.trainer import Trainer

W = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("scale", ["channel", "layer"])
def test_the_scale_is_the_least_squares_one(scale):
    w = W.clone()
    w[0, 0, 0, 0] = 0.0
    found = binarize(w, scale)
    signs = torch.where(w < 0, -1.0, 1.0).to(w)
    parts = [(w, signs, found)] if scale == "layer" else list(zip(w, signs, found))
    for part, sign, values in parts:
        best = (part * sign).sum() / (sign * sign).sum()
        torch.testing.assert_close(values, best * sign)


def test_the_gradient_passes_where_weights_are_within_one():
    w = (2 * W).requires_grad_()
    g = torch.randn(W.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    binarize(w).backward(g)
    a = w.detach().abs().mean((1, 2, 3), keepdim=True)
    assert torch.equal(w.grad, a * g * (w.detach().abs() <= 1))
    assert 0 < int((w.grad == 0).sum()) < w.numel()


def _net(**settings):
    return mlp((8, 12, 12, 3), binary="channel", bias=True, surrogate="sigmoid", seed=2, **settings).double()


def test_without_leak_a_constant_input_gives_equal_outputs():
    net = _net(beta=0.0, reset="zero")
    x = torch.rand(4, 1, 8, dtype=torch.float64).expand(-1, 5, -1)
    (o,) = net.run(x, ("o",)).states["o"]
    assert torch.equal(o, o[:1].expand_as(o))


def test_sltt_is_the_sum_over_binary_networks_with_frozen_noise():
    """s[t] = H(W·x + ξ[t] − θ), ξ[t] = λ·v[t − 1] a constant: T networks that share their weights."""
    net, steps = _net(beta=0.5, shortcuts=True), 5
    x = torch.rand(4, steps, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0])
    make_rule("sltt").train_batch(net, x, labels, SquaredError(), None)
    found = [p.grad.clone() for p in net.parameters()]
    v = net.run(x, ("v",)).states["v"]
    net.zero_grad()
    for t in range(steps):
        out, before = x[:, t], None
        for index, block in enumerate(net.blocks):
            current = block.connection(out)
            current = current if block.skip is None else current + before
            noise = 0.5 * v[index][t - 1].detach() if t else 0.0
            out, before = block.neuron(current + noise).s, current
        SquaredError()(net.readout(out), labels, steps).backward()
    for g, p in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(g, p.grad, rtol=0, atol=1e-13)


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["ottt", pytest.param("sltt", marks=SLOW), pytest.param("bptt", marks=SLOW)])
def test_digits(rule):
    split = load_data("digits")
    net = mlp((64, 128, 128, 10), binary="layer", shortcuts=True, bias=True, input_shape=split.input_shape)
    trainer = Trainer(net, make_rule(rule), loss="cross-entropy", encoding="constant")
    trainer.fit(split.x_train, split.y_train, 12)
    assert evaluate(net, split.x_test, split.y_test, encoding="constant").accuracy >= 0.95
    (level,) = net.blocks[1].connection.effective().weight.detach().abs().unique()
    assert level > 0


@pytest.mark.slow
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("shortcuts", [False, True])
def test_the_chip_holds_one_bit_weights_exactly(reset, shortcuts):
    net = mlp((8, 12, 12, 3), binary="layer", seed=2, reset=reset, shortcuts=shortcuts, time_steps=20).double().eval()
    x = (torch.rand(30, 20, 8, generator=torch.Generator().manual_seed(3)) < 0.9).double()
    chip = quantize(from_torch(net), [8, 8 if shortcuts else "binary", 8]).chip
    stored = np.unique(np.abs(chip.inputs_of(1)[0].weight))
    assert len(stored) == 1
    messages = x.numpy().astype(np.int32)
    found, integer = (run(chip, messages, ("u", "v", "s")) for run in (sim.run, torch_integer.run))
    for name in ("u", "v", "s"):
        for a, b in zip(found.states[name], integer.states[name], strict=True):
            assert np.array_equal(a, b)
    if shortcuts:
        return
    # the layer alone, on the spikes that the first one really sent: threshold and decay are rounded, no weight is
    sent = torch.from_numpy(found.states["s"][0].reshape(20, 30, 12)).double()
    expected = np.stack(
        layer_spikes(net.blocks[1].neuron, net.blocks[1].connection.effective().weight.detach(), 1.0, sent)
    )
    assert 0.01 < expected.mean() < 0.9
    assert (found.states["s"][1].reshape(expected.shape) != expected).mean() < 0.005


def layer_spikes(neuron, weight, v_threshold, sent):
    return current_spikes(neuron, [s @ weight.T for s in sent], v_threshold)


def current_spikes(neuron, currents, v_threshold):
    v, spikes = 0.0, []
    for current in currents:
        u = neuron.beta * v + current
        fired = (u > v_threshold).double()
        v = u - v_threshold * fired if neuron.reset == "subtract" else u * (1 - fired)
        spikes.append(fired.numpy() != 0)
    return spikes


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_weights_of_one_with_a_folded_threshold_have_not_a_spike_of_difference(reset):
    net = mlp((8, 12, 12, 3), binary="layer", seed=2, reset=reset).double()
    sent = (torch.rand(20, 30, 12, generator=torch.Generator().manual_seed(3)) < 0.4).double()
    neuron, weight = net.blocks[1].neuron, net.blocks[1].connection.effective().weight.detach()
    plain = layer_spikes(neuron, weight, 1.0, sent)
    folded = layer_spikes(neuron, weight.sign(), 1.0 / float(weight.abs().max()), sent)
    assert 0.01 < np.mean(plain) < 0.9
    assert np.array_equal(plain, folded)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_batch_norm_folds_into_signs_biases_and_thresholds(reset):
    """γ·(a·Σ±s − μ)/σ + β = k·(Σ±s + b) with k = γ·a/σ, b = (β − γμ/σ)/k: a negative k turns the signs."""
    generator = torch.Generator().manual_seed(4)
    net = mlp((12, 12, 3), reset=reset).double()
    sent = (torch.rand(20, 30, 12, generator=generator) < 0.4).double()
    signs = torch.randn(12, 12, generator=generator, dtype=torch.float64).sign()
    a, sigma = (0.2 + torch.rand(2, 12, generator=generator, dtype=torch.float64)).unbind()
    gamma, beta, mean = torch.randn(3, 12, generator=generator, dtype=torch.float64).unbind()
    k = gamma * a / sigma
    normed = [gamma * (a * (x @ signs.t()) - mean) / sigma + beta for x in sent]
    folded = [x @ (k.sign()[:, None] * signs).t() + (beta - gamma * mean / sigma) / k.abs() for x in sent]
    assert (k < 0).any()
    plain = current_spikes(net.blocks[0].neuron, normed, 1.0)
    assert 0.01 < np.mean(plain) < 0.9
    assert np.array_equal(plain, current_spikes(net.blocks[0].neuron, folded, 1.0 / k.abs()))


def test_conv_and_checkpoint_know_it():
    net = conv("4C3-AP2-6C3-GAP", binary="channel", input_shape=(1, 8, 8))
    assert [s.binary for s in net.connections()] == [None, "channel", None]
    assert [s.binary for s in construct(describe(net)).connections()] == [None, "channel", None]
    with pytest.raises(UsageError, match="binary: expected one of channel, layer"):
        mlp(binary="row", sizes=(4, 3, 3, 2))


def test_distillation_wants_the_teachers_readout():
    z = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64)
    o = z.clone().requires_grad_()
    Distilled(CrossEntropy(0.0), z, 1.0, 2.0)(o, torch.tensor([1]), 4).backward()
    torch.testing.assert_close(o.grad, torch.zeros_like(z))
    o = torch.zeros_like(z).requires_grad_()
    Distilled(CrossEntropy(0.0), z, 1.0, 2.0)(o, torch.tensor([1]), 4).backward()
    expected = 2.0 / 4 * (torch.full_like(z, 1 / 3) - torch.softmax(z / 2, 1))
    torch.testing.assert_close(o.grad, expected)


@pytest.mark.slow
def test_a_student_learns_from_a_teacher_alone():
    split = load_data("digits")
    teacher = mlp((64, 128, 10), bias=True, input_shape=split.input_shape)
    common = {"loss": "cross-entropy", "encoding": "constant"}
    Trainer(teacher, make_rule("ottt"), **common).fit(split.x_train, split.y_train, 10)
    student = mlp((64, 64, 64, 10), binary="layer", bias=True, input_shape=split.input_shape, seed=1)
    wrong = np.zeros_like(split.y_train)  # kappa = 1: the labels do not matter
    Trainer(student, make_rule("ottt"), teacher=teacher, kappa=1.0, **common).fit(split.x_train, wrong, 15)
    assert evaluate(student, split.x_test, split.y_test, encoding="constant").accuracy > 0.9
    with pytest.raises(UsageError, match="teacher: expected inputs"):
        Trainer(mlp((8, 5, 3)), make_rule("ottt"), teacher=teacher)
    with pytest.raises(UsageError, match="kappa in"):
        Trainer(student, make_rule("ottt"), teacher=teacher, kappa=2.0)

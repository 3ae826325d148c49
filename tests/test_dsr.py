"""DSR: its neurons' identities, and its gradients against the clamp network's."""

import math

import numpy as np
import pytest
import torch
from ottt_loihi.converters import torch_integer
from ottt_loihi.converters.lava import graph as lava
from ottt_loihi.converters.quantize import float_run
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.forms import HELPER
from ottt_loihi.converters.quantize.quantize import quantize

from ottt_loihi import sim
from ottt_loihi.data import load_data
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.models import dsr, mlp
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.dsr import DSRNeuron
from ottt_loihi.rules.equilibrium import simulate
from ottt_loihi.rules.losses import SquaredError
from ottt_loihi.training.evaluation import evaluate
from ottt_loihi.training.trainer import Trainer

KINDS = {"if": {"kind": "if", "v_threshold": 1.0}, "lif": {"kind": "lif", "v_threshold": 0.05, "alpha": 0.3}}


def _net(kind):
    return dsr((9, 7), input_shape=(8,), num_classes=3, **KINDS[kind]).double()


@pytest.mark.parametrize("kind", KINDS)
def test_charge_identity(kind):
    neuron, T = DSRNeuron(**KINDS[kind]).double(), 50
    current = 0.6 * torch.rand(T, 100, dtype=torch.float64)
    beta, v, out = neuron.beta, None, 0.0
    for t in range(T):
        s, _, v = neuron(current[t], v)
        out = beta * out + s
    weights = torch.tensor([beta ** (T - 1 - t) for t in range(T)], dtype=torch.float64)
    unit, charge = (1.0, 1.0) if kind == "if" else (neuron.dt, 1 - beta)
    expected = (charge * (weights @ current) - v) / (unit * weights.sum())
    assert out.count_nonzero() > 50
    torch.testing.assert_close(out / weights.sum(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("alpha", "bound"), [(1.0, 1.0), (0.5, 0.5)])
def test_if_rate_of_a_constant_current(alpha, bound):
    neuron, T, v, total = DSRNeuron("if", 1.0, alpha).double(), 32, None, 0.0
    current = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for _ in range(T):
        s, _, v = neuron(current, v)
        total = total + s
    error = float((total / T - current).abs().max())
    assert 0.9 * bound / T < error <= bound / T + 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_exact_gradients_are_the_clamp_networks(kind):
    net, labels = _net(kind), torch.arange(16) % 3
    x = torch.rand(16, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x[:, None].expand(-1, 20, -1)
    make_rule("dsr").train_batch(net, x, labels, SquaredError(), None)
    found = [p.grad.clone() for p in net.parameters()]
    (weighted,) = simulate(net, x, net.blocks[0].neuron.beta)
    net.zero_grad()
    a, saturated = weighted.x, 0
    for block, rate in zip(net.blocks, weighted.blocks):
        neuron = block.neuron
        z = torch.nn.functional.linear(a, block.connection.weight, block.connection.bias) * neuron.gain
        clamp = torch.minimum(z.clamp(min=0), neuron.amplitude)
        saturated += int((z > neuron.amplitude).sum())
        a = clamp + (rate - clamp).detach()
    SquaredError()(net.readout(a), labels, 1).backward()
    assert saturated
    for got, parameter in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad, rtol=0, atol=1e-12)


def test_released_lif_threshold_gradient_is_multiplied_by_dt():
    x = 60 * torch.rand(16, 20, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.arange(16) % 3
    grads = {}
    for mode in ("exact", "released"):
        net = _net("lif")
        make_rule("dsr", gradients=mode).train_batch(net, x, labels, SquaredError(), None)
        grads[mode] = [(b.neuron.v_threshold.grad, b.connection.weight.grad) for b in net.blocks]
    (v, w), (v_released, w_released) = grads["exact"][0], grads["released"][0]
    assert v != 0
    torch.testing.assert_close(v_released, v * 0.05**2)
    assert (w - w_released).norm() / w.norm() > 1e-4


@pytest.mark.parametrize(("dt", "off"), [(0.05, 0.077), (0.2, 0.32)])
def test_released_weight_gradients_are_off_by_as_much_as_measured(dt, off):
    """The plain mean of 20 steps in place of the one weighted by β^(T−t), for inputs that spike 10 % of the time."""
    x = (torch.rand(16, 20, 200, generator=torch.Generator().manual_seed(1), dtype=torch.float64) < 0.1).double()
    found = []
    for mode in ("exact", "released"):
        net = dsr((30,), input_shape=(200,), num_classes=3, kind="lif", v_threshold=1.0, alpha=0.3, dt=dt).double()
        make_rule("dsr", gradients=mode).train_batch(net, x, torch.arange(16) % 3, SquaredError(), None)
        found.append(net.blocks[0].connection.weight.grad)
    exact, released = found
    assert float((released - exact).norm() / exact.norm()) == pytest.approx(off, rel=0.3)


def test_one_threshold_chip_form_has_the_same_spikes():
    for kind, given in KINDS.items():
        neuron, T = DSRNeuron(**given).double(), 60
        V, alpha, beta = float(neuron.v_threshold.detach()), neuron.alpha, neuron.beta
        current, v, u = torch.rand(T, 200, dtype=torch.float64), None, (1 - alpha) * V
        for t in range(T):
            s, _, v = neuron(current[t], v)
            u = u + current[t] if kind == "if" else beta * u + (1 - beta) * (current[t] + (1 - alpha) * V)
            fired = (u > V).double()
            u = u - V * fired
            assert torch.equal(fired, (s != 0).double())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lif", "if"])
def test_digits(kind):
    split = load_data("digits")
    given = {"v_threshold": 1.0} if kind == "if" else {"kind": "lif", "v_threshold": 0.3, "alpha": 0.3}
    net = dsr(input_shape=split.input_shape, **given)
    trainer = Trainer(net, make_rule("dsr"), loss="cross-entropy", encoding="constant")
    trainer.fit(split.x_train, split.y_train, 15)
    assert evaluate(net, split.x_test, split.y_test, encoding="constant").accuracy >= 0.95
    assert not math.isclose(float(net.blocks[0].neuron.v_threshold.detach()), given["v_threshold"])


def _lif_spikes(net, x):
    """Spikes of a converted network's own layers, by the LIF equations and nothing else."""
    sent = zip(net.layers[:-1], float_run.run(net, x))
    return [states for layer, states in sent if layer.name != HELPER]


def _trained(kind, bias=True):
    net = dsr((40, 30), input_shape=(20,), num_classes=5, bias=bias, **KINDS[kind]).double().eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for block in net.blocks:
            block.connection.weight.normal_(0, 0.4, generator=generator)
            if bias:
                block.connection.bias.uniform_(-0.1, 0.1, generator=generator)
    return net, (torch.rand(50, 20, 20, generator=generator) < 0.3).double()


@pytest.mark.parametrize("kind", KINDS)
def test_converted_network_has_not_a_spike_of_difference(kind):
    net, x = _trained(kind)
    expected = net.run(x, ("s",)).states["s"]
    for s, found in zip(expected, _lif_spikes(from_torch(net), x.numpy()), strict=True):
        assert 0.01 < found.mean() < 0.5
        assert np.array_equal(found.reshape(s.shape), s.numpy() != 0)


@pytest.mark.parametrize("kind", KINDS)
def test_chip_equals_torch_integer_and_mostly_the_float_network(kind):
    net, x = _trained(kind, bias=kind == "lif")
    chip = quantize(from_torch(net), 8).chip
    assert any(layer.u_init.any() for layer in chip.layers)
    messages = x.numpy().astype(np.int32)
    found, integer = (run(chip, messages, ("u", "v", "s")) for run in (sim.run, torch_integer.run))
    for name in ("u", "v", "s"):
        for a, b in zip(found.states[name], integer.states[name], strict=True):
            assert np.array_equal(a, b)
    first = net.run(x, ("s",)).states["s"][0].numpy() != 0
    assert (found.states["s"][0].reshape(first.shape) != first).mean() < 0.05


@pytest.mark.slow
@pytest.mark.lava
@pytest.mark.parametrize("kind", ["lif", "if"])
def test_lava_has_the_same_states(kind):
    net, x = _trained(kind, bias=kind == "lif")
    chip = quantize(from_torch(net), 8).chip
    messages = x.numpy().astype(np.int32)[:3]
    expected, found = (run(chip, messages, ("u", "v", "s")) for run in (sim.run, lava.run))
    for name in ("u", "v", "s"):
        for a, b in zip(expected.states[name], found.states[name], strict=True):
            assert np.array_equal(a, b)


def test_what_does_not_fit_is_refused():
    x, labels = torch.ones(2, 4, 8), torch.tensor([0, 1])
    with pytest.raises(UsageError, match="expected hidden layers of DSR neurons; use --network dsr"):
        make_rule("dsr").train_batch(mlp((8, 5, 3)), x, labels, SquaredError(), None)
    net = _net("if").float()
    with pytest.raises(UsageError, match="no surrogate gradient; use --rule dsr"):
        make_rule("ottt").train_batch(net, x, labels, SquaredError(), None)

"""IDE and SPIDE: the gradient of the equilibrium, exactly and by spikes, and the same network on the chip."""

import numpy as np
import pytest
import torch
from ottt_loihi.converters import torch_integer
from ottt_loihi.converters.lava import graph as lava
from ottt_loihi.converters.quantize.contraction import loop_norms, require_contraction
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.quantize import quantize
from test_memory import peak

from ottt_loihi import sim
from ottt_loihi.data import load_data
from ottt_loihi.errors import ChipError, TrainingError, UsageError
from ottt_loihi.nn.models import conv, dsr, mlp
from ottt_loihi.rules import equilibrium, make_rule
from ottt_loihi.rules.equilibrium import Rates, loop_norm, restrict
from ottt_loihi.rules.losses import SquaredError
from ottt_loihi.training.evaluation import evaluate
from ottt_loihi.training.trainer import Trainer

LOSS = SquaredError()


def one_layer(norm=0.5, **settings):
    """20 neurons, ‖F‖ = norm, θ = 1, float64."""
    net = mlp((8, 20, 3), recurrent=True, bias=True, beta=settings.pop("beta", 1.0), seed=4, **settings).double()
    (branch,) = net.blocks[0].branches
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        net.blocks[0].connection.bias.uniform_(0, 0.5, generator=generator)
        branch.connection.weight.mul_(norm / torch.linalg.matrix_norm(branch.connection.weight, 2))
    return net.eval()


def two_layers():
    return mlp((8, 12, 9, 3), recurrent=True, bias=True, beta=1.0, seed=5).double().eval()


def loop():
    """A loop through two convolutions."""
    net = conv("3C3-AP2-4C3-GAP", input_shape=(2, 6, 6), num_classes=3, feedback=True, beta=1.0, seed=6).double()
    with torch.no_grad():
        net.blocks[0].branches[0].connection.weight.normal_(generator=torch.Generator().manual_seed(2))
    return net.eval()


NETWORKS = {"one layer": one_layer, "two layers": two_layers, "loop": loop}


def prepared(kind):
    net = NETWORKS[kind]()
    restrict(net, 0.5)
    x = torch.rand(6, *net.input_shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return net, x, torch.arange(6) % 3


def at_equilibrium(net, x):
    """The rates a* by iterating the clamps, and the readout of them; no spikes."""
    rates = Rates(x, tuple(x.new_zeros(len(x), *b.shape) for b in net.blocks), (None,) * len(net.blocks))
    for _ in range(200):
        found = equilibrium.equilibrium(net, rates)
        clamped = (torch.clamp(c / theta, 0, 1) for c, theta in zip(found.currents, found.thresholds))
        rates = Rates(x, tuple(a.detach() for a in clamped), rates.masks)
    return equilibrium.equilibrium(net, rates)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("solver", ["broyden", "damped"])
def test_ide_is_the_finite_difference_of_the_equilibrium(kind, solver):
    net, x, labels = prepared(kind)
    found = at_equilibrium(net, x)
    assert all(m.double().mean() > 0.1 for m in found.open)
    total = LOSS(found.o, labels, 1)
    rule = make_rule("ide", solver=solver, tolerance=1e-12, max_iterations=300)
    found.add_gradients(net, total, rule.solve(found, found.output_error(total)))
    eps = 1e-6
    for parameter in net.parameters():
        index = int(parameter.grad.abs().argmax())
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[index] += sign * eps
                values.append(float(LOSS(at_equilibrium_o(net, x), labels, 1)))
                parameter.view(-1)[index] -= sign * eps
        assert abs((values[0] - values[1]) / (2 * eps) - float(parameter.grad.view(-1)[index])) < 1e-8


def at_equilibrium_o(net, x):
    with torch.enable_grad():
        return at_equilibrium(net, x).o.detach()


def test_the_solvers_find_the_dense_solution_and_not_the_released_one():
    net, x, labels = prepared("one layer")
    found = at_equilibrium(net, x)
    g = found.output_error(LOSS(found.o, labels, 1))
    f = net.blocks[0].branches[0].connection.weight.detach()
    expected, released = [], []
    for b in range(len(x)):
        j = torch.diag(found.open[0][b].double()) @ f
        expected.append(torch.linalg.solve(torch.eye(20) - j.T, g[b]))
        released.append(torch.linalg.solve(2 * torch.eye(20) - j.T, g[b]))
    for solver in ("broyden", "damped"):
        rule = make_rule("ide", solver=solver, tolerance=1e-13, max_iterations=300)
        beta = rule.solve(found, g)
        torch.testing.assert_close(beta, torch.stack(expected), rtol=0, atol=1e-12)
        assert (beta - torch.stack(released)).norm() > 0.3 * beta.norm()


@pytest.mark.parametrize("beta", [1.0, 0.99])
def test_rates_approach_the_equilibrium(beta):
    net = one_layer(beta=beta)
    x = torch.rand(6, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    exact = at_equilibrium(net, x).rates[0]
    errors = []
    for steps in (30, 100, 1000):
        (rates,) = equilibrium.simulate(net, x[:, None].expand(-1, steps, -1), beta)
        errors.append(float((rates.blocks[0] - exact).abs().max()))
    assert errors[2] < errors[1] < errors[0] < 0.15
    assert errors[2] < (0.003 if beta == 1 else 0.03)


def test_spide_error_identity_and_its_error_falls_with_the_steps():
    net, x, labels = prepared("one layer")
    (rates,) = equilibrium.simulate(net, x[:, None].expand(-1, 200, -1), net.blocks[0].neuron.beta)
    found = equilibrium.equilibrium(net, rates, by_rate=True)
    g = found.output_error(LOSS(found.o, labels, 1))
    g = g * (0.2 / g.abs().max())
    exact = make_rule("ide", tolerance=1e-13, max_iterations=300).solve(found, g)
    errors = []
    for steps in (50, 250, 1000, 4000):
        back = make_rule("spide", backward_steps=steps, loss_scale=1.0).run_backward(found, g)
        left = back.beta - found.transposed(back.beta)
        right = g - (back.u + found.transposed(back.last)) / steps
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)
        errors.append(float((back.beta - exact).norm() / exact.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 < errors[0] < 0.5


@pytest.mark.parametrize("kind", NETWORKS)
def test_spide_sends_nothing_but_spikes_backwards(kind, monkeypatch):
    net, x, labels = prepared(kind)
    seen = []
    plain = equilibrium.Equilibrium.transposed
    monkeypatch.setattr(
        equilibrium.Equilibrium, "transposed", lambda self, s: (seen.append(s.clone()), plain(self, s))[1]
    )
    rule = make_rule("spide", backward_steps=30, loss_scale=1.0)
    rule.train_batch(net, x[:, None].expand(-1, 30, *x.shape[1:]), labels, LOSS, None)
    not_spikes = sum(int((~torch.isin(v, torch.tensor([-1.0, 0.0, 1.0], dtype=v.dtype))).sum()) for v in seen)
    assert len(seen) == 30
    assert not_spikes == 0
    assert rule.spikes["backward"] > 0
    assert rule.spikes["forward"] > 0


def test_spide_gradient_points_where_ides_does():
    net, x, labels = prepared("loop")
    steps, grads = x[:, None].expand(-1, 100, *x.shape[1:]), {}
    for name, settings in (("ide", {}), ("spide", {"backward_steps": 4000, "loss_scale": 5.0})):
        net.zero_grad()
        make_rule(name, **settings).train_batch(net, steps, labels, LOSS, None)
        grads[name] = torch.cat([p.grad.flatten() for p in net.parameters()])
    assert torch.cosine_similarity(grads["ide"], grads["spide"], 0) > 0.98


def test_loop_norm_is_the_spectral_norm():
    net = one_layer(0.7)
    (branch,) = net.blocks[0].branches
    assert abs(loop_norm(net, 0, branch) - 0.7) < 1e-3
    net = mlp((8, 12, 3), recurrent=True, v_threshold=2.0).double()
    (branch,) = net.blocks[0].branches
    expected = float(torch.linalg.matrix_norm(branch.connection.weight.detach(), 2)) / 2
    assert abs(loop_norm(net, 0, branch) - expected) < 1e-3 * expected
    restrict(net, 0.25)
    assert abs(loop_norm(net, 0, branch) - 0.25) < 1e-3


@pytest.mark.parametrize("rule", ["ide", "spide"])
def test_memory_is_constant_in_the_number_of_time_steps(rule):
    net = mlp((50, 40, 10), recurrent=True, beta=0.95, v_threshold=2.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    given = {"not_converged": "continue", "max_iterations": 4} if rule == "ide" else {"backward_steps": 4}
    made = make_rule(rule, **given) if rule == "ide" else make_rule(rule, not_converged="continue", **given)
    few, many = (peak(net, made, steps, optimizer=optimizer) for steps in (2, 24))
    assert many <= 1.05 * few


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["ide", "spide"])
def test_digits(rule):
    split = load_data("digits")
    start = {"v_init": 1.0} if rule == "spide" else {}
    net = mlp((64, 100, 10), recurrent=True, bias=True, beta=0.99, v_threshold=2.0, time_steps=30, **start)
    net.input_shape = split.input_shape
    trainer = Trainer(net, make_rule(rule), loss="cross-entropy", encoding="constant")
    trainer.fit(split.x_train, split.y_train, 10)
    assert evaluate(net, split.x_test, split.y_test, encoding="constant").accuracy >= 0.95
    assert loop_norm(net, 0, net.blocks[0].branches[0]) <= 0.5 * 1.01


@pytest.mark.slow
@pytest.mark.lava
def test_on_the_chip_with_the_true_delay():
    net = one_layer(beta=0.95, v_init=0.5, time_steps=12)
    x = (torch.rand(3, 12, 8, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    chip = quantize(from_torch(net), 8).chip
    messages = x.numpy().astype(np.int32)
    found = [run(chip, messages, ("u", "v", "s")) for run in (sim.run, torch_integer.run, lava.run)]
    assert found[0].states["s"][0].any()
    for name in ("u", "v", "s"):
        for a, b, c in zip(*(result.states[name] for result in found), strict=True):
            assert np.array_equal(a, b)
            assert np.array_equal(a, c)


@pytest.mark.parametrize("kind", ["one layer", "loop"])
def test_feedback_still_contracts_as_integers(kind):
    net, _, _ = prepared(kind)
    if kind == "loop":  # three steps around on the chip
        net.blocks[0].branches[0].delay = 2
        net.check_shapes()
    chip = quantize(from_torch(net), 8).chip if kind == "loop" else quantize(from_torch(one_layer(beta=0.95)), 8).chip
    (norm,) = loop_norms(chip).values()
    assert abs(norm - 0.5) < 0.02
    assert require_contraction(chip)
    wild = quantize(from_torch(one_layer(1.3, beta=0.95)), 8).chip
    with pytest.raises(ChipError, match=r"multiplies a difference by 1\.3"):
        require_contraction(wild)


def test_bad_input_is_told():
    x, labels = torch.ones(2, 4, 8), torch.tensor([0, 1])
    net = one_layer(1.7).float()
    with pytest.raises(TrainingError, match=r"multiplies a difference by 1\.7"):
        make_rule("ide", max_norm=0).train_batch(net, x, labels, LOSS, None)
    net = one_layer(0.9).float()
    with pytest.raises(TrainingError, match=r"relative residual .* after 2 iterations, wanted 1e-12"):
        make_rule("ide", max_iterations=2, tolerance=1e-12).train_batch(net, x, labels, LOSS, None)
    with pytest.warns(UserWarning, match="relative residual"):
        make_rule("ide", max_iterations=2, tolerance=1e-12, not_converged="continue").train_batch(
            net, x, labels, LOSS, None
        )
    with pytest.raises(TrainingError, match="fire at every step; lower loss_scale"):
        make_rule("spide", loss_scale=1e6).train_batch(net, x, labels, LOSS, None)
    with pytest.raises(TrainingError, match="no error neuron fires"):
        make_rule("spide", loss_scale=1e-6).train_batch(net, x, labels, LOSS, None)
    with pytest.raises(UsageError, match='with reset="subtract" and one beta'):
        make_rule("ide").train_batch(mlp((8, 5, 3), reset="zero"), x, labels, LOSS, None)
    with pytest.raises(UsageError, match="expected LIF neurons"):
        make_rule("spide").train_batch(dsr((5,), input_shape=(8,), num_classes=3), x, labels, LOSS, None)
    with pytest.raises(UsageError, match="max_norm: expected a number"):
        make_rule("ide", max_norm=1.5)

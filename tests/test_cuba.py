"""Current-based neurons: OTTT against autograd in float64, constants per neuron, resets, and their description."""

import itertools

import pytest
import torch

from ottt_loihi.errors import FileError, UsageError
from ottt_loihi.nn.blocks import Block, Branch
from ottt_loihi.nn.connections import Conv2d, Linear, Readout
from ottt_loihi.nn.cuba import CubaLIF
from ottt_loihi.nn.description import construct, describe
from ottt_loihi.nn.modules import Stepwise
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIF
from ottt_loihi.rules import BPTT, OTTT
from ottt_loihi.rules.losses import SquaredError
from ottt_loihi.training.checkpoint import load, save

CLOSE = dict(rtol=1e-10, atol=1e-12)
TWO = torch.tensor([0.3, 0.6, 0.3, 0.6, 0.6, 0.3], dtype=torch.float64)  # decays of few groups
LEARN = ("alpha", "beta", "v_threshold")


def network(neuron, inputs=7, recurrent=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    branches = [Branch(Linear(6, 6, False, generator), 0, 1)] if recurrent else []
    net = Network(
        [Block(Linear(inputs, 6, True, generator), neuron, branches=branches)],
        Readout(6, 3, True, generator),
        input_shape=(inputs,),
        time_steps=9,
    ).double()
    net.blocks[0].connection.bias.data.uniform_(-0.1, 0.3, generator=generator)
    return net


def batch(seed=0, inputs=7):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(5, 9, inputs, generator=generator) < 0.5).double()
    return x, torch.randint(0, 3, (5,), generator=generator)


def gradients(net, rule):
    net.zero_grad()
    rule.backward(net, *batch(), SquaredError())
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert b[name].abs().max() > 1e-6, name  # a gradient of zeros would agree with anything
        torch.testing.assert_close(a[name], b[name], **CLOSE, msg=name)


@pytest.mark.parametrize("constants", ["one", "groups"])
@pytest.mark.parametrize("reset", ["subtract", "delayed", "none"])
def test_ottt_of_one_layer_is_bptt(reset, constants):
    """One hidden layer, reset detached: the recurrence inside it is all there is, so W, b, α, β, Vth are exact."""
    if constants == "one":
        values = dict(alpha=0.4, beta=0.7, v_threshold=0.8)
    else:
        values = dict(alpha=TWO, beta=1.2 * TWO, v_threshold=torch.linspace(0.5, 1.0, 6).double())
    net = network(CubaLIF(**values, reset=reset, learn=LEARN))
    assert len(net.blocks[0].neuron._pairs()[0]) == (1 if constants == "one" else 2)
    same(gradients(net, OTTT(update="sequence")), gradients(net, BPTT()))


def test_a_reset_to_a_potential_is_a_constant_to_ottt():
    """The whole reset term is detached: OTTT is autograd of u = β·u' + c, v' − u' a constant."""
    neuron = CubaLIF(0.4, 0.7, 0.6, "zero", v_reset=-0.2, learn=LEARN)
    net = network(neuron)
    found = gradients(net, OTTT(update="sequence"))
    x, labels = batch()
    alpha, beta, threshold = neuron.alpha, neuron.beta, neuron.v_threshold
    c = torch.zeros(5, 6).double()
    v, loss = torch.zeros(5, 6).double(), 0
    net.zero_grad()
    for t in range(9):
        c = alpha * c + net.blocks[0].connection(x[:, t])
        u = beta * v + c
        fired = (u > threshold).double()
        f = neuron.surrogate(u, float(threshold)).detach()
        s = fired.detach() + f * (u - threshold) - (f * (u - threshold)).detach()
        v = u + (torch.where(fired > 0, -0.2, u) - u).detach()
        loss = loss + SquaredError()(net.readout(s), labels, 9)
    loss.backward()
    same(found, {name: p.grad for name, p in net.named_parameters()})


def test_without_a_current_it_is_lif():
    for reset, convention in itertools.product(("subtract", "zero"), ("paper", "authors")):
        lif = network(LIF(0.7, 0.8, reset, convention=convention), recurrent=True)
        cuba = network(CubaLIF(0.0, 0.7, 0.8, reset, at_threshold=convention == "authors"), recurrent=True)
        same(gradients(cuba, OTTT(update="sequence")), gradients(lif, OTTT(update="sequence")))
        run, expected = (net.run(batch()[0], "uvs").states for net in (cuba, lif))
        assert all(torch.equal(a, b) for name in run for a, b in zip(run[name], expected[name]))


def test_a_trace_for_each_pair_of_decays_or_one_at_their_mean():
    """Groups equal single traces row by row; the mean is named, and not exact."""
    net = network(CubaLIF(TWO, 0.5, 0.8))
    found = gradients(net, OTTT(update="sequence"))
    weight = "blocks.0.connection.weight"
    for value, rows in ((0.3, [0, 2, 5]), (0.6, [1, 3, 4])):
        alone = network(CubaLIF(TWO, 0.5, 0.8, trace="mean"))
        alone.blocks[0].neuron._pairs = lambda value=value: ([(value, 0.5)], ())
        other = gradients(alone, OTTT(update="sequence"))[weight]
        torch.testing.assert_close(found[weight][rows], other[rows], **CLOSE)
    mean = gradients(network(CubaLIF(TWO, 0.5, 0.8, trace="mean")), OTTT(update="sequence"))[weight]
    assert (mean - found[weight]).abs().max() > 1e-3 * found[weight].abs().max()
    many = network(CubaLIF(torch.linspace(0.1, 0.9, 6), torch.linspace(0.1, 0.9, 6).view(1, 6)))
    gradients(many, OTTT(update="sequence"))
    wide = Network(
        [Block(Linear(7, 9), CubaLIF(torch.linspace(0.1, 0.9, 9)))], Readout(9, 3), input_shape=(7,), time_steps=9
    )
    with pytest.raises(UsageError, match=r"9 different decays.* at most 8.*'mean' or 'synapse', or train with BPTT"):
        gradients(wide.double(), OTTT(update="sequence"))


@pytest.mark.parametrize("reset", ["zero", "subtract", "delayed"])
def test_a_trace_for_every_synapse_makes_one_layer_bptt(reset):
    """After a reset to zero too, whose spike alone is a constant to BPTT; and for any number of different decays."""
    values = dict(alpha=torch.linspace(0.1, 0.9, 6), beta=torch.linspace(0.9, 0.3, 6), v_threshold=0.6)
    net = network(CubaLIF(**values, reset=reset, learn=LEARN, trace="synapse"))
    assert 0.1 < net.run(batch()[0], "s").states["s"][0].mean() < 0.9
    same(gradients(net, OTTT(update="sequence")), gradients(net, BPTT()))
    assert describe(construct(describe(net))) == describe(net)


def test_where_a_trace_for_every_synapse_is_refused():
    neuron = CubaLIF(0.4, 0.7, reset="zero", trace="synapse")
    net = Network([Block(Conv2d(1, 2, 3), neuron)], Readout(18, 2), input_shape=(1, 5, 5), time_steps=3)
    with pytest.raises(UsageError, match="every synapse of dense layers, got a Conv2d; use trace='exact'"):
        OTTT(update="sequence").backward(net, torch.ones(1, 3, 1, 5, 5), torch.tensor([0]), SquaredError())
    module = torch.nn.Sequential(torch.nn.Linear(7, 6), neuron, torch.nn.Linear(6, 3)).double()
    with pytest.raises(UsageError, match="use a Network of blocks"):
        OTTT(update="sequence").backward(module, *batch(), SquaredError())


def test_constants_of_channels_reach_their_channels():
    neuron = CubaLIF(0.0, torch.tensor([0.2, 0.8]).view(2, 1, 1), torch.tensor([0.1, 20.0]).view(2, 1, 1))
    net = Network([Block(Conv2d(1, 2, 3), neuron)], Readout(18, 2), input_shape=(1, 5, 5), time_steps=3)
    torch.nn.init.ones_(net.blocks[0].connection.weight)
    spikes = net.run(torch.ones(1, 3, 1, 5, 5), "s").states["s"][0]
    assert spikes[:, :, 0].all()
    assert not spikes[:2, :, 1].any()
    OTTT(update="sequence").backward(net, torch.ones(1, 3, 1, 5, 5), torch.tensor([0]), SquaredError())


def test_firing_at_the_threshold():
    current = torch.tensor([[1.0]])
    assert CubaLIF(at_threshold=True)(current).s.item() == 1
    assert CubaLIF()(current).s.item() == 0


def test_clamped_constants_stay_in_their_range():
    neuron = CubaLIF(learn=LEARN)
    for p in neuron.parameters():
        p.data -= 5
    assert [float(d) for d in neuron.decays()] == [0, 0]
    assert float(neuron.threshold()) == pytest.approx(1e-3)


def test_constants_are_described_saved_and_checked(tmp_path):
    neuron = CubaLIF(TWO.float(), 0.7, torch.linspace(0.5, 1, 6), "zero", v_reset=0.1, v_init=0.1, learn=["beta"])
    net = network(neuron).float()
    assert describe(construct(describe(net))) == describe(net)
    save(net, tmp_path / "model.pt")
    again = load(tmp_path / "model.pt")
    assert torch.equal(again.blocks[0].neuron.v_threshold, neuron.v_threshold)
    assert isinstance(again.blocks[0].neuron.beta, torch.nn.Parameter)
    assert torch.equal(again.run(batch()[0]).scores, net.run(batch()[0]).scores)
    neuron.v_threshold[2] = -1
    save(net, tmp_path / "model.pt")
    with pytest.raises(FileError, match="v_threshold: expected numbers > 0"):
        load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(alpha=1.5), "alpha: expected numbers in"),
        (dict(beta=torch.tensor([0.5, -0.1])), "beta: expected numbers in"),
        (dict(v_threshold=0.0), "v_threshold: expected numbers > 0"),
        (dict(v_threshold=torch.tensor([1])), "v_threshold: expected real numbers"),
        (dict(reset="later"), "reset: expected one of zero, subtract, delayed, none"),
        (dict(v_reset=0.5), "v_reset: only reset='zero'"),
        (dict(learn=["v_init"]), "learn: expected one of alpha, beta, v_threshold"),
        (dict(beta="x"), "beta: expected a number"),
    ],
)
def test_bad_constants(settings, message):
    with pytest.raises(UsageError, match=message):
        CubaLIF(**settings)


@pytest.mark.parametrize("alpha", [0.4, torch.tensor([0.4, 0.4, 0.4, 0.9, 0.9, 0.9])])
def test_in_a_module_of_torch(alpha):
    module = torch.nn.Sequential(torch.nn.Linear(7, 6), CubaLIF(alpha, 0.7, 0.8), torch.nn.Linear(6, 3)).double()
    net = network(CubaLIF(alpha, 0.7, 0.8))
    module[0].load_state_dict({n: getattr(net.blocks[0].connection, n) for n in ("weight", "bias")})
    module[2].load_state_dict({n: getattr(net.readout, n) for n in ("weight", "bias")})
    x, labels = batch()
    OTTT(update="sequence").backward(module, x, labels, SquaredError())
    torch.testing.assert_close(Stepwise(module).run(x), net.run(x).scores, **CLOSE)
    found = gradients(net, OTTT(update="sequence"))
    torch.testing.assert_close(module[0].weight.grad, found["blocks.0.connection.weight"], **CLOSE)


def test_traces_by_synapse_have_no_form_in_a_module():
    module = torch.nn.Sequential(torch.nn.Linear(7, 6), CubaLIF(0.4, 0.7, trace="synapse"), torch.nn.Linear(6, 3))
    with pytest.raises(UsageError, match="CubaLIF: trace='synapse' has no form for modules"):
        Stepwise(module)


def test_the_engine_is_the_plain_one():
    from ottt_loihi.training.engine import choose

    chosen = choose(network(CubaLIF()), OTTT(), SquaredError(), 9)
    assert chosen.name == "plain"
    assert "CubaLIF" in chosen.why

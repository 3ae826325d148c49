"""OTTT trains ordinary torch modules: the same gradients as our networks have, and whatever a user brings."""

import copy

import pytest
import torch
from ottt_loihi.converters.quantize.float_network import from_torch
from torch import nn
from torch.nn.utils import prune

import ottt_loihi as ol
from ottt_loihi.errors import ChipError, UsageError
from ottt_loihi.nn.blocks import Block
from ottt_loihi.nn.connections import Conv2d, Linear, Readout
from ottt_loihi.nn.models import conv, mlp
from ottt_loihi.nn.modules import Stepwise
from ottt_loihi.nn.network import Network, without_graph
from ottt_loihi.nn.neurons import LIF, LIFStep, Neuron, Trace
from ottt_loihi.nn.surrogates import Sigmoid
from ottt_loihi.nn.trace import with_trace
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.losses import CrossEntropy, SquaredError
from ottt_loihi.training.trainer import Trainer

RULES = {
    "ottt paper": ("ottt", {"update": "sequence"}, "paper"),
    "ottt authors": ("ottt", {"update": "sequence", "convention": "authors"}, "authors"),
    "sltt": ("sltt", {}, "paper"),
    "bptt": ("bptt", {}, "paper"),
}


def batch(shape, classes=3, steps=5):
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(4, steps, *shape, generator=generator) < 0.5).double()
    return x, torch.randint(classes, (4,), generator=generator)


def as_torch(net):
    """The same network of torch's layers, with the same weights."""
    parts = []
    for block in [*net.blocks, None]:
        c = net.readout if block is None else block.connection
        if c.pool is not None:
            parts.append(nn.AvgPool2d(c.pool))
        if isinstance(c, Conv2d):
            layer = nn.Conv2d(
                c.in_channels, c.out_channels, c.kernel_size, c.stride, c.padding, bias=c.bias is not None
            )
        else:
            parts.append(nn.Flatten())
            layer = nn.Linear(c.in_features, c.out_features, bias=c.bias is not None)
        layer.double().load_state_dict({name: p.detach().clone() for name, p in c.named_parameters()})
        parts.append(layer)
        if block is not None:
            parts.append(copy.deepcopy(block.neuron))
    return nn.Sequential(*parts).double()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_a_sequential_has_the_gradient_of_our_network(kind, rule):
    name, settings, convention = RULES[rule]
    common = dict(beta=0.6, convention=convention, bias=True, surrogate="sigmoid", seed=3)
    if kind == "dense":
        net = mlp((12, 9, 7, 3), input_shape=(3, 4), **common).double()
    else:
        net = conv("4C3-AP2-5C3S2-AP2", input_shape=(2, 12, 12), num_classes=3, **common).double()
    for p in net.parameters():
        p.data += 0.1 * torch.rand(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(7))
    x, labels = batch(net.input_shape)
    other = as_torch(net)
    found = make_rule(name, **settings).backward(other, x, labels, CrossEntropy(0.05))
    expected = make_rule(name, **settings).backward(net, x, labels, CrossEntropy(0.05))
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-12, atol=0)
    assert torch.equal(Stepwise(other).predict(x), net.predict(x))
    for p, q in zip(other.parameters(), net.parameters(), strict=True):
        assert float(q.grad.abs().max()) > 0
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-15)


class Slow(Neuron):
    """A neuron of a user's own: fires every time its membrane passes the threshold, and forgets half of its current."""

    def __init__(self, beta=0.7):
        super().__init__()
        self.beta, self.calls = beta, 0

    def forward(self, current, v=None, paths=None):
        self.calls += 1
        u = 0.5 * current if v is None else self.beta * v + 0.5 * current
        s = torch.sigmoid(8 * (u - 0.5))  # graded, with a derivative of its own
        return LIFStep(s, u, u * (1 - s))


class Doubled(LIF):
    def forward(self, current, v=None, paths=None):
        return super().forward(2 * current, v, paths)


class Flat:
    """A surrogate of a user's own."""

    def __call__(self, u, v_threshold):
        return torch.full_like(u, 0.25)


class Own(nn.Module):
    """A module with a shortcut, neurons of several kinds and torch's layers."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.out = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.a, self.b = Slow(), LIF(0.7, surrogate=Flat())

    def forward(self, x):
        hidden = self.a(self.one(x))
        return self.out(self.b(self.two(hidden)) + hidden)


@pytest.mark.parametrize("update", ["step", "sequence"])
def test_an_own_module_with_own_neurons_surrogate_and_loss_learns(update):
    torch.manual_seed(0)
    net, (x, labels) = Own().double(), batch((6,))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02)

    def loss(o, labels, time_steps):
        return nn.functional.multi_margin_loss(o, labels) / time_steps

    rule = make_rule("ottt", update=update)
    losses = [float(rule.train_batch(net, x, labels, loss, optimizer).loss) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]
    assert net.a.calls > 0


@pytest.mark.parametrize("rule", ["ottt", "sltt", "bptt", "saf-e", "dsr"])
def test_what_a_module_lacks_is_said(rule):
    x, labels = batch((6,))
    rule = make_rule(rule)
    for net, message in (
        (nn.Linear(6, 3), "Linear: expected layers of neurons"),
        (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), LIF(), nn.Linear(5, 3)), "BatchNorm1d: not affine"),
        ("net", "expected a Network or a torch.nn.Module, got str"),
    ):
        expected = f"{rule.name}: expected a Network" if rule.name in ("saf-e", "dsr") and net != "net" else message
        if expected:
            with pytest.raises(UsageError, match=expected):
                rule.backward(net, x, labels, SquaredError())


def test_neurons_that_run_twice_are_refused():
    neuron = LIF()
    net = nn.Sequential(nn.Linear(6, 6), neuron, nn.Linear(6, 6), neuron, nn.Linear(6, 3)).double()
    with pytest.raises(UsageError, match="LIF: runs twice in a time step"):
        make_rule("ottt").backward(net, *batch((6,)), SquaredError())


def small(neuron=None, **settings):
    torch.manual_seed(0)
    blocks = [Block(Linear(6, 5, bias=True), LIF(0.6) if neuron is None else neuron, **settings)]
    return Network(blocks, Readout(5, 3), input_shape=(6,), time_steps=5).double()


@pytest.mark.parametrize("rule", ["ottt", "sltt", "bptt"])
def test_a_neuron_of_ones_own_is_used_everywhere(rule):
    """5.1: a subclass of LIF was replaced by LIF in training and evaluation."""
    x, labels = batch((6,))
    own, doubled = small(Doubled(0.6)), small()
    with torch.no_grad():
        for p in doubled.blocks[0].connection.parameters():
            p.mul_(2)
    torch.testing.assert_close(own.run(x).scores, doubled.run(x).scores, rtol=1e-12, atol=0)
    found = make_rule(rule).backward(own, x, labels, SquaredError())
    expected = make_rule(rule).backward(doubled, x, labels, SquaredError())
    assert torch.equal(found.scores, expected.scores)
    for p, q in zip(own.blocks[0].parameters(), doubled.blocks[0].parameters()):
        torch.testing.assert_close(p.grad, 2 * q.grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize("rule", ["ottt", "sltt", "bptt", "saf-e"])
def test_a_surrogate_of_ones_own_is_used(rule):
    """5.11: kernels went by a surrogate's name."""

    class Wide(Sigmoid):
        def __call__(self, u, v_threshold):
            return torch.full_like(u, 0.25)

    x, labels = batch((6,))
    grads = []
    for surrogate in (Wide(), Flat(), Sigmoid()):
        net = small(LIF(0.6, surrogate=surrogate))
        make_rule(rule).backward(net, x, labels, SquaredError())
        grads.append(net.blocks[0].connection.weight.grad)
    assert torch.equal(grads[0], grads[1])
    assert not torch.equal(grads[0], grads[2])


@pytest.mark.parametrize("rule", ["ottt", "sltt", "bptt", "saf-e", "saf-f", "opzo"])
def test_a_weight_hook_gets_the_gradient_once_per_backward(rule):
    """5.2: it was called with None, and what it returned was bypassed."""
    net, (x, labels), seen = small(), batch((6,)), []

    def zero(gradient):
        assert isinstance(gradient, torch.Tensor)
        seen.append(gradient.clone())
        return torch.zeros_like(gradient)

    net.blocks[0].connection.weight.register_hook(zero)
    make_rule(rule).backward(net, x, labels, SquaredError())
    assert not net.blocks[0].connection.weight.grad.any()
    assert len(seen) == (5 if rule in ("ottt", "sltt", "saf-e", "opzo") else 1)
    other = small()
    make_rule(rule).backward(other, x, labels, SquaredError())
    if rule != "opzo":  # draws its noise
        torch.testing.assert_close(sum(seen), other.blocks[0].connection.weight.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("rule", ["ottt", "sltt", "bptt"])
def test_pruned_weights_are_those_of_now_and_stay_pruned(rule):
    """5.19: products used the weight of before the last update."""
    net, (x, labels) = small(), batch((6,))
    mask = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    prune.custom_from_mask(net.blocks[0].connection, "weight", mask)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(3):
        make_rule(rule).train_batch(net, x, labels, SquaredError(), optimizer)
        assert torch.equal(net(x), net(x))
    first = net(x).detach()
    prune.remove(net.blocks[0].connection, "weight")
    assert torch.equal(net(x), first)
    assert not net.blocks[0].connection.weight[~mask].any()


@pytest.mark.parametrize("rule", ["ottt", "sltt", "bptt"])
def test_forward_hooks_of_blocks_and_neurons_are_called_at_every_step(rule):
    net, calls = small(), []
    net.blocks[0].register_forward_hook(lambda *_: calls.append("block"))
    net.blocks[0].neuron.register_forward_hook(lambda *_: calls.append("neuron"))
    make_rule(rule).backward(net, *batch((6,)), SquaredError())
    assert calls == ["neuron", "block"] * 5


def test_torch_layers_in_blocks_have_the_same_gradients():
    x, labels = batch((6,))
    ours = small()
    theirs = Network([Block(nn.Linear(6, 5), LIF(0.6))], nn.Linear(5, 3, bias=False), input_shape=(6,), time_steps=5)
    theirs = theirs.double()
    theirs.load_state_dict(ours.state_dict())
    for net in (ours, theirs):
        make_rule("ottt").backward(net, x, labels, SquaredError())
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-15)
    with pytest.raises(UsageError, match="Linear has no rounded weights"):
        theirs.quantize(4)
    with pytest.raises(UsageError, match=r"block 1: Linear does not take an input of shape \(7,\)"):
        Network([Block(nn.Linear(6, 5), LIF())], nn.Linear(5, 3), input_shape=(7,), time_steps=5)


class Blunt(Neuron):
    """A neuron without a surrogate: nothing before it would learn."""

    beta = 0.5

    def forward(self, current, v=None, paths=None):
        return LIFStep(*[(current > 1).to(current.dtype)] * 3)


class Rootless(Neuron):
    forward = Blunt.forward


def by_hand(*connection):
    block = Block(nn.Sequential(*connection), LIF())
    return Network([block], Readout(5, 3), input_shape=(6,), time_steps=5)


class Short(Neuron):
    beta = 0.5

    def forward(self, current):
        return LIFStep(current, current, current)


def of(neuron):
    return Network([Block(Linear(6, 5), neuron)], Readout(5, 3), input_shape=(6,), time_steps=5).double()


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: of(Blunt()), "Blunt: s carries no gradient of the current, and nothing before it would learn"),
        (lambda: of(Rootless()), "Rootless: expected a number beta"),
        (lambda: of(Short()), r"Short: expected forward\(current, v, paths\), got forward\(current\)"),
        (lambda: of(LIF(surrogate=lambda u, threshold: u[:, :2])), r"surrogate: expected f\(u\) of u's shape \(4, 5\)"),
        (lambda: of(LIF(surrogate=lambda u, threshold: None)), r"surrogate: expected f\(u\) .* got NoneType"),
    ],
)
def test_parts_of_ones_own_that_cannot_learn_are_named(run, message):
    x, labels = batch((6,))
    with pytest.raises(UsageError, match=message):
        make_rule("ottt").backward(run(), x, labels, SquaredError())


def test_what_is_no_network_or_no_rule_is_named():
    with pytest.raises(UsageError, match=r"Trainer: expected a Network, got Linear; ol\.load reads one"):
        Trainer(nn.Linear(6, 3), make_rule("ottt"))
    with pytest.raises(UsageError, match=r"Trainer: expected a rule such as ol\.OTTT\(\), got 'ottt'"):
        Trainer(small(), "ottt")
    with pytest.raises(UsageError, match=r"export: expected a Network, got Linear; .* ol\.from_module makes a network"):
        ol.export(nn.Linear(6, 3))
    with pytest.raises(UsageError, match="x: expected a tensor"):
        ol.backward(small(), make_rule("ottt"), [[1]], None, SquaredError())
    with pytest.raises(UsageError, match="time_steps: expected a positive integer, got 0"):
        mlp((6, 5, 3), time_steps=0)


def test_a_neuron_that_returns_the_wrong_thing_is_named():
    class Odd(Neuron):
        beta = 0.5

        def __init__(self, result):
            super().__init__()
            self.result = result

        def forward(self, current, v=None, paths=None):
            return self.result(current)

    x, labels = batch((6,))
    for result, message in (
        (lambda c: c, "Odd: expected LIFStep.* got Tensor"),
        (lambda c: (c, c), "Odd: expected LIFStep"),
        (lambda c: LIFStep(c[:, :2], c, c), r"Odd: s has shape \(4, 2\), expected that of the current, \(4, 5\)"),
    ):
        with pytest.raises(UsageError, match=message):
            make_rule("ottt").backward(small(Odd(result)), x, labels, SquaredError())


@pytest.mark.parametrize("loss", [lambda o, y, t: o, lambda o, y, t: 1.0, lambda o, y, t: o.sum(1)])
def test_a_loss_that_is_no_scalar_is_refused(loss):
    with pytest.raises(UsageError, match="loss: expected a scalar tensor"):
        make_rule("ottt").backward(small(), *batch((6,)), loss)


def test_prediction_drops_nothing():
    """5.9: after training, two predictions of one input differed."""
    net, (x, labels) = small(dropout=0.5), batch((6,))
    make_rule("ottt").train_batch(net, x, labels, SquaredError(), torch.optim.SGD(net.parameters(), lr=0.1))
    assert net.training
    expected = copy.deepcopy(net).eval().run(x).predictions
    assert all(torch.equal(net.predict(x), expected) for _ in range(10))
    assert net.training


@pytest.mark.parametrize("change", [{"beta": 0.9}, {"v_threshold": 2.0}, {"reset": "zero"}, {"v_init": 0.5}])
def test_weights_of_other_neurons_are_not_loaded_in_silence(change):
    """5.20: all keys matched."""
    net = small(LIF(0.6))
    small(LIF(0.6)).load_state_dict(net.state_dict())
    with pytest.raises(UsageError, match=f"belong to neurons with {next(iter(change))}"):
        small(LIF(**{"beta": 0.6, **change})).load_state_dict(net.state_dict())
    earlier = {name: value for name, value in net.state_dict().items() if not name.endswith("_extra_state")}
    small(LIF(0.6)).load_state_dict(earlier)


def test_opzos_random_matrices_differ_by_layer_and_by_seed():
    """5.5: layers of one size had one matrix, for every seed."""

    def matrices(seed):
        net, rule = mlp((6, 8, 8, 3)).double(), make_rule("opzo", feedback="random", seed=seed)
        rule.backward(net, *batch((6,)), SquaredError())
        return rule.matrices

    one, again, other = matrices(0), matrices(0), matrices(1)
    assert not torch.equal(one[0], one[1])
    assert torch.equal(one[0], again[0])
    assert not torch.equal(one[0], other[0])


def test_the_authors_gain_of_a_branch_learns_from_the_current_spikes():
    connection = Linear(4, 3, skip_gain=True).double()
    connection.skip_gain.data.fill_(0.5)
    x = (torch.rand(2, 4, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    for current, expected in ((("skip_gain",), x), ((), torch.full_like(x, 0.3))):
        connection.zero_grad()
        with_trace(connection, x, Trace(torch.full_like(x, 0.3)), current=current).sum().backward()
        plain = copy.deepcopy(connection)
        plain.zero_grad()
        plain(expected).sum().backward()
        torch.testing.assert_close(connection.skip_gain.grad, plain.skip_gain.grad, rtol=1e-12, atol=0)


def test_the_authors_rectangle_is_closed():
    u = torch.tensor([0.0, 0.5, 2.0, 2.5])
    assert LIF(surrogate="rectangle").surrogate(u, 1.0).tolist() == [0, 1, 0, 0]
    assert LIF(surrogate="rectangle", convention="authors").surrogate(u, 1.0).tolist() == [1, 1, 1, 0]


class Sub(Linear):
    pass


class SubNetwork(Network):
    def read(self, *arguments):
        o, trace = super().read(*arguments)
        return -o, trace


class SubBlock(Block):
    def forward(self, *arguments, **settings):
        return super().forward(*arguments, **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda net: setattr(net.blocks[0], "neuron", Doubled()),
            "hidden 1: neurons of type Doubled cannot be exported",
        ),
        (lambda net: setattr(net.blocks[0], "neuron", Slow()), "hidden 1: neurons of type Slow cannot be exported"),
        (lambda net: setattr(net.blocks[0], "connection", Sub(6, 5)), "a Sub cannot be exported"),
        (lambda net: setattr(net.blocks[0], "connection", nn.Bilinear(6, 5, 1)), "a Bilinear cannot be exported"),
        (lambda net: prune.random_unstructured(net.blocks[0].connection, "weight", 0.5), "a hook prunes its weights"),
        (lambda net: setattr(net, "__class__", SubNetwork), "network: a SubNetwork cannot be exported"),
        (lambda net: setattr(net.blocks[0], "__class__", SubBlock), "hidden 1: a SubBlock cannot be exported"),
        (
            lambda net: net.blocks[0].connection.register_forward_hook(lambda m, x, o: 2 * o),
            "hidden 1: its Linear has a hook, which no chip would call; remove it first",
        ),
        (lambda net: net.blocks[0].neuron.register_forward_pre_hook(lambda m, x: x), "its LIF has a hook"),
        (lambda net: net.blocks[0].register_forward_hook(lambda m, x, o: o), "its Block has a hook"),
        (lambda net: nn.utils.spectral_norm(net.readout), "readout: its Readout has a hook"),
        (lambda net: setattr(net.readout, "forward", lambda x: x), "its Readout has a method forward of its own"),
    ],
)
def test_what_the_exporter_does_not_know_is_refused_by_name(change, message):
    net = small()
    change(net)
    with pytest.raises(ChipError, match=message):
        from_torch(net)


def test_a_step_leaves_its_arguments_as_they_are():
    """5.15: with an online rule's weights, a step destroyed the state it was given."""
    net, (x, _) = small(), batch((6,))
    paths = make_rule("ottt").paths
    _, state = net.step(x[:, 0], None, paths)
    kept = copy.deepcopy(without_graph(state))
    found = [net.step(x[:, 1], state, paths)[0] for _ in range(2)]
    assert torch.equal(*found)
    assert str(kept) == str(without_graph(state))


class Learnt(Neuron):
    """A neuron whose beta learns, as snnTorch's Leaky(learn_beta=True)."""

    def __init__(self, beta=0.6):
        super().__init__()
        self.beta = beta

    def forward(self, current, v=None, paths=None):
        u = current if v is None else self.beta * v + current
        s = torch.sigmoid(5 * (u - 1))
        return LIFStep(s, u, (u - s).detach())


@pytest.mark.parametrize("kind", ["network", "module"])
def test_a_beta_that_learns_has_no_gradient_from_the_traces(kind):
    """Its gradient is that of u[t] = β·v[t−1] + I[t] alone; the traces that β makes added theirs to it."""

    def make(beta):
        if kind == "network":
            return of(Learnt(beta))
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), Learnt(beta), nn.Linear(5, 3)).double()

    found, (x, labels) = {}, batch((6,))
    for traced in (True, False):
        torch.manual_seed(0)
        net = make(nn.Parameter(torch.tensor(0.5)))
        if not traced:  # the same traces, from a number
            for part in net.modules():
                if isinstance(part, Learnt):
                    part.follow = LIF(0.5).follow
        make_rule("ottt", update="sequence").backward(net, x, labels, SquaredError())
        found[traced] = [p.grad for p in net.parameters()]
    for p, q in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=0)
    each = make(nn.Parameter(torch.full((5,), 0.6)))
    with pytest.raises(UsageError, match=r"beta: a trace decays with one number .* got a tensor \(5,\)"):
        make_rule("ottt").backward(each, x, labels, SquaredError())
    make_rule("sltt").backward(each, x, labels, SquaredError())  # keeps no trace


class Half(Neuron):
    beta = 0.5

    def forward(self, current, v=None, paths=None):
        return LIFStep(current[:1], current, current)


class Other(Half):
    def forward(self, current, v=None, paths=None):
        return LIFStep(*[current.float()] * 3)


class Pair(Half):
    def forward(self, current, v=None, paths=None):
        return current, current


class Named(nn.Sequential):
    def forward(self, x):
        return self[2](self[1](self[0](input=x)))


def plain(*parts):
    return nn.Sequential(nn.Linear(6, 5), *parts, nn.Linear(5, 3))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (plain(Half()), r"Half: s has shape \(1, 5\), expected that of the current, \(4, 5\)"),
        (plain(Pair()), r"Pair: expected LIFStep\(s, u, v\) of three tensors, got tuple"),
        (plain(Other()), r"Other: s is torch.float32, expected the current's torch.float64"),
        (of(Other()), r"Other: s is torch.float32, expected the current's torch.float64"),
        (plain(Rootless()), "Rootless: expected a number beta"),
        (plain(Learnt("x")), "Learnt: expected a number beta, .* got 'x'"),
        (Named(nn.Linear(6, 5), LIF(), nn.Linear(5, 3)), "Linear: expected its input as the first argument"),
        (nn.Sequential(LIF()), "Sequential: expected layers with parameters"),
        (plain(LIF(), nn.PReLU()), "PReLU: not affine"),
        (plain(LIF(), nn.MaxPool1d(1)), "MaxPool1d: max pooling of spikes has no gradient"),
        (plain(LIF(), nn.ConvTranspose1d(5, 5, 1)), "ConvTranspose1d: transposed convolutions are not trained"),
        (plain(LIF()).requires_grad_(False), "every parameter is frozen"),
        (small().requires_grad_(False), "every parameter is frozen"),
        (plain(Short()), r"Short: expected forward\(current, v, paths\)"),
        (small().to("meta"), "the weights are on the meta device"),
        (by_hand(nn.Linear(6, 5), nn.LayerNorm(5)), "LayerNorm: not affine"),
        (by_hand(nn.Linear(6, 5), nn.ReLU()), "ReLU: not affine .* neurons in place of activations"),
        (by_hand(nn.MaxPool1d(1), nn.Linear(6, 5)), "MaxPool1d: max pooling"),
        (by_hand(nn.Linear(6, 5), nn.Unflatten(1, (5, 1)), nn.ConvTranspose1d(5, 5, 1), nn.Flatten()), "ConvTr"),
    ],
)
def test_what_no_trace_follows_is_named(net, message):
    with pytest.raises(UsageError, match=message) as raised:
        make_rule("ottt").backward(net.double(), *batch((6,)), SquaredError())
    assert "\n" not in str(raised.value)


def test_a_connection_that_is_not_affine_learns_without_traces():
    for rule in ("sltt", "bptt"):
        net = by_hand(nn.Linear(6, 5), nn.ReLU())
        make_rule(rule).backward(net.double(), *batch((6,)), SquaredError())


@pytest.mark.parametrize("rule", ["saf-e", "saf-f", "ide", "spide", "s-tllr", "tess", "otpe", "a-otpe"])
def test_rules_that_take_the_step_of_a_block_themselves_refuse_what_they_would_not_call(rule):
    """Hooks of blocks, and of neurons under SAF, were ignored, as was a subclass of LIF by eligibilities."""
    x, labels = batch((6,))
    for change, message in (
        (lambda net: net.blocks[0].register_forward_hook(lambda *_: None), "block 1 has a hook, which this rule"),
        (lambda net: net.blocks[0].neuron.register_forward_hook(lambda *_: None), "block 1 has a hook"),
        (lambda net: setattr(net.blocks[0], "__class__", SubBlock), "block 1 has a forward of a SubBlock"),
        (lambda net: setattr(net.blocks[0], "neuron", Doubled(0.6)), "expected LIF neurons"),
    ):
        net = small(LIF(0.6))
        change(net)
        with pytest.raises(UsageError, match=f"{rule}: {message}"):
            make_rule(rule).backward(net, x, labels, SquaredError())

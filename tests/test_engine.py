"""All rules on all networks: METHODS.md's identities beyond fully connected layers, in float64.

The oracle is plain autograd: the same forward pass written with torch's own operators, the recurrence of each layer
kept or cut as the identity says.
"""

import pytest
import torch

from ottt_loihi.errors import UsageError
from ottt_loihi.fast.lif import LeanStep
from ottt_loihi.nn.blocks import Branch, Skip
from ottt_loihi.nn.connections import Conv2d, Elementwise, standardize
from ottt_loihi.nn.inputs import ConstantInput, frames
from ottt_loihi.nn.models import conv, mlp, nf_resnet34, vgg, vgg_f
from ottt_loihi.nn.neurons import LIF, Stream, fire
from ottt_loihi.nn.paths import ottt_paths
from ottt_loihi.rules import make_rule, three_factors
from ottt_loihi.rules.losses import CrossEntropy, SquaredError

T = 5
SMALL = {"beta": 0.6, "surrogate": "sigmoid", "time_steps": T}
IMAGE = {**SMALL, "input_shape": (2, 8, 8), "num_classes": 3}


def networks(convention="paper", reset="subtract"):
    """One small network of every kind, all of whose neurons have something to do."""
    common = {"convention": convention, "reset": reset}
    nets = {
        "dense": mlp((12, 9, 7, 3), bias=True, **SMALL, **common),
        "recurrent": mlp((12, 9, 3), bias=True, recurrent=True, **SMALL, **common),
        "elementwise": mlp((12, 9, 3), bias=True, recurrent="elementwise", **SMALL, **common),
        "conv": conv("4C3-AP2-6C3S2G2-8F", **IMAGE, **common),
        "sws": conv("4C3-AP2-6C3-GAP", standardized=True, **IMAGE, **common),
        "vgg_f": conv("4C3-AP2-6C3-6C3-GAP", standardized=True, feedback=True, **IMAGE, **common),
        "delays": conv(
            "4C3-AP2-6C3-6C3-GAP", standardized=True, feedback=True, feedback_delay="chip", **IMAGE, **common
        ),
        "nf": nf_resnet34(3, input_shape=(2, 16, 16), stages=((4, 2), (6, 2)), **SMALL, **common),
    }
    generator = torch.Generator().manual_seed(1)
    for net in nets.values():
        net.double()
        for name, p in net.named_parameters():
            if not name.endswith("weight") or p.detach().abs().max() == 0:
                p.data.uniform_(0.2, 0.6, generator=generator)
            else:
                p.data *= 1.5
        for block in net.blocks:
            for branch in block.branches:
                branch.connection.weight.data.uniform_(-0.3, 0.3, generator=generator)
    return nets


KINDS = tuple(networks())
SQUARED = SquaredError()
FEED_FORWARD = ("dense", "conv", "sws", "nf")


def batch(net, n=3, seed=0, constant=False):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    if constant:
        frame = torch.rand(n, *net.input_shape, generator=generator, dtype=torch.float64)
        return ConstantInput(frame, T), labels
    return (torch.rand(n, T, *net.input_shape, generator=generator) < 0.5).double(), labels


def gradients(net, rule, x, labels, loss=SQUARED):
    net.zero_grad()
    result = rule.train_batch(net, x, labels, loss, None)
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}, result


def plain_step(net, x, v, history, past):
    """One step with torch's operators only; ``history``: spikes of the steps before, the newest last; ``past``: which
    blocks' membranes keep their graph."""
    out, currents, spikes, membranes = x, [], [], []
    for i, block in enumerate(net.blocks):
        current = plain_connection(block.connection, out)
        for branch in block.branches:
            if net.convention == "authors" and len(history) <= branch.delay:
                continue  # the released code's feedback begins with the first spikes that arrive, its bias too
            steps = [[torch.zeros_like(a) for a in history[0]]] * branch.delay + history[1:] + [spikes]
            source = steps[-1 - branch.delay][branch.source]
            current = current + plain_connection(branch.connection, source)
        if block.skip is not None:
            current = current + block.skip.factor * currents[block.skip.source]
        u = block.neuron.beta * (v[i] if i in past else v[i].detach()) + current
        if isinstance(block.neuron, Stream):
            s = u = current
        else:
            s = fire(u, block.neuron.v_threshold, block.neuron.surrogate, block.neuron.convention)
        held = s.detach()
        if isinstance(block.neuron, Stream):
            membranes.append(torch.zeros_like(u))
        else:
            by_subtraction = block.neuron.reset == "subtract"
            membranes.append(u - block.neuron.v_threshold * held if by_subtraction else u * (1 - held))
        spikes.append(s)
        currents.append(current)
        out = s
    return plain_connection(net.readout, out), membranes, spikes


def plain_connection(connection, x):
    functional = torch.nn.functional
    weight = standardize(connection.weight, connection.gain) if connection.gain is not None else connection.weight
    x = x * connection.input_scale
    if connection.pool == "global":
        x = functional.adaptive_avg_pool2d(x, 1)
    elif connection.pool is not None:
        x = functional.avg_pool2d(x, connection.pool)
    if isinstance(connection, Elementwise):
        return x * weight
    if isinstance(connection, Conv2d):
        x = x.repeat_interleave(connection.upsample, 2).repeat_interleave(connection.upsample, 3)
        geometry = dict(stride=connection.stride, padding=connection.padding, groups=connection.groups)
        y = functional.conv2d(x, weight, connection.bias, **geometry)
        if connection.pool_after is not None:
            y = functional.avg_pool2d(y, *connection.pool_after)
    else:
        y = functional.linear(x.flatten(1), weight, connection.bias)
    return y * connection.output_scale * (1 if connection.skip_gain is None else connection.skip_gain)


def oracle(net, x, labels, past, loss=SQUARED, through_time=False):
    net.zero_grad()
    v = [torch.zeros(len(x), *b.shape, dtype=torch.float64) for b in net.blocks]
    history = [[torch.zeros(len(x), *b.shape, dtype=torch.float64) for b in net.blocks]]
    total = 0
    for frame in frames(x):
        o, v, s = plain_step(net, frame, v, history, past)
        history.append(s if through_time else [a.detach() for a in s])
        total = total + loss(o, labels, x.shape[1])
    total.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def assert_same(found, expected, names=None):
    names = list(expected) if names is None else names
    assert names
    scale = max(float(g.abs().max()) for g in expected.values())
    for name in names:
        assert expected[name].abs().max() > 1e-8, f"{name}: an all-zero gradient would agree with anything"
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-13 * scale)


def into(net, index):
    """Names of the parameters that feed block ``index``."""
    return [name for name, _ in net.named_parameters() if name.startswith(f"blocks.{index}.")]


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("kind", KINDS)
def test_bptt_is_autograd(kind, reset):
    net = networks(reset=reset)[kind]
    x, labels = batch(net)
    found, _ = gradients(net, make_rule("bptt"), x, labels)
    if reset == "subtract":
        every = set(range(len(net.blocks)))
        assert_same(found, oracle(net, x, labels, every, through_time=True))


@pytest.mark.parametrize("kind", KINDS)
def test_sltt_is_autograd_without_time(kind):
    net = networks()[kind]
    x, labels = batch(net)
    found, _ = gradients(net, make_rule("sltt"), x, labels)
    assert_same(found, oracle(net, x, labels, set()))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_identity_3_every_connection_has_the_gradient_of_its_own_recurrence(kind, constant):
    """OTTT's gradient of what feeds a block = autograd with the recurrence kept in that block alone."""
    net = networks()[kind]
    x, labels = batch(net, constant=constant)
    found, _ = gradients(net, make_rule("ottt", update="sequence"), x, labels, CrossEntropy(0.05))
    for index in range(len(net.blocks)):
        if any(b.skip is not None and b.skip.source == index for b in net.blocks):
            continue  # its current has a second way out, which the trace's λ describes only together with it
        assert_same(found, oracle(net, x, labels, {index}, CrossEntropy(0.05)), into(net, index))


def test_identity_4_the_authors_first_layer_and_biases_have_no_trace():
    for kind in ("conv", "sws", "vgg_f", "recurrent"):
        net = networks("authors")[kind]
        x, labels = batch(net)
        found, _ = gradients(net, make_rule("ottt", update="sequence", convention="authors"), x, labels)
        expected = oracle(net, x, labels, set())
        first = ["blocks.0.connection.weight"]
        assert_same(found, expected, first + [name for name in expected if name.endswith("bias")])


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("rule", ["ottt", "sltt", "saf-e", "saf-f", "bptt"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_input_constant_in_time_is_only_faster(kind, rule, constant):
    if rule == "saf-f" and kind not in FEED_FORWARD:
        return
    net = networks()[kind]
    x, labels = batch(net, constant=True)
    found, one = gradients(net, make_rule(rule), x, labels)
    expected, two = gradients(net, make_rule(rule), x.dense(), labels)
    torch.testing.assert_close(one.scores, two.scores, rtol=1e-12, atol=1e-12)
    assert_same(found, expected)


@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize("kind", KINDS)
def test_identity_6_the_batch_gradient_is_the_mean_of_the_samples(kind, convention):
    net = networks(convention)[kind]
    x, labels = batch(net)
    rule = make_rule("ottt", update="sequence", convention=convention)
    whole, _ = gradients(net, rule, x, labels)
    single = [gradients(net, rule, x[i : i + 1], labels[i : i + 1])[0] for i in range(len(x))]
    assert_same({name: torch.stack([g[name] for g in single]).mean(0) for name in whole}, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_identity_8_without_memory_ottt_is_sltt(kind):
    net = networks()[kind]
    for block in net.blocks:
        block.neuron.beta = 0.0
        if block.connection.bias is not None:
            block.connection.bias.data += 0.9  # no past helps a neuron to fire
    x, labels = batch(net)
    expected, _ = gradients(net, make_rule("sltt"), x, labels)
    assert_same(gradients(net, make_rule("ottt", update="sequence"), x, labels)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_identities_10_and_11_saf_e_has_the_spikes_and_the_gradient_of_ottt(kind):
    net = networks()[kind]
    x, labels = batch(net)
    expected, ottt = gradients(net, make_rule("ottt", update="sequence"), x, labels)
    found, saf = gradients(net, make_rule("saf-e"), x, labels)
    torch.testing.assert_close(saf.scores, ottt.scores, rtol=1e-12, atol=1e-12)
    assert_same(found, expected)


@pytest.mark.parametrize("kind", FEED_FORWARD)
def test_identity_12_saf_f_has_the_gradient_of_the_spike_representation(kind):
    v_threshold = 0.8
    net = networks()[kind]
    for block in net.blocks:
        block.neuron.v_threshold = v_threshold
    x, labels = batch(net)
    found, _ = gradients(net, make_rule("saf-f"), x, labels)
    expected = _spike_representation(net, x, labels)
    after = {"dense": (2, 1), "conv": (3, 2, 1), "sws": (2, 1)}.get(kind)
    if after is None:  # the residual stream mixes paths of different lengths: only Vth = 1 leaves no factor
        for block in net.blocks:
            block.neuron.v_threshold = 1.0
        return assert_same(gradients(net, make_rule("saf-f"), x, labels)[0], _spike_representation(net, x, labels))
    for index, neurons in enumerate(after):
        scaled = {name: expected[name] * v_threshold**neurons for name in into(net, index)}
        assert_same(found, scaled, [n for n in scaled if scaled[n].abs().max() > 1e-8])


def _spike_representation(net, x, labels):
    """a = clamp(I*/Vth, 0, 1) layer by layer, at the rates that the simulation has."""
    net.zero_grad()
    beta = net.blocks[0].neuron.beta
    with torch.no_grad():
        spikes = net.run(x, record=("s",)).states["s"]
    weights = torch.tensor([beta ** (T - 1 - t) for t in range(T)], dtype=torch.float64)
    weights = weights / weights.sum()
    rates, currents = [], []
    a = torch.einsum("t,nt...->n...", weights, x)
    for i, block in enumerate(net.blocks):
        current = plain_connection(block.connection, a)
        for branch in block.branches:
            current = current + plain_connection(branch.connection, rates[branch.source])
        if block.skip is not None:
            current = current + block.skip.factor * currents[block.skip.source]
        clamp = (current / block.neuron.v_threshold).clamp(0, 1)
        a = clamp - clamp.detach() + torch.einsum("t,tn...->n...", weights, spikes[i])
        rates.append(a)
        currents.append(current)
    SquaredError()(plain_connection(net.readout, a), labels, 1).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("steps", [6, 20, pytest.param(100, marks=pytest.mark.slow)])
def test_identity_13_ottt_points_the_way_of_the_spike_representation(steps):
    """Theorem 1, with the rectangle as surrogate: a positive inner product in each of many networks."""
    for seed in range(15):
        net = mlp((12, 9, 7, 3), beta=0.9, surrogate="rectangle", time_steps=steps, seed=seed).double()
        generator = torch.Generator().manual_seed(seed)
        x = (torch.rand(4, steps, 12, generator=generator) < 0.5).double()
        labels = torch.randint(3, (4,), generator=generator)
        one, _ = gradients(net, make_rule("ottt", update="sequence"), x, labels)
        two, _ = gradients(net, make_rule("saf-f"), x, labels)
        assert sum(float((one[name] * two[name]).sum()) for name in one) > 0


def test_identity_14_standardised_rows_have_mean_zero_and_norm_one():
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    gain = torch.rand(5, dtype=torch.float64) + 0.5
    rows = standardize(weight, gain).flatten(1)
    torch.testing.assert_close(rows.mean(1), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-15)
    torch.testing.assert_close(rows.square().sum(1) / gain**2, torch.full((5,), 26 / 27).double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_three_factors_multiply_to_the_gradient(kind, convention):
    net = networks(convention)[kind]
    x, labels = batch(net)
    steps = three_factors(net, x, labels, SquaredError())
    assert len(steps) == T
    rule = make_rule("ottt", update="sequence", convention=convention)
    net.zero_grad()
    result = rule.train_batch(net, x, labels, SquaredError(), None)
    assert torch.isfinite(result.loss)
    for index, connection in enumerate(net.connections()):
        step = steps[0][index]
        assert step.surrogate.shape == step.error.shape
        total = sum(factors[index].gradient() for factors in steps)
        biases = [f[index].bias_trace * f[index].post for f in steps]
        weights = connection.effective()
        graph = [weights.weight] + ([] if weights.bias is None else [weights.bias])
        sums = [total] + ([] if weights.bias is None else [sum(_bias_sum(b, connection) for b in biases)])
        for name, p in connection.named_parameters():
            if name == "skip_gain" and convention == "authors":
                continue  # learns from the spikes of the step
            expected = torch.autograd.grad(graph, p, sums, retain_graph=True, allow_unused=True)[0]
            torch.testing.assert_close(expected, p.grad, rtol=1e-10, atol=1e-13)


def _bias_sum(post, connection):
    if getattr(connection, "pool_after", None) is not None:  # padding counts: the ends of the image weigh less
        ones = torch.ones(1, 1, 8, 8, dtype=post.dtype)
        weight = torch.nn.functional.avg_pool2d(ones, *connection.pool_after)
        post = post * weight
    return post.sum([0, *range(2, post.ndim)])


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (lambda: vgg(10), 9_228_362),
        (lambda: vgg(100), 9_274_532),
        (lambda: vgg_f(100), 9_569_508),
        (lambda: nf_resnet34(1000), 21_797_688),
    ],
)
def test_parameter_counts_are_the_papers(net, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in net().parameters()) == count


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize("surrogate", ["rectangle", "sigmoid", "triangle"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_lean_step_is_the_step(surrogate, convention, reset, dtype):
    """Bit for bit the same spikes, membranes and gradients, ties at the threshold included."""
    if (surrogate, convention) == ("rectangle", "authors"):
        return  # its kernel has the paper's open interval
    neuron = LIF(0.7, 0.5, reset, surrogate, convention)
    generator = torch.Generator().manual_seed(0)
    currents = (torch.rand(T, 3, 4, 2, 2, generator=generator, dtype=dtype) * 2 - 0.5).mul(8).round().div(8)
    g = torch.rand(3, 4, 2, 2, generator=generator, dtype=dtype)
    v, lean_v = None, torch.zeros(3, 4, 2, 2, dtype=dtype)
    for t, current in enumerate(currents):
        leaf = current.clone().requires_grad_()
        s, u, v = neuron(leaf, v, ottt_paths("paper"))
        other = current.clone().requires_grad_()
        keeps = t % 2 == 0
        found = LeanStep.apply(other, lean_v, keeps, neuron)
        assert torch.equal(found, s)
        assert torch.equal(other, current if keeps else u)
        assert torch.equal(lean_v, v)
        s.backward(g)
        found.backward(g)
        torch.testing.assert_close(other.grad, leaf.grad, rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=0)


@pytest.mark.parametrize("rule", ["ottt", "bptt", "sltt", "saf-e", "saf-f"])
@pytest.mark.parametrize("kind", KINDS)
def test_batch_size_one_trains(kind, rule):
    if rule == "saf-f" and kind not in FEED_FORWARD:
        return
    net = networks()[kind]
    x, labels = batch(net, n=1)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    make_rule(rule).train_batch(net, x, labels, SquaredError(), optimizer)
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters()))


def test_dropped_neurons_stay_silent_for_the_whole_sample_and_never_in_evaluation():
    net = mlp((12, 200, 3), dropout=0.3, **SMALL)
    x = torch.ones(2, T, 12)
    state, masks = None, []
    for t in range(T):
        _, state = net.step(x[:, t], state)
        masks.append(state.blocks[0].mask)
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert set(masks[0].unique().tolist()) == {0.0, float(torch.tensor(1.0) / torch.tensor(0.7))}
    assert 0.2 < float((masks[0] == 0).double().mean()) < 0.4
    assert net.eval().step(x[:, 0])[1].blocks[0].mask is None


def test_sltt_k_learns_from_k_steps():
    net = networks()["dense"]
    x, labels = batch(net)
    torch.manual_seed(3)
    found, _ = gradients(net, make_rule("sltt", k=2), x, labels)
    torch.manual_seed(3)
    chosen = set(torch.randperm(T)[:2].tolist())

    class Some(type(make_rule("sltt"))):
        def steps_with_gradient(self, num_steps):
            return chosen

    assert_same(found, gradients(net, Some(), x, labels)[0])
    with pytest.raises(UsageError, match="k: expected at most the 5 time steps, got 6"):
        gradients(net, make_rule("sltt", k=6), x, labels)


def test_saf_refuses_what_it_cannot_accumulate():
    net = mlp((12, 9, 3), reset="zero", **SMALL)
    with pytest.raises(UsageError, match='saf-e: expected LIF neurons with reset="subtract"'):
        gradients(net, make_rule("saf-e"), *_floats(net))
    with pytest.raises(UsageError, match="saf-f: expected a feed-forward network"):
        gradients(mlp((12, 9, 3), recurrent=True, **SMALL), make_rule("saf-f"), *_floats(net))


def _floats(net):
    x, labels = batch(net)
    return x.float(), labels


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: conv("4C3-XX"), "features: expected layers like 32C5.*got 'XX'"),
        (lambda: conv("4C3-AP2-AP2"), "two poolings in a row"),
        (lambda: conv("4C9", input_shape=(1, 4, 4), num_classes=0), "num_classes: expected a positive integer"),
        (lambda: conv("4C3S9-4C3S9-AP4", input_shape=(1, 4, 4)), "pool=4: the window is larger than the image"),
        (lambda: conv("4C3G2"), "groups: expected a divisor of 1 and 4"),
        (lambda: vgg(10, bias=False), "vgg: bias cannot be changed"),
        (lambda: mlp((4, 3, 2), dropout=1.0), r"dropout: expected a number in \[0, 1\)"),
        (lambda: conv("8F", feedback=True), "feedback: expected a network that begins with a convolution"),
        (lambda: conv("4C3", feedback=True, feedback_delay=0), "feedback_delay: expected 1 … 62 or 'chip', got 0"),
    ],
)
def test_bad_architectures_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_a_branch_must_fit():
    net = mlp((4, 3, 2))
    net.blocks[0].branches.append(Branch(Conv2d(1, 1), 5, delay=1))
    with pytest.raises(UsageError, match="block 1: a branch from block 6, expected 1 … 1"):
        net.check_shapes()
    for source, delay, message in ((0, 63, "delay: expected an integer 0 … 62, got 63"), (-1, 1, "source: expected")):
        with pytest.raises(UsageError, match=f"branch.{message}"):
            Branch(Conv2d(1, 1), source, delay)
    with pytest.raises(UsageError, match=r"skip\.factor: expected a number"):
        Skip(0, float("nan"))

"""OTTT against independent oracles; the numbers are METHODS.md's identities. All in float64."""

import subprocess
import sys

import bptt
import numpy as np
import pytest
import torch

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.blocks import Block
from ottt_loihi.nn.connections import Linear
from ottt_loihi.nn.models import mlp
from ottt_loihi.nn.neurons import LIF
from ottt_loihi.nn.paths import ottt_paths
from ottt_loihi.rules import OTTT, make_rule
from ottt_loihi.rules.losses import CrossEntropy, SquaredError
from ottt_loihi.rules.three_factor import ThreeFactorLoop

TOLERANCE = dict(rtol=1e-12, atol=1e-12)
LOSSES = [SquaredError(), CrossEntropy(mu=0.05)]
CASES = [(reset, surrogate) for reset in ("zero", "subtract") for surrogate in ("rectangle", "sigmoid", "triangle")]


def network(reset="subtract", surrogate="rectangle", convention="paper", beta=0.6, bias=True, seed=0):
    """Two hidden layers, all of whose neurons have something to do."""
    settings = dict(reset=reset, surrogate=surrogate, convention=convention, beta=beta, bias=bias)
    net = mlp((20, 16, 12, 5), time_steps=7, seed=seed, **settings).double()
    generator = torch.Generator().manual_seed(seed)
    for layer in [block.connection for block in net.blocks]:
        layer.weight.data *= 1.5
        if bias:
            layer.bias.data.uniform_(-0.2, 0.4, generator=generator)
    return net


def batch(seed=0, n=6):
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.random((n, 7, 20)) < 0.5).astype(float)), torch.from_numpy(rng.integers(0, 5, n))


def gradients(net, rule, x, labels, loss):
    net.zero_grad()
    rule.train_batch(net, x, labels, loss, None)
    layers = [*(block.connection for block in net.blocks), net.readout]
    return [layer.weight.grad.clone() for layer in layers], [
        None if layer.bias is None else layer.bias.grad.clone() for layer in layers
    ]


def close(a, b):
    assert b.abs().max() > 1e-6  # an all-zero gradient would agree with anything
    torch.testing.assert_close(a, b, **TOLERANCE)


def differ(a, b):
    assert (a - b).abs().max() > 1e-3 * b.abs().max()


@pytest.mark.parametrize(("reset", "surrogate"), CASES)
def test_identity_1_the_last_spiking_layer_has_the_gradient_of_bptt(reset, surrogate):
    torch.manual_seed(0)
    block = Block(Linear(20, 5, bias=True), LIF(0.6, reset=reset, surrogate=surrogate)).double()
    x, labels = batch()
    state, v, weight = None, 0.0, block.connection.weight.detach().clone().requires_grad_()
    bias = block.connection.bias.detach().clone().requires_grad_()
    total = 0.0
    for t in range(x.shape[1]):
        s, state = block([x[:, t]], state, ottt_paths("paper"), first=True)
        SquaredError()(s, labels, x.shape[1]).backward()
        u = 0.6 * v + x[:, t] @ weight.T + bias
        expected = bptt.Spike.apply(u, 1.0, surrogate)
        assert torch.equal(s, expected)
        v = u - (expected if reset == "subtract" else u * expected).detach()
        total = total + SquaredError()(expected, labels, x.shape[1])
    total.backward()
    close(block.connection.weight.grad, weight.grad)
    close(block.connection.bias.grad, bias.grad)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("reset", "surrogate"), CASES)
def test_identity_2_the_top_hidden_layer_has_the_gradient_of_bptt(reset, surrogate, loss):
    x, labels = batch()
    for convention in ("paper", "authors"):
        net = network(reset, surrogate, convention)
        ours, our_biases = gradients(net, OTTT("sequence", convention), x, labels, loss)
        expected, biases = bptt.gradients(net, x, labels, loss, surrogate)
        close(ours[1], expected[1])
        differ(ours[0], expected[0])  # the layer below sees no future: OTTT is not BPTT there
        if convention == "paper":  # a readout without membrane needs no trace
            close(ours[2], expected[2])
            close(our_biases[1], biases[1])
        else:
            differ(ours[2], expected[2])
            differ(our_biases[1], biases[1])


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("reset", "surrogate"), CASES)
def test_identity_3_a_traced_layer_has_the_gradient_of_its_own_recurrence(reset, surrogate, layer):
    x, labels = batch()
    net = network(reset, surrogate)
    ours, our_biases = gradients(net, OTTT("sequence"), x, labels, SquaredError())
    expected, biases = bptt.gradients(net, x, labels, SquaredError(), surrogate, attached={layer})
    close(ours[layer], expected[layer])
    close(our_biases[layer], biases[layer])


def test_identity_4_the_authors_first_layer_and_biases_have_no_trace():
    x, labels = batch()
    net = network(convention="authors")
    ours, our_biases = gradients(net, OTTT("sequence", "authors"), x, labels, SquaredError())
    expected, biases = bptt.gradients(net, x, labels, SquaredError(), "rectangle", attached=set())
    close(ours[0], expected[0])
    for found, wanted in zip(our_biases, biases, strict=True):
        close(found, wanted)
    differ(ours[1], expected[1])


def loop_of(net, **settings):
    layers = [*(block.connection for block in net.blocks), net.readout]
    neuron = net.blocks[0].neuron
    return ThreeFactorLoop(
        [layer.weight.detach().numpy() for layer in layers],
        None if net.readout.bias is None else [layer.bias.detach().numpy() for layer in layers],
        beta=neuron.beta,
        reset=neuron.reset,
        surrogate=neuron.surrogate.name,
        time_steps=7,
        **settings,
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("update", ["step", "sequence"])
@pytest.mark.parametrize(("reset", "surrogate"), CASES)
def test_identity_5_a_numpy_three_factor_loop_learns_the_same(reset, surrogate, update, bias):
    net = network(reset, surrogate, bias=bias)
    loop = loop_of(net, learning_rate=0.3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    before = [w.copy() for w in loop.weights]
    for seed in range(4):
        x, labels = batch(seed)
        scores = loop.learn(x.numpy(), np.eye(5)[labels], update)
        result = OTTT(update).train_batch(net, x, labels, SquaredError(), optimizer)
        np.testing.assert_allclose(result.scores.numpy(), scores, rtol=0, atol=1e-12)
    layers = [*(block.connection for block in net.blocks), net.readout]
    for index, layer in enumerate(layers):
        assert np.abs(loop.weights[index] - before[index]).max() > 1e-3
        np.testing.assert_allclose(layer.weight.detach().numpy(), loop.weights[index], rtol=0, atol=1e-12)
        if bias:
            np.testing.assert_allclose(layer.bias.detach().numpy(), loop.biases[index], rtol=0, atol=1e-12)


def test_the_readout_with_a_trace_is_the_authors():
    net = network(convention="authors", bias=False)
    x, labels = batch()
    ours, _ = gradients(net, OTTT("sequence", "authors"), x, labels, SquaredError())
    loop = loop_of(net, learning_rate=1.0, readout_trace=True)
    before = loop.weights[-1].copy()
    loop.learn(x.numpy(), np.eye(5)[labels], "sequence")
    np.testing.assert_allclose(before - loop.weights[-1], ours[-1].numpy(), rtol=0, atol=1e-12)


def test_the_three_factors_multiply_to_the_change():
    net = network()
    loop = loop_of(net, learning_rate=0.1)
    x, labels = batch()
    for t in range(7):
        factors = loop.step(x[:, t].numpy(), np.eye(5)[labels])
    for trace, f, delta, change in zip(factors.trace, factors.surrogate, factors.delta, factors.delta_w, strict=True):
        products = -0.1 * trace[:, None, :] * f[:, :, None] * delta[:, :, None]
        np.testing.assert_allclose(products.mean(0), change, rtol=0, atol=1e-15)


def test_random_feedback_reaches_hidden_layers_through_its_own_matrices():
    net = network(bias=False)
    loop = loop_of(net, feedback="random", feedback_seed=3)
    x, labels = batch()
    factors = loop.step(x[:, 0].numpy(), np.eye(5)[labels])
    for layer in (0, 1):
        np.testing.assert_array_equal(factors.delta[layer], factors.delta[-1] @ loop.feedback[layer].T)
    given = loop_of(net, feedback=loop.feedback).step(x[:, 0].numpy(), np.eye(5)[labels])
    np.testing.assert_array_equal(given.delta_w[0], factors.delta_w[0])
    assert [b.shape for b in loop.feedback] == [(16, 5), (12, 5)]


@pytest.mark.parametrize("convention", ["paper", "authors"])
def test_identity_6_the_batch_gradient_is_the_mean_of_the_samples(convention):
    net = network(convention=convention)
    x, labels = batch()
    whole, whole_biases = gradients(net, OTTT("sequence", convention), x, labels, SquaredError())
    single = [
        gradients(net, OTTT("sequence", convention), x[i : i + 1], labels[i : i + 1], SquaredError()) for i in range(6)
    ]
    for layer in range(3):
        close(torch.stack([weights[layer] for weights, _ in single]).mean(0), whole[layer])
        close(torch.stack([biases[layer] for _, biases in single]).mean(0), whole_biases[layer])


def test_identity_7_learning_by_step_becomes_learning_by_sequence_as_the_rate_goes_to_zero():
    x, labels = batch()
    expected = torch.cat(
        [g.flatten() for g in gradients(network(surrogate="sigmoid"), OTTT("sequence"), x, labels, SquaredError())[0]]
    )
    errors = []
    for rate in (1e-4, 1e-5, 1e-6):
        net = network(surrogate="sigmoid")
        before = [p.detach().clone() for p in net.parameters() if p.ndim == 2]
        OTTT("step").train_batch(net, x, labels, SquaredError(), torch.optim.SGD(net.parameters(), lr=rate))
        after = [p.detach() for p in net.parameters() if p.ndim == 2]
        change = torch.cat([((b - a) / rate).flatten() for b, a in zip(before, after)])
        errors.append(float((change - expected).norm() / expected.norm()))
    assert errors[0] > 1e-8  # step by step is not the same thing at a finite rate
    assert errors[1] / errors[0] == pytest.approx(0.1, rel=0.1)
    assert errors[2] / errors[1] == pytest.approx(0.1, rel=0.1)


def test_identity_8_without_memory_ottt_is_sltt():
    x, labels = batch()
    net = network(beta=0.0)
    ours, our_biases = gradients(net, OTTT("sequence"), x, labels, SquaredError())
    expected, biases = bptt.gradients(net, x, labels, SquaredError(), "rectangle", attached=set())
    for layer in range(3):
        close(ours[layer], expected[layer])
        close(our_biases[layer], biases[layer])


@pytest.mark.parametrize("loss", LOSSES)
def test_the_losses_are_what_they_say(loss):
    torch.manual_seed(0)
    o, labels = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 2, 1, 1])
    y = torch.eye(3, dtype=torch.float64)[labels]
    if loss.name == "squared-error":
        expected = 0.5 * ((o - y) ** 2).sum(1).mean() / 6
    else:
        cross = -torch.log_softmax(o, 1)[range(4), labels].mean()
        expected = (0.95 * cross + 0.05 * ((o - y) ** 2).mean()) / 6
    torch.testing.assert_close(loss(o, labels, 6), expected, rtol=1e-14, atol=0)


def test_without_an_optimiser_gradients_add_up_and_no_weight_changes():
    net = network()
    x, labels = batch()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    once, _ = gradients(net, OTTT("step"), x, labels, SquaredError())
    OTTT("step").train_batch(net, x, labels, SquaredError(), None)
    close(net.readout.weight.grad, 2 * once[-1])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_readout_alone_learns():
    net = mlp((20, 5)).double()
    x, labels = batch()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = [float(OTTT().train_batch(net, x, labels, SquaredError(), optimizer).loss) for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 2, 3, 4, 5]), "labels: expected 0 … 4, got 5"),
        (torch.tensor([0, -1, 2, 3, 4, 4]), "labels: expected 0 … 4, got -1"),
        (torch.zeros(5, dtype=torch.int64), "labels: expected 6 integers"),
        (torch.zeros(6), "labels: expected 6 integers"),
    ],
)
def test_bad_labels_are_refused(labels, message):
    with pytest.raises(UsageError, match=message):
        OTTT().train_batch(network(), batch()[0], labels, SquaredError(), None)


def test_rule_and_network_must_share_the_convention():
    with pytest.raises(UsageError, match="the rule has convention='authors', the network 'paper'"):
        OTTT(convention="authors").train_batch(network(), *batch(), SquaredError(), None)


def test_rules_by_name():
    assert make_rule("ottt", update="sequence").describe() == {
        "name": "ottt",
        "update": "sequence",
        "convention": "paper",
    }
    with pytest.raises(UsageError, match=r"rule: expected one of ottt, .* got 'bp'"):
        make_rule("bp")
    with pytest.raises(UsageError, match="rule ottt: does not know"):
        make_rule("ottt", k=3)
    with pytest.raises(UsageError, match="update: expected one of step, sequence, got 'epoch'"):
        OTTT("epoch")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(weights=[np.ones((3, 4)), np.ones((2, 5))]), r"weights\[1\]: expected 3 columns"),
        (dict(weights=[]), "weights: expected one or more matrices"),
        (dict(biases=[np.zeros(3)]), "biases: expected shapes"),
        (dict(feedback="kolen"), "feedback: expected symmetric, random or matrices"),
        (dict(feedback=[np.ones((2, 3))]), "feedback: expected matrices of shapes"),
        (dict(beta=2), r"beta: expected a number in \[0, 1\]"),
        (dict(reset="hard"), "reset: expected one of zero, subtract"),
    ],
)
def test_the_loop_refuses_what_does_not_fit(settings, message):
    weights = settings.pop("weights", [np.ones((3, 4)), np.ones((2, 3))])
    with pytest.raises(UsageError, match=message):
        ThreeFactorLoop(weights, **settings)


def test_the_loop_needs_no_torch():
    code = "import sys; from ottt_loihi.rules.three_factor import ThreeFactorLoop; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

import pytest
import torch

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.connections import Linear
from ottt_loihi.nn.description import construct, describe
from ottt_loihi.nn.models import conv, mlp
from ottt_loihi.nn.neurons import Trace, follow
from ottt_loihi.nn.paths import ottt_paths
from ottt_loihi.nn.trace import with_trace


@pytest.mark.parametrize("kind", [Linear, torch.nn.Linear])
def test_the_weight_gradient_uses_the_trace_and_the_input_gradient_does_not(kind):
    torch.manual_seed(0)
    layer, trace = kind(5, 3, bias=True).double(), None
    xs = [(torch.rand(4, 5, dtype=torch.float64) < 0.5).double().requires_grad_() for _ in range(3)]
    for x in xs:
        trace = follow(x, trace, 0.5)
        current = with_trace(layer, x, trace)
    g = torch.randn(4, 3, dtype=torch.float64)
    current.backward(g)
    expected = 0.25 * xs[0] + 0.5 * xs[1] + xs[2]
    assert torch.equal(trace.value, expected)
    assert trace.length == 1.75
    torch.testing.assert_close(layer.weight.grad, g.T @ expected.detach(), rtol=0, atol=1e-15)
    torch.testing.assert_close(layer.bias.grad, 1.75 * g.sum(0), rtol=0, atol=1e-15)
    torch.testing.assert_close(xs[2].grad, g @ layer.weight.detach(), rtol=0, atol=1e-15)
    assert xs[0].grad is None
    assert xs[1].grad is None


def test_the_trace_changes_no_current():
    layer, x = Linear(5, 3, bias=True), torch.rand(4, 5)
    assert torch.equal(layer(x), with_trace(layer, x, Trace(torch.rand(4, 5), 1.5)))


def test_an_image_is_flattened():
    assert Linear(12, 3)(torch.rand(2, 3, 4)).shape == (2, 3)


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_sizes_must_be_positive_integers(n):
    with pytest.raises(UsageError, match="in_features: expected a positive integer"):
        Linear(n, 3)


def test_a_step_depends_on_its_arguments_only():
    net = mlp((6, 5, 3))
    x = (torch.rand(2, 4, 6) < 0.5).float()
    _, state = net.step(x[:, 0], None, ottt_paths("paper"))
    first = net.step(x[:, 1], state, ottt_paths("paper"))
    net.step(x[:, 2], first[1], ottt_paths("paper"))
    again = net.step(x[:, 1], state, ottt_paths("paper"))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1].blocks[0].traces[0].value, again[1].blocks[0].traces[0].value)


def test_run_is_the_steps_and_records_them():
    net = mlp((12, 7, 5, 3), input_shape=(3, 4), bias=True, beta=0.75, seed=1)
    x = torch.rand(2, 9, 3, 4) < 0.5  # another T than the network's, and bool
    run = net.run(x, record=("u", "v", "s", "o"))
    assert [tuple(u.shape) for u in run.states["u"]] == [(9, 2, 7), (9, 2, 5)]
    assert torch.equal(run.scores, net(x))
    torch.testing.assert_close(run.states["o"][0].sum(0), run.scores)
    assert torch.equal(run.predictions, net.predict(x))
    u, v, s = (run.states[name][0] for name in "uvs")
    assert s.sum() > 0
    assert torch.equal(s, (u > 1).float())
    assert torch.equal(v, u - s)
    current = torch.nn.functional.linear(x[:, 3].flatten(1).float(), net.blocks[0].connection.weight)
    torch.testing.assert_close(u[3], 0.75 * (u[2] - s[2]) + current)


def test_the_seed_makes_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = mlp(seed=1), mlp(seed=1), mlp(seed=2)
    conv("4C3-GAP", input_shape=(1, 8, 8), feedback=True)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.readout.weight, same.readout.weight)
    assert not torch.equal(one.readout.weight, other.readout.weight)


def test_architecture_builds_the_same_network():
    net = mlp((8, 6, 4, 3), beta=0.25, v_threshold=0.5, reset="zero", bias=True, input_shape=(2, 4), time_steps=3)
    again = construct(describe(net))
    assert str(again) == str(net)
    assert describe(again) == describe(net)
    assert (again.input_shape, again.time_steps) == ((2, 4), 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(sizes=(64,)), "sizes: expected 2 or more positive integers"),
        (dict(sizes=(64, 0, 10)), "sizes: expected"),
        (dict(sizes=5), "sizes: expected"),
        (dict(sizes=(64, 10), input_shape=(8, 9)), "is 72 elements, but sizes begin with 64"),
        (dict(time_steps=0), "time_steps: expected"),
        (dict(seed=-1), "seed: expected an integer ≥ 0"),
        (dict(bias=float("nan")), "bias: expected true or false, got nan"),
        (dict(recurrent=[0]), r"recurrent: expected true, false or 'elementwise', got \[0\]"),
        (dict(binary="conv"), "binary: expected one of channel, layer, or nothing, got 'conv'"),
    ],
)
def test_bad_networks_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        mlp(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(standardized=-1), "standardized: expected true or false, got -1"),
        (dict(feedback=1), "feedback: expected true or false, got 1"),
        (dict(feedback_delay=[3]), r"feedback_delay: expected 1 … 62 or 'chip', got \[3\]"),
        (dict(binary=["layer"]), "binary: expected one of channel, layer, or nothing"),
    ],
)
def test_bad_convolutional_networks_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        conv("4C3-GAP", input_shape=(1, 8, 8), **arguments)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 6, 63), r"expected shape \(batch, time steps, 64\), got \(2, 6, 63\)"),
        (torch.zeros(2, 64), "expected shape"),
        (torch.zeros(0, 6, 64), "expected shape"),
        (torch.full((2, 6, 64), float("nan")), "finite real numbers"),
    ],
)
def test_bad_input_is_refused(x, message):
    with pytest.raises(UsageError, match=message):
        mlp()(x)


def test_only_known_variables_are_recorded():
    with pytest.raises(UsageError, match=r"record: expected .* got \['w'\]"):
        mlp().run(torch.zeros(1, 2, 64), record=("w",))

import numpy as np
import pytest
import torch

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.neurons import LIF
from ottt_loihi.nn.paths import GradientPaths
from ottt_loihi.nn.surrogates import SURROGATES, Sigmoid, describe, make_surrogate
from ottt_loihi.rules import three_factor as reference

# By hand, λ = 0.5, Vth = 1; every value is a binary fraction, so equality is exact.
CURRENT = [0.75, 0.75, 0.5, 1.5, 0.25, 1.0]
GOLDEN = {
    "subtract": dict(
        u=[0.75, 1.125, 0.5625, 1.78125, 0.640625, 1.3203125],
        s=[0, 1, 0, 1, 0, 1],
        v=[0.75, 0.125, 0.5625, 0.78125, 0.640625, 0.3203125],
    ),
    "zero": dict(u=[0.75, 1.125, 0.5, 1.75, 0.25, 1.125], s=[0, 1, 0, 1, 0, 1], v=[0.75, 0, 0.5, 0, 0.25, 0]),
}


@pytest.mark.parametrize("reset", GOLDEN)
def test_voltages_computed_by_hand(reset):
    neuron, v = LIF(beta=0.5, v_threshold=1.0, reset=reset), None
    for t, current in enumerate(CURRENT):
        s, u, v = neuron(torch.tensor([current]), v)
        assert (s.item(), u.item(), v.item()) == tuple(GOLDEN[reset][k][t] for k in "suv")


def test_a_membrane_at_the_threshold_fires_in_the_authors_convention_only():
    at_threshold = torch.tensor([1.0])
    assert LIF(convention="paper")(at_threshold).s == 0
    assert LIF(convention="authors")(at_threshold).s == 1
    assert LIF(convention="paper")(torch.nextafter(at_threshold, torch.tensor([2.0]))).s == 1


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (GradientPaths(membrane=False), 0.0),
        (GradientPaths(membrane=True), {"zero": 0.5 * 0, "subtract": 0.5}),  # λ·∂v/∂u: the reset to zero forgets u
        (GradientPaths(membrane=True, reset=True), {"zero": -0.5 * 1.5, "subtract": 0.5 * (1 - 1)}),  # f(1.5) = 1
    ],
)
def test_which_past_the_gradient_sees(reset, paths, expected):
    first = torch.tensor([1.5], requires_grad=True)  # fires
    neuron = LIF(beta=0.5, v_threshold=1.0, reset=reset, surrogate="rectangle")
    v = neuron(first, None, paths).v
    u = neuron(torch.tensor([0.1], requires_grad=True), v, paths).u
    (found,) = torch.autograd.grad(u, first, allow_unused=True)
    expected = expected[reset] if isinstance(expected, dict) else expected
    assert (0.0 if found is None else found.item()) == expected


def test_the_step_changes_none_of_its_arguments():
    current, v = torch.rand(3, 4), torch.rand(3, 4)
    before = current.clone(), v.clone()
    LIF()(current, v)
    assert torch.equal(current, before[0])
    assert torch.equal(v, before[1])


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("v_threshold", [1.0, 0.3])
def test_surrogates_are_the_reference_formulas(name, v_threshold):
    u = np.concatenate([np.linspace(-3, 5, 401), [0.0, v_threshold, 2 * v_threshold]])
    found = make_surrogate(name)(torch.from_numpy(u), v_threshold)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), reference.SURROGATES[name](u, v_threshold), rtol=0, atol=1e-15)


def test_surrogates_at_known_points():
    at = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0], dtype=torch.float64)
    assert make_surrogate("rectangle")(at, 1.0).tolist() == [0, 1, 1, 1, 0]
    assert make_surrogate("triangle")(at, 1.0).tolist() == [0, 0.5, 1, 0.5, 0]
    assert make_surrogate("sigmoid")(at, 1.0)[2] == 1.0  # α/4 with α = 4


def test_a_surrogate_survives_its_description():
    for surrogate in (*(kind() for kind in SURROGATES.values()), Sigmoid(slope=2.5)):
        assert make_surrogate(describe(surrogate)) == surrogate


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(beta=1.5), r"beta: expected a number in \[0, 1\], got 1.5"),
        (dict(beta=float("nan")), "beta: expected a number"),
        (dict(beta=True), "beta: expected a number"),
        (dict(v_threshold=0), r"v_threshold: expected a number in \(0, 1e\+30\], got 0"),
        (dict(v_threshold=-1), "v_threshold: expected a number"),
        (dict(reset="hard"), "reset: expected one of zero, subtract, got 'hard'"),
        (dict(convention="mine"), "convention: expected one of paper, authors, got 'mine'"),
        (dict(surrogate="step"), "surrogate: expected one of rectangle, sigmoid, triangle, fast-sigmoid, got 'step'"),
        (dict(surrogate={"name": "rectangle", "alpha": 1}), "surrogate rectangle: does not know the parameters alpha"),
        (dict(surrogate={"name": "sigmoid", "slope": 0}), "slope: expected a number > 0, got 0"),
        (dict(surrogate={"name": "sigmoid", "alpha": 0}), "slope: expected a number > 0, got 0"),
    ],
)
def test_bad_constants_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        LIF(**arguments)

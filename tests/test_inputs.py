"""Samples and labels of any kind: taken as they are meant, or refused in one line."""

import numpy as np
import pytest
import torch

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.inputs import ConstantInput, check_labels, frames
from ottt_loihi.nn.models import mlp
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.losses import SquaredError

NET = mlp((4, 3), time_steps=5)


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, 2],
        (0, 1, 2),
        np.array([0, 1, 2], np.uint8),
        np.array([0, 1, 2], np.uint16),
        np.array([0, 1, 2], np.uint64),
        np.array([0, 1, 2], ">i4"),
        np.array([0, 1, 2])[::-1][::-1],
        torch.tensor([0, 1, 2], dtype=torch.int8),
    ],
)
def test_labels_of_every_integer_type(labels):
    assert torch.equal(check_labels(labels, 3, 3), torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b", "c"], "labels: expected an array of numbers, got list"),
        (np.array(["a", "b", "c"]), "labels: expected an array of numbers, got ndarray of <U1"),
        ([0, [1], 2], "labels: expected an array of numbers"),
        (None, "labels: expected an array of numbers, got NoneType"),
        ([0.0, 1.0, 2.0], "labels: expected 3 integers, got torch.float64"),
        ([True, False, True], "labels: expected 3 integers, got torch.bool"),
        ([0, 1], r"labels: expected 3 integers, got torch.int64 of shape \(2,\)"),
        ([[1, 0, 0]] * 3, r"of shape \(3, 3\)"),
        ([0, 1, 3], "labels: expected 0 … 2, got 3"),
        ([0, -1, 2], "labels: expected 0 … 2, got -1"),
        (np.array([0, 1, 2**64 - 1], np.uint64), "labels: expected numbers below"),
        (np.array([0, 1, 2], complex), "labels: expected real numbers"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(UsageError, match=message):
        check_labels(labels, 3, 3)


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "i8", ">i4", ">f8", "f2", "f4", "f8", "?"])
def test_samples_of_every_real_type(kind):
    values = np.arange(40).reshape(2, 5, 4) % 2
    expected = torch.from_numpy(values).float()
    assert torch.equal(NET.check_input(values.astype(kind)), expected)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 5, 3)), r"expected shape \(batch, time steps, 4\), got \(2, 5, 3\)"),
        (np.zeros((0, 5, 4)), "expected shape"),
        (np.full((2, 5, 4), np.nan), "finite real numbers"),
        (np.full((2, 5, 4), -np.inf), "finite real numbers"),
        (np.zeros((2, 5, 4), complex), "expected real numbers"),
        (np.full((2, 5, 4), "spike"), "an array of numbers, got ndarray of <U5"),
        (np.full((2, 5, 4), None), "an array of numbers, got ndarray of object"),
        (torch.utils.data.TensorDataset(torch.zeros(2, 5, 4)), "an array of numbers, got TensorDataset"),
        (ConstantInput(torch.full((2, 4), torch.inf), 5), "finite real numbers"),
        (ConstantInput(torch.zeros(2, 3), 5), r"got \(2, 5, 3\)"),
    ],
)
def test_bad_samples(x, message):
    with pytest.raises(UsageError, match=message):
        NET.check_input(x)


def test_a_constant_input_is_its_frame_at_every_step():
    x = ConstantInput(torch.rand(2, 4), 5)
    assert x.shape == (2, 5, 4)
    assert len(x) == 2
    assert torch.equal(torch.stack(list(frames(x)), 1), x.dense())
    assert torch.equal(NET(x), NET(x.dense()))
    with pytest.raises(UsageError, match=r"ConstantInput.num_steps: expected a positive integer, got 0"):
        ConstantInput(torch.rand(2, 4), 0)


def test_a_tensor_with_equal_frames_is_an_input_like_any_other():
    """Strides say nothing: the same values give the same gradients."""
    net, found = mlp((4, 6, 3), bias=True).double(), []
    frame = torch.rand(2, 1, 4, dtype=torch.float64)
    for x in (frame.expand(-1, 5, -1), frame.repeat(1, 5, 1)):
        net.zero_grad()
        make_rule("ottt", update="sequence").train_batch(net, x, torch.tensor([0, 2]), SquaredError(), None)
        found.append([p.grad for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found))


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: checks.integer(True, "n"), "n: expected a positive integer, got True"),
        (lambda: checks.integer(2.0, "n"), "n: expected a positive integer, got 2.0"),
        (lambda: checks.integer(-1, "n", 0), "n: expected an integer ≥ 0, got -1"),
        (lambda: checks.integer(9, "n", 2, 8), "n: expected an integer 2 … 8, got 9"),
        (lambda: checks.integer("1", "n", None), "n: expected an integer, got '1'"),
        (lambda: checks.number(float("nan"), "x"), "x: expected a number that is finite, got nan"),
        (lambda: checks.number(True, "x", 0, 1), r"x: expected a number in \[0, 1\], got True"),
        (lambda: checks.number(1, "x", 0, 1, below=True), r"x: expected a number in \[0, 1\), got 1"),
        (lambda: checks.number(0, "x", 0, above=True), "x: expected a number > 0, got 0"),
        (lambda: checks.number("2", "x", 0), "x: expected a number ≥ 0, got '2'"),
        (lambda: checks.flag("no", "f"), "f: expected true or false, got 'no'"),
        (lambda: checks.flag(1, "f"), "f: expected true or false, got 1"),
        (lambda: checks.one_of("c", "o", ("a", "b")), "o: expected one of a, b, got 'c'"),
        (lambda: checks.one_of(["a"], "o", ("a", "b"), none=True), "o: expected one of a, b, or nothing, got"),
        (lambda: checks.sizes("12", "s"), "s: expected 1 or more positive integers, got '12'"),
        (lambda: checks.sizes([1, 0], "s", 2), r"s: expected 2 or more positive integers, got \[1, 0\]"),
        (lambda: checks.sizes(5, "s"), "s: expected 1 or more positive integers, got 5"),
    ],
)
def test_values_that_are_refused(check, message):
    with pytest.raises(UsageError, match=message):
        check()


def test_values_that_are_taken():
    assert checks.integer(np.int64(3), "n") == 3
    assert type(checks.integer(np.int64(3), "n")) is int
    assert checks.number(np.float32(0.5), "x", 0, 1) == 0.5
    assert checks.number(1, "x", 0, 1) == 1.0
    assert checks.sizes(np.array([2, 3]), "s") == (2, 3)
    assert checks.one_of(None, "o", ("a",), none=True) is None
    assert checks.flag(False, "f") is False

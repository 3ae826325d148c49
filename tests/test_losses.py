"""The losses of a time step: their values from the formulas, what they take, and how runs name them."""

import pytest
import torch

from ottt_loihi.errors import UsageError
from ottt_loihi.rules.losses import CrossEntropy, SquaredError, describe, make_loss
from ottt_loihi.training.config import make_config

GENERATOR = torch.Generator().manual_seed(0)
O = torch.randn(6, 5, generator=GENERATOR, dtype=torch.float64)  # noqa: E741
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
ONE_HOT = torch.eye(5, dtype=torch.float64)[LABELS]


def test_squared_error_is_its_formula():
    expected = ((O - ONE_HOT) ** 2).sum() / 2 / 4 / 6
    torch.testing.assert_close(SquaredError()(O, LABELS, 4), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("mu", "smoothing"), [(0.0, 0.0), (0.05, 0.0), (0.05, 0.1), (0.0, 0.3)])
def test_cross_entropy_is_its_formula(mu, smoothing):
    target = (1 - smoothing) * ONE_HOT + smoothing / 5
    entropy = -(target * torch.log_softmax(O, 1)).sum(1).mean()
    expected = ((1 - mu) * entropy + mu * ((O - ONE_HOT) ** 2).mean()) / 4
    torch.testing.assert_close(CrossEntropy(mu, smoothing)(O, LABELS, 4), expected, rtol=1e-13, atol=0)


def test_a_run_without_smoothing_is_named_as_before_there_was_any():
    assert describe(CrossEntropy()) == {"name": "cross-entropy", "mu": 0.05}
    assert describe(CrossEntropy(0.0, 0.1)) == {"name": "cross-entropy", "mu": 0.0, "smoothing": 0.1}
    assert describe(SquaredError()) == {"name": "squared-error"}


@pytest.mark.parametrize("wrong", [1, -0.1, True, "0.1", float("nan")])
def test_what_cannot_smooth_or_mix_is_refused(wrong):
    with pytest.raises(UsageError, match=r"smoothing: expected a number in \[0, 1\)"):
        CrossEntropy(0.05, wrong)
    if wrong != 1:
        with pytest.raises(UsageError, match=r"mu: expected a number in \[0, 1\]"):
            CrossEntropy(wrong)


def test_a_configuration_chooses_the_loss():
    def chosen(**training):
        return make_config({"training": training}).make_loss()

    assert chosen() == SquaredError()
    assert chosen(loss="cross-entropy", mu=0, smoothing=0.1) == CrossEntropy(0.0, 0.1)
    with pytest.raises(UsageError, match=r"training\.smoothing: of the loss cross-entropy, got"):
        chosen(smoothing=0.1)
    with pytest.raises(UsageError, match="loss: expected one of squared-error, cross-entropy"):
        chosen(loss="hinge")
    with pytest.raises(UsageError, match="expected one of"):
        make_loss(3)

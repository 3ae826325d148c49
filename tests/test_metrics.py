"""Metrics of predictions where classes are not balanced."""

import numpy as np
import pytest
from sklearn import metrics as reference

from ottt_loihi.errors import UsageError
from ottt_loihi.metrics import measure, warnings


def test_equal_to_scikit_learn():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    found = measure(predictions, labels, 5)
    np.testing.assert_array_equal(found.confusion, reference.confusion_matrix(labels, predictions))
    assert found.accuracy == pytest.approx(reference.accuracy_score(labels, predictions), abs=1e-12)
    assert found.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(labels, predictions), abs=1e-12)
    np.testing.assert_allclose(found.recall, reference.recall_score(labels, predictions, average=None), atol=1e-12)


def test_one_class_alone_is_said():
    labels = np.array([0] * 97 + [1] * 3)
    always = measure(np.zeros(100, int), labels, 3, ("rest", "fist", "other"))
    assert always.warning == "every sample is predicted as class rest, which 97.0% of them are"
    assert always.balanced_accuracy == 0.5  # a class without samples does not count
    assert always.to_json()["recall"] == [1.0, 0.0, None]
    assert always.rows()[1] == ["fist", "3", "0.0%", "rest (3)"]
    assert measure(labels, labels, 3).warning == ""
    assert measure(np.zeros(3, int), np.zeros(3, int), 2).warning == ""


def test_many_classes_are_cut_to_the_worst():
    labels = np.repeat(np.arange(20), 2)
    predictions = labels.copy()
    predictions[14] = 3  # half of class 7
    found = measure(predictions, labels, 20)
    assert len(found.worst()) == 12
    assert found.worst()[0] == ["7", "2", "50.0%", "3 (1)"]


def test_silent_layers():
    assert warnings(None, [0.1, 0.2]) == []
    assert warnings(None, [0.1, 0.0]) == ["hidden layer 2 never fires"]
    assert warnings(None, [0.0, 0.0]) == ["hidden layers 1, 2 never fire"]


def test_wrong_arguments():
    for predictions, labels in (([0, 1], [0]), ([0], [5]), ([0.5], [0]), ([], [])):
        with pytest.raises(UsageError, match="metrics"):
            measure(np.array(predictions), np.array(labels), 2)

"""What accuracy hides: recall of each class, and a network that answers one class only."""

import numpy as np
import pytest

from ottt_loihi.cli.learn_report import _recall, _series, story
from ottt_loihi.metrics import measure, warnings


def test_recall_is_the_part_of_each_class_that_is_recognised():
    labels = np.array([0, 0, 0, 1, 1, 3])
    found = measure(np.array([0, 0, 1, 1, 0, 3]), labels, 5).to_json()["recall"]
    assert found == [pytest.approx(2 / 3), 0.5, None, 1.0, None]


def test_a_network_that_answers_one_class_is_said():
    labels = np.array([0] * 96 + [1] * 4)
    said = "every sample is predicted as class 0, which 96.0% of them are"
    assert warnings(measure(np.zeros(100, int), labels, 2)) == [said]
    assert warnings(measure(np.array([0] * 99 + [1]), labels, 2)) == []
    assert warnings(measure(np.zeros(96, int), labels[:96], 2)) == []  # there is one class


def test_many_classes_are_named_by_their_lowest_recall():
    assert _recall([0.5, None, 1.0]) == "0: 50.0%, 2: 100.0%"
    assert _recall([*[1.0] * 20, 0.25]).startswith("lowest 20: 25.0%, 0: 100.0%")


def test_the_story_says_what_changed():
    summary = {
        "samples": 10, "accuracy": 0.9, "accuracy_learning_weights": 0.9, "accuracy_before": 0.1,
        "accuracy_deployed": 0.95, "scenario": "more", "world_changed": True, "weights_averaged": True,
    }  # fmt: skip
    assert "95.0% as deployed, 10.0% on the changed data, and 90.0% after 10 samples" in story(summary)
    assert "with the mean of the weights, rounded to 8 bits (90.0% with the last learning weights)" in story(summary)
    assert "with the weights rounded to 8 bits (90.0% with the last" in story(summary | {"weights_averaged": False})
    assert "10.0% before learning" in story(summary | {"world_changed": False})
    assert "10.0% with images rotated by 180°" in story(summary | {"scenario": "drift"})
    assert story(summary | {"accuracy_deployed": None}).startswith("Test accuracy: 10.0% as deployed, and")
    assert story(summary | {"accuracy_deployed": None, "scenario": "scratch"}).startswith("Test accuracy: 10.0% untr")


@pytest.mark.parametrize("averaged", [True, False])
def test_the_curve_ends_in_the_network_to_deploy(averaged):
    """Its last point was that of the last weights, below the accuracy that is said."""
    summary = {
        "curve": {"samples": [0, 5, 10], "accuracy": [0.1, 0.8, 0.7]},
        "accuracy": 0.9, "accuracy_deployed": None, "weights_averaged": averaged,
    }  # fmt: skip
    assert _series(summary).get("mean of the weights") == (([10], [0.9]) if averaged else None)

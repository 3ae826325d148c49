"""Metrics for classes that are not balanced: recall per class, balanced accuracy, confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ottt_loihi.errors import UsageError

SHOWN = 12  # classes in a table; more are summed up in one line


@dataclass(frozen=True, eq=False)
class Metrics:
    """The confusion matrix of predictions, and the measures that follow from it.

    Attributes
    ----------
    confusion
        int64 ``(classes, classes)``: row = true class, column = predicted class
    class_names
        one per class, or empty
    """

    confusion: np.ndarray
    class_names: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float:
        """Return the share of correct predictions, 0 … 1."""
        return float(self.confusion.trace() / self.confusion.sum())

    @property
    def recall(self) -> np.ndarray:
        """Return the share of each class's samples predicted correctly, float64 ``(classes,)``; NaN without samples."""
        samples = self.confusion.sum(axis=1)
        return np.divide(self.confusion.diagonal(), samples, np.full(len(samples), np.nan), where=samples > 0)

    @property
    def balanced_accuracy(self) -> float:
        """Return the mean recall of the n classes that have samples, 0 … 1. Guessing gives 1/n."""
        return float(np.nanmean(self.recall))

    @property
    def warning(self) -> str:
        """Return a sentence if only one of several classes is predicted, else an empty string."""
        predicted = np.flatnonzero(self.confusion.sum(axis=0))
        if len(predicted) != 1 or (self.confusion.sum(axis=1) > 0).sum() < 2:
            return ""
        share = self.confusion[predicted[0]].sum() / self.confusion.sum()
        return f"every sample is predicted as class {self.name(int(predicted[0]))}, which {share:.1%} of them are"

    def name(self, label: int) -> str:
        """Return a class's name, or its number."""
        return self.class_names[label] if self.class_names else str(label)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; a recall that is not known is None."""
        return {
            "balanced_accuracy": self.balanced_accuracy,
            "recall": [None if np.isnan(r) else float(r) for r in self.recall],
            "confusion": self.confusion.tolist(),
            "class_names": list(self.class_names),
        }

    def rows(self) -> list[list[str]]:
        """Return a table: class, samples, recall, and the most frequent wrong class."""
        rows = []
        for label, (counts, recall) in enumerate(zip(self.confusion, self.recall)):
            wrong = counts.copy()
            wrong[label] = 0
            most = int(wrong.argmax())
            taken = f"{self.name(most)} ({wrong[most]:,})" if wrong[most] else ""
            known = "" if np.isnan(recall) else f"{recall:.1%}"
            rows.append([self.name(label), f"{counts.sum():,}", known, taken])
        return rows

    def worst(self, count: int = SHOWN) -> list[list[str]]:
        """Return :meth:`rows` of the classes with the lowest recall, at most ``count``."""
        order = np.argsort(np.nan_to_num(self.recall, nan=2.0), kind="stable")[:count]
        every = self.rows()
        return every if len(every) <= count else [every[label] for label in order]


COLUMNS = ["class", "samples>", "recall>", "most frequent wrong class"]


def measure(predictions: np.ndarray, labels: np.ndarray, num_classes: int, class_names: Sequence[str] = ()) -> Metrics:
    """Return the metrics of predictions int ``(n,)`` against labels int ``(n,)``.

    Raises
    ------
    UsageError
        for arrays of different length or none, or numbers outside 0 … num_classes − 1
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or labels.ndim != 1 or not len(labels):
        raise UsageError(f"metrics: expected as many predictions as labels, got {predictions.shape}, {labels.shape}")
    for what, values in (("predictions", predictions), ("labels", labels)):
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= num_classes:
            raise UsageError(
                f"metrics: {what}: expected integers 0 … {num_classes - 1}, got {values.dtype} "
                f"{values.min()} … {values.max()}"
            )
    counts = np.bincount(labels.astype(np.int64) * num_classes + predictions, minlength=num_classes**2)
    return Metrics(counts.reshape(num_classes, num_classes), tuple(class_names))


def warnings(measured: Metrics | None, rates: Sequence[float] = ()) -> list[str]:
    """Return a sentence if only one class is predicted, and one that names the hidden layers that never fire.

    rates: spikes of each hidden layer, in any unit; measured: None without labels
    """
    silent = [str(index + 1) for index, rate in enumerate(rates) if rate == 0]
    which = "hidden layers {} never fire" if len(silent) > 1 else "hidden layer {} never fires"
    found = ("" if measured is None else measured.warning, which.format(", ".join(silent)) if silent else "")
    return [sentence for sentence in found if sentence]

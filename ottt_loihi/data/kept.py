"""A measure of the information that a coding keeps: a linear classifier before and after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ottt_loihi.data.codings import encode
from ottt_loihi.data.prepare import Prepared
from ottt_loihi.errors import UsageError

FOLDS = 3
ALPHAS = tuple(10.0**exponent for exponent in range(-2, 5))  # of the ridge, chosen on the training folds


@dataclass(frozen=True)
class Kept:
    """Accuracies of one linear classifier in cross-validation, each 0 … 1, on the same samples.

    Attributes
    ----------
    values
        on the values before the coding, all time steps at once
    coded
        on all that the coding sends, all time steps at once
    samples
        how many were used
    """

    values: float
    coded: float
    samples: int


def kept(prepared: Prepared, num_steps: int, count: int = 500, seed: int = 0) -> Kept:
    """Measure how much of the classes a linear classifier finds before and after the coding.

    A ridge classifier (scikit-learn), 3-fold cross-validation over training samples. It says whether a coding loses
    what tells the classes apart, not how well a network learns.

    Parameters
    ----------
    num_steps
        T of the coding
    count
        samples, drawn over all training samples with ``seed``

    Raises
    ------
    UsageError
        for fewer than 3 samples or 2 classes
    """
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import KFold, cross_val_score

    split, record = prepared.split, prepared.record
    chosen = np.sort(np.random.default_rng(seed).permutation(len(split.x_train))[:count])
    y = split.y_train[chosen]
    if len(y) < FOLDS or len(np.unique(y)) < 2:
        raise UsageError(f"kept: expected at least {FOLDS} samples of 2 classes, got {len(y)} of {len(np.unique(y))}")
    x = split.x_train[chosen]
    sent = encode(x, record.coding, num_steps, seed, chosen, time_axis=record.time_axis)
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    accuracies = (
        float(cross_val_score(RidgeClassifierCV(ALPHAS), a.reshape(len(a), -1).astype(np.float64), y, cv=folds).mean())
        for a in (x, sent)
    )
    return Kept(*accuracies, len(y))

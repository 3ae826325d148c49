"""Test, then learn, along a stream: every sample is answered first and learnt from after, if its label ever comes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from ottt_loihi.onchip.learner import learn
from ottt_loihi.onchip.result import LearningResult
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.onchip.stream import UNLABELLED, Data, as_samples
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.metrics import measure

POINTS = 20  # of the curve


@dataclass(frozen=True)
class Prequential:
    """The answers along a stream, and the learning that they belong to.

    Attributes
    ----------
    answers
        the class answered to each sample before it was learnt from, int64 ``(n,)``
    labels
        the right classes, int64 ``(n,)``
    labelled
        samples that were learnt from, bool ``(n,)``
    result
        the learning; the next part of the stream goes on from it with ``after=result``
    """

    answers: np.ndarray
    labels: np.ndarray
    labelled: np.ndarray
    result: LearningResult

    @property
    def accuracy(self) -> float:
        """Return the share of all samples that were answered correctly, 0 … 1."""
        return float((self.answers == self.labels).mean())

    @property
    def balanced_accuracy(self) -> float:
        """Return the mean recall of the classes that occur, 0 … 1."""
        classes = int(max(self.labels.max(), self.answers.max())) + 1
        return measure(self.answers, self.labels, classes).balanced_accuracy

    def curve(self, points: int = POINTS) -> tuple[list[int], list[float]]:
        """Return (samples seen, accuracy of the answers since the point before), at most ``points`` of them."""
        right, ends = self.answers == self.labels, np.linspace(0, len(self.labels), points + 1).astype(int)
        ends = np.unique(ends)
        return ends[1:].tolist(), [float(right[a:b].mean()) for a, b in pairwise(ends)]


def prequential(
    chip: ChipNetwork,
    data: Data,
    *,
    label_share: float = 1.0,
    settings: Settings | None = None,
    after: LearningResult | None = None,
    **options: Any,
) -> Prequential:
    """Answer every sample of a stream in its order, and learn from it after, if its label comes.

    Parameters
    ----------
    chip, data
        as for :func:`~ottt_loihi.onchip.learner.learn`
    label_share
        part of the samples whose label comes, > 0 … 1, drawn from the seed
    settings
        of learning, in the data's order and tested first whatever they say, and without a mean of the weights, which
        would lag behind a world that changes, unless ``average_every`` asks for it
    after
        as for ``learn``
    options
        others of ``learn``: ``known``, ``test``, ``backend`` …

    Raises
    ------
    UsageError
        for a share out of range, or so small that no label comes; and as ``learn``
    """
    x, labels = as_samples(data[0]), np.asarray(data[1])
    checks.number(label_share, "label_share", 0, 1, above=True)
    if after is None:
        settings = settings or Settings()
        settings = replace(settings, shuffle=False, tested=True, average_every=settings.average_every or 0)
    seed, earlier = (settings.seed, 0) if settings is not None else (after.chosen().seed, after.learner.samples)
    labelled = drawn_labels(len(labels), label_share, seed, earlier)
    shown = np.where(labelled, labels, UNLABELLED)
    result = learn(chip, (x, shown), settings=settings, after=after, **options)
    return Prequential(np.array(result.answers, np.int64), labels[: result.samples], labelled[: result.samples], result)


def drawn_labels(samples: int, share: float, seed: int, earlier: int = 0) -> np.ndarray:
    """Return which samples have a label, bool ``(samples,)``, ``round(share·samples)`` of them.

    Raises
    ------
    UsageError
        where that is none
    """
    count = round(share * samples)
    if not count:
        raise UsageError(
            f"label_share: {share:g} of {samples:,} samples is no label, so nothing can be learnt; raise the share"
        )
    labelled = np.zeros(samples, bool)
    labelled[np.random.default_rng([seed, samples, earlier]).permutation(samples)[:count]] = True
    return labelled

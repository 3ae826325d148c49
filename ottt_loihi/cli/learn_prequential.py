"""``ottt-learn --prequential``: every sample of a stream is answered first, then learnt from if its label comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ottt_loihi import checks
from ottt_loihi.cli.learn_scenario import Scenario
from ottt_loihi.data.sparse import some
from ottt_loihi.errors import UsageError
from ottt_loihi.onchip.answered import Prequential, drawn_labels
from ottt_loihi.onchip.result import LearningResult
from ottt_loihi.onchip.stream import UNLABELLED
from ottt_loihi.report import plots, report
from ottt_loihi.sim import Simulator


def check(chosen: bool, share: float, epochs: int | None, stop_at: float | None) -> None:
    """Refuse options that do not go together."""
    checks.number(share, "--label-share", 0, 1, above=True)
    if not chosen and share != 1:
        raise UsageError("--label-share: belongs to --prequential; choose it, or leave the share out")
    if chosen and epochs not in (None, 1):
        raise UsageError(f"--epochs: a stream comes once, got {epochs}; leave it out with --prequential")
    if chosen and stop_at is not None:
        raise UsageError("--stop-at: a stream is answered to its end; leave it out with --prequential")


def labelled(scenario: Scenario, share: float, seed: int) -> np.ndarray:
    """Return which samples are learnt from: a drawn share, without those that a stuck sensor repeats."""
    found = drawn_labels(scenario.samples, share, seed)
    if scenario.stuck is not None:
        found &= ~scenario.stuck
    if not found.any():
        raise UsageError("--prequential: every sample whose label comes repeats the one before; is the sensor stuck?")
    return found


def shown(scenario: Scenario, share: float, seed: int) -> Callable[[int], Any]:
    """Return the training data with the labels of :func:`labelled` alone, −1 for the others."""

    def data(number: int) -> tuple[Any, np.ndarray]:
        x, labels = scenario.training(number)
        return x, np.where(labelled(scenario, share, seed), labels, UNLABELLED)

    return data


def summary(scenario: Scenario, result: LearningResult, share: float, seed: int) -> dict[str, Any]:
    """Return the answers' accuracy along the stream, beside those of the network with frozen weights."""
    x, labels = scenario.training(0)
    labels, learnt = labels[: result.samples], labelled(scenario, share, seed)[: result.samples]
    found = Prequential(np.array(result.answers, np.int64), labels, learnt, result)
    seen = some(x, slice(result.samples))
    frozen = Prequential(Simulator(scenario.chip).run(seen).predictions, labels, learnt, result)
    (samples, accuracy), (_, of_frozen) = found.curve(), frozen.curve()
    return {
        "samples": len(labels),
        "labels": int(learnt.sum()),
        "repeated": 0 if scenario.stuck is None else int(scenario.stuck[: result.samples].sum()),
        "accuracy": found.accuracy,
        "balanced_accuracy": found.balanced_accuracy,
        "accuracy_frozen": frozen.accuracy,
        "balanced_accuracy_frozen": frozen.balanced_accuracy,
        "curve": {"samples": samples, "accuracy": accuracy, "accuracy_frozen": of_frozen},
    }


def rows(found: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table."""
    learning = f"{found['accuracy']:.1%}, balanced {found['balanced_accuracy']:.1%}"
    frozen = f"{found['accuracy_frozen']:.1%}, balanced {found['balanced_accuracy_frozen']:.1%}"
    repeated = ["samples that repeat the one before, not learnt from", f"{found['repeated']:,}"]
    return [
        ["stream, each sample answered first", learning],
        ["stream, frozen weights", frozen],
        ["labels learnt from", f"{found['labels']:,} of {found['samples']:,}"],
        *([repeated] if found["repeated"] else []),
    ]


def figure(found: dict[str, Any]) -> Any:
    """Return the report's figure of the stream."""
    curve, names = found["curve"], {"learning on the chip": "accuracy", "frozen": "accuracy_frozen"}
    series = {name: (curve["samples"], curve[key]) for name, key in names.items()}
    picture = plots.curves(series, x_label="samples of the stream", y_label="right answers (%)", percent=True)
    return report.Figure(picture, "Each point: the samples since the previous point, answered before they were learnt.")

"""Learning one task after the other with one network, and how much of the earlier tasks it keeps."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.pixels import PixelArray
from ottt_loihi.data.sparse import SampleArray
from ottt_loihi.data.split import Split
from ottt_loihi.errors import FileError, UsageError
from ottt_loihi.files import write_text
from ottt_loihi.training.evaluation import evaluate
from ottt_loihi.training.run_folder import RunFolder
from ottt_loihi.training.trainer import Trainer

MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Retention:
    """accuracy: float ``(tasks, tasks)``, row i after task i, column j on task j; NaN above the diagonal."""

    accuracy: np.ndarray

    @property
    def average(self) -> float:
        """Return the mean accuracy over all tasks, after the last task."""
        return float(self.accuracy[-1].mean())

    @property
    def backward_transfer(self) -> float:
        """Return the mean change of earlier tasks' accuracy since they were learnt (< 0: forgotten), NaN for one."""
        last = len(self.accuracy) - 1
        return float((self.accuracy[-1] - self.accuracy.diagonal())[:last].mean()) if last else math.nan


def permuted(split: Split, tasks: int, seed: int = 0) -> list[Split]:
    """Return the same images for each task, from the second on with permuted pixels (Goodfellow et al. 2013)."""
    checks.integer(tasks, "tasks")
    if split.time_axis:
        raise UsageError("permuted: expected images, got frames with a time axis; use a data set without one")
    rng, size = np.random.default_rng(seed), math.prod(split.input_shape)
    orders = [np.arange(size), *(rng.permutation(size) for _ in range(tasks - 1))]
    return [
        replace(split, x_train=_reordered(split.x_train, order), x_test=_reordered(split.x_test, order))
        for order in orders
    ]


def learn_tasks(
    trainer: Trainer,
    tasks: Sequence[Split],
    epochs: int,
    folder: str | os.PathLike[str] | None = None,
    report: Callable[[int, list[float]], None] | None = None,
) -> Retention:
    """Train ``trainer.net`` on one task after the other, each with a new optimiser, and test on all tasks so far.

    A rule with ``hlop`` keeps each task's subspaces before the next begins. With ``folder`` every task is a run there
    (``task-1/`` …), and a second call goes on where the first was stopped, bit for bit. report: called after each task
    with its number and its row.

    Raises
    ------
    UsageError
        for no tasks, tasks of different shapes, or a run that has other settings
    FileError
        for a folder that cannot be read
    """
    if not tasks:
        raise UsageError("tasks: expected at least one")
    hlop = getattr(trainer.rule, "hlop", None)
    kept = None if folder is None else Path(folder) / "accuracy.json"
    rows = [] if kept is None else _read(kept)
    for number, task in enumerate(tasks):
        run = None if folder is None else RunFolder(Path(folder) / f"task-{number + 1}")
        resume = run is not None and run.state.exists()
        trainer.fit(task.x_train, task.y_train, epochs, run=run, resume=resume)
        if number == len(rows):
            seen = tasks[: number + 1]
            rows.append([evaluate(trainer.net, t.x_test, t.y_test, encoding=trainer.encoding).accuracy for t in seen])
            if kept is not None:
                write_text(kept, json.dumps(rows))
        if report is not None:
            report(number, rows[number])
        if hlop is not None:
            hlop.end_task()
    accuracy = np.full((len(tasks), len(tasks)), np.nan)
    for number in range(len(tasks)):
        accuracy[number, : number + 1] = rows[number]
    return Retention(accuracy)


def _reordered(images: SampleArray, order: np.ndarray) -> SampleArray:
    if isinstance(images, PixelArray):
        return PixelArray(_reordered(images.pixels, order))
    return images.reshape(len(images), -1)[:, order].reshape(images.shape)


def _read(path: Path) -> list[list[float]]:
    if not path.exists():
        return []
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        rows = [[float(a) for a in row] for row in json.loads(path.read_text(encoding="utf-8"))]
        if [len(row) for row in rows] != list(range(1, len(rows) + 1)):
            raise ValueError("not a triangle")
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise FileError(f"{path}: no accuracies of ours, or damaged ({error}); remove it to measure anew") from None
    return rows

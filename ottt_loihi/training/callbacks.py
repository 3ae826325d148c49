"""Callbacks: ``Trainer.fit`` calls their methods at fixed places of a training."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich import progress as bars
from rich.console import Console

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.terminal import THEME
from ottt_loihi.training.checkpoint import save

if TYPE_CHECKING:
    from ottt_loihi.training.trainer import Trainer


@dataclass(frozen=True)
class Epoch:
    """One epoch.

    Attributes
    ----------
    epoch
        its number, from 1
    loss
        mean Σ_t L[t] of the training samples
    train_accuracy
        over the batches as they came
    test_accuracy
        of the test samples after the epoch; None without any
    seconds, samples_per_second
        of the training alone
    learning_rate
        of the optimiser's first group
    spike_rates
        per block, spikes per neuron and time step on the test samples, else on the validation samples
    validation_accuracy
        of the validation samples after the epoch; None without any
    """

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float | None = None
    seconds: float = 0.0
    learning_rate: float = 0.0
    samples_per_second: float = 0.0
    spike_rates: tuple[float, ...] = ()
    validation_accuracy: float | None = None


@dataclass
class Progress:
    """The position of a run: after ``epoch`` whole epochs and ``batch`` batches of the next one.

    Attributes
    ----------
    loss, correct, seen, seconds
        sums over the samples of those batches: loss, right predictions, samples, time
    history
        the whole epochs
    best
        the best validation accuracy so far; None without validation data
    """

    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best: float | None = None

    def add(self, loss: float, correct: int, samples: int) -> None:
        """Count a batch."""
        self.loss += loss * samples
        self.correct += correct
        self.seen += samples
        self.batch += 1

    def after_epoch(self, **found: Any) -> Progress:
        """Return the position after the end of this epoch; ``found``: more fields of its :class:`Epoch`."""
        means = {"loss": self.loss / self.seen, "train_accuracy": self.correct / self.seen, "seconds": self.seconds}
        speed = self.seen / self.seconds if self.seconds else 0.0
        last = Epoch(self.epoch + 1, samples_per_second=speed, **means, **found)
        return Progress(self.epoch + 1, history=[*self.history, last], best=self.best)


@dataclass
class Fit:
    """A running training, which callbacks get.

    Attributes
    ----------
    trainer
        with ``net``, ``rule`` and settings
    epochs
        number of epochs at the end
    progress
        the position of the run
    batches
        batches in an epoch; 0 if the number is unknown
    optimizer, scheduler
        torch's
    stop
        set it to True to end the training after this epoch
    """

    trainer: Trainer
    epochs: int
    progress: Progress
    batches: int
    optimizer: Any = None
    scheduler: Any = None
    stop: bool = False

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.trainer.group.leads


class Callback:
    """An object whose methods ``Trainer.fit`` calls. A method that is not overridden does nothing.

    With several processes, each process calls its own callbacks; ``fit.leads`` is true in the first process.
    """

    def on_start(self, fit: Fit) -> None:
        """Called before the first batch. If a run is resumed, its state has been read."""

    def on_batch_end(self, fit: Fit) -> None:
        """Called after each batch. ``fit.progress.batch`` is the number of finished batches of this epoch."""

    def on_epoch_end(self, fit: Fit) -> None:
        """Called after each epoch, whose results are ``fit.progress.history[-1]``."""

    def on_end(self, fit: Fit) -> None:
        """Called at the end of a run, also after an error. Close open files here."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resumed run: numbers, texts, lists, dicts and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set the state to :meth:`state_dict` of an earlier run."""


class ProgressBar(Callback):
    """A bar on stderr with loss, accuracy, speed and memory."""

    def on_start(self, fit: Fit) -> None:
        columns = (bars.BarColumn(12), bars.MofNCompleteColumn(), bars.TextColumn("{task.fields[info]}"))
        console = Console(stderr=True, theme=THEME)
        self.bar = bars.Progress(*columns, bars.TimeRemainingColumn(compact=True), console=console)  # in 80 columns
        self.bar.start()
        self.task = self.bar.add_task("training", total=fit.epochs, completed=fit.progress.epoch, info="")

    def on_batch_end(self, fit: Fit) -> None:
        done = fit.progress
        means = f"loss {done.loss / done.seen:.3f} · train {done.correct / done.seen:.2%}"
        info = f"{means} · {done.seen / done.seconds:,.0f}/s{_memory_text()}"
        part = done.batch / fit.batches if fit.batches else 0
        self.bar.update(self.task, completed=done.epoch + part, info=info)

    def on_epoch_end(self, fit: Fit) -> None:
        self.bar.update(self.task, completed=fit.progress.epoch, info=_summary(fit.progress.history[-1]))

    def on_end(self, fit: Fit) -> None:
        self.bar.stop()


class TensorBoard(Callback):
    """Write event files for TensorBoard into a folder: a point of every curve after every epoch.

    Raises
    ------
    UsageError
        where TensorBoard is not installed
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError("tensorboard: not installed; pip install tensorboard, or read metrics.csv") from None
        self.folder, self.open, self.writer = checks.path(folder, "TensorBoard.folder"), SummaryWriter, None

    def on_start(self, fit: Fit) -> None:
        if fit.leads:  # purge_step: what an interrupted run wrote of this epoch and later is not drawn twice
            self.writer = self.open(str(self.folder), purge_step=fit.progress.epoch + 1)

    def on_epoch_end(self, fit: Fit) -> None:
        if self.writer is None:
            return
        last = fit.progress.history[-1]
        names = [f.name for f in fields(Epoch) if f.name not in ("epoch", "seconds", "spike_rates")]
        for name in names:
            if (value := getattr(last, name)) is not None:
                self.writer.add_scalar(name, value, last.epoch)
        for index, rate in enumerate(last.spike_rates):
            self.writer.add_scalar(f"spike_rate/{index + 1}", rate, last.epoch)
        self.writer.flush()

    def on_end(self, fit: Fit) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


class EarlyStopping(Callback):
    """Ends a training by its validation accuracy.

    Parameters
    ----------
    stop_at
        accuracy in (0, 1] at which the training ends
    patience
        number of epochs in a row without a better accuracy after which the training ends
    """

    def __init__(self, stop_at: float | None = None, patience: int | None = None) -> None:
        self.stop_at = None if stop_at is None else checks.number(stop_at, "stop_at", 0, 1, above=True)
        self.patience = None if patience is None else checks.integer(patience, "patience")
        self.best, self.waited = -1.0, 0

    def on_start(self, fit: Fit) -> None:
        if fit.trainer.validation is None:
            raise UsageError("stop_at, patience: expected validation samples, which say when to stop; got none")
        fit.stop |= self._ends()

    def on_epoch_end(self, fit: Fit) -> None:
        accuracy = fit.progress.history[-1].validation_accuracy
        self.best, self.waited = (accuracy, 0) if accuracy > self.best else (self.best, self.waited + 1)
        fit.stop |= self._ends()

    def _ends(self) -> bool:
        reached = self.stop_at is not None and self.best >= self.stop_at
        return reached or (self.patience is not None and self.waited >= self.patience)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = float(state["best"]), int(state["waited"])


class SaveModel(Callback):
    """Saves the network at the end or after Ctrl-C, but not after an error."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = checks.path(path, "checkpoint")

    def save_model(self, fit: Fit) -> Path:
        """Write the file and return its path."""
        if fit.leads:
            save(fit.trainer.net, self.path, fit.trainer.provenance(fit.epochs, fit.progress.history))
        return self.path


def peak_memory() -> int:
    """Return the largest number of bytes of memory that this process has had; 0 on Windows, which has no such count."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _memory_text() -> str:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return f" · {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB GPU"
    return f" · {peak_memory() / 2**20:,.0f} MiB" if peak_memory() else ""


def _summary(epoch: Epoch) -> str:
    """Return an epoch in a few words, for the progress bar."""
    accuracies = [("validation", epoch.validation_accuracy), ("test", epoch.test_accuracy)]
    shown = "".join(f" · {name} {value:.2%}" for name, value in accuracies if value is not None)
    spikes = f" · spikes {np.mean(epoch.spike_rates):.3f}" if epoch.spike_rates else ""
    return f"loss {epoch.loss:.3f} · train {epoch.train_accuracy:.2%}{shown}{spikes}"

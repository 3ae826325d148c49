"""Training and evaluating a network on a data set, reproducibly."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ottt_loihi.checkpoint import save
from ottt_loihi.data.encoding import rate_code
from ottt_loihi.errors import TrainingError, UsageError
from ottt_loihi.losses import Loss, make_loss
from ottt_loihi.losses import describe as describe_loss
from ottt_loihi.network import Network
from ottt_loihi.neurons import one_of
from ottt_loihi.rules.rule import Rule, check_labels

TEST_ENCODING_SEED = 0  # test images are always the same spikes, whatever a network was trained with

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean Σ_t L[t] and accuracy over the batches as they came; test accuracy after it, or None."""

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """accuracy: 0 … 1 · predictions: int64 ``(n,)`` · spike_rates: per block, spikes per neuron and time step."""

    accuracy: float
    predictions: np.ndarray
    spike_rates: list[float]


class Trainer:
    """Trains a network with a rule; the same arguments give the same weights, bit for bit, on one machine.

    Data are images ``(n, *input_shape)`` in [0, 1], which become fresh rate-coded spikes in every epoch, or spikes
    ``(n, T, *input_shape)``, which are used as they are.

    Parameters
    ----------
    net, rule
        what to train, and how (``ottt_loihi.rules``)
    loss
        a name or an object of ``ottt_loihi.losses``
    optimizer
        ``"sgd"`` (with ``momentum``) or ``"adam"``
    learning_rate, momentum, weight_decay, batch_size
        of the optimiser
    schedule
        ``"cosine"``: lr·½(1 + cos(π·epoch/epochs)), per epoch; ``"constant"``
    seed
        of the order of the samples and of their spikes
    progress
        show a progress bar on stderr

    Raises
    ------
    UsageError
        for any value out of range
    """

    def __init__(
        self,
        net: Network,
        rule: Rule,
        *,
        loss: str | Loss = "squared-error",
        optimizer: str = "adam",
        learning_rate: float = 0.005,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        schedule: str = "cosine",
        batch_size: int = 64,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.net, self.rule, self.loss, self.progress = net, rule, make_loss(loss), progress
        self.optimizer = one_of(optimizer, "optimizer", tuple(OPTIMIZERS))
        self.schedule = one_of(schedule, "schedule", SCHEDULES)
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        if not (0 < learning_rate < float("inf") and 0 <= momentum < 1 and 0 <= weight_decay < float("inf")):
            raise UsageError(
                "expected learning_rate > 0, momentum in [0, 1), weight_decay ≥ 0; "
                f"got {learning_rate}, {momentum}, {weight_decay}"
            )
        self.batch_size, self.seed = batch_size, seed
        if batch_size < 1 or seed < 0:
            raise UsageError(f"expected batch_size ≥ 1 and seed ≥ 0, got {batch_size} and {seed}")

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        epochs: int,
        *,
        x_test: np.ndarray | None = None,
        y_test: np.ndarray | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> list[Epoch]:
        """Train for some epochs; the network is changed in place.

        With ``checkpoint`` the network is saved there at the end, and on Ctrl-C too, as it is then; the
        KeyboardInterrupt that goes on says so.

        Raises
        ------
        UsageError
            for data that do not fit the network
        TrainingError
            when the loss is no longer finite; no checkpoint is written then
        """
        x, y = self._check_data(x, y)
        if (x_test is None) != (y_test is None):
            raise UsageError("fit: x_test and y_test go together, got one of them")
        if epochs < 1:
            raise UsageError(f"epochs: expected 1 or more, got {epochs}")
        history: list[Epoch] = []
        try:
            optimizer = self._make_optimizer()  # the first one of a process takes torch seconds
            with _progress_bar(self.progress) as bar:
                task = bar.add_task("training", total=epochs, info="")
                for epoch in range(epochs):
                    self._set_learning_rate(optimizer, epoch, epochs)
                    history.append(self._epoch(epoch, x, y, x_test, y_test, optimizer))
                    bar.update(task, advance=1, info=_summary(history[-1]))
        except KeyboardInterrupt:
            if checkpoint is None:
                raise
            self._save(checkpoint, epochs, history)
            raise KeyboardInterrupt(f"the network as it is now is in {checkpoint}") from None
        self._save(checkpoint, epochs, history)
        return history

    def _save(self, checkpoint: str | os.PathLike[str] | None, epochs: int, history: list[Epoch]) -> None:
        if checkpoint is not None:
            save(self.net, checkpoint, self._provenance(epochs, history))

    def _epoch(
        self,
        epoch: int,
        x: np.ndarray,
        y: np.ndarray,
        x_test: np.ndarray | None,
        y_test: np.ndarray | None,
        optimizer: torch.optim.Optimizer,
    ) -> Epoch:
        start = time.perf_counter()
        loss, correct = 0.0, 0
        order = np.random.default_rng([self.seed, epoch]).permutation(len(x))
        for batch, first in enumerate(range(0, len(x), self.batch_size)):
            chosen = order[first : first + self.batch_size]
            spikes = _encode(self.net, x[chosen], train_encoding_seed(self.seed, epoch), chosen)
            labels = torch.from_numpy(y[chosen])
            result = self.rule.train_batch(self.net, spikes, labels, self.loss, optimizer)
            if not torch.isfinite(result.loss):
                raise TrainingError(
                    f"epoch {epoch + 1}, batch {batch + 1}: the loss is {float(result.loss)}; "
                    f"lower the learning rate ({self.learning_rate:g})"
                )
            loss += float(result.loss) * len(chosen)
            correct += int((result.scores.argmax(1).cpu() == labels).sum())
        accuracy = None if x_test is None or y_test is None else evaluate(self.net, x_test, y_test).accuracy
        return Epoch(epoch + 1, loss / len(x), correct / len(x), accuracy, time.perf_counter() - start)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        settings: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            settings["momentum"] = self.momentum
        return OPTIMIZERS[self.optimizer](self.net.parameters(), **settings)

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer, epoch: int, epochs: int) -> None:
        factor = 0.5 * (1 + np.cos(np.pi * epoch / epochs)) if self.schedule == "cosine" else 1.0
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * float(factor)

    def _check_data(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = _check_shape(self.net, x)
        return x, check_labels(self.net, x, np.asarray(y)).cpu().numpy()

    def _provenance(self, epochs: int, history: list[Epoch]) -> dict[str, Any]:
        """All that made the weights, and no time: equal runs give equal files."""
        settings = ("optimizer", "learning_rate", "momentum", "weight_decay", "schedule", "batch_size")
        last = {key: value for key, value in asdict(history[-1]).items() if key != "seconds"} if history else None
        return {
            "seed": self.seed,
            "training": {
                "rule": self.rule.describe(),
                "loss": describe_loss(self.loss),
                **{name: getattr(self, name) for name in settings},
                "epochs": epochs,
                "epochs_done": len(history),
                "last_epoch": last,
            },
            "encoding": {"name": "rate", "test_seed": TEST_ENCODING_SEED},
        }


def evaluate(net: Network, x: np.ndarray, y: np.ndarray, batch_size: int = 512) -> Evaluation:
    """Accuracy on a test set.

    x: images ``(n, *input_shape)``, encoded with ``rate_code(x, T, seed=TEST_ENCODING_SEED)``, or spikes
    ``(n, T, *input_shape)`` · y: integers ``(n,)``

    Raises
    ------
    UsageError
        for data that do not fit the network
    """
    x = _check_shape(net, x)
    labels = check_labels(net, x, np.asarray(y)).cpu().numpy()
    predictions, spikes = [], np.zeros(len(net.blocks))
    with torch.no_grad():
        for first in range(0, len(x), batch_size):
            indices = np.arange(first, min(first + batch_size, len(x)))
            run = net.run(_encode(net, x[indices], TEST_ENCODING_SEED, indices), record=("s",))
            predictions.append(run.predictions.cpu().numpy())
            spikes += [float(s.mean()) * len(indices) for s in run.states["s"]]
    predicted = np.concatenate(predictions)
    return Evaluation(float((predicted == labels).mean()), predicted, list(spikes / len(x)))


def train_encoding_seed(seed: int, epoch: int) -> int:
    """The seed of the spikes of one training epoch: never that of the test spikes, never the same twice in a run."""
    return 1 + seed * 1_000_000 + epoch


def _encode(net: Network, x: np.ndarray, seed: int, indices: np.ndarray) -> Tensor:
    """Spikes ``(n, T, *input_shape)``: images are rate coded, spikes pass."""
    if x.ndim == 1 + len(net.input_shape):
        x = rate_code(x, net.time_steps, seed=seed, indices=indices)
    return torch.from_numpy(np.ascontiguousarray(x))


def _check_shape(net: Network, x: np.ndarray) -> np.ndarray:
    x = np.asarray(x)
    frame = x.shape[-len(net.input_shape) :]
    if x.size == 0 or frame != net.input_shape or x.ndim - len(frame) not in (1, 2):
        raise UsageError(
            f"data: expected images (n, {', '.join(map(str, net.input_shape))}) or spikes with a time axis after n, "
            f"got shape {x.shape}"
        )
    return x


def _progress_bar(visible: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[info]}"))
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not visible)


def _summary(epoch: Epoch) -> str:
    test = "" if epoch.test_accuracy is None else f" · test {epoch.test_accuracy:.2%}"
    return f"loss {epoch.loss:.3f} · train {epoch.train_accuracy:.2%}{test}"

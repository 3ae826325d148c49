"""Training a network on a data set, reproducibly."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.data.augment import augment
from ottt_loihi.data.description import Step
from ottt_loihi.data.split import Split
from ottt_loihi.errors import TrainingError, UsageError
from ottt_loihi.nn.inputs import Input
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.precision import check_autocast
from ottt_loihi.rules.base import Rule
from ottt_loihi.rules.losses import Distilled, Loss, make_loss
from ottt_loihi.rules.losses import describe as describe_loss
from ottt_loihi.terminal import THEME
from ottt_loihi.training.checkpoint import save
from ottt_loihi.training.distributed import Group
from ottt_loihi.training.encoding import encode, encoding_name, fit_encoding
from ottt_loihi.training.engine import ENGINES, Engine, choose
from ottt_loihi.training.evaluation import TEST_ENCODING_SEED, evaluate
from ottt_loihi.training.run_folder import Epoch, RunFolder
from ottt_loihi.training.run_folder import Progress as RunProgress

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
SCHEDULES = ("cosine", "constant")
SETTINGS = ("optimizer", "learning_rate", "momentum", "weight_decay", "schedule", "batch_size")


class Trainer:
    """Trains a network with a rule; the same arguments give the same weights, bit for bit, on one machine.

    Data are images ``(n, *input_shape)`` in [0, 1], or frames with a time axis ``(n, T, *input_shape)``.

    Parameters
    ----------
    net, rule
        what to train, and how (``ottt_loihi.rules``)
    loss
        a name or an object of ``ottt_loihi.rules.losses``
    optimizer
        ``"sgd"`` (with ``momentum``) or ``"adam"``
    learning_rate, momentum, weight_decay, batch_size
        of the optimiser
    schedule
        ``"cosine"``: lr·½(1 + cos(π·epoch/epochs)), per epoch; ``"constant"``
    encoding
        of the samples, a name, ``"delta:threshold=0.1"`` or a Step (:mod:`ottt_loihi.data.codings`); default: frames as
        they are, images as rate-coded spikes. All chance is drawn anew in every epoch
    augmentations
        names for :func:`~ottt_loihi.data.augment.augment`, applied to the training samples, anew in every epoch
    seed
        of the order of the samples, of their spikes and augmentations, and of dropped neurons
    progress
        show a progress bar on stderr
    teacher, kappa, temperature
        a trained network whose mean readout the loss also wants (:class:`~ottt_loihi.rules.losses.Distilled`)
    autocast
        ``"bfloat16"`` or ``"float16"``: products of 16 bits (:mod:`ottt_loihi.nn.precision`); tests stay as they are
    engine, chunk
        ``"auto"``, ``"plain"`` or ``"fast"``, and time steps at once (:func:`~ottt_loihi.training.engine.choose`);
        ``fit`` keeps the choice in ``chosen``
    group
        the processes that train together (``ottt_loihi.training.distributed``); ``batch_size`` is the joint batch's

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
        encoding: str | Step | None = None,
        augmentations: Sequence[str] = (),
        seed: int = 0,
        progress: bool = False,
        teacher: Network | None = None,
        kappa: float = 0.5,
        temperature: float = 2.0,
        autocast: str = "",
        engine: str = "auto",
        chunk: int | None = None,
        group: Group | None = None,
    ) -> None:
        self.net, self.rule, self.loss, self.progress = net, rule, make_loss(loss), progress
        self.optimizer = checks.one_of(optimizer, "optimizer", tuple(OPTIMIZERS))
        self.schedule = checks.one_of(schedule, "schedule", SCHEDULES)
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        if not (0 < learning_rate <= 1e30 and 0 <= momentum < 1 and 0 <= weight_decay <= 1e30):
            raise UsageError(
                "expected learning_rate > 0, momentum in [0, 1), weight_decay ≥ 0, none above 1e30; "
                f"got {learning_rate}, {momentum}, {weight_decay}"
            )
        self.batch_size, self.seed = batch_size, seed
        if batch_size < 1 or seed < 0:
            raise UsageError(f"expected batch_size ≥ 1 and seed ≥ 0, got {batch_size} and {seed}")
        if isinstance(augmentations, str) or not isinstance(augmentations, Sequence):
            raise UsageError(f"augmentations: expected a list of names, got {augmentations!r}")
        self.encoding, self.time_axis, self.augmentations = encoding, False, tuple(augmentations)
        self.teacher, self.kappa, self.temperature = teacher, kappa, temperature
        if not (0 <= kappa <= 1 and 0 < temperature < float("inf")):
            raise UsageError(f"expected kappa in [0, 1] and temperature > 0, got {kappa} and {temperature}")
        if teacher is not None and (teacher.input_shape, teacher.num_classes) != (net.input_shape, net.num_classes):
            raise UsageError(
                f"teacher: expected inputs {net.input_shape} and {net.num_classes} classes, "
                f"got {teacher.input_shape} and {teacher.num_classes}"
            )
        self.autocast = check_autocast(autocast)
        self.engine, self.chunk = checks.one_of(engine, "engine", ENGINES), chunk
        self.chosen: Engine | None = None  # of the last ``fit``
        self.group = Group() if group is None else group

    def fit(
        self,
        x: np.ndarray | Split,
        y: np.ndarray | None = None,
        epochs: int = 1,
        *,
        x_test: np.ndarray | None = None,
        y_test: np.ndarray | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        run: RunFolder | None = None,
        resume: bool = False,
        checkpoint_every: int = 0,
    ) -> list[Epoch]:
        """Train for some epochs; the network is changed in place.

        ``fit(split, epochs=10)`` learns from a :class:`~ottt_loihi.data.Split` and tests on its test part; otherwise x
        and y are arrays, ``(n, *input_shape)`` or ``(n, T, *input_shape)``, and labels ``(n,)``.

        With ``checkpoint`` the network is saved there at the end, and on Ctrl-C too, as it is then; the
        KeyboardInterrupt that goes on says so. With ``run`` a folder keeps the state after every epoch (and every
        ``checkpoint_every`` batches), the best network and the metrics; ``resume`` goes on from there, and the weights
        are those of a run that was never interrupted.

        Raises
        ------
        UsageError
            for data that do not fit the network, or a run to resume that has other settings
        FileError
            for a run folder that cannot be read
        TrainingError
            when a loss is no longer finite; it names the step and the layer, and no file is overwritten
        """
        if isinstance(x, Split):
            if y is not None or x_test is not None:
                raise UsageError(
                    "fit: a Split brings its labels and test samples; give it alone, as fit(split, epochs=…)"
                )
            x, y, x_test, y_test = x.x_train, x.y_train, x.x_test, x.y_test
        if y is None:
            raise UsageError("fit: expected labels, or a Split; got samples alone")
        x, y = self._check_data(x, y)
        if (x_test is None) != (y_test is None):
            raise UsageError("fit: x_test and y_test go together, got one of them")
        if epochs < 1 or checkpoint_every < 0:
            raise UsageError(f"fit: expected epochs ≥ 1 and checkpoint_every ≥ 0, got {epochs}, {checkpoint_every}")
        self.chosen = self._choose_engine(x)
        if resume and run is None:
            raise UsageError("fit: resume needs the run folder to go on in")
        files = _Files(self, epochs, checkpoint, run if self.group.leads else None, checkpoint_every)
        done = files.done
        self.group.share(self.net)
        try:
            optimizer = files.optimizer = self._make_optimizer()  # the first one of a process takes torch seconds
            if resume and run is not None:
                done = files.done = run.load_state(self.net, optimizer, self._settings(epochs), self.rule)
            with _same_every_time(), _own_chance(self.net), _progress_bar(self.progress and self.group.leads) as bar:
                task = bar.add_task("training", total=epochs, completed=done.epoch, info="")
                while done.epoch < epochs:
                    self._set_learning_rate(optimizer, done.epoch, epochs)
                    self._epoch(x, y, optimizer, done, files, bar, task)
                    self._end_epoch(x_test, y_test, optimizer, done, len(x))
                    files.end_epoch()
                    bar.update(task, completed=done.epoch, info=_summary(done.history[-1]))
        except KeyboardInterrupt:
            if (where := files.save_interrupted()) is None:
                raise
            raise KeyboardInterrupt(f"the network as it is now is in {where}") from None
        files.save_model()
        return done.history

    def _epoch(
        self,
        x: np.ndarray,
        y: np.ndarray,
        optimizer: torch.optim.Optimizer,
        done: RunProgress,
        files: _Files,
        bar: Progress,
        task: Any,
    ) -> None:
        self.net.train()
        order = np.random.default_rng([self.seed, done.epoch]).permutation(len(x))
        batches = [order[first : first + self.batch_size] for first in range(0, len(x), self.batch_size)]
        left = list(enumerate(batches))[done.batch :]
        jobs = [partial(self._inputs, x, self.group.part(chosen), done.epoch, index) for index, chosen in left]
        start = time.perf_counter()
        for (_, chosen), inputs in zip(left, in_turn(jobs, ahead=_is_elsewhere(self.net)), strict=True):
            self.group.begin(chosen)
            loss, correct = self._batch(inputs, torch.from_numpy(y[self.group.part(chosen)]), done, optimizer)
            done.loss += loss * len(chosen)
            done.correct += correct
            done.batch += 1
            done.seconds += time.perf_counter() - start
            seen = min(done.batch * self.batch_size, len(x))
            info = f"loss {done.loss / seen:.3f} · train {done.correct / seen:.2%} · {seen / done.seconds:,.0f}/s"
            bar.update(task, completed=done.epoch + done.batch / len(batches), info=f"{info} · {_memory()}")
            files.end_batch(len(batches))
            start = time.perf_counter()

    def _inputs(self, x: np.ndarray, chosen: np.ndarray, epoch: int, batch: int) -> Input:
        """What the network gets of these samples; torch's own chance has no part in it."""
        samples = x[chosen]
        if self.augmentations:
            rng = np.random.default_rng([self.seed, epoch, batch, self.group.rank])
            samples = augment(samples, self.augmentations, rng)
        seed = train_encoding_seed(self.seed, epoch)
        return encode(samples, self.encoding, self.net.time_steps, seed, chosen, self.time_axis)

    def _batch(
        self, inputs: Input, labels: Tensor, done: RunProgress, optimizer: torch.optim.Optimizer
    ) -> tuple[float, int]:
        """Mean loss and number of right predictions of one batch, over all processes."""
        torch.manual_seed(_batch_seed(self.seed, done.epoch, done.batch, self.group.rank))  # dropout, SLTT-K
        try:
            with torch.autocast(self.net.readout.weight.device.type, self.autocast, enabled=self.autocast is not None):
                result = self.chosen.train_batch(self.net, self.rule, inputs, labels, self._loss(inputs), optimizer)
        except TrainingError as error:
            raise TrainingError(
                f"epoch {done.epoch + 1}, batch {done.batch + 1}: {error}; "
                f"lower the learning rate ({self.learning_rate:g})"
            ) from None
        weight = self.group.weight
        correct = int((result.scores.argmax(1).cpu() == labels).sum()) if weight else 0
        loss, total = self.group.sum(float(result.loss) * weight, correct)
        return loss, int(total)

    def _choose_engine(self, x: np.ndarray) -> Engine:
        """Choose the engine once for a run, and say it."""
        num_steps = x.shape[1] if self.time_axis else self.net.time_steps
        loss = self.loss if self.teacher is None else Distilled(self.loss, torch.empty(0), 0.5, 1.0)  # its type counts
        chosen = choose(self.net, self.rule, loss, num_steps, self.engine, self.chunk)
        if self.progress and self.group.leads:
            Console(stderr=True, theme=THEME).print(chosen.why, highlight=False)
        return chosen

    def _loss(self, inputs: Input) -> Any:
        if self.teacher is None:
            return self.loss
        with torch.no_grad():
            mean = self.teacher.eval().run(inputs).scores / inputs.shape[1]
        return Distilled(self.loss, mean.to(self.net.readout.weight), self.kappa, self.temperature)

    def _end_epoch(
        self,
        x_test: np.ndarray | None,
        y_test: np.ndarray | None,
        optimizer: torch.optim.Optimizer,
        done: RunProgress,
        samples: int,
    ) -> None:
        """Turn the sums over the batches into an epoch of the history."""
        accuracy, rates = None, ()
        if x_test is not None and y_test is not None:
            found = evaluate(self.net, x_test, y_test, encoding=self.encoding)
            accuracy, rates = found.accuracy, tuple(found.spike_rates)
        rate = optimizer.param_groups[0]["lr"]
        speed = samples / done.seconds if done.seconds else 0.0
        done.history.append(
            Epoch(
                done.epoch + 1,
                done.loss / samples,
                done.correct / samples,
                accuracy,
                done.seconds,
                rate,
                speed,
                rates,
            )
        )
        done.epoch, done.batch, done.loss, done.correct, done.seconds = done.epoch + 1, 0, 0.0, 0, 0.0

    def _make_optimizer(self) -> torch.optim.Optimizer:
        settings: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            settings["momentum"] = self.momentum
        optimizer = OPTIMIZERS[self.optimizer](self.net.parameters(), **settings)
        self.group.attach(optimizer)
        return optimizer

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer, epoch: int, epochs: int) -> None:
        factor = 0.5 * (1 + np.cos(np.pi * epoch / epochs)) if self.schedule == "cosine" else 1.0
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * float(factor)

    def _check_data(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = np.asarray(x)
        self.encoding, self.time_axis = fit_encoding(self.encoding, x.shape, self.net.input_shape)
        return x, self.net.check_labels(y, len(x)).cpu().numpy()

    def _settings(self, epochs: int) -> dict[str, Any]:
        """What two halves of one run must share, as JSON values."""
        return {
            "rule": self.rule.describe(),
            "loss": describe_loss(self.loss),
            **{name: getattr(self, name) for name in SETTINGS},
            "encoding": encoding_name(self.encoding),
            "augmentations": list(self.augmentations),
            **({} if self.teacher is None else {"kappa": self.kappa, "temperature": self.temperature}),
            **({} if self.autocast is None else {"autocast": str(self.autocast).removeprefix("torch.")}),
            "seed": self.seed,
            "engine": self.chosen.describe() if self.chosen else None,
            "processes": self.group.size,
            "epochs": epochs,
        }

    def provenance(self, epochs: int, history: list[Epoch]) -> dict[str, Any]:
        """All that made the weights, and no time: equal runs give equal files."""
        timed = ("seconds", "samples_per_second", "spike_rates")
        last = {key: value for key, value in asdict(history[-1]).items() if key not in timed} if history else None
        described = self._settings(epochs)
        del described["seed"], described["encoding"]
        return {
            "seed": self.seed,
            "training": {**described, "epochs_done": len(history), "last_epoch": last},
            "encoding": {**_named(self.encoding), "test_seed": TEST_ENCODING_SEED},
        }


class _Files:
    """What :meth:`Trainer.fit` writes, and when."""

    def __init__(
        self,
        trainer: Trainer,
        epochs: int,
        checkpoint: str | os.PathLike[str] | None,
        run: RunFolder | None,
        every: int,
    ) -> None:
        self.trainer, self.epochs = trainer, epochs
        self.done, self.optimizer = RunProgress(), None
        self.checkpoint, self.run, self.every = checkpoint, run, every

    def end_batch(self, batches: int) -> None:
        if self.run is not None and self.every and self.done.batch % self.every == 0 and self.done.batch < batches:
            self._save_state()

    def end_epoch(self) -> None:
        if self.run is not None:
            self.run.end_epoch(self.trainer.net, self._provenance(), self.done)
            self._save_state()

    def save_model(self) -> Path | None:
        """The network as it is now; returns where it is, or None where nobody asked for it."""
        if self.run is not None:
            self.run.save_model(self.trainer.net, self._provenance())
        if self.checkpoint is not None and self.trainer.group.leads:
            save(self.trainer.net, self.checkpoint, self._provenance())
        return Path(self.checkpoint) if self.checkpoint is not None else self.run.model if self.run else None

    def save_interrupted(self) -> Path | None:
        """After Ctrl-C, which may have come in the middle of a batch: ``training.pt`` stays at its last safe place."""
        return self.save_model()

    def _save_state(self) -> None:
        trainer = self.trainer
        self.run.save_state(trainer.net, self.optimizer, self.done, trainer._settings(self.epochs), trainer.rule)

    def _provenance(self) -> dict[str, Any]:
        return self.trainer.provenance(self.epochs, self.done.history)


def _named(coding: Step) -> dict[str, Any]:
    return {"name": coding.name, **({"options": dict(coding.options)} if coding.options else {})}


def train_encoding_seed(seed: int, epoch: int) -> int:
    """The seed of the spikes of one training epoch: never that of the test spikes, never the same twice in a run."""
    return 1 + seed * 1_000_000 + epoch


def _batch_seed(*numbers: int) -> int:
    """torch's seed for one batch: where a run is says what is drawn next, so that no generator has to be saved."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def in_turn(jobs: Iterable[Callable[[], Tensor]], ahead: bool) -> Iterator[Tensor]:
    """The jobs' results, in order; with ``ahead`` each one's work is done while the one before is in use."""
    if not ahead:
        yield from (job() for job in jobs)
        return
    with ThreadPoolExecutor(1, "ottt-inputs") as pool:
        waiting: list[Future[Tensor]] = []
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) == 2:
                yield waiting.pop(0).result()
        yield from (future.result() for future in waiting)


def _is_elsewhere(net: Network) -> bool:
    """Whether this machine's CPU has time while the network learns."""
    return net.readout.weight.device.type != "cpu"


def _same_every_time() -> Any:
    """Convolutions on a GPU by algorithms whose sums have an order; afterwards as the caller had it."""
    now = torch.backends.cudnn
    return now.flags(enabled=now.enabled, deterministic=True, allow_tf32=now.allow_tf32)


def _own_chance(net: Network) -> Any:
    """Dropout and SLTT-K draw from torch's global generators, seeded for every batch; the caller's are put back."""
    device = net.readout.weight.device
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _memory() -> str:
    """The most memory this process has had, for the progress bar."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return f"{torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB GPU"
    try:
        import resource
    except ImportError:  # Windows has no such count
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:,.0f} MiB"


def _progress_bar(visible: bool) -> Progress:
    columns = (BarColumn(12), MofNCompleteColumn(), TextColumn("{task.fields[info]}"))  # all of it in 80 columns
    return Progress(
        *columns, TimeRemainingColumn(compact=True), console=Console(stderr=True, theme=THEME), disable=not visible
    )


def _summary(epoch: Epoch) -> str:
    test = "" if epoch.test_accuracy is None else f" · test {epoch.test_accuracy:.2%}"
    spikes = f" · spikes {np.mean(epoch.spike_rates):.3f}" if epoch.spike_rates else ""
    return f"loss {epoch.loss:.3f} · train {epoch.train_accuracy:.2%}{test}{spikes}"

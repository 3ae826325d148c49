"""Training a network on a data set, reproducibly."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.data.description import Step
from ottt_loihi.data.images import ImageSplit
from ottt_loihi.data.split import Split
from ottt_loihi.errors import TrainingError, UsageError
from ottt_loihi.nn.inputs import Input
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.precision import check_autocast
from ottt_loihi.rules.base import Rule
from ottt_loihi.rules.losses import Distilled, Loss, check_distillation, make_loss, weighted
from ottt_loihi.rules.losses import describe as describe_loss
from ottt_loihi.terminal import THEME
from ottt_loihi.training import optimizers
from ottt_loihi.training.batches import Feed, torch_seed
from ottt_loihi.training.callbacks import Callback, Epoch, Fit, Progress, ProgressBar, SaveModel
from ottt_loihi.training.checkpoint import not_finite, tensors_of
from ottt_loihi.training.distributed import Group
from ottt_loihi.training.encoding import choose_encoding, encoding_name
from ottt_loihi.training.engine import ENGINES, Engine, choose
from ottt_loihi.training.evaluation import TEST_ENCODING_SEED, evaluate_samples
from ottt_loihi.training.run_folder import RunFolder
from ottt_loihi.training.samples import Items, Numbered, Samples
from ottt_loihi.training.sources import balanced, describe, keep_description, open_samples

SETTINGS = ("learning_rate", "momentum", "weight_decay", "batch_size")
EXTRAS = {  # settings that are recorded where they are not these, so that earlier runs can be resumed
    **dict.fromkeys(("clip_norm", "clip_value", "validation_share")),
    "sampling": "shuffled",
    "schedule_every": "epoch",
}
SAMPLING = ("shuffled", "balanced")
TEST_BATCH = 512  # samples of a test at once


class Trainer:
    """Trains a network with a rule; the same arguments give the same weights, bit for bit, on one machine.

    Parameters
    ----------
    net, rule
        what to train, and how (``ottt_loihi.rules``)
    loss
        L[t]: a name or an object of ``ottt_loihi.rules.losses``, or any ``f(o, labels, time_steps)`` that returns a
        scalar
    optimizer
        ``"adam"``, ``"adamw"`` or ``"sgd"`` (with ``momentum``); a function of the network's parameters that returns an
        optimiser, such as ``torch.optim.RMSprop``; or an optimiser of torch's over them
    learning_rate, momentum, weight_decay
        settings of a named optimiser; default 0.005, 0.9 and 0
    schedule
        course of the learning rate: ``"cosine"``, which is lr·½(1 + cos(π·epoch/epochs)) in each epoch; ``"constant"``;
        a scheduler of torch; or a function of the optimiser that returns one. ``ReduceLROnPlateau`` gets the training
        loss, or with ``mode="max"`` the validation accuracy
    schedule_every
        ``"epoch"`` or ``"batch"``: when the scheduler steps
    clip_norm, clip_value
        largest norm and largest magnitude of the gradients at a step of the optimiser; None: no limit
    batch_size
        samples per update; a DataLoader and an iterable have their own
    encoding
        how samples become spikes: a name, ``"delta:threshold=0.1"`` or a Step (:mod:`ottt_loihi.data.codings`).
        Default: data with a time axis as they are, images as rate-coded spikes. Random spikes are drawn anew in every
        epoch
    augmentations
        names for :func:`~ottt_loihi.data.augment.augment`, applied to the training samples, anew in every epoch
    class_weights
        a factor for each class in the loss, or ``"balanced"``: n/(classes·n_c), by the training labels
    sampling
        ``"shuffled"``: each sample once per epoch; ``"balanced"``: as many draws, every class as often
    workers
        processes that read a Dataset
    seed
        seed of the order of the samples, of their spikes and augmentations, of dropout and of the held-out samples
    callbacks
        objects whose methods ``fit`` calls (:class:`~ottt_loihi.training.callbacks.Callback`)
    progress
        show a progress bar and notes on stderr; ``notes`` keeps the notes
    teacher, kappa, temperature
        a trained network whose mean readout is a second target (:class:`~ottt_loihi.rules.losses.Distilled`)
    autocast
        ``"bfloat16"`` or ``"float16"``: products of 16 bits in training (:mod:`ottt_loihi.nn.precision`)
    engine, chunk
        ``"auto"``, ``"plain"`` or ``"fast"``, and the number of time steps that are computed at once
        (:func:`~ottt_loihi.training.engine.choose`); ``fit`` stores the choice in ``chosen``
    group
        the processes that train together (``ottt_loihi.training.distributed``); ``batch_size`` is that of all together

    Raises
    ------
    UsageError
        for any value out of range, or one that would have no effect
    """

    def __init__(
        self,
        net: Network,
        rule: Rule,
        *,
        loss: str | Loss = "squared-error",
        optimizer: optimizers.OptimizerLike = "adam",
        learning_rate: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        schedule: optimizers.ScheduleLike = "cosine",
        schedule_every: str = "epoch",
        clip_norm: float | None = None,
        clip_value: float | None = None,
        batch_size: int = 64,
        encoding: str | Step | None = None,
        augmentations: Sequence[str] = (),
        class_weights: str | Sequence[float] | None = None,
        sampling: str = "shuffled",
        workers: int = 0,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        progress: bool = False,
        teacher: Network | None = None,
        kappa: float | None = None,
        temperature: float | None = None,
        autocast: str = "",
        engine: str = "auto",
        chunk: int | None = None,
        group: Group | None = None,
    ) -> None:
        if not isinstance(net, Network):
            raise UsageError(
                f"Trainer: expected a Network, got {type(net).__name__}; ol.load reads one, and rule.train_batch "
                "trains other modules in a loop of your own"
            )
        if not isinstance(rule, Rule):
            raise UsageError(f"Trainer: expected a rule such as ol.OTTT(), got {rule!r:.80}")
        self.net, self.rule, self.loss, self.progress = net, rule, make_loss(loss), checks.flag(progress, "progress")
        given = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
        self.optimizer, values = optimizer, optimizers.check_optimizer(optimizer, given)
        self.learning_rate, self.momentum, self.weight_decay = values.values()
        self.schedule = optimizers.check_schedule(schedule, optimizer)
        self.schedule_every = checks.one_of(schedule_every, "schedule_every", ("epoch", "batch"))
        self.clip_norm, self.clip_value = optimizers.check_clipping(rule, clip_norm, clip_value)
        self.batch_size, self.seed = checks.integer(batch_size, "batch_size"), checks.integer(seed, "seed", 0)
        if isinstance(augmentations, str) or not isinstance(augmentations, Sequence):
            raise UsageError(f"augmentations: expected a list of names, got {augmentations!r}")
        self.encoding, self.augmentations = encoding, tuple(augmentations)
        self.class_weights, self.sampling = class_weights, checks.one_of(sampling, "sampling", SAMPLING)
        self.workers = checks.integer(workers, "workers", 0)
        self.callbacks = checks.items(callbacks, "callbacks", Callback)
        self.teacher = checks.instance(teacher, "teacher", Network, none=True)
        self.kappa, self.temperature = check_distillation(net, teacher, kappa, temperature)
        self.autocast = check_autocast(autocast)
        self.engine, self.chunk = checks.one_of(engine, "engine", ENGINES), chunk
        self.group = checks.instance(group, "group", Group, none=True) or Group()
        # of the last ``fit``
        self.chosen: Engine | None = None
        self.data: Samples | None = None
        self.validation: Samples | None = None
        self.test: Samples | None = None
        self.validation_share: float | None = None
        self.weighted_loss: Loss = self.loss
        self.notes: list[str] = []

    def fit(
        self,
        train: Any,
        y: Any = None,
        epochs: int = 1,
        *,
        validation: Any = None,
        test: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        run: RunFolder | None = None,
        resume: bool = False,
        checkpoint_every: int = 0,
    ) -> list[Epoch]:
        """Train for some epochs; the network is changed in place.

        Parameters
        ----------
        train, y
            arrays ``(n, *input_shape)`` or ``(n, T, *input_shape)`` and labels ``(n,)``, as ``fit(x, y)`` or
            ``fit((x, y))``; a :class:`~ottt_loihi.data.Split`; a ``torch.utils.data.Dataset``; a ``DataLoader``, or
            anything else that can be iterated for batches (x, y). Images are floats, or uint8 0 … 255, which are
            divided by 255; an ``np.memmap`` is read batch by batch
        epochs
            ≥ 1
        validation
            samples that choose the best network: a share of the training samples in (0, 1), or samples of any of the
            kinds above. A share is drawn with ``seed``, equally from each class, and is not trained on
        test
            samples on which the network is only tested; default: the test part of a Split
        checkpoint
            the file of the network, which is written at the end and after Ctrl-C
        run
            a folder for the state after every epoch and every ``checkpoint_every`` batches, for the network with the
            best validation accuracy, and for the metrics
        resume
            continue the run in that folder; the weights are those of a run that was never interrupted. With arrays and
            a Dataset a run continues inside an epoch, with a DataLoader and an iterable after the last complete epoch

        Returns
        -------
        one :class:`~ottt_loihi.training.callbacks.Epoch` for each epoch

        Raises
        ------
        UsageError
            for data that do not fit the network, or a run to resume that has other settings
        FileError
            for a run folder that cannot be read
        TrainingError
            when a loss is no longer finite; it names the step and the layer, and no file is overwritten
        """
        checks.integer(epochs, "epochs")
        checks.integer(checkpoint_every, "checkpoint_every", 0)
        checks.instance(run, "run", RunFolder, none=True)
        if run is None and (checks.flag(resume, "resume") or checkpoint_every):
            name = "resume" if resume else "checkpoint_every"
            raise UsageError(f"fit: {name} needs a run folder, run=ol.RunFolder(…), where the state is kept")
        self.notes = []
        with torch.random.fork_rng([]):  # a Dataset may draw when its first sample is looked at
            self.open(train, y, validation, test)
        if checkpoint_every and not self.data.inside_epochs:
            raise UsageError("checkpoint_every: batches (x, y) are resumed between epochs only; leave it out")
        self.chosen = self._choose_engine()
        saving: list[SaveModel] = [] if run is None else [run]
        if run is not None:
            run.every = checkpoint_every
        if checkpoint is not None:
            saving.append(SaveModel(checkpoint))
        bar = [ProgressBar()] if self.progress and self.group.leads else []
        how = (self.batch_size, self.sampling, self.augmentations, self.seed, self.group)
        feed = Feed(self.net, self.data, *how)
        fit = Fit(self, epochs, Progress(), batches=len(feed), leads=self.group.leads)
        self.group.share(self.net)
        hooks: list[Any] = []
        started: list[Callback] = []
        try:
            self._make_optimizer(fit, hooks)  # the first one of a process takes torch seconds
            if resume and run is not None:
                run.load_state(fit)
                optimizers.follow(fit.scheduler, self.schedule)
                if fit.progress.epoch >= epochs:
                    self._say(f"nothing is trained: the run has {fit.progress.epoch} epochs, asked for are {epochs}")
            with _deterministic_cudnn(), _own_generators(self.net):
                for callback in (*self.callbacks, *saving, *bar):
                    callback.on_start(fit)
                    started.append(callback)
                while fit.progress.epoch < epochs and not fit.stop:
                    self._epoch(fit, feed, started)
                    self._end_epoch(fit)
                    for callback in started:
                        callback.on_epoch_end(fit)
        except KeyboardInterrupt:  # maybe in the middle of a batch: ``training.pt`` stays at its last safe place
            where = [callback.save_model(fit) for callback in saving]
            if not where:
                raise
            raise KeyboardInterrupt(f"the network as it is now is in {where[-1]}") from None
        finally:
            for hook in hooks:
                hook.remove()
            for callback in started:
                callback.on_end(fit)
        for callback in saving:
            callback.save_model(fit)
        return fit.progress.history

    def open(self, train: Any, y: Any = None, validation: Any = None, test: Any = None) -> None:
        """Determine the kind of the samples and their encoding, and store both with the network."""
        names: tuple[str, ...] = ()
        if isinstance(train, (Split, ImageSplit)):
            if y is not None:
                raise UsageError("fit: a Split brings its labels; give it alone, as fit(split, epochs=…)")
            names, test = train.class_names, train.test if test is None else test
            train = train.train
        self.data = open_samples(train, y, self.net, "data", self.encoding, self.workers)
        if self.workers and not isinstance(self.data, Items):
            raise UsageError("workers: processes read a Dataset, and these are arrays or batches; leave it out")
        self.validation_share = validation if isinstance(validation, (int, float)) else None
        if self.validation_share is not None:
            if not isinstance(self.data, Numbered):
                raise UsageError("validation: no share of a DataLoader or an iterable can be held out; give samples")
            self.data, self.validation = self.data.split(self.validation_share, self.seed)
        else:
            self.validation = self._opened(validation, "validation")
        self.test = self._opened(test, "test")
        if not self.data.inside_epochs:
            self._say("data: batches of a DataLoader or an iterable; a run is resumed at the end of an epoch")
        if note := keep_description(self.net, describe(self.data, names)):
            self._say(f"data: {note}")
        weights = self.class_weights
        if isinstance(weights, str) and checks.one_of(weights, "class_weights", ("balanced",)):
            weights = balanced(self.data, self.net.num_classes)
        self.weighted_loss = self.loss if weights is None else weighted(self.loss, weights, self.net.num_classes)

    def _opened(self, data: Any, where: str) -> Samples | None:
        if data is None:
            return None
        if isinstance(data, (Split, ImageSplit)):
            raise UsageError(f"{where}: a Split has two parts; give one of them, split.train or split.test")
        found = open_samples(data, None, self.net, where, self.data.coding, self.workers)
        if found.time_axis != self.data.time_axis:
            raise UsageError(f"{where}: expected a time axis like the training samples', or none like theirs")
        return found

    def _say(self, note: str) -> None:
        """Keep a line for the user, and show it where progress is shown."""
        self.notes.append(note)
        if self.progress and self.group.leads:
            Console(stderr=True, theme=THEME).print(note, highlight=False, soft_wrap=True)

    def _epoch(self, fit: Fit, feed: Feed, callbacks: Sequence[Callback]) -> None:
        self.net.train()
        done, start = fit.progress, time.perf_counter()
        for batch, inputs in feed.epoch(done.epoch, done.batch):
            self.group.begin(batch.size)
            loss, correct = self._batch(inputs, torch.from_numpy(batch.y), fit)
            done.loss += loss * batch.size
            done.correct += correct
            done.seen += batch.size
            done.batch += 1
            if self.schedule_every == "batch":
                fit.scheduler.step()
            done.seconds += time.perf_counter() - start
            for callback in callbacks:
                callback.on_batch_end(fit)
            start = time.perf_counter()

    def _batch(self, inputs: Input, labels: Tensor, fit: Fit) -> tuple[float, int]:
        """Return the mean loss and the number of right predictions of one batch, over all processes."""
        done = fit.progress
        torch.manual_seed(torch_seed(self.seed, done.epoch, done.batch, self.group.rank))  # dropout, SLTT-K
        try:
            with torch.autocast(self.net.readout.weight.device.type, self.autocast, enabled=self.autocast is not None):
                loss = self.loss_of(inputs)
                self._say_unused_threads(inputs)
                result = self.chosen.train_batch(self.net, self.rule, inputs, labels, loss, fit.optimizer)
        except TrainingError as error:
            raise TrainingError(
                f"epoch {done.epoch + 1}, batch {done.batch + 1}: {error}; "
                f"lower the learning rate ({fit.optimizer.param_groups[0]['lr']:g})"
            ) from None
        weight = self.group.weight
        correct = int((result.scores.argmax(1).cpu() == labels).sum()) if weight else 0
        loss, total = self.group.sum(float(result.loss) * weight, correct)
        return loss, int(total)

    def _choose_engine(self) -> Engine:
        """Choose the engine once for a run, and say it."""
        loss = self.weighted_loss
        loss = loss if self.teacher is None else Distilled(loss, torch.empty(0), 0.5, 1.0)  # its type counts
        record = self.autocast != torch.float16  # its loss scaling reads values on the host
        chosen = choose(self.net, self.rule, loss, self.data.num_steps, self.engine, self.chunk, record)
        self._say(chosen.why)
        return chosen

    def _say_unused_threads(self, inputs: Input) -> None:
        """Say once where the number of threads has no effect."""
        threads = torch.get_num_threads()
        line = f"1 of {threads} threads is used: a batch of this network is too little work to share"
        if threads > 1 and line not in self.notes and self.chosen.useful_threads(self.net, inputs, threads) == 1:
            self._say(line)

    def loss_of(self, inputs: Input) -> Any:
        """Return the loss of a batch, with class weights and the teacher's part."""
        if self.teacher is None:
            return self.weighted_loss
        with torch.no_grad():
            mean = self.teacher.eval().run(inputs).scores / inputs.shape[1]
        return Distilled(self.weighted_loss, mean.to(self.net.readout.weight), self.kappa, self.temperature)

    def _end_epoch(self, fit: Fit) -> None:
        """Turn the sums over the batches into an epoch of the history, and let the scheduler step."""
        done, accuracies, rates = fit.progress, {}, ()
        if found := not_finite(tensors_of(self.net)):
            rate = fit.optimizer.param_groups[0]["lr"]
            raise TrainingError(f"epoch {done.epoch + 1}: {found}; lower the learning rate ({rate:g})")
        for name, samples in (("validation_accuracy", self.validation), ("test_accuracy", self.test)):
            found = None if samples is None else evaluate_samples(self.net, samples, TEST_BATCH, group=self.group)
            accuracies[name] = None if found is None else found.accuracy
            rates = rates if found is None else tuple(found.spike_rates)
        done.history.append(
            Epoch(
                epoch=done.epoch + 1,
                loss=done.loss / done.seen,
                train_accuracy=done.correct / done.seen,
                seconds=done.seconds,
                learning_rate=fit.optimizer.param_groups[0]["lr"],
                samples_per_second=done.seen / done.seconds if done.seconds else 0.0,
                spike_rates=rates,
                **accuracies,
            )
        )
        done.epoch, done.batch, done.loss, done.correct, done.seen, done.seconds = done.epoch + 1, 0, 0.0, 0, 0, 0.0
        if self.schedule_every == "epoch":
            optimizers.end_epoch(fit.scheduler, done.history[-1])

    def _make_optimizer(self, fit: Fit, hooks: list[Any]) -> None:
        """Make optimiser and scheduler; what acts before their steps is added to ``hooks``."""
        settings = (self.learning_rate, self.momentum, self.weight_decay)
        fit.optimizer = optimizers.make_optimizer(self.optimizer, self.net, *settings)
        fit.scheduler = optimizers.make_scheduler(self.schedule, fit.optimizer, fit.epochs, self.schedule_every)
        hooks += self.group.attach(fit.optimizer)
        hooks += optimizers.clip_before_steps(fit.optimizer, self.clip_norm, self.clip_value)
        if names := optimizers.left_out(fit.optimizer, self.net):
            self._say(f"optimizer: it does not step {', '.join(names)}, which stay as they are")

    @property
    def coding(self) -> Step:
        """The coding that makes spikes of the samples of the last ``fit``; before a ``fit``, the coding for images."""
        return choose_encoding(self.encoding, False) if self.data is None else self.data.coding

    def settings(self, epochs: int) -> dict[str, Any]:
        """Return what two halves of one run must share, as JSON values; after ``fit`` has begun."""
        return {
            "rule": self.rule.describe(),
            "loss": describe_loss(self.weighted_loss),
            "optimizer": optimizers.describe(self.optimizer),
            "schedule": optimizers.describe(self.schedule),
            **{name: getattr(self, name) for name in SETTINGS},
            "encoding": encoding_name(self.coding),
            "augmentations": list(self.augmentations),
            **({} if self.teacher is None else {"kappa": self.kappa, "temperature": self.temperature}),
            **({} if self.autocast is None else {"autocast": str(self.autocast).removeprefix("torch.")}),
            **{name: getattr(self, name) for name, default in EXTRAS.items() if getattr(self, name) != default},
            **({} if self.data is None else {"samples": self.data.fingerprint()}),
            "seed": self.seed,
            "engine": self.chosen.describe() if self.chosen else None,
            "processes": self.group.size,
            "epochs": epochs,
        }

    def provenance(self, epochs: int, history: list[Epoch]) -> dict[str, Any]:
        """Return all that made the weights, and no time: equal runs give equal files."""
        timed = ("seconds", "samples_per_second", "spike_rates")
        last = {key: value for key, value in asdict(history[-1]).items() if key not in timed} if history else None
        described = self.settings(epochs)
        del described["seed"], described["encoding"]
        return {
            "seed": self.seed,
            "training": {**described, "epochs_done": len(history), "last_epoch": last},
            "encoding": {k: v for k, v in self.coding.to_json().items() if v} | {"test_seed": TEST_ENCODING_SEED},
        }


def _deterministic_cudnn() -> Any:
    """Convolutions on a GPU by algorithms whose sums have an order; afterwards as the caller had it."""
    now = torch.backends.cudnn
    return now.flags(enabled=now.enabled, deterministic=True, allow_tf32=now.allow_tf32)


def _own_generators(net: Network) -> Any:
    """Dropout and SLTT-K draw from torch's global generators, seeded for every batch; the caller's are put back."""
    device = net.readout.weight.device
    return torch.random.fork_rng([device] if device.type == "cuda" else [])

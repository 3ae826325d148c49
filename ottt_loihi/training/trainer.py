"""Training a network on a data set, reproducibly."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.data.augment import augment
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
from ottt_loihi.terminal import say
from ottt_loihi.training.callbacks import Callback, Epoch, Fit, Progress, ProgressBar, SaveModel
from ottt_loihi.training.checkpoint import not_finite, tensors_of
from ottt_loihi.training.distributed import Group
from ottt_loihi.training.encoding import choose_encoding
from ottt_loihi.training.engine import ENGINES, Engine, choose
from ottt_loihi.training.evaluation import TEST_ENCODING_SEED, evaluate_samples
from ottt_loihi.training.optimizers import OptimizerLike, ScheduleLike, Steps, left_out
from ottt_loihi.training.run_folder import RunFolder
from ottt_loihi.training.samples import Batch, Samples, in_turn, torch_seed
from ottt_loihi.training.sources import balanced, describe, keep_description, open_parts

EXTRAS = {"validation_share": None, "sampling": "shuffled"}  # recorded if different: earlier runs can be resumed


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
        optimizer: OptimizerLike = "adam",
        learning_rate: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        schedule: ScheduleLike = "cosine",
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
        rates = (learning_rate, momentum, weight_decay)
        self.steps = Steps(optimizer, *rates, schedule, schedule_every, clip_norm, clip_value)
        if clip_value is not None and getattr(rule, "hlop", None) is not None:
            raise UsageError("clip_value: it would turn the gradients that HLOP has projected; use clip_norm")
        self.batch_size = checks.integer(batch_size, "batch_size")
        self.seed = checks.integer(seed, "seed", 0, checks.LARGEST_SEED)
        self.encoding, self.augmentations = encoding, checks.items(augmentations, "augmentations", str)
        self.class_weights, self.sampling = class_weights, checks.one_of(sampling, "sampling", ("shuffled", "balanced"))
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
        self._choose_engine()
        saving = [*([] if run is None else [run]), *([] if checkpoint is None else [SaveModel(checkpoint)])]
        if run is not None:
            run.every = checkpoint_every
        fit = Fit(self, epochs, Progress(), self.data.batches(self.batch_size))
        self.group.share(self.net)
        callbacks = (*self.callbacks, *saving, *([ProgressBar()] if self.progress and self.group.leads else []))
        try:
            with ExitStack() as ended:
                # the first optimiser of a process takes torch seconds
                fit.optimizer, fit.scheduler, hooks = self.steps.begin(self.net, epochs, self.group)
                for hook in hooks:
                    ended.callback(hook.remove)
                if names := left_out(fit.optimizer, self.net):
                    self._say(f"optimizer: it does not step {', '.join(names)}, which stay as they are")
                if resume and run is not None:
                    run.load_state(fit)
                    self.steps.follow(fit.scheduler)
                    if (done := fit.progress.epoch) >= epochs:
                        self._say(f"nothing is trained: the run has {done} epochs already, and epochs is {epochs}")
                ended.enter_context(_reproducible(self.net))
                for callback in callbacks:
                    callback.on_start(fit)
                    ended.callback(callback.on_end, fit)
                while fit.progress.epoch < epochs and not fit.stop:
                    self._epoch(fit, callbacks)
                    self._end_epoch(fit)
                    for callback in callbacks:
                        callback.on_epoch_end(fit)
        except KeyboardInterrupt:  # maybe in the middle of a batch: ``training.pt`` stays at its last safe place
            where = [callback.save_model(fit) for callback in saving]
            if not where:
                raise
            raise KeyboardInterrupt(f"the network as it is now is in {where[-1]}") from None
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
        parts = open_parts(train, y, validation, test, self.net, self.encoding, self.workers, self.seed)
        self.data, self.validation, self.test = parts
        self.validation_share = validation if isinstance(validation, (int, float)) else None
        if not self.data.inside_epochs and self.sampling == "balanced":
            raise UsageError("sampling: a DataLoader or an iterable draws its samples itself; leave it out")
        if self.augmentations and len(self.data.sample_shape) - self.data.time_axis < 2:
            raise UsageError(
                "augmentations: they change images, and these samples have the shape "
                f"{self.data.sample_shape}{' with a time axis' if self.data.time_axis else ''}; leave them out"
            )
        if not self.data.inside_epochs:
            self._say("data: batches of a DataLoader or an iterable; a run is resumed at the end of an epoch")
        if note := keep_description(self.net, describe(self.data, names)):
            self._say(f"data: {note}")
        weights = self.class_weights
        if isinstance(weights, str) and checks.one_of(weights, "class_weights", ("balanced",)):
            weights = balanced(self.data, self.net.num_classes)
        self.weighted_loss = self.loss if weights is None else weighted(self.loss, weights, self.net.num_classes)

    def _say(self, note: str) -> None:
        """Add a line to the notes, and print it if progress is shown."""
        self.notes.append(note)
        if self.progress and self.group.leads:
            say(note)

    def _epoch(self, fit: Fit, callbacks: Sequence[Callback]) -> None:
        self.net.train()
        done, start = fit.progress, time.perf_counter()
        for batch, inputs in self._inputs(done.epoch, done.batch):
            self.group.begin(batch.size)
            done.add(*self._batch(inputs, torch.from_numpy(batch.y), fit), batch.size)
            self.steps.end_batch(fit.scheduler)
            done.seconds += time.perf_counter() - start
            for callback in callbacks:
                callback.on_batch_end(fit)
            start = time.perf_counter()

    def _inputs(self, number: int, first: int) -> Iterator[tuple[Batch, Input]]:
        """Give the batches of an epoch from batch ``first`` on, each with the network's input.

        All chance is a function of (seed, epoch, batch, rank), and of NumPy's generators: torch's have no part in it.
        """
        data, seed = self.data, train_encoding_seed(self.seed, number)

        def prepared(read: Callable[[], Batch], index: int) -> tuple[Batch, Input]:
            batch, rng = read(), np.random.default_rng([self.seed, number, index, self.group.rank])
            return batch, data.encoded(batch, data.num_steps, seed, lambda x: augment(x, self.augmentations, rng))

        reads = data.epoch((self.seed, number), first, self.batch_size, self.sampling, self.group)
        jobs = (partial(prepared, read, index) for index, read in enumerate(reads, first))
        on_gpu = self.net.readout.weight.device.type != "cpu"  # then the CPU is free to prepare the next batch
        return in_turn(jobs, ahead=on_gpu and data.ahead)

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
            rate = fit.optimizer.param_groups[0]["lr"]
            where = f"epoch {done.epoch + 1}, batch {done.batch + 1}"
            raise TrainingError(f"{where}: {error}; lower the learning rate ({rate:g})") from None
        weight = self.group.weight
        correct = int((result.scores.argmax(1).cpu() == labels).sum()) if weight else 0
        loss, total = self.group.sum(float(result.loss) * weight, correct)
        return loss, int(total)

    def _choose_engine(self) -> None:
        loss, nothing = self.weighted_loss, torch.empty(0)  # only the type of the loss counts
        loss = loss if self.teacher is None else Distilled(loss, nothing, self.kappa, self.temperature)
        record = self.autocast != torch.float16  # its loss scaling reads values on the host
        self.chosen = choose(self.net, self.rule, loss, self.data.num_steps, self.engine, self.chunk, record)
        self._say(self.chosen.why)

    def _say_unused_threads(self, inputs: Input) -> None:
        """Say once if only one of several threads is used."""
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
        """Test, add an epoch to the history, and let the scheduler step."""
        done, found = fit.progress, {}
        rate = fit.optimizer.param_groups[0]["lr"]
        if strange := not_finite(tensors_of(self.net)):
            raise TrainingError(f"epoch {done.epoch + 1}: {strange}; lower the learning rate ({rate:g})")
        for name, samples in (("validation_accuracy", self.validation), ("test_accuracy", self.test)):
            if samples is not None:
                tested = evaluate_samples(self.net, samples, group=self.group)
                found |= {name: tested.accuracy, "spike_rates": tuple(tested.spike_rates)}
        fit.progress = done.after_epoch(learning_rate=rate, **found)
        self.steps.end_epoch(fit.scheduler, fit.progress.history[-1])

    @property
    def coding(self) -> Step:
        """Return the coding of the samples of the last ``fit``; before a ``fit``, that of images."""
        return choose_encoding(self.encoding, False) if self.data is None else self.data.coding

    def settings(self, epochs: int) -> dict[str, Any]:
        """Return what must be the same when a run is resumed, as JSON values; after ``fit`` has begun."""
        return {
            "rule": self.rule.describe(),
            "loss": describe_loss(self.weighted_loss),
            **self.steps.settings(),
            "batch_size": self.batch_size,
            "encoding": self.coding.to_json() if self.coding.options else self.coding.name,
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
        settings = {name: value for name, value in self.settings(epochs).items() if name not in ("seed", "encoding")}
        return {
            "seed": self.seed,
            "training": {**settings, "epochs_done": len(history), "last_epoch": last},
            "encoding": {k: v for k, v in self.coding.to_json().items() if v} | {"test_seed": TEST_ENCODING_SEED},
        }


def train_encoding_seed(seed: int, epoch: int) -> int:
    """Return the seed of the spikes of one training epoch; it differs from the test's and from other epochs'."""
    return 1 + seed * 1_000_000 + epoch


@contextmanager
def _reproducible(net: Network) -> Iterator[None]:
    """Make cuDNN deterministic; at the end restore its settings, and torch's generators, which dropout uses."""
    cudnn, device = torch.backends.cudnn, net.readout.weight.device
    ordered = cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=cudnn.allow_tf32)
    with ordered, torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield

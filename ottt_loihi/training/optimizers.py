"""Optimisers, schedules of the learning rate and gradient clipping: by name, by a function, or objects of torch's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from ottt_loihi import checks
from ottt_loihi.errors import TrainingError, UsageError, first_line
from ottt_loihi.training.callbacks import Epoch
from ottt_loihi.training.distributed import Group

OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
SCHEDULES = ("cosine", "constant")
SCHEDULERS = (LRScheduler, ReduceLROnPlateau)  # two classes in torch 2.3
DEFAULTS = {"learning_rate": 0.005, "momentum": 0.9, "weight_decay": 0.0}
EXTRAS = {"clip_norm": None, "clip_value": None, "schedule_every": "epoch"}
LARGEST = 1e30  # of a learning rate and a weight decay: float32 holds their products

OptimizerLike = str | Optimizer | Callable[[Iterable[nn.Parameter]], Optimizer]
ScheduleLike = str | LRScheduler | Callable[[Optimizer], LRScheduler]


@dataclass
class Steps:
    """How the weights step: optimiser, course of the learning rate and clipping.

    Attributes
    ----------
    optimizer, learning_rate, momentum, weight_decay, schedule, schedule_every, clip_norm, clip_value
        as :class:`~ottt_loihi.training.trainer.Trainer`; a default of a named optimiser takes the place of None

    Raises
    ------
    UsageError
        for an unknown name, a value out of range, one that would have no effect, or a scheduler of another optimiser
    """

    optimizer: OptimizerLike
    learning_rate: float | None
    momentum: float | None
    weight_decay: float | None
    schedule: ScheduleLike
    schedule_every: str
    clip_norm: float | None
    clip_value: float | None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in DEFAULTS}
        if isinstance(self.optimizer, Optimizer) or callable(self.optimizer):
            for name in (name for name, value in given.items() if value is not None):
                raise UsageError(f"{name}: the optimiser is an object or a function and has its own; leave it out")
        else:
            checks.one_of(self.optimizer, "optimizer", tuple(OPTIMIZERS))
            if self.optimizer != "sgd" and self.momentum is not None:
                raise UsageError(f"momentum: only the optimiser sgd has one, this is {self.optimizer}; leave it out")
            values = {name: DEFAULTS[name] if value is None else value for name, value in given.items()}
            self.learning_rate = checks.number(values["learning_rate"], "learning_rate", 0, LARGEST, above=True)
            self.momentum = checks.number(values["momentum"], "momentum", 0, 1, below=True)
            self.weight_decay = checks.number(values["weight_decay"], "weight_decay", 0, LARGEST)
        if not isinstance(self.schedule, SCHEDULERS) and not callable(self.schedule):
            checks.one_of(self.schedule, "schedule", SCHEDULES)
        self._require_own(self.schedule, self.optimizer)
        checks.one_of(self.schedule_every, "schedule_every", ("epoch", "batch"))
        for name in ("clip_norm", "clip_value"):
            if (limit := getattr(self, name)) is not None:
                setattr(self, name, checks.number(limit, name, 0, above=True))

    def begin(self, net: nn.Module, epochs: int, group: Group) -> tuple[Optimizer, Any, list[Any]]:
        """Return optimiser and scheduler, and the handles that end averaging over processes and clipping.

        Raises
        ------
        UsageError
            for an optimiser over other parameters, or a function that returns none
        """
        optimizer = self._make_optimizer(net)
        scheduler = self._make_scheduler(optimizer, epochs)
        return optimizer, scheduler, group.attach(optimizer) + self._clip_before_steps(optimizer)

    def _make_optimizer(self, net: nn.Module) -> Optimizer:
        what = self.optimizer
        if isinstance(what, str):
            momentum = {"momentum": self.momentum} if what == "sgd" else {}
            settings = {"lr": self.learning_rate, "weight_decay": self.weight_decay, **momentum}
            return OPTIMIZERS[what](net.parameters(), **settings)
        made = what if isinstance(what, Optimizer) else _made(what, net.parameters(), "optimizer")
        if not isinstance(made, Optimizer):
            raise UsageError(f"optimizer: expected a function that returns a torch.optim.Optimizer, got {made!r:.80}")
        asked = list(inspect.signature(made.step).parameters.values())
        if any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in asked):
            raise UsageError(
                f"optimizer: {type(made).__name__}.step needs {asked[0].name}, and a rule calls step() after each "
                "gradient; use an optimiser whose step() needs nothing"
            )
        if isinstance(made, torch.optim.SparseAdam):
            raise UsageError("optimizer: SparseAdam takes sparse gradients, those of a rule are dense; use Adam")
        known = {id(p) for p in net.parameters()}
        if foreign := [p for group in made.param_groups for p in group["params"] if id(p) not in known]:
            shapes = ", ".join(str(tuple(p.shape)) for p in foreign[:3])
            raise UsageError(
                f"optimizer: {len(foreign)} of its tensors ({shapes}) are no parameters of the network; "
                "make it of net.parameters()"
            )
        return made

    def _make_scheduler(self, optimizer: Optimizer, epochs: int) -> Any:
        what = self.schedule
        self._require_epochs(what)
        if what == "cosine":
            return LambdaLR(optimizer, lambda epoch: float(0.5 * (1 + np.cos(np.pi * epoch / epochs))))
        if what == "constant":
            return LambdaLR(optimizer, lambda epoch: 1.0)
        made = what if isinstance(what, SCHEDULERS) else _made(what, optimizer, "schedule")
        if not isinstance(made, SCHEDULERS):
            raise UsageError(f"schedule: expected a function that returns a scheduler of torch.optim, got {made!r:.80}")
        self._require_own(made, optimizer)
        self._require_epochs(made)
        return made

    def _require_epochs(self, schedule: Any) -> None:
        if self.schedule_every == "batch" and isinstance(schedule, (str, ReduceLROnPlateau)):
            raise UsageError(
                f"schedule_every: {describe(schedule)} goes by epochs; leave it out, or give another schedule"
            )

    @staticmethod
    def _require_own(schedule: Any, optimizer: Any) -> None:
        if isinstance(schedule, SCHEDULERS) and schedule.optimizer is not optimizer:
            raise UsageError("schedule: a scheduler of another optimiser; give its own as optimizer, or a function")

    def _clip_before_steps(self, optimizer: Optimizer) -> list[Any]:
        """Clip the gradients before every step: each number to ``clip_value``, then all together to ``clip_norm``."""
        if self.clip_norm is None and self.clip_value is None:
            return []

        def clip(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            if self.clip_value is not None:
                nn.utils.clip_grad_value_(parameters, self.clip_value)
            if self.clip_norm is not None:
                try:
                    nn.utils.clip_grad_norm_(parameters, self.clip_norm, error_if_nonfinite=True)
                except RuntimeError:
                    raise TrainingError("the gradient is NaN or infinite and cannot be clipped to a norm") from None

        return [optimizer.register_step_pre_hook(clip)]

    def follow(self, scheduler: Any) -> None:
        """Set the rates of a named schedule after a run is resumed, perhaps with another number of epochs."""
        if isinstance(self.schedule, str):
            factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
            for group, rate, factor in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, factors, strict=True):
                group["lr"] = rate * factor

    def end_batch(self, scheduler: Any) -> None:
        """Let the scheduler step after a batch."""
        if self.schedule_every == "batch":
            _step(scheduler)

    def end_epoch(self, scheduler: Any, epoch: Epoch) -> None:
        """Let the scheduler step after an epoch."""
        if self.schedule_every != "epoch":
            return
        if not isinstance(scheduler, ReduceLROnPlateau):
            _step(scheduler)
        elif scheduler.mode == "min":
            scheduler.step(epoch.loss)
        elif epoch.validation_accuracy is None:
            raise UsageError("schedule: ReduceLROnPlateau(mode='max') follows the validation accuracy; there is none")
        else:
            scheduler.step(epoch.validation_accuracy)

    def settings(self) -> dict[str, Any]:
        """Return the settings that a resumed run must share, as JSON values; EXTRAS where they are not the default."""
        extras = {name: getattr(self, name) for name, default in EXTRAS.items() if getattr(self, name) != default}
        named = {"optimizer": describe(self.optimizer), "schedule": describe(self.schedule)}
        return named | {name: getattr(self, name) for name in DEFAULTS} | extras


def _made(function: Any, argument: Any, where: str) -> Any:
    """Return what a user's function makes of one argument, or raise a UsageError if it takes others."""
    try:
        return function(argument)
    except TypeError as error:
        raise UsageError(
            f"{where}: {first_line(error)}; give a function of one argument, such as lambda p: …"
        ) from error


def _step(scheduler: Any) -> None:
    try:
        scheduler.step()
    except ValueError as error:  # of OneCycleLR, whose number of steps is fixed
        raise UsageError(f"schedule: {first_line(error)}") from error


def left_out(optimizer: Optimizer, net: nn.Module) -> list[str]:
    """Return the names of the parameters that want a gradient and that the optimiser does not step."""
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [name for name, p in net.named_parameters() if p.requires_grad and id(p) not in stepped]


def describe(what: Any) -> str:
    """Return the name of an optimiser or schedule; of an object or a function, its module and name."""
    if isinstance(what, str):
        return what
    kind = what if hasattr(what, "__qualname__") else type(what)
    return f"{kind.__module__}.{kind.__qualname__}"

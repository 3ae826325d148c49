"""Optimisers, schedules of the learning rate and gradient clipping: by name, by a function, or objects of torch's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from ottt_loihi import checks
from ottt_loihi.errors import TrainingError, UsageError
from ottt_loihi.training.callbacks import Epoch

OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
SCHEDULES = ("cosine", "constant")
DEFAULTS = {"learning_rate": 0.005, "momentum": 0.9, "weight_decay": 0.0}
LARGEST = 1e30  # of a learning rate and a weight decay: float32 holds their products

OptimizerLike = str | Optimizer | Callable[[Iterable[nn.Parameter]], Optimizer]
ScheduleLike = str | LRScheduler | Callable[[Optimizer], LRScheduler]


def check_optimizer(optimizer: Any, given: dict[str, float | None]) -> dict[str, float | None]:
    """Return ``given`` with the defaults of a named optimiser; None throughout for an object or a function.

    Raises
    ------
    UsageError
        for an unknown name, a value out of range, or one that the optimiser would not use
    """
    if isinstance(optimizer, Optimizer) or (callable(optimizer) and not isinstance(optimizer, str)):
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name}: the optimiser is an object or a function and has its own; leave it out")
        return given
    checks.one_of(optimizer, "optimizer", tuple(OPTIMIZERS))
    if optimizer != "sgd" and given["momentum"] is not None:
        raise UsageError(f"momentum: only the optimiser sgd has one, this is {optimizer}; leave it out")
    values = {name: DEFAULTS[name] if value is None else value for name, value in given.items()}
    return {
        "learning_rate": checks.number(values["learning_rate"], "learning_rate", 0, LARGEST, above=True),
        "momentum": checks.number(values["momentum"], "momentum", 0, 1, below=True),
        "weight_decay": checks.number(values["weight_decay"], "weight_decay", 0, LARGEST),
    }


def make_optimizer(
    what: OptimizerLike, net: nn.Module, learning_rate: float | None, momentum: float | None, weight_decay: float | None
) -> Optimizer:
    """Return the optimiser of the network's parameters.

    Raises
    ------
    UsageError
        for one over other parameters, or a function that returns none
    """
    if isinstance(what, str):
        settings = {"lr": learning_rate, "weight_decay": weight_decay}
        return OPTIMIZERS[what](net.parameters(), **settings, **({"momentum": momentum} if what == "sgd" else {}))
    made = what if isinstance(what, Optimizer) else what(net.parameters())
    if not isinstance(made, Optimizer):
        raise UsageError(f"optimizer: expected a function that returns a torch.optim.Optimizer, got {made!r:.80}")
    known = {id(p) for p in net.parameters()}
    foreign = [p for group in made.param_groups for p in group["params"] if id(p) not in known]
    if foreign:
        shapes = ", ".join(str(tuple(p.shape)) for p in foreign[:3])
        raise UsageError(
            f"optimizer: {len(foreign)} of its tensors ({shapes}) are no parameters of the network; "
            "make it of net.parameters()"
        )
    return made


def left_out(optimizer: Optimizer, net: nn.Module) -> list[str]:
    """Return the names of the parameters that want a gradient and that the optimiser does not step."""
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [name for name, p in net.named_parameters() if p.requires_grad and id(p) not in stepped]


def check_schedule(schedule: Any, optimizer: Any) -> Any:
    """Return the schedule; :class:`UsageError` for what is none, or an object that turns another optimiser."""
    if isinstance(schedule, (LRScheduler, ReduceLROnPlateau)):
        if schedule.optimizer is not optimizer:
            raise UsageError("schedule: a scheduler of another optimiser; give its own as optimizer, or a function")
        return schedule
    return schedule if callable(schedule) else checks.one_of(schedule, "schedule", SCHEDULES)


def make_scheduler(what: ScheduleLike, optimizer: Optimizer, epochs: int, every: str = "epoch") -> Any:
    """Return a scheduler of torch's. ``"cosine"``: lr·½(1 + cos(π·epoch/epochs)); ``"constant"``: lr.

    Raises
    ------
    UsageError
        for a function that returns none, or one that goes by epochs and is asked to step after every batch
    """
    if every == "batch" and isinstance(what, (str, ReduceLROnPlateau)):
        raise UsageError(f"schedule_every: {describe(what)} goes by epochs; leave it out, or give another schedule")
    if what == "cosine":
        return LambdaLR(optimizer, lambda epoch: float(0.5 * (1 + np.cos(np.pi * epoch / epochs))))
    if what == "constant":
        return LambdaLR(optimizer, lambda epoch: 1.0)
    made = what if isinstance(what, (LRScheduler, ReduceLROnPlateau)) else what(optimizer)
    if not isinstance(made, (LRScheduler, ReduceLROnPlateau)):
        raise UsageError(f"schedule: expected a function that returns a scheduler of torch.optim, got {made!r:.80}")
    return check_schedule(made, optimizer)


def follow(scheduler: Any, what: ScheduleLike) -> None:
    """Set the rates of a named schedule after its state was read: the run may have got another number of epochs."""
    if isinstance(what, str):
        factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
        for group, rate, factor in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, factors, strict=True):
            group["lr"] = rate * factor


def end_epoch(scheduler: Any, epoch: Epoch) -> None:
    """Let the scheduler step after an epoch."""
    if not isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step()
    elif scheduler.mode == "min":
        scheduler.step(epoch.loss)
    elif epoch.validation_accuracy is None:
        raise UsageError("schedule: ReduceLROnPlateau(mode='max') follows the validation accuracy; there is none")
    else:
        scheduler.step(epoch.validation_accuracy)


def describe(what: Any) -> str:
    """Return the name of an optimiser or schedule; of an object or a function, where it comes from."""
    if isinstance(what, str):
        return what
    kind = what if hasattr(what, "__qualname__") else type(what)
    return f"{kind.__module__}.{kind.__qualname__}"


def check_clipping(rule: Any, norm: float | None, value: float | None) -> tuple[float | None, float | None]:
    """Return the two limits of :func:`clip_before_steps`, or raise a :class:`UsageError`."""
    if value is not None and getattr(rule, "hlop", None) is not None:
        raise UsageError("clip_value: it would turn the gradients that HLOP has projected; use clip_norm")
    limits = (("clip_norm", norm), ("clip_value", value))
    return tuple(limit if limit is None else checks.number(limit, name, 0, above=True) for name, limit in limits)


def clip_before_steps(optimizer: Optimizer, norm: float | None, value: float | None) -> list[Any]:
    """Clip the gradients before every step of ``optimizer``; return the handles that end it.

    Parameters
    ----------
    norm
        largest Euclidean norm of all gradients together
    value
        largest magnitude of each of their numbers
    """
    if norm is None and value is None:
        return []

    def clip(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if value is not None:
            nn.utils.clip_grad_value_(parameters, value)
        if norm is not None:
            try:
                nn.utils.clip_grad_norm_(parameters, norm, error_if_nonfinite=True)
            except RuntimeError:
                raise TrainingError("the gradient is NaN or infinite and cannot be clipped to a norm") from None

    return [optimizer.register_step_pre_hook(clip)]

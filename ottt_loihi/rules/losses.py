"""Instantaneous losses L[t] on the readout o[t] (OTTT eq. 5); the loss of a sequence is Σ_t L[t].

Each is a small frozen dataclass called as ``loss(o, labels, time_steps)``: o ``(batch, classes)`` floating point,
labels int64 ``(batch,)``; the result is a scalar tensor, the mean over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ottt_loihi import checks
from ottt_loihi.errors import UsageError


class _OfRows:
    """A loss that knows nothing of a batch but the rows it is given."""

    def of_rows(self, samples: Tensor) -> Loss:
        """The loss of rows that belong to these samples of the batch, ``(rows,)`` int64."""
        return self


class _Weighted(_OfRows):
    """A loss with a factor for the samples of each class."""

    class_weights: tuple[float, ...]

    def __post_init__(self) -> None:
        weights = self.class_weights.tolist() if hasattr(self.class_weights, "tolist") else self.class_weights
        if not isinstance(weights, (list, tuple)):
            raise UsageError(f"class_weights: expected a number for each class, got {weights!r:.80}")
        object.__setattr__(self, "class_weights", tuple(checks.number(w, "class_weights", 0) for w in weights))

    def factors(self, o: Tensor, labels: Tensor) -> Tensor:
        """Return the factor of every sample, ``(batch,)``."""
        if len(self.class_weights) != o.shape[1]:
            raise UsageError(f"class_weights: expected {o.shape[1]} numbers, one per class, got {self.class_weights}")
        return _per_class(self.class_weights, o.device, o.dtype)[labels]


@dataclass(frozen=True)
class SquaredError(_Weighted):
    """``L[t] = ½·Σ_k (o_k[t] − y_k)² / T``, y the one-hot label, so that ∂L/∂o = (o − y)/T: the loss the chip uses.

    class_weights: a factor for the samples of each class; empty: 1
    """

    class_weights: tuple[float, ...] = ()
    name: ClassVar[str] = "squared-error"

    def __call__(self, o: Tensor, labels: Tensor, time_steps: int) -> Tensor:
        squares = (o - _one_hot(o, labels)).square()
        if self.class_weights:
            squares = squares * self.factors(o, labels)[:, None]
        return squares.sum() / (2 * time_steps * len(o))


@dataclass(frozen=True)
class CrossEntropy(_Weighted):
    """``L[t] = ((1 − μ)·CE(o[t], y) + μ·MSE(o[t], y)) / T``; MSE: mean over the classes. The released code's.

    μ: 0.05 on CIFAR, 0.001 on DVS data, 0 on ImageNet. smoothing ε, not the released code's: CE's target is
    ``(1 − ε)·y + ε/classes`` (Szegedy et al. 2016), MSE's stays y. class_weights: a factor for the samples of each
    class; empty: 1. The mean over the batch is not divided by their sum, so that batches may be taken in parts.
    """

    mu: float = 0.05
    smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    name: ClassVar[str] = "cross-entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self.mu, "loss cross-entropy: mu", 0, 1)
        checks.number(self.smoothing, "loss cross-entropy: smoothing", 0, 1, below=True)

    def __call__(self, o: Tensor, labels: Tensor, time_steps: int) -> Tensor:
        if self.class_weights:
            return self._weighted(o, labels) / time_steps
        loss = (1 - self.mu) * functional.cross_entropy(o, labels, label_smoothing=self.smoothing)
        if self.mu:
            loss = loss + self.mu * functional.mse_loss(o, _one_hot(o, labels))
        return loss / time_steps

    def _weighted(self, o: Tensor, labels: Tensor) -> Tensor:
        entropy = functional.cross_entropy(o, labels, label_smoothing=self.smoothing, reduction="none")
        distance = (o - _one_hot(o, labels)).square().mean(1)
        return (((1 - self.mu) * entropy + self.mu * distance) * self.factors(o, labels)).mean()


@dataclass(frozen=True, eq=False)
class Distilled(_OfRows):
    """``(1 − κ)·loss + κ·τ²·KL(softmax(z/τ) ‖ softmax(o[t]/τ)) / T``; z: a teacher's readout, ``(batch, classes)``.

    Source: SEI-BWSNN (2025) in our reconstruction; Hinton et al. 2015.
    """

    loss: SquaredError | CrossEntropy
    teacher: Tensor
    kappa: float
    temperature: float

    def __call__(self, o: Tensor, labels: Tensor, time_steps: int) -> Tensor:
        wanted = functional.log_softmax(self.teacher / self.temperature, 1)
        found = functional.log_softmax(o / self.temperature, 1)
        divergence = functional.kl_div(found, wanted, reduction="batchmean", log_target=True)
        scaled = self.kappa * self.temperature**2 / time_steps * divergence
        return (1 - self.kappa) * self.loss(o, labels, time_steps) + scaled

    def of_rows(self, samples: Tensor) -> Distilled:
        return replace(self, teacher=self.teacher[samples])


Loss = SquaredError | CrossEntropy | Callable[[Tensor, Tensor, int], Tensor]
LOSSES: dict[str, type] = {kind.name: kind for kind in (SquaredError, CrossEntropy)}


def instantaneous(loss: Loss, o: Tensor, labels: Tensor, time_steps: int) -> Tensor:
    """Return L[t], which must be a scalar; one of a user's own is asked as the others are."""
    value = loss(o, labels, time_steps)
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(f"loss: expected a scalar tensor, got {found}; take the mean over the batch")
    if torch.is_grad_enabled() and o.requires_grad and not value.requires_grad:
        raise UsageError("loss: it carries no gradient of the scores o; compute it of o with torch, without detach()")
    return value.reshape(())


def make_loss(what: str | Loss) -> Loss:
    """Return a loss from its name or itself, which may be any callable ``f(o, labels, time_steps)``.

    Raises
    ------
    UsageError
        for an unknown name, or a function of other arguments
    """
    if callable(what):
        found = what() if isinstance(what, type) else what
        function = getattr(found, "func", found)  # of a partial
        try:
            if str(getattr(function, "__module__", "")).startswith("torch.nn."):  # its third argument is another one
                raise TypeError
            signature(getattr(found, "forward", found)).bind(None, None, 1)
        except TypeError:
            kind = getattr(function, "__name__", type(function).__name__)
            raise UsageError(
                f"loss: expected a function of (o, labels, time_steps), {kind} takes others; "
                "wrap it, as lambda o, labels, time_steps: loss(o, labels) / time_steps"
            ) from None
        except ValueError:  # a builtin says nothing of its arguments
            pass
        return found
    if not isinstance(what, str) or what not in LOSSES:
        raise UsageError(f"loss: expected one of {', '.join(LOSSES)}, got {what!r}")
    return LOSSES[what]()


def weighted(loss: Loss, class_weights: Sequence[float], num_classes: int) -> Loss:
    """Return a loss of ours with a factor for the samples of each class.

    Raises
    ------
    UsageError
        for a loss of a user's own or with class weights, or another number of factors than of classes
    """
    if getattr(loss, "class_weights", ()):
        raise UsageError("class_weights: the loss has its own; leave one of the two out")
    if type(loss) not in LOSSES.values():
        raise UsageError("class_weights: a loss of your own has to weigh the classes itself; leave them out")
    found = replace(loss, class_weights=class_weights)
    if len(found.class_weights) != num_classes:
        raise UsageError(f"class_weights: expected {num_classes} numbers, one per class, got {class_weights!r:.80}")
    return found


def check_distillation(net: Any, teacher: Any, kappa: float | None, temperature: float | None) -> tuple[float, float]:
    """Return kappa and temperature of :class:`Distilled`, default 0.5 and 2, if the teacher fits the network."""
    if teacher is None and (kappa is not None or temperature is not None):
        raise UsageError("kappa, temperature: they weigh what a teacher says; give a teacher, or leave them out")
    kappa, temperature = 0.5 if kappa is None else kappa, 2.0 if temperature is None else temperature
    if not (0 <= kappa <= 1 and 0 < temperature < float("inf")):
        raise UsageError(f"expected kappa in [0, 1] and temperature > 0, got {kappa} and {temperature}")
    if teacher is not None and (teacher.input_shape, teacher.num_classes) != (net.input_shape, net.num_classes):
        raise UsageError(
            f"teacher: expected inputs {net.input_shape} and {net.num_classes} classes, "
            f"got {teacher.input_shape} and {teacher.num_classes}"
        )
    return kappa, temperature


def describe(loss: Loss) -> dict[str, Any]:
    """Return name and parameters as JSON values; of a loss of a user's own the name alone.

    Smoothing and class weights are omitted where there are none, so that runs recorded before can be resumed.
    """
    if type(loss) not in LOSSES.values():
        kind = loss if hasattr(loss, "__qualname__") else type(loss)
        return {"name": f"{kind.__module__}.{kind.__qualname__}"}
    return {"name": loss.name} | {k: v for k, v in asdict(loss).items() if k == "mu" or v}


@lru_cache(maxsize=8)
def _per_class(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Kept, because a recorded CUDA graph cannot copy numbers from the host."""
    return torch.tensor(values, device=device, dtype=dtype)


def _one_hot(o: Tensor, labels: Tensor) -> Tensor:
    return functional.one_hot(labels, o.shape[1]).to(o.dtype)

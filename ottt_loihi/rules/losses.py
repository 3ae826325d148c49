"""Instantaneous losses L[t] on the readout o[t] (OTTT eq. 5); the loss of a sequence is Σ_t L[t].

Each is a small frozen dataclass called as ``loss(o, labels, time_steps)``: o ``(batch, classes)`` floating point,
labels int64 ``(batch,)``; the result is a scalar tensor, the mean over the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from ottt_loihi import checks
from ottt_loihi.errors import UsageError


@dataclass(frozen=True)
class SquaredError:
    """``L[t] = ½·Σ_k (o_k[t] − y_k)² / T``, y the one-hot label, so that ∂L/∂o = (o − y)/T: the loss the chip uses."""

    name: ClassVar[str] = "squared-error"

    def __call__(self, o: Tensor, labels: Tensor, time_steps: int) -> Tensor:
        return (o - _one_hot(o, labels)).square().sum() / (2 * time_steps * len(o))

    def part(self, samples: slice) -> SquaredError:
        """The loss of some samples of the batch."""
        return self

    def repeated(self, steps: int) -> SquaredError:
        """The loss of rows that hold every sample ``steps`` times, one after the other."""
        return self


@dataclass(frozen=True)
class CrossEntropy:
    """``L[t] = ((1 − μ)·CE(o[t], y) + μ·MSE(o[t], y)) / T``; MSE: mean over the classes. The released code's.

    μ: 0.05 on CIFAR, 0.001 on DVS data, 0 on ImageNet. smoothing ε, not the released code's: CE's target is
    ``(1 − ε)·y + ε/classes`` (Szegedy et al. 2016), MSE's stays y.
    """

    mu: float = 0.05
    smoothing: float = 0.0
    name: ClassVar[str] = "cross-entropy"

    def __post_init__(self) -> None:
        checks.number(self.mu, "loss cross-entropy: mu", 0, 1)
        checks.number(self.smoothing, "loss cross-entropy: smoothing", 0, 1, below=True)

    def __call__(self, o: Tensor, labels: Tensor, time_steps: int) -> Tensor:
        loss = (1 - self.mu) * functional.cross_entropy(o, labels, label_smoothing=self.smoothing)
        if self.mu:
            loss = loss + self.mu * functional.mse_loss(o, _one_hot(o, labels))
        return loss / time_steps

    def part(self, samples: slice) -> CrossEntropy:
        """The loss of some samples of the batch."""
        return self

    def repeated(self, steps: int) -> CrossEntropy:
        """The loss of rows that hold every sample ``steps`` times, one after the other."""
        return self


@dataclass(frozen=True, eq=False)
class Distilled:
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

    def part(self, samples: slice) -> Distilled:
        """The loss of some samples of the batch."""
        return replace(self, teacher=self.teacher[samples])

    def repeated(self, steps: int) -> Distilled:
        """The loss of rows that hold every sample ``steps`` times, one after the other."""
        return replace(self, teacher=self.teacher.repeat_interleave(steps, 0))


Loss = SquaredError | CrossEntropy | Callable[[Tensor, Tensor, int], Tensor]
LOSSES: dict[str, type] = {kind.name: kind for kind in (SquaredError, CrossEntropy)}


def instantaneous(loss: Loss, o: Tensor, labels: Tensor, time_steps: int) -> Tensor:
    """Return L[t], which must be a scalar; one of a user's own is asked as the others are."""
    value = loss(o, labels, time_steps)
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(f"loss: expected a scalar tensor, got {found}; take the mean over the batch")
    return value.reshape(())


def make_loss(what: str | Loss) -> Loss:
    """Return a loss from its name or itself, which may be any callable ``f(o, labels, time_steps)``.

    Raises
    ------
    UsageError
        for an unknown name
    """
    if callable(what):
        return what() if isinstance(what, type) else what
    if not isinstance(what, str) or what not in LOSSES:
        raise UsageError(f"loss: expected one of {', '.join(LOSSES)}, got {what!r}")
    return LOSSES[what]()


def describe(loss: Loss) -> dict[str, Any]:
    """Return name and parameters as JSON values; of a loss of a user's own the name alone.

    ``smoothing`` is omitted when it is 0, so that runs recorded before the option existed can be resumed.
    """
    if type(loss) not in LOSSES.values():
        kind = loss if hasattr(loss, "__qualname__") else type(loss)
        return {"name": f"{kind.__module__}.{kind.__qualname__}"}
    return {"name": loss.name} | {k: v for k, v in asdict(loss).items() if k != "smoothing" or v}


def _one_hot(o: Tensor, labels: Tensor) -> Tensor:
    return functional.one_hot(labels, o.shape[1]).to(o.dtype)

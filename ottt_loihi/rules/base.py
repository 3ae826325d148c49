"""What a learning rule is: one method that learns from one batch."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.errors import TrainingError, UsageError
from ottt_loihi.fast.chunks import require_fitting, run_batch
from ottt_loihi.nn import inputs
from ottt_loihi.nn.folding import Folded
from ottt_loihi.nn.inputs import Input, frames
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.paths import GradientPaths
from ottt_loihi.rules.hlop import HLOP, make_hlop
from ottt_loihi.rules.losses import Loss

UPDATES = ("step", "sequence")


class BatchResult(NamedTuple):
    """``loss``: Σ_t L[t], a scalar · ``scores``: Σ_t o[t], ``(batch, classes)``; both without a graph."""

    loss: Tensor
    scores: Tensor


class Accumulated(NamedTuple):
    """What a batch gave beside its gradients; no value of it has been looked at.

    ``losses``: L[t], ``(T,)`` · ``scores``: Σ_t o[t], ``(batch, classes)`` · ``membranes``: v of every block after the
    last step, where the rule has any
    """

    losses: Tensor
    scores: Tensor
    membranes: tuple[Tensor, ...]


class Rule(ABC):
    """A learning rule: it knows how a batch becomes gradients, and when the optimiser may use them.

    A rule whose gradients of a batch are known before the optimiser steps has :meth:`accumulate`; others have a
    :meth:`train_batch` of their own.
    """

    name: ClassVar[str]

    def train_batch(
        self, net: Network, x: Input, labels: Tensor, loss: Loss, optimizer: torch.optim.Optimizer | None
    ) -> BatchResult:
        """Learn from one batch.

        Parameters
        ----------
        net
            the network; its gradients are overwritten where there is an optimiser, and added to where there is none
        x
            ``(batch, T, *input_shape)``: spikes or numbers, or a :class:`~ottt_loihi.nn.inputs.ConstantInput`
        labels
            int64 ``(batch,)`` in 0 … classes − 1
        loss
            L[t] of ``ottt_loihi.rules.losses``
        optimizer
            None: only add Σ_t ∂L[t]/∂w to ``.grad`` and change no weight

        Raises
        ------
        UsageError
            for wrong shapes, labels out of range, or a network the rule does not fit
        TrainingError
            for a loss that is NaN or infinite; the optimiser has not stepped on it
        """
        self.check(net)
        x, labels = net.check_input(x), check_labels(net, x, labels)
        if optimizer is not None:
            optimizer.zero_grad()
        done = self.accumulate(net, x, labels, loss)
        require_finite(net, done.losses, done.membranes)
        if optimizer is not None:
            optimizer.step()
        return BatchResult(done.losses.sum(), done.scores)

    def check(self, net: Network) -> None:  # noqa: B027 - most rules fit every network
        """Refuse a network the rule does not fit."""

    def why_not_captured(self) -> str:
        """Why the gradients of a batch are not the same operations for every batch; empty where they are.

        Where they are, :meth:`accumulate` makes them without a look at a value: a CUDA graph can repeat it.
        """
        return f"rule {self.name} looks at values between its steps"

    def accumulate(self, net: Network, x: Input, labels: Tensor, loss: Loss) -> Accumulated:
        """Add Σ_t ∂L[t]/∂w to ``.grad``; x and labels are checked, and on the network's device."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Name and settings as JSON values."""
        return {"name": self.name}

    def tensors(self) -> dict[str, Tensor]:
        """What the rule has learnt for itself, which a resumed run needs; most rules nothing."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with :meth:`tensors` of an earlier run; ValueError where they are none of this rule's."""
        if tensors:
            raise ValueError(f"rule {self.name} has no tensors of its own, found {', '.join(tensors)}")


class OnlineRule(Rule):
    """A rule whose gradient is known at every time step, so that memory does not grow with T.

    ``update="sequence"`` adds the T gradients up and lets the optimiser step once per batch; ``"step"`` lets it step
    after every time step, so that step t + 1 already runs with the new weights (momentum carries over).

    ``stretch``: time steps that go through the network at once, on the CPU and with ``update="sequence"``
    (:mod:`ottt_loihi.fast.chunks`): the same gradients within rounding, several times faster, in the memory of so many
    steps. ``hlop``: protects earlier tasks (:class:`~ottt_loihi.rules.hlop.HLOP`), for rules that offer it.
    """

    def __init__(
        self, paths: GradientPaths, update: str, stretch: int = 1, hlop: HLOP | Mapping[str, Any] | None = None
    ) -> None:
        self.paths = paths
        self.update = checks.one_of(update, "update", UPDATES)
        self.stretch = checks.integer(stretch, "stretch")
        self.hlop = make_hlop(hlop)
        if stretch > 1 and update == "step":
            raise UsageError(f"stretch: {stretch} steps share their weights; use update='sequence', or stretch=1")
        if stretch > 1 and self.hlop is not None:
            raise UsageError(f"stretch: HLOP projects the trace of every step; use stretch=1, got {stretch}")

    def step(self, net: Network, x: Tensor, state: Any, folded: Folded) -> tuple[Tensor, Any]:
        """One time step: o[t], and the state that the next one gets."""
        return net.step(x, state, self.paths, folded)

    def steps_with_gradient(self, num_steps: int) -> set[int]:
        """The time steps of a batch that are learnt from: all, unless a rule says otherwise."""
        return set(range(num_steps))

    def why_not_captured(self) -> str:
        if self.update == "step":
            return "the optimiser steps after every time step; use update='sequence'"
        if self.stretch > 1:
            return f"stretch={self.stretch} is for the CPU; use stretch=1"
        return "HLOP projects with what it has learnt so far" if self.hlop is not None else ""

    def train_batch(
        self, net: Network, x: Input, labels: Tensor, loss: Loss, optimizer: torch.optim.Optimizer | None
    ) -> BatchResult:
        self.check(net)
        x, labels = net.check_input(x), check_labels(net, x, labels)
        projections = None if self.hlop is None else self.hlop.projections(net, optimizer)
        if optimizer is not None:
            optimizer.zero_grad()
        if self.stretch > 1:
            require_fitting(net)
            folded = net.fold(x, leaves=True, paths=self.paths)
            total, scores = run_batch(net, x, labels, loss, folded, self.paths, self.stretch)
            folded.push()
        else:
            done = self._learn_step_by_step(net, x, labels, loss, optimizer, projections)
            require_finite(net, done.losses, done.membranes)
            total, scores = done.losses.sum(), done.scores
        if self.hlop is not None:
            self.hlop.check()
        if optimizer is not None and self.update == "sequence":
            optimizer.step()
        return BatchResult(total, scores)

    def accumulate(self, net: Network, x: Input, labels: Tensor, loss: Loss) -> Accumulated:
        return self._learn_step_by_step(net, x, labels, loss, None, None)

    def _learn_step_by_step(
        self,
        net: Network,
        x: Input,
        labels: Tensor,
        loss: Loss,
        optimizer: torch.optim.Optimizer | None,
        projections: Mapping[Any, Any] | None,
    ) -> Accumulated:
        """All steps; the optimiser steps between them with ``update="step"`` alone.

        Until it steps no value is looked at: on a GPU every look waits for all that has been asked of it.
        """
        state, like = None, net.readout.weight
        losses, scores = like.new_zeros(x.shape[1]), like.new_zeros(len(x), net.num_classes)
        folded = net.fold(x, leaves=True, paths=self.paths, projections=projections)
        learning = self.steps_with_gradient(x.shape[1])
        for t, frame in enumerate(frames(x)):
            with torch.set_grad_enabled(t in learning):
                o, state = self.step(net, frame, state, folded)
                loss_now = loss(o, labels, x.shape[1])
            losses[t] = loss_now.detach()
            scores += o.detach()
            if t in learning:
                loss_now.backward()
            del o, loss_now  # and with them the step's graph, before the next one is made
            if t in learning and self.update == "step" and optimizer is not None:
                require_finite(net, losses[t : t + 1], membranes(state), t)
                folded.push()
                optimizer.step()
                optimizer.zero_grad()
                if t + 1 < x.shape[1]:
                    folded.forget()
                    folded = net.fold(x, leaves=True, paths=self.paths, projections=projections)
        folded.push()
        return Accumulated(losses, scores, membranes(state))

    def describe(self) -> dict[str, Any]:
        stretch = {} if self.stretch == 1 else {"stretch": self.stretch}  # as runs of earlier versions have it
        hlop = {} if self.hlop is None else {"hlop": self.hlop.describe()}
        return {"name": self.name, "update": self.update, **stretch, **hlop}

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() if self.hlop is None else self.hlop.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        if self.hlop is None:
            super().restore(tensors)
        else:
            self.hlop.restore(tensors)


def membranes(state: Any) -> tuple[Tensor, ...]:
    """v of every block, without a graph; empty for a state that has none."""
    return tuple(block.v.detach() for block in getattr(state, "blocks", ()))


def require_finite(net: Network, losses: Tensor, membranes: Sequence[Tensor] = (), first: int = 0) -> None:
    """Stop where a loss is NaN or infinite, and say at which step and where in the network it began.

    losses: L[t] of the steps from ``first`` on, without a graph · membranes: of the blocks after the last of them
    """
    finite = torch.isfinite(losses.reshape(-1))
    if bool(finite.all()):
        return
    index = int((~finite).nonzero()[0])
    place = "the readout"
    for number, (block, v) in enumerate(zip(net.blocks, membranes)):
        if not torch.isfinite(v).all():
            bad = [name for name, p in block.named_parameters() if not torch.isfinite(p).all()]
            place = f"block {number + 1} ({'its ' + bad[0] + ' is not finite' if bad else 'its membrane overflows'})"
            break
    value = float(losses.reshape(-1)[index])
    raise TrainingError(f"time step {first + index + 1}: the loss is {value}; it begins in {place}")


def check_labels(net: Network, x: Any, labels: Any) -> Tensor:
    """Return ``labels`` as int64 on the network's device, one for each sample of x, or raise a UsageError."""
    return inputs.check_labels(labels, len(x), net.num_classes, net.readout.weight.device)

"""The interface of a learning rule: from a batch to gradients, and the steps of the optimiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ottt_loihi import checks
from ottt_loihi.errors import TrainingError, UsageError
from ottt_loihi.nn.blocks import Block
from ottt_loihi.nn.inputs import Input, frames
from ottt_loihi.nn.modules import Stepwise
from ottt_loihi.nn.network import Network, gathered
from ottt_loihi.nn.part import Part, changed
from ottt_loihi.nn.paths import GradientPaths
from ottt_loihi.nn.trace import require_affine
from ottt_loihi.rules.hlop import HLOP, make_hlop
from ottt_loihi.rules.losses import Loss, instantaneous, make_loss

UPDATES = ("step", "sequence")
Error = Callable[[Tensor], Tensor]


class BatchResult(NamedTuple):
    """The results of a batch beside its gradients, without a graph.

    Attributes
    ----------
    loss
        Σ_t L[t], a scalar
    scores
        Σ_t o[t], ``(batch, classes)``
    """

    loss: Tensor
    scores: Tensor


class Accumulated(NamedTuple):
    """The results of a batch beside its gradients; no tensor of it has been read on the host."""

    losses: Tensor  # L[t], ``(T,)``
    scores: Tensor  # Σ_t o[t], ``(batch, classes)``
    membranes: tuple[Tensor, ...] = ()  # v of every block after the last step, where the rule has any


class Step(NamedTuple):
    """The results of one time step; its tensors have no autograd graph."""

    loss: Tensor  # L[t]
    o: Tensor
    state: Any  # after it
    learns: bool  # its gradient has been added to ``.grad``


class Rule(ABC):
    """A learning rule. Its one abstract method is :meth:`accumulate`."""

    name: ClassVar[str]
    shares_convention: ClassVar[bool] = True  # its ``convention``, if it has one, is the network's
    trains_modules: ClassVar[bool] = False  # any torch.nn.Module with neurons, not only a Network
    settings: ClassVar[tuple[str, ...]] = ()  # the attributes that :meth:`describe` returns

    @abstractmethod
    def accumulate(self, net: Network, x: Input, labels: Tensor, loss: Loss) -> Accumulated:
        """Add Σ_t ∂L[t]/∂w to ``.grad``; x and labels are checked, and on the network's device."""

    def backward(self, net: nn.Module, x: Input, labels: Any, loss: Loss) -> BatchResult:
        """Add the gradient of one batch, Σ_t ∂L[t]/∂w, to ``.grad``. No weight changes.

        Parameters
        ----------
        net
            a :class:`~ottt_loihi.nn.network.Network`; OTTT, SLTT and BPTT take any ``torch.nn.Module`` with neurons
            (:class:`~ottt_loihi.nn.modules.Stepwise`)
        x
            ``(batch, T, *input_shape)``: spikes or numbers, or a :class:`~ottt_loihi.nn.inputs.ConstantInput`
        labels
            integers ``(batch,)`` in 0 … classes − 1
        loss
            L[t]: one of ``ottt_loihi.rules.losses`` or its name, or any ``f(o, labels, time_steps)`` that returns a
            scalar

        Raises
        ------
        UsageError
            for wrong shapes, labels out of range, or a network the rule does not fit
        TrainingError
            for a loss that is NaN or infinite
        """
        return self.train_batch(net, x, labels, loss, None)

    def train_batch(
        self, net: nn.Module, x: Input, labels: Any, loss: Loss, optimizer: Optimizer | None
    ) -> BatchResult:
        """Learn from one batch: :meth:`backward`, then a step of the optimiser; None only adds the gradients.

        The gradients of an earlier batch are overwritten where there is an optimiser, which does not step on a loss
        that is NaN or infinite. Parameters and errors as in :meth:`backward`.
        """
        net, loss = self.prepared(net), make_loss(loss)
        x, labels = self.checked(net, x, labels)
        if checks.instance(optimizer, "optimizer", Optimizer, none=True) is not None:
            own = {id(parameter) for parameter in _parameters(net)}
            if own.isdisjoint(id(p) for group in optimizer.param_groups for p in group["params"]):
                raise UsageError(
                    "optimizer: none of its tensors is a parameter of the network; make it of net.parameters()"
                )
        return self.learn_batch(net, x, labels, loss, optimizer, self)

    def learn_batch(
        self, net: Network, x: Input, labels: Tensor, loss: Loss, optimizer: Optimizer | None, engine: Any
    ) -> BatchResult:
        """Do :meth:`train_batch` for a batch that has been checked.

        engine: computes the gradients, in ``accumulate`` and ``learn`` as :class:`OnlineRule` has them; the rule itself
        is the plain one
        """
        if optimizer is not None:
            optimizer.zero_grad()
            self.before_batch(net)
        done = engine.accumulate(net, x, labels, loss)
        require_finite(net, done.losses, done.membranes)
        if optimizer is not None:
            optimizer.step()
            self.after_step(net)
        return BatchResult(done.losses.sum(), done.scores)

    def prepared(self, net: nn.Module) -> Any:
        """Return a network that can run single time steps: itself, or any other module as :class:`Stepwise`."""
        if isinstance(net, (Network, Stepwise)):
            return net
        if not isinstance(net, nn.Module):
            raise UsageError(f"expected a Network or a torch.nn.Module, got {type(net).__name__}")
        if not self.trains_modules:
            raise UsageError(
                f"{self.name}: expected a Network, got {type(net).__name__}; ottt, sltt and bptt train any module"
            )
        return Stepwise(net)

    def checked(self, net: Network, x: Any, labels: Any) -> tuple[Input, Tensor]:
        """Return the batch in the network's dtype and on its device; the rule must fit the network."""
        if not torch.is_grad_enabled():
            raise UsageError(
                "gradients are turned off here (torch.no_grad or torch.inference_mode); learn outside of it"
            )
        if any(parameter.is_meta for parameter in _parameters(net)):
            raise UsageError("the weights are on the meta device, which keeps no numbers; make them with to_empty")
        if not any(parameter.requires_grad for parameter in _parameters(net)):
            raise UsageError("every parameter is frozen (requires_grad = False), so nothing can learn")
        if isinstance(net, Network):
            traced = getattr(getattr(self, "paths", None), "trace", False)
            for connection in net.connections():
                for part in () if isinstance(connection, Part) else connection.modules():
                    require_affine(part, traced)
        self.check(net)
        return net.check_input(x), net.check_labels(labels, len(x))

    def check(self, net: Network) -> None:  # noqa: B027 - most rules fit every network
        """Refuse a network the rule does not fit."""

    def before_batch(self, net: Network) -> None:  # noqa: B027 - most rules change no weight by themselves
        """Change the weights before a batch that the optimiser will step on."""

    def after_step(self, net: Network) -> None:  # noqa: B027
        """Change the weights, or refuse them, after the optimiser has stepped."""

    def why_not_captured(self) -> str:
        """Return why the operations of the gradients differ from batch to batch; empty if they do not.

        Where they are, :meth:`accumulate` reads no tensor on the host: a CUDA graph can repeat it.
        """
        return f"rule {self.name} looks at values between its steps"

    def describe(self) -> dict[str, Any]:
        """Return name and settings as JSON values."""
        return {"name": self.name, **{name: getattr(self, name) for name in self.settings}}

    def tensors(self) -> dict[str, Tensor]:
        """Return the learnt state of the rule for a resumed run; empty for most rules."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the state to :meth:`tensors` of an earlier run. Raises ValueError if they belong to another rule."""
        if tensors:
            raise ValueError(f"rule {self.name} has no tensors of its own, found {', '.join(tensors)}")


class OnlineRule(Rule):
    """A rule whose gradient is known at every time step, so that memory does not grow with T.

    ``update="sequence"`` adds the T gradients up and lets the optimiser step once per batch; ``"step"`` lets it step
    after every time step, so that step t + 1 already runs with the new weights (momentum carries over).

    ``hlop``: protects earlier tasks (:class:`~ottt_loihi.rules.hlop.HLOP`), for rules that offer it.
    """

    settings = ("update",)

    def __init__(self, paths: GradientPaths, update: str, hlop: HLOP | Mapping[str, Any] | None = None) -> None:
        self.update = checks.one_of(update, "update", UPDATES)
        self.hlop = make_hlop(hlop)
        self.paths = paths if self.hlop is None else replace(paths, project=self.hlop.project)

    def learn(self, net: Network, x: Input, labels: Tensor, loss: Loss) -> Iterator[Step]:
        """Take the time steps one by one; each that is learnt from has added its gradient to ``.grad``."""
        state, learning = None, self.steps_with_gradient(x.shape[1])
        error = partial(instantaneous, loss, labels=labels, time_steps=x.shape[1])
        for t, frame in enumerate(frames(x)):
            done = self.learn_step(net, frame, state, error, t in learning)
            state = done.state
            yield done

    def learn_step(self, net: Network, x: Tensor, state: Any, error: Error, learns: bool) -> Step:
        """Take one time step, and add its gradient to ``.grad`` if it ``learns``; ``error``: L[t] of a readout."""
        with torch.set_grad_enabled(learns):
            o, state = self.step(net, x, state)
            now = error(o)
        if learns:
            self.teach(net, now, o, state, error)
        return Step(now.detach(), o.detach(), state, learns)

    def step(self, net: Network, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return o[t] and the state of one time step."""
        return net.step(x, state, self.paths)

    def teach(self, net: Network, now: Tensor, o: Tensor, state: Any, error: Error) -> None:
        """Add the gradient of a step to ``.grad``.

        now: the loss of the step; o: o[t]; state: after the step; error: gives the gradient of the loss to o[t]
        """
        require_gradient(net, state)
        now.backward()

    def steps_with_gradient(self, num_steps: int) -> set[int]:
        """Return the time steps of a batch that are learnt from: all, unless a rule says otherwise."""
        return set(range(num_steps))

    def accumulate(self, net: Network, x: Input, labels: Tensor, loss: Loss) -> Accumulated:
        with self.protected(net):
            return accumulated(net, self.learn(net, x, labels, loss))

    def learn_batch(
        self, net: Network, x: Input, labels: Tensor, loss: Loss, optimizer: Optimizer | None, engine: Any
    ) -> BatchResult:
        if self.hlop is not None and optimizer is not None:
            self.hlop.check_optimizer(optimizer)
        if self.update == "sequence" or optimizer is None:
            return super().learn_batch(net, x, labels, loss, optimizer, engine)
        with self.protected(net):
            return learn_step_by_step(net, engine.learn(net, x, labels, loss), optimizer)

    def protected(self, net: Network) -> AbstractContextManager[None]:
        """Return the context in which a batch is learnt: HLOP's, if there is one."""
        return nullcontext() if self.hlop is None else self.hlop.learning(net)

    def why_not_captured(self) -> str:
        if self.update == "step":
            return "the optimiser steps after every time step; use update='sequence'"
        return "HLOP projects with what it has learnt so far" if self.hlop is not None else ""

    def describe(self) -> dict[str, Any]:
        return super().describe() | ({} if self.hlop is None else {"hlop": self.hlop.describe()})

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.hlop is None else self.hlop.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        (super() if self.hlop is None else self.hlop).restore(tensors)


def _parameters(net: Network | Stepwise) -> Iterator[nn.Parameter]:
    return (net.module if isinstance(net, Stepwise) else net).parameters()


def require_known_blocks(rule: str, net: Network) -> None:
    """Refuse blocks and neurons with code of their own, for a rule that computes the step of a block itself."""
    for index, block in enumerate(net.blocks):
        own = "" if type(block) is Block else f"a forward of a {type(block).__name__}"
        if found := own or changed(block) or changed(block.neuron):
            raise UsageError(f"{rule}: block {index + 1} has {found}, which this rule would not call; ottt and bptt do")


def accumulated(net: Network, steps: Iterable[Step]) -> Accumulated:
    """Return the results of a batch whose steps have added their gradients."""
    losses, scores, state = [], None, None
    for done in steps:
        losses.append(done.loss)
        scores, state = gathered(net, scores, done.o), done.state
    return Accumulated(torch.stack(losses), scores, membranes(state))


def learn_step_by_step(net: Network, steps: Iterable[Step], optimizer: Optimizer) -> BatchResult:
    """Let the optimiser step after every time step that has added its gradient."""
    total, scores = 0, None
    optimizer.zero_grad()
    for t, done in enumerate(steps):
        require_finite(net, done.loss, membranes(done.state), t)
        if done.learns:
            optimizer.step()
            optimizer.zero_grad()
            torch.clear_autocast_cache()  # it would keep the 16 bits of the weights before
        total, scores = total + done.loss, gathered(net, scores, done.o)
    return BatchResult(total, scores)


def membranes(state: Any) -> tuple[Tensor, ...]:
    """Return v of every layer of neurons, without a graph; empty for a state that has none."""
    return tuple(block.v.detach() for block in getattr(state, "blocks", ()) if isinstance(block.v, Tensor))


def with_graph(tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors that a parameter can learn from, with their gradients; frozen layers have none."""
    pairs = [(tensor, gradient) for tensor, gradient in zip(tensors, gradients, strict=True) if tensor.requires_grad]
    return [tensor for tensor, _ in pairs], [gradient for _, gradient in pairs]


def require_gradient(net: nn.Module, state: Any) -> None:
    """Refuse neurons whose spikes carry no gradient: nothing before them would learn."""
    for block, after in zip(getattr(net, "blocks", ()), getattr(state, "blocks", ())):
        if after.current.requires_grad and not after.s.requires_grad:
            raise UsageError(
                f"{type(block.neuron).__name__}: s carries no gradient of the current, and nothing before it would "
                "learn; let ∂s/∂u be a surrogate, as ottt_loihi.nn.neurons.fire does"
            )


def require_finite(net: nn.Module, losses: Tensor, membranes: Sequence[Tensor] = (), first: int = 0) -> None:
    """Stop where a loss is NaN or infinite, and say at which step and where in the network it began.

    Parameters
    ----------
    losses
        L[t] of the steps from ``first`` on, without a graph
    membranes
        of the layers of neurons after the last of them
    """
    finite = torch.isfinite(losses.reshape(-1))
    if bool(finite.all()):
        return
    index = int((~finite).nonzero()[0])
    place = "the readout"
    blocks = getattr(net, "blocks", [None] * len(membranes))
    for number, (block, v) in enumerate(zip(blocks, membranes)):
        if not torch.isfinite(v).all():
            named = [] if block is None else block.named_parameters()
            bad = [name for name, p in named if not torch.isfinite(p).all()]
            place = f"block {number + 1} ({'its ' + bad[0] + ' is not finite' if bad else 'its membrane overflows'})"
            break
    value = float(losses.reshape(-1)[index])
    raise TrainingError(f"time step {first + index + 1}: the loss is {value}; it begins in {place}")

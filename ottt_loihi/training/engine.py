"""The engine that computes a batch's gradients: the fast one where it takes the network, else the plain one.

The plain engine (``ottt_loihi.rules`` on ``ottt_loihi.nn``) trains anything. The fast engine (``ottt_loihi.fast``) has
the same gradients within rounding and takes exactly the types it knows. :func:`choose` is a pure function of its
arguments: the sums of float32 depend on the engine, and the same seed must give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.inputs import ConstantInput, Input
from ottt_loihi.rules.base import BatchResult, Rule
from ottt_loihi.rules.losses import Loss, make_loss

ENGINES = ("auto", "plain", "fast")
CHUNK = 8  # time steps at once; longer ones bring less and cost memory (docs/benchmarks.md)


@dataclass(frozen=True)
class Engine:
    """The engine that computes the gradients of a batch.

    Attributes
    ----------
    name
        ``"plain"`` or ``"fast"``
    chunk
        time steps that go through the network at once; 0: the plain engine
    why
        one line for a person: what was chosen and why
    recorder
        on a GPU, the rule with a batch's operations as CUDA graphs, which it keeps; None: they are launched one by one
    """

    name: str
    chunk: int = 0
    why: str = ""
    recorder: Any = field(default=None, compare=False, repr=False)

    def describe(self) -> dict[str, Any]:
        """Return what a resumed run must share, as JSON values; recorded operations are the same operations."""
        return {"name": self.name, "chunk": self.chunk}

    def backward(self, net: nn.Module, rule: Rule, x: Input, labels: Any, loss: Loss) -> BatchResult:
        """Add the gradient of one batch to ``.grad``, as :meth:`ottt_loihi.rules.base.Rule.backward`."""
        return self.train_batch(net, rule, x, labels, loss, None)

    def train_batch(
        self, net: nn.Module, rule: Rule, x: Input, labels: Any, loss: Loss, optimizer: torch.optim.Optimizer | None
    ) -> BatchResult:
        """Learn from one batch, as :meth:`ottt_loihi.rules.base.Rule.train_batch`."""
        if self.name == "plain":
            return rule.train_batch(net, x, labels, loss, optimizer)
        if self.recorder is not None:
            return self.recorder.train_batch(net, x, labels, loss, optimizer)
        from ottt_loihi.fast.chunks import Chunks
        from ottt_loihi.fast.freed_memory import keep_freed_memory
        from ottt_loihi.fast.steps import OneByOne
        from ottt_loihi.fast.threads import one_thread_of_torch

        keep_freed_memory()
        with one_thread_of_torch() as threads:
            x, labels = rule.checked(net, x, labels)
            useful = self.useful_threads(net, x, threads)
            if self.chunk == 1:
                torch.set_num_threads(useful)
            engine = OneByOne(rule) if self.chunk == 1 else Chunks(rule, self.chunk, useful)
            return rule.learn_batch(net, x, labels, loss, optimizer, engine)

    def useful_threads(self, net: Any, x: Input, threads: int) -> int:
        """Return how many of ``threads`` CPU threads a batch uses: chunks share its samples, torch large products."""
        from ottt_loihi.fast.threads import has_long_products, is_long_batch

        if self.name == "plain" or net.readout.weight.is_cuda:
            return threads
        if self.chunk == 1:
            return threads if has_long_products(net, len(x)) else 1
        return threads if is_long_batch(net, *x.shape[:2], constant=isinstance(x, ConstantInput)) else 1


def choose(
    net: nn.Module,
    rule: Rule,
    loss: Loss,
    num_steps: int,
    engine: str = "auto",
    chunk: int | None = None,
    record: bool = False,
) -> Engine:
    """Return the engine for batches of ``num_steps`` time steps.

    Parameters
    ----------
    net, rule, loss
        what is trained
    num_steps
        T
    engine
        ``"auto"``: the fast engine where it fits, else the plain one; or one of them by name
    chunk
        time steps at once on the CPU; None: 8, or T if that is less
    record
        on a GPU, record a batch's operations and repeat them, where they are the same for every batch and no ``chunk``
        is asked for; of use where the engine is kept for many batches

    Raises
    ------
    UsageError
        where ``engine="fast"`` does not fit, saying why
    """
    checks.one_of(engine, "engine", ENGINES)
    if chunk is not None:
        checks.integer(chunk, "chunk")
    if engine == "plain":
        if chunk is not None:
            raise UsageError(
                "chunk: the plain engine takes one time step after the other; leave chunk or the engine out"
            )
        return Engine("plain", why="engine plain, as asked for")
    from ottt_loihi.fast import steps

    if reason := steps.why_not(net, rule):
        if engine == "fast":
            raise UsageError(f"engine: the fast one cannot train this, {reason}; use engine='plain', or 'auto'")
        return Engine("plain", why=f"engine plain: {reason}")
    if record and chunk is None and net.readout.weight.is_cuda:
        from ottt_loihi.fast.cuda_graph import GraphedRule, why_not_recorded

        if not why_not_recorded(rule, loss):
            return Engine("fast", 1, "engine fast, the operations of a batch recorded and repeated", GraphedRule(rule))
    from ottt_loihi.fast import chunks  # and with it numba, half a second

    reason = "as asked for" if chunk == 1 else chunks.why_not(net, rule, loss)
    if reason:
        return Engine("fast", 1, f"engine fast, one time step at once: {reason}")
    chunk = min(CHUNK if chunk is None else chunk, num_steps)
    return Engine("fast", chunk, f"engine fast, {chunk} time steps at once")


def backward(net: nn.Module, rule: Rule, x: Input, labels: Any, loss: Loss, engine: str = "auto") -> BatchResult:
    """Add the gradient of one batch to ``.grad``, with the engine that :func:`choose` gives: for loops of your own.

    Parameters and errors as in :meth:`ottt_loihi.rules.base.Rule.backward`.
    """
    if len(getattr(x, "shape", ())) < 2:
        raise UsageError(f"x: expected a tensor (batch, T, …) or a ConstantInput, got {type(x).__name__}")
    loss = make_loss(loss)
    return choose(net, checks.instance(rule, "rule", Rule), loss, x.shape[1], engine).backward(
        net, rule, x, labels, loss
    )

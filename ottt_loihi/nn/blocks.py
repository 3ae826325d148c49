"""Blocks: neurons, and the connections that feed them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.neurons import LIFStep, Neuron, Trace, follow
from ottt_loihi.nn.part import Part
from ottt_loihi.nn.paths import BPTT, GradientPaths
from ottt_loihi.nn.trace import SynapseTrace, with_own_traces, with_trace

Sent = Mapping[int, tuple[Tensor, ...]]
"""Source block of a branch with a delay → its last outputs, the newest first, as many as the delay has steps."""


class BlockState(NamedTuple):
    """After a step, ``(batch, *shape)`` each."""

    s: Tensor  # spikes
    u: Tensor  # membrane before the reset
    v: Tensor  # membrane after it
    current: Tensor  # I[t], the skip included
    mask: Tensor | None  # of the neuron dropout; None without
    # of each of ``block.connections``; None where no gradient asked for it, or nothing has arrived
    traces: tuple[Trace | None, ...]
    memory: Any = None  # what else the neurons carry, as their step returned it, or what a rule remembers of them

    @property
    def out(self) -> Tensor:
        """The spikes that the next connections get: without those of dropped neurons."""
        return self.s if self.mask is None else self.s * self.mask


class Branch(Part):
    """A second connection into a block.

    Attributes
    ----------
    connection
        the weights
    source
        index of the block whose spikes it carries
    delay
        number of time steps that the spikes take: 0 from an earlier block, 1 or more from the block itself or a later
        one (recurrence, feedback)
    """

    constants = ("source", "delay")

    def __init__(self, connection: nn.Module, source: int, delay: int) -> None:
        super().__init__()
        self.connection, self.source = connection, checks.integer(source, "branch.source", 0)
        self.delay = checks.integer(delay, "branch.delay", 0, 62)

    def extra_repr(self) -> str:  # also 0
        return f"source={self.source}, delay={self.delay}"


@dataclass(frozen=True)
class Skip:
    """A residual stream, real-valued: ``factor`` times the current of block ``source`` at this step is added."""

    source: int
    factor: float = 1.0

    def __post_init__(self) -> None:
        checks.integer(self.source, "skip.source", 0)
        checks.number(self.factor, "skip.factor")


class Block(nn.Module):
    """A layer of neurons and its incoming connections.

    ::

        I[t] = connection(out of the block before) + Σ branches + skip.factor·I_source[t]

    ============  ==============================  ============================================================
    attribute     type                            meaning
    ============  ==============================  ============================================================
    connection    :class:`~.connections.          from the block before, or from the network's input
                  Connection`
    neuron        :class:`~.neurons.LIF`, or any  ``forward(current, v, paths) -> LIFStep``
                  :class:`~.neurons.Neuron`
    branches      ModuleList of :class:`Branch`   recurrence, feedback, shortcuts
    skip          :class:`Skip` or None           residual stream
    dropout       0 ≤ p < 1                       while training, this share of the neurons is silent for all T
                                                  steps of a sample, the others count 1/(1 − p); it enters the
                                                  next connection's trace (the released code's neuron dropout)
    shape         tuple of int                    of the neurons; set by the network
    ============  ==============================  ============================================================
    """

    def __init__(
        self,
        connection: nn.Module,
        neuron: nn.Module,
        *,
        branches: Iterable[Branch] = (),
        skip: Skip | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_neuron(neuron)
        self.connection, self.neuron, self.skip = connection, neuron, skip
        self.dropout = checks.number(dropout, "dropout", 0, 1, below=True)
        self.branches = nn.ModuleList(checks.items(branches, "branches", Branch))
        self.shape: tuple[int, ...] = ()

    @property
    def connections(self) -> list[Any]:
        """The block's connections, the main one first."""
        return [self.connection, *(branch.connection for branch in self.branches)]

    def forward(
        self,
        inputs: Sequence[Tensor | None],
        state: BlockState | None = None,
        paths: GradientPaths = BPTT,
        *,
        stream: Tensor | None = None,
        first: bool = False,
    ) -> tuple[Tensor, BlockState]:
        """Return the output of one time step, ``(batch, *shape)``, and the state.

        Parameters
        ----------
        inputs
            one for each of ``connections``; None: nothing has arrived over it yet
        state
            of the step before, None at rest
        paths
            what the gradient may use of the past
        stream
            the skip's part of the current
        first
            ``inputs[0]`` is the network's input (``paths.input_trace``)
        """
        current, traces = self.charge(inputs, state, paths, first)
        current = current if stream is None else current + stream
        mask = self.draw_mask(current) if state is None else state.mask
        more = () if state is None or state.memory is None else (state.memory,)
        step = self.neuron(current, None if state is None else state.v, paths, *more)
        s, u, v = checked_step(step, current, self.neuron)
        if hasattr(self.neuron, "after_reset"):
            traces = self.neuron.after_reset(traces, s)
        state = BlockState(s, u, v, current, mask, traces, *step[3:])
        return state.out, state

    def charge(
        self,
        inputs: Sequence[Tensor | None],
        state: BlockState | None = None,
        paths: GradientPaths = BPTT,
        first: bool = False,
    ) -> tuple[Tensor, tuple[Trace | None, ...]]:
        """Return I[t] without the skip, and the traces of the inputs."""
        current, traces = None, []
        for index, (connection, x) in enumerate(zip(self.connections, inputs, strict=True)):
            before = None if state is None else state.traces[index]
            if x is None:
                traces.append(None)
                continue
            own = replace(paths, trace=paths.input_trace) if first and index == 0 else paths
            part, trace = learning_current(connection, x, before, self.neuron, own)
            traces.append(trace)
            current = part if current is None else current + part
        return current, tuple(traces)

    def draw_mask(self, like: Tensor) -> Tensor | None:
        """Return a sample's dropout: 0 for a silent neuron, 1/(1 − p) for the others; None where nothing is dropped.

        like: ``(batch, *shape)``, gives dtype and device. The mask does not depend on its memory layout, which may
        differ between engines.
        """
        if not (self.dropout and self.training):
            return None
        drawn = torch.empty_like(like, memory_format=torch.contiguous_format)
        return drawn.bernoulli_(1 - self.dropout).div_(1 - self.dropout)


def require_neuron(neuron: nn.Module) -> None:
    """Refuse neurons that take other arguments than a block has, or whose traces nothing says how to keep."""
    asked = getattr(neuron, "forward", None)
    try:
        signature(asked).bind(None, None, None)
    except TypeError:
        found = f"forward{signature(asked)}" if callable(asked) else f"{neuron!r:.80}"
        raise UsageError(f"{type(neuron).__name__}: expected forward(current, v, paths), got {found}") from None
    if getattr(type(neuron), "follow", Neuron.follow) is not Neuron.follow:
        return
    beta = getattr(neuron, "beta", None)
    if not isinstance(beta, (Real, Tensor)):
        found = "" if beta is None else f", got {beta!r:.80}"
        raise UsageError(
            f"{type(neuron).__name__}: expected a number beta, what a membrane keeps of itself in a step{found}"
        )


def learning_current(
    connection: nn.Module, x: Tensor, before: Trace | None, neuron: nn.Module, paths: GradientPaths
) -> tuple[Tensor, Trace | None]:
    """Return a connection's current, from which its parameters learn as ``paths`` says, and the trace of its input.

    neuron: keeps the trace, if weights or biases learn from it
    """
    trace = None
    if paths.trace or paths.bias_trace:
        with torch.no_grad():  # a beta that learns does not learn from the traces it makes
            trace = neuron.follow(x, before) if hasattr(neuron, "follow") else follow(x, before, neuron.beta)
    if trace is None and paths.project is None:
        return connection(x).to(x.dtype), None  # under autocast, membranes keep their bits
    if isinstance(trace, SynapseTrace):
        if paths.project is not None:
            raise UsageError("hlop: has no form for a trace of every synapse; use trace='exact'")
        return with_own_traces(connection, x, trace, paths.trace, paths.bias_trace).to(x.dtype), trace
    seen = []
    for each in trace if type(trace) is tuple else (Trace(x.detach()) if trace is None else trace,):
        pre = each.value if paths.trace else x.detach()
        pre = pre if paths.project is None else paths.project(connection, pre)
        seen.append(Trace(pre, each.length if paths.bias_trace else 1.0, mask=each.mask))
    current = () if paths.gain_trace else ("skip_gain",)
    return with_trace(connection, x, *seen, current=current).to(x.dtype), trace


def checked_step(step: Any, current: Tensor, neuron: nn.Module) -> LIFStep:
    """The step of a neuron, or a UsageError where one of a user's own returns something else."""
    name, shape = type(neuron).__name__, tuple(current.shape)
    if not isinstance(step, tuple) or len(step) not in (3, 4) or not all(isinstance(p, Tensor) for p in step[:3]):
        raise UsageError(f"{name}: expected LIFStep(s, u, v) of three tensors, got {type(step).__name__}")
    for part, value in zip(("s", "u", "v"), step):
        if tuple(value.shape) != shape:
            raise UsageError(f"{name}: {part} has shape {tuple(value.shape)}, expected that of the current, {shape}")
        if value.dtype != current.dtype:
            raise UsageError(f"{name}: {part} is {value.dtype}, expected the current's {current.dtype}")
    return LIFStep(*step[:3])

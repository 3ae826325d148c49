"""Blocks: neurons, and the connections that feed them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ottt_loihi import checks
from ottt_loihi.nn.connections import Connection, ConnectionState, Weights
from ottt_loihi.nn.neurons import LIF, LeanStep, like
from ottt_loihi.nn.paths import BPTT, GradientPaths


class BlockState(NamedTuple):
    """After a step, ``(batch, *shape)`` each.

    s: spikes · u, v: membrane before and after the reset; u is None where its memory is used otherwise · mask: of the
    neuron dropout, None without · connections: states of ``block.connections`` ·
    spare: memory for the next step's spikes (:meth:`Block.fire_lean`)
    """

    s: Tensor
    u: Tensor | None
    v: Tensor
    mask: Tensor | None
    connections: tuple[ConnectionState, ...]
    spare: Tensor | None = None

    @property
    def out(self) -> Tensor:
        """What the next connections get: the spikes, where neurons are dropped without theirs."""
        return self.s if self.mask is None else self.s * self.mask


class Branch(nn.Module):
    """A second connection into a block.

    ``connection``: the weights · ``source``: index of the block whose spikes it carries · ``delay``: steps they take, 0
    for a shortcut, 1 or more where they come from the block itself or a later one (recurrence, feedback)
    """

    def __init__(self, connection: Connection, source: int, delay: int) -> None:
        super().__init__()
        self.connection, self.source, self.delay = connection, source, delay

    def extra_repr(self) -> str:
        return f"source={self.source}, delay={self.delay}"


@dataclass(frozen=True)
class Skip:
    """``factor`` times the current of block ``source`` at this step is added: a residual stream, real-valued."""

    source: int
    factor: float = 1.0


class Block(nn.Module):
    """Neurons, and what feeds them.

    ::

        I[t] = connection(out of the block before) + Σ branches + skip.factor·I_source[t]

    ============  ==============================  ============================================================
    attribute     type                            meaning
    ============  ==============================  ============================================================
    connection       :class:`~.connections.Connection`     from the block before, or from the network's input
    neuron        :class:`~.neurons.LIF`
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
        connection: Connection,
        neuron: LIF,
        *,
        branches: Iterable[Branch] = (),
        skip: Skip | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.connection, self.neuron, self.skip = connection, neuron, skip
        self.dropout = checks.number(dropout, "dropout", 0, 1, below=True)
        self.branches = nn.ModuleList(branches)
        self.shape: tuple[int, ...] = ()

    @property
    def connections(self) -> list[Connection]:
        """The block's connections, the main one first."""
        return [self.connection, *(branch.connection for branch in self.branches)]

    def charge(
        self,
        inputs: Sequence[Tensor],
        state: BlockState | None,
        paths: GradientPaths = BPTT,
        first: bool = False,
        weights: Mapping[Connection, Weights] | None = None,
        constant: Callable[[ConnectionState | None, float], tuple[Tensor, ConnectionState]] | None = None,
    ) -> tuple[Tensor, tuple[ConnectionState, ...]]:
        """I[t] without the skip, and the connections' states.

        inputs: one per connection · first: inputs[0] is the network's input (``paths.input_trace``) · weights: of each
        connection, where computed before · constant: gives the main connection's current, where the input never changes
        """
        current, states = None, []
        for index, (connection, x) in enumerate(zip(self.connections, inputs, strict=True)):
            before = None if state is None else state.connections[index]
            if index == 0 and constant is not None:
                current, connection_state = constant(before, self.neuron.beta)
                states.append(connection_state)
                continue
            part, connection_state = connection(
                x,
                before,
                beta=self.neuron.beta,
                traced=paths.input_trace if first and index == 0 else paths.trace,
                bias_traced=paths.bias_trace,
                weights=None if weights is None else weights[connection],
            )
            states.append(connection_state)
            current = part if current is None else current + part
        return current, tuple(states)

    def fire(
        self,
        current: Tensor,
        connections: tuple[ConnectionState, ...],
        state: BlockState | None,
        paths: GradientPaths = BPTT,
    ) -> BlockState:
        """The neurons' step on the current I[t]."""
        mask = self.draw_mask(current) if state is None else state.mask
        s, u, v = self.neuron(current, None if state is None else state.v, paths)
        return BlockState(s, u, v, mask, connections)

    def fire_lean(
        self, current: Tensor, connections: tuple[ConnectionState, ...], state: BlockState | None, keep_current: bool
    ) -> BlockState:
        """:meth:`fire` for a rule that learns at every step, in the memory of ``state``, which is spent thereby.

        The spikes of the step before stay readable, its u does not. keep_current: u gets memory of its own, because
        somebody else still needs I[t].
        """
        if state is None:
            v, spare = torch.full_like(current, self.neuron.v_init), torch.empty_like(current)
            state = BlockState(torch.empty_like(current), None, v, self.draw_mask(current), (), spare)
        current = like(current, state.v)
        u = current
        if keep_current:
            u = torch.empty_like(current) if state.u is None else state.u
        s = LeanStep.apply(current, state.v, u.detach(), state.spare.detach(), self.neuron)
        return BlockState(s, u.detach() if keep_current else None, state.v, state.mask, connections, state.s.detach())

    def draw_mask(self, like: Tensor) -> Tensor | None:
        """A sample's dropout: 0 for a silent neuron, 1/(1 − p) for the others; None where nothing is dropped."""
        if not (self.dropout and self.training):
            return None
        return torch.empty_like(like).bernoulli_(1 - self.dropout).div_(1 - self.dropout)

    def forward(
        self, x: Tensor, state: BlockState | None = None, paths: GradientPaths = BPTT, first: bool = False
    ) -> tuple[Tensor, BlockState]:
        """One step of a block on its own, without branches and skip: what comes out, and the state."""
        current, connections = self.charge((x,), state, paths, first)
        state = self.fire(current, connections, state, paths)
        return state.out, state


Late = Mapping[int, tuple[Tensor, ...]]
"""Source → what it sent before the last step, the newest first."""


def arriving(source: int, delay: int, last: Callable[[int], Tensor], late: Late) -> Tensor | None:
    """What ``source`` sent ``delay`` ≥ 1 steps ago, None before its first step; ``last``: what it sent in the last."""
    if delay == 1:
        return last(source)
    older = late.get(source, ())
    return older[delay - 2] if len(older) > delay - 2 else None


def remembered(delays: Mapping[int, int], last: Callable[[int], Tensor], late: Late) -> Late:
    """``late`` of the next step; ``delays``: the longest from each source. Copies, because a step may reuse memory."""
    return {i: (last(i).clone(), *late.get(i, ()))[: delay - 1] for i, delay in delays.items() if delay > 1}

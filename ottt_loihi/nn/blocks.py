"""Blocks: neurons, and the connections that feed them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.connections import Synapse, SynapseState, Weights
from ottt_loihi.nn.neurons import LIF, LeanStep, like
from ottt_loihi.nn.paths import BPTT, Paths


class BlockState(NamedTuple):
    """After a step, ``(batch, *shape)`` each.

    s: spikes · u, v: membrane before and after the reset; u is None where its memory is used otherwise · mask: of the
    neuron dropout, None without · synapses: states of ``block.synapse`` and of the branches' synapses, in that order ·
    spare: memory for the next step's spikes (:meth:`Block.fire_lean`)
    """

    s: Tensor
    u: Tensor | None
    v: Tensor
    mask: Tensor | None
    synapses: tuple[SynapseState, ...]
    spare: Tensor | None = None

    @property
    def out(self) -> Tensor:
        """What the next connections get: the spikes, where neurons are dropped without theirs."""
        return self.s if self.mask is None else self.s * self.mask


class Branch(nn.Module):
    """A second connection into a block.

    ``synapse``: the weights · ``source``: index of the block whose spikes it carries · ``delay``: steps they take, 0
    for a shortcut, 1 or more where they come from the block itself or a later one (recurrence, feedback)
    """

    def __init__(self, synapse: Synapse, source: int, delay: int) -> None:
        super().__init__()
        self.synapse, self.source, self.delay = synapse, source, delay

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

        I[t] = synapse(out of the block before) + Σ branches + skip.factor·I_source[t]

    ============  ==============================  ============================================================
    attribute     type                            meaning
    ============  ==============================  ============================================================
    synapse       :class:`~.synapses.Synapse`     from the block before, or from the network's input
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
        synapse: Synapse,
        neuron: LIF,
        *,
        branches: Iterable[Branch] = (),
        skip: Skip | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise UsageError(f"dropout: expected a number in [0, 1), got {dropout!r}")
        self.synapse, self.neuron, self.skip, self.dropout = synapse, neuron, skip, float(dropout)
        self.branches = nn.ModuleList(branches)
        self.shape: tuple[int, ...] = ()

    @property
    def synapses(self) -> list[Synapse]:
        """The block's connections, the main one first."""
        return [self.synapse, *(branch.synapse for branch in self.branches)]

    def charge(
        self,
        inputs: Sequence[Tensor],
        state: BlockState | None,
        paths: Paths = BPTT,
        first: bool = False,
        weights: Mapping[Synapse, Weights] | None = None,
        constant: Callable[[SynapseState | None, float], tuple[Tensor, SynapseState]] | None = None,
    ) -> tuple[Tensor, tuple[SynapseState, ...]]:
        """I[t] without the skip, and the synapses' states.

        inputs: one per connection · first: inputs[0] is the network's input (``paths.input_trace``) · weights: of each
        connection, where computed before · constant: gives the main connection's current, where the input never changes
        """
        current, states = None, []
        for index, (synapse, x) in enumerate(zip(self.synapses, inputs, strict=True)):
            before = None if state is None else state.synapses[index]
            if index == 0 and constant is not None:
                current, synapse_state = constant(before, self.neuron.decay)
                states.append(synapse_state)
                continue
            part, synapse_state = synapse(
                x,
                before,
                decay=self.neuron.decay,
                traced=paths.input_trace if first and index == 0 else paths.trace,
                bias_traced=paths.bias_trace,
                weights=None if weights is None else weights[synapse],
            )
            states.append(synapse_state)
            current = part if current is None else current + part
        return current, tuple(states)

    def fire(
        self, current: Tensor, synapses: tuple[SynapseState, ...], state: BlockState | None, paths: Paths = BPTT
    ) -> BlockState:
        """The neurons' step on the current I[t]."""
        mask = self.draw_mask(current) if state is None else state.mask
        s, u, v = self.neuron(current, None if state is None else state.v, paths)
        return BlockState(s, u, v, mask, synapses)

    def fire_lean(
        self, current: Tensor, synapses: tuple[SynapseState, ...], state: BlockState | None, keep_current: bool
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
        return BlockState(s, u.detach() if keep_current else None, state.v, state.mask, synapses, state.s.detach())

    def draw_mask(self, like: Tensor) -> Tensor | None:
        """A sample's dropout: 0 for a silent neuron, 1/(1 − p) for the others; None where nothing is dropped."""
        if not (self.dropout and self.training):
            return None
        return torch.empty_like(like).bernoulli_(1 - self.dropout).div_(1 - self.dropout)

    def forward(
        self, x: Tensor, state: BlockState | None = None, paths: Paths = BPTT, first: bool = False
    ) -> tuple[Tensor, BlockState]:
        """One step of a block on its own, without branches and skip: what comes out, and the state."""
        current, synapses = self.charge((x,), state, paths, first)
        state = self.fire(current, synapses, state, paths)
        return state.out, state

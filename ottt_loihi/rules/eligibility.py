"""The step that rules with an eligibility of their own share: S-TLLR, TESS and OTPE.

OTTT's eligibility is the trace of the input times f(u). These rules give a layer another one
(:meth:`LayeredRule.layer`): its spikes have the value of the neuron's, and the gradient that the rule wants.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.blocks import Block, BlockState, checked_step
from ottt_loihi.nn.network import Layer, Network, NetworkState
from ottt_loihi.nn.neurons import LIF, LIFStep, Trace
from ottt_loihi.nn.paths import GradientPaths
from ottt_loihi.rules.base import OnlineRule, require_known_blocks

SPATIAL = GradientPaths(membrane=False)  # through the layers of one time step, never back through time


class LayeredRule(OnlineRule):
    """A rule of :meth:`layer`, and of the errors that ``teach`` sends to the layers."""

    alone = False  # no gradient goes from a layer, or from the readout, to the layers in front of it

    def __init__(self, update: str = "sequence") -> None:
        super().__init__(SPATIAL, update)

    @abstractmethod
    def layer(
        self, block: Block, inputs: Sequence[Tensor | None], state: BlockState | None, last: bool
    ) -> tuple[Tensor, BlockState]:
        """Return the output and the state of one layer in one time step; last: only the readout is behind it.

        What the rule remembers of the neurons is the state's ``memory``.
        """

    def step(self, net: Network, x: Tensor, state: NetworkState | None) -> tuple[Tensor, NetworkState]:
        return step(net, x, state, self.layer, self.alone)


def step(
    net: Network, x: Tensor, state: NetworkState | None, layer: Layer, alone: bool = False
) -> tuple[Tensor, NetworkState]:
    """Return o[t] and the state of one time step; ``layer`` gives the output and the state of each block."""
    return net.step(x, state, SPATIAL, (lambda _, out: out.detach()) if alone else None, layer)


def trace_of(state: BlockState | None, index: int) -> Trace | None:
    """Return the trace of an input; None before the first step."""
    return None if state is None else state.traces[index]


def fire(block: Block, current: Tensor, before: BlockState | None) -> LIFStep:
    """Return the step of a block's neurons."""
    v = None if before is None else before.v
    return checked_step(block.neuron(current, v, SPATIAL), current, block.neuron)


def after_step(
    block: Block, step: LIFStep, current: Tensor, traces: tuple[Trace, ...], before: BlockState | None, memory: Any
) -> tuple[Tensor, BlockState]:
    """Return the output of a block and its state."""
    mask = block.draw_mask(current) if before is None else before.mask
    done = BlockState(*step, current, mask, traces, memory)
    return done.out, done


def random_matrix(shape: tuple[int, int], seed: int, layer: int, like: Tensor) -> Tensor:
    """Return the fixed feedback of a layer, ``(neurons, classes)``: normal, of variance 1/classes."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + layer)
    return torch.randn(shape, generator=generator).to(like.detach()) / math.sqrt(shape[1])


def require_lif(name: str, net: Network, branches: bool) -> None:
    """Refuse networks other than LIF layers with the paper's convention; without ``branches`` they must be a row."""
    if net.convention != "paper":
        raise UsageError(f'{name}: expected a network with convention="paper", whose neurons fire above Vth')
    if any(type(block.neuron) is not LIF for block in net.blocks):
        raise UsageError(f"{name}: expected LIF neurons, whose surrogate its eligibility is made of")
    require_known_blocks(name, net)
    if any(block.skip is not None for block in net.blocks):
        raise UsageError(f"{name}: has no form for residual streams; ottt trains them")
    if not branches and any(len(block.branches) for block in net.blocks):
        raise UsageError(f"{name}: expected a row of layers; s-tllr and ottt train recurrent ones")

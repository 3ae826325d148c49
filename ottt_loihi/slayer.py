"""Networks made of lava-dl's SLAYER blocks, which our rules train.

SLAYER runs all T steps of a block before the next block and backpropagates through time. Here the same blocks, with
their own quantised weights, integer decays and thresholds, run step by step, so that OTTT learns at every step in
memory that does not grow with T. ``export_hdf5`` and everything else of theirs stays as it is::

    model = SlayerNetwork(net.blocks)
    OTTT().train_batch(model, x, labels, SquaredError(), optimizer)     # in place of forward, loss and backward
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.inputs import frames
from ottt_loihi.nn.modules import Stepwise
from ottt_loihi.nn.paths import BPTT, GradientPaths


class Trace(NamedTuple):
    """The cascaded traces of a synapse's input, of its shape: ``a`` of the current, ``e`` of the voltage."""

    a: Tensor
    e: Tensor


class BlockState(NamedTuple):
    """current, voltage (after the reset) and spikes of a block's neurons ``(batch, *shape)``; a trace per synapse."""

    current: Tensor
    voltage: Tensor
    spikes: Tensor
    traces: tuple[Trace, ...]


class SlayerState(NamedTuple):
    """After a time step: the state of every block, None where a block has none."""

    blocks: tuple[BlockState | None, ...]

    @property
    def membranes(self) -> list[Tensor]:
        """The voltage of every block with neurons."""
        return [block.voltage for block in self.blocks if block is not None]


class SlayerNetwork(Stepwise):
    """A network of SLAYER's CUBA blocks for ``OTTT`` and ``SLTT``.

    ::

        u[t] = λu·u[t−1] + W·x[t]           a[t] = λu·a[t−1] + x[t]          λ = 1 − decay/4096, SLAYER's integer decay
        v[t] = λv·v[t−1]·(1 − s[t−1]) + u[t]      e[t] = λv·e[t−1] + a[t]
        ∇W[t] = (∂L[t]/∂s[t]·ρ(v[t]))·e[t]ᵀ

    e is what OTTT's trace becomes with a current that decays by itself: the derivative of v[t] by W, the reset held
    constant; a current decay of 1 makes it the paper's. ρ is SLAYER's surrogate. The gradient of the last block's
    weights is the one that SLAYER's own backpropagation has for the loss Σ_t L[t], but for that reset. SLTT takes x[t]
    in place of e[t]. Inputs are ``(batch, T, channels)`` or ``(batch, T, channels, height, width)``; SLAYER has T last:
    ``x.movedim(-1, 1)``.

    All blocks see the same step. ``delay_shift`` only moves SLAYER's spikes by one step a block: what is called step t
    here is t + (number of such blocks) in SLAYER's output.

    Parameters
    ----------
    blocks
        in order: ``cuba.Input`` (without weight and bias), ``Dense``, ``Conv``, ``Pool``, ``Flatten``, ``Average``,
        ``Recurrent``; last, if wanted, ``Affine(dynamics=False)`` as readout

    Raises
    ------
    UsageError
        for a block or an option that cannot be trained so, by name
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        blocks = list(blocks)
        if not blocks:
            raise UsageError("slayer: expected one or more blocks, got none")
        for index, block in enumerate(blocks):
            if (reason := _objection(block, index == len(blocks) - 1)) is not None:
                raise UsageError(f"slayer: block {index + 1}, {_name(block)}: {reason}")
        if not any(True for block in blocks for _ in block.parameters()):
            raise UsageError("slayer: expected a block with weights, got none")
        self.module, self.num_classes, self.convention = nn.ModuleList(blocks), 0, "paper"

    def step(
        self, x: Tensor, state: SlayerState | None = None, paths: GradientPaths = BPTT, presynaptic: Any = None
    ) -> tuple[Tensor, SlayerState]:
        """Return the last block's output ``(batch, outputs)`` and the state of one time step, which has no graph.

        x: ``(batch, channels)`` or ``(batch, channels, height, width)``
        """
        if paths.membrane and torch.is_grad_enabled():
            raise UsageError("slayer: BPTT through these blocks is SLAYER's own; use its backward(), or OTTT or SLTT")
        if x.ndim not in (2, 4):
            shape = tuple(x.shape[1:])
            raise UsageError(f"slayer: expected an input (batch, T, channels[, height, width]), got frames of {shape}")
        after: list[BlockState | None] = []
        out = x.unsqueeze(-1)
        for index, block in enumerate(self.module):
            out, held = _step(block, out, None if state is None else state.blocks[index], paths.trace)
            after.append(held)
        return out.flatten(1), SlayerState(tuple(after))

    @torch.no_grad()
    def outputs(self, x: Any) -> list[Tensor]:
        """Return the output of every block at every time step, ``(batch, T, *shape)`` each."""
        history: list[list[Tensor]] = [[] for _ in self.module]
        state: tuple[BlockState | None, ...] = (None,) * len(self.module)
        for frame in frames(self.check_input(x)):
            out, after = frame.unsqueeze(-1), []
            for block, before, seen in zip(self.module, state, history, strict=True):
                out, held = _step(block, out, before)
                after.append(held)
                seen.append(out[..., 0])
            state = tuple(after)
        return [torch.stack(seen, 1) for seen in history]


def _step(
    block: nn.Module, x: Tensor, state: BlockState | None, traced: bool = True
) -> tuple[Tensor, BlockState | None]:
    kind = _name(block)
    if kind in ("Flatten", "Average"):
        return block(x), None
    if kind == "Affine":
        return block.synapse(x), None
    if kind == "Input":
        return (x, None) if block.neuron is None else _fire(block.neuron, block.pre_hook_fx(x), state, ())
    neuron = block.neuron
    traces = [None, None] if state is None else list(state.traces)
    z, trace = _traced(_main_synapse(block), x, traces[0], neuron, traced)
    if kind != "Recurrent":
        return _fire(neuron, z, state, (trace,))
    before = torch.zeros_like(z) if state is None else state.spikes.unsqueeze(-1)
    recurrent, second = _traced(block.recurrent_synapse, before.detach(), traces[1], neuron, traced)
    return _fire(neuron, z + recurrent, state, (trace, second))


def _traced(
    synapse: nn.Module, x: Tensor, trace: Trace | None, neuron: nn.Module, traced: bool
) -> tuple[Tensor, Trace]:
    """Return ``synapse(x)``, and the trace after it.

    The weight's gradient uses e where ``traced``, else x; the input's gradient belongs to x.
    """
    seen = x.detach()
    if trace is not None:
        current, voltage = (
            1 - torch.round(d.detach()) / (1 << 12) for d in (neuron.current_decay, neuron.voltage_decay)
        )
        a = current * trace.a + seen
        trace = Trace(a, voltage * trace.e + a)
    else:
        trace = Trace(seen, seen)
    fixed = {name: p.detach() for name, p in synapse.named_parameters()}
    value = functional_call(synapse, fixed, (x,))
    if not any(p.requires_grad for p in synapse.parameters()) or not torch.is_grad_enabled():
        return value, trace
    carrier = synapse(trace.e if traced else seen)
    return value + (carrier - carrier.detach()), trace


def _fire(
    neuron: nn.Module, z: Tensor, state: BlockState | None, traces: tuple[Trace, ...]
) -> tuple[Tensor, BlockState]:
    """One step of SLAYER's own neuron from a given state; the neuron is left as it was."""
    held = neuron.current_state, neuron.voltage_state, neuron.persistent_state
    zero = torch.zeros_like(z[..., 0])
    neuron.current_state = zero if state is None else state.current
    neuron.voltage_state = zero if state is None else state.voltage
    neuron.persistent_state = False
    try:
        current, voltage = neuron.dynamics(z)
        spikes = neuron.spike(voltage)
    finally:
        neuron.current_state, neuron.voltage_state, neuron.persistent_state = held
    fired = spikes[..., -1].detach()
    kept = voltage[..., -1].detach() * (fired == 0)
    return spikes, BlockState(current[..., -1].detach().clone(), kept, fired, traces)


def _main_synapse(block: nn.Module) -> nn.Module:
    return block.input_synapse if _name(block) == "Recurrent" else block.synapse


def _name(block: nn.Module) -> str:
    return type(block).__name__


def _objection(block: nn.Module, last: bool) -> str | None:
    """Why a block cannot be trained, or None."""
    if type(block).__module__ != "lava.lib.dl.slayer.block.cuba":
        return f"it is of {type(block).__module__}; expected blocks of lava.lib.dl.slayer.block.cuba"
    kind = _name(block)
    if kind not in ("Input", "Dense", "Conv", "Pool", "Flatten", "Average", "Recurrent", "Affine"):
        return "OTTT cannot train this block; Input, Dense, Conv, Pool, Flatten, Average, Recurrent and Affine it can"
    if kind == "Affine" and (not last or block.dynamics is not False):
        return "an Affine block must be the last one and have dynamics=False"
    if getattr(block, "count_log", False):
        return "count_log=True changes what it returns; set it to False"
    if getattr(block, "delay", None) is not None:
        return "learned axonal delays have no trace; make it with delay=False"
    if getattr(block, "mask", None) is not None:
        return "a pruning mask (pre_hook, mask) is not applied here"
    if kind == "Input" and (block.weight is not None or block.bias is not None):
        return "its weight and bias are not learnt; make it without them"
    if kind == "Recurrent" and block.bias is not None:
        return "the bias of a Recurrent block is not learnt; make it without it"
    return None if getattr(block, "neuron", None) is None else _objection_to_neuron(block.neuron)


def _objection_to_neuron(neuron: nn.Module) -> str | None:
    if neuron.norm is not None:
        return "a norm between current and voltage has no trace; use norm=None"
    if neuron.drop is not None:
        return "SLAYER draws its dropout anew at every step here; use dropout=None"
    if neuron.requires_grad:
        return "learned decays need BPTT; use requires_grad=False"
    if not neuron.shared_param:
        return "decays per channel have no presynaptic trace; use shared_param=True"
    if neuron.graded_spike:
        return "graded spikes have no surrogate here; use graded_spike=False"
    return None

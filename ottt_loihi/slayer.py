"""OTTT for networks made of lava-dl's SLAYER blocks.

SLAYER runs all T steps of a block before the next block and backpropagates through time. Here the same blocks, with
their own quantised weights, integer decays and thresholds, run step by step and learn at every step, in memory that
does not grow with T; ``export_hdf5`` and everything else of theirs stays as it is::

    rule = ottt_loihi.slayer.OTTT(net.blocks)
    rule.train_batch(x, labels, SquaredError(), optimizer)     # in place of forward, loss and backward
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.rules.base import UPDATES, BatchResult
from ottt_loihi.rules.losses import Loss


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


class OTTT:
    """OTTT in SLAYER's CUBA neurons.

    ::

        u[t] = λu·u[t−1] + W·x[t]           a[t] = λu·a[t−1] + x[t]          λ = 1 − decay/4096, SLAYER's integer decay
        v[t] = λv·v[t−1]·(1 − s[t−1]) + u[t]      e[t] = λv·e[t−1] + a[t]
        ∇W[t] = (∂L[t]/∂s[t]·ρ(v[t]))·e[t]ᵀ

    e is what OTTT's trace becomes with a current that decays by itself: the derivative of v[t] by W, the reset held
    constant; a current decay of 1 makes it the paper's. ρ is SLAYER's surrogate. The gradient of the last block's
    weights is the one that SLAYER's own backpropagation has for the loss Σ_t L[t], but for that reset.

    All blocks see the same step. ``delay_shift`` only moves SLAYER's spikes by one step a block: what is called step t
    here is t + (number of such blocks) in SLAYER's output.

    Parameters
    ----------
    blocks
        in order: ``cuba.Input`` (without weight and bias), ``Dense``, ``Conv``, ``Pool``, ``Flatten``, ``Average``,
        ``Recurrent``; last, if wanted, ``Affine(dynamics=False)`` as readout. They must have been run once
        (SLAYER finds its shapes then)
    update
        ``"step"``: the optimiser steps at every time step; ``"sequence"``: once for all T

    Raises
    ------
    UsageError
        for a block or an option that cannot be trained so, by name
    """

    def __init__(self, blocks: Iterable[nn.Module], update: str = "sequence") -> None:
        self.blocks = list(blocks)
        self.update = checks.one_of(update, "update", UPDATES)
        if not self.blocks:
            raise UsageError("slayer: expected one or more blocks, got none")
        for index, block in enumerate(self.blocks):
            if (reason := _objection(block, index == len(self.blocks) - 1)) is not None:
                raise UsageError(f"slayer: block {index + 1}, {_name(block)}: {reason}")

    def train_batch(
        self, x: Tensor, labels: Tensor, loss: Loss, optimizer: torch.optim.Optimizer | None
    ) -> BatchResult:
        """Learn from one batch.

        x: ``(batch, channels, T)`` or ``(batch, channels, height, width, T)``, as SLAYER takes it · labels: int64
        ``(batch,)`` · loss: L[t] of ``ottt_loihi.rules.losses`` on the last block's output at each step · optimizer:
        None only adds Σ_t ∂L[t]/∂W to ``.grad``
        """
        if x.ndim not in (3, 5) or not torch.isfinite(x).all():
            raise UsageError(f"slayer: expected finite (batch, channels, [height, width,] T), got {tuple(x.shape)}")
        if optimizer is not None:
            optimizer.zero_grad()
        states, total, scores = None, x.new_zeros(()), None
        for t in range(x.shape[-1]):
            o, states = self.step(x[..., t : t + 1], states)
            if int(labels.min()) < 0 or int(labels.max()) >= o.shape[1] or labels.shape != (len(x),):
                raise UsageError(f"labels: expected {len(x)} integers in 0 … {o.shape[1] - 1}")
            loss_now = loss(o, labels, x.shape[-1])
            loss_now.backward()
            if optimizer is not None and self.update == "step":
                optimizer.step()
                optimizer.zero_grad()
            total = total + loss_now.detach()
            scores = o.detach() if scores is None else scores + o.detach()
        if optimizer is not None and self.update == "sequence":
            optimizer.step()
        return BatchResult(total, scores)

    @torch.no_grad()
    def run(self, x: Tensor) -> list[Tensor]:
        """The output of every block at every step, ``(batch, *shape, T)``, without learning."""
        outputs: list[list[Tensor]] = [[] for _ in self.blocks]
        states = None
        for t in range(x.shape[-1]):
            seen, out, after = [], x[..., t : t + 1], []
            for index, block in enumerate(self.blocks):
                out, state = _step(block, out, None if states is None else states[index])
                after.append(state)
                seen.append(out)
            states = after
            for history, value in zip(outputs, seen, strict=True):
                history.append(value)
        return [torch.cat(history, dim=-1) for history in outputs]

    def step(self, x: Tensor, states: list[BlockState | None] | None = None) -> tuple[Tensor, list[BlockState | None]]:
        """One time step: the last block's output ``(batch, outputs)``, and the states. x: with a time axis of 1."""
        after = []
        for index, block in enumerate(self.blocks):
            x, state = _step(block, x, None if states is None else states[index])
            after.append(state)
        return x.flatten(1), after


def _step(block: nn.Module, x: Tensor, state: BlockState | None) -> tuple[Tensor, BlockState | None]:
    kind = _name(block)
    if kind in ("Flatten", "Average"):
        return block(x), None
    if kind == "Affine":
        return block.synapse(x), None
    if kind == "Input":
        return (x, None) if block.neuron is None else _fire(block.neuron, block.pre_hook_fx(x), state, ())
    neuron = block.neuron
    traces = [None, None] if state is None else list(state.traces)
    z, trace = _traced(_main_synapse(block), x, traces[0], neuron)
    if kind != "Recurrent":
        return _fire(neuron, z, state, (trace,))
    before = torch.zeros_like(z) if state is None else state.spikes.unsqueeze(-1)
    recurrent, second = _traced(block.recurrent_synapse, before.detach(), traces[1] if state else None, neuron)
    return _fire(neuron, z + recurrent, state, (trace, second))


def _traced(synapse: nn.Module, x: Tensor, trace: Trace | None, neuron: nn.Module) -> tuple[Tensor, Trace]:
    """``synapse(x)``, whose weight gradient uses the trace e and whose input gradient belongs to x."""
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
    carrier = synapse(trace.e)
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

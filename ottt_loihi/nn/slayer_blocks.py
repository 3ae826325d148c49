"""Networks of a user's own SLAYER blocks, and SLAYER's blocks of a network (:mod:`ottt_loihi.nn.slayer`)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.blocks import Block, Branch
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.slayer import (
    ANY_NEURON,
    GEOMETRY,
    UNITY,
    SlayerNeuron,
    SlayerReadout,
    SlayerSynapse,
    SpikeCount,
    lava_dl,
)


def from_blocks(
    blocks: Iterable[nn.Module],
    *,
    input_shape: Sequence[int] | None = None,
    time_steps: int = 6,
    trace: str = "exact",
) -> Network:
    """Return the network of SLAYER's blocks, which it shares and trains.

    All blocks see the same step. ``delay_shift`` only moves SLAYER's spikes by one step a block: what is called step t
    here is t + (number of such blocks) in SLAYER's output. Inputs are ``(batch, T, channels)`` or ``(batch, T,
    channels, height, width)``; SLAYER has T last: ``x.movedim(-1, 1)``.

    Decays learn where the blocks have ``requires_grad=True``. They count 1/4096, so give them a learning rate of their
    own (``param_groups``).

    Parameters
    ----------
    blocks
        in order: ``cuba.Input`` (without weight and bias), ``Dense``, ``Conv``, ``Pool``, ``Flatten``, ``Recurrent``;
        last, if wanted, ``Average``, or ``Affine(dynamics=False)`` as readout
    input_shape
        of a frame; default that of the first Dense block
    time_steps
        T that it is trained with
    trace
        of neurons with decays of their own (``shared_param=False``): ``"exact"``, one for each distinct pair, at most
        8; ``"mean"``, one at their mean, an approximation

    Raises
    ------
    UsageError
        for a block or an option that cannot be trained so, by name
    """
    blocks = list(blocks)
    if not blocks:
        raise UsageError("slayer: expected one or more blocks, got none")
    for index, block in enumerate(blocks):
        if (reason := _objection(block, index == len(blocks) - 1)) is not None:
            raise UsageError(f"slayer: block {index + 1}, {type(block).__name__}: {reason}")
    if not any(True for block in blocks for _ in block.parameters()):
        raise UsageError("slayer: expected a block with weights, got none")
    if input_shape is None:
        first = next((b for b in blocks if type(b).__name__ not in ("Input", "Flatten")), None)
        if type(first).__name__ not in ("Dense", "Recurrent", "Affine"):
            raise UsageError("slayer: input_shape: expected the shape of a frame, because no Dense block comes first")
        input_shape = (_main_synapse(first).in_channels,)
    made: list[Block] = []
    readout: nn.Module | None = None
    for block in blocks:
        kind = type(block).__name__
        if kind == "Average":
            readout = SpikeCount(block.num_outputs)
        elif kind == "Affine":
            readout = _of_synapse("Dense", block.synapse, block.neuron, SlayerReadout)
        elif getattr(block, "neuron", None) is not None:  # a Flatten, or an Input, may have none
            made.append(_of_block(block, kind, len(made), trace))
    if readout is None:
        shape: tuple[int, ...] = tuple(input_shape)
        for part in made:
            shape = part.connection.output_shape(shape)
        readout = SpikeCount(math.prod(shape))
    return Network(made, readout, input_shape=input_shape, time_steps=time_steps)


def _of_block(block: nn.Module, kind: str, index: int, trace: str) -> Block:
    neuron, branches = block.neuron, []
    if kind == "Input":
        return Block(SlayerSynapse("Input", 1, scale=neuron.w_scale), _of_neuron(neuron, trace))
    if not neuron.shared_param and neuron.shape is None:
        neuron.dynamics(torch.zeros(1, _main_synapse(block).out_channels, 1))  # draws the decays
    if kind == "Recurrent":
        kind, branches = "Dense", [Branch(_of_synapse("Dense", block.recurrent_synapse, neuron), index, 1)]
    return Block(_of_synapse(kind, _main_synapse(block), neuron), _of_neuron(neuron, trace), branches=branches)


def _of_synapse(kind: str, own: nn.Module, neuron: nn.Module, made: type[SlayerSynapse] = SlayerSynapse) -> Any:
    sizes = {name: tuple(getattr(own, name)[:2]) for name in GEOMETRY}
    value = float(own.weight.reshape(-1)[0]) if kind == "Pool" else 1.0
    more = {"groups": own.groups, "weight_norm": own.weight_norm_enabled, "scale": neuron.w_scale, "value": value}
    return made(kind, own.in_channels, own.out_channels, own=own, **sizes, **more)


def _of_neuron(own: nn.Module, trace: str) -> SlayerNeuron:
    decays = own.current_decay, own.voltage_decay
    if own.requires_grad or not own.shared_param:
        kept: list[Any] = [{"shape": list(decay.shape)} for decay in decays]
    else:
        kept = [round(float(decay)) / UNITY for decay in decays]
    surrogate = own.tau_rho / own.threshold, own.scale_rho
    return SlayerNeuron(own.threshold, *kept, *surrogate, own.w_scale, own, learn=own.requires_grad, trace=trace)


def is_slayer(net: Any) -> bool:
    """Whether ``net`` is a network of SLAYER's blocks."""
    blocks = getattr(net, "blocks", ()) if isinstance(net, Network) else ()
    return bool(len(blocks)) and all(type(block.neuron) is SlayerNeuron for block in blocks)


def blocks_of(net: Network) -> list[nn.Module]:
    """Return SLAYER's blocks of a network, copies with its weights, which ``export_hdf5`` and netx take."""
    cuba, found, shape = lava_dl().block.cuba, [], net.input_shape
    for block in net.blocks:
        synapse, kind = block.connection, block.connection.kind
        if block.branches:
            made = cuba.Recurrent(ANY_NEURON, synapse.inputs, synapse.outputs)
            made.input_synapse = copy.deepcopy(synapse.own)
            made.recurrent_synapse = copy.deepcopy(block.branches[0].connection.own)
        elif kind == "Input":
            made = cuba.Input(ANY_NEURON)
        else:
            sizes = {"Dense": (synapse.inputs, synapse.outputs), "Conv": (synapse.inputs, synapse.outputs, 1)}
            made = getattr(cuba, kind)(ANY_NEURON, *sizes.get(kind, (1,)))
            made.synapse = copy.deepcopy(synapse.own)
        made.neuron = copy.deepcopy(block.neuron.own)  # in place of any
        shape = synapse.output_shape(shape)
        made.neuron.shape = torch.Size(shape)
        found.append(made)
    if isinstance(net.readout, SlayerSynapse):
        made = cuba.Affine(
            {**ANY_NEURON, "scale": net.readout.scale}, net.readout.inputs, net.readout.outputs, dynamics=False
        )
        made.synapse = copy.deepcopy(net.readout.own)
        found.append(made)
    elif net.readout.out_features != math.prod(shape):
        raise UsageError("slayer: netx cannot load an Average block; count the spikes of each neuron")
    return found


def _main_synapse(block: nn.Module) -> nn.Module:
    return block.input_synapse if type(block).__name__ == "Recurrent" else block.synapse


def _objection(block: nn.Module, last: bool) -> str | None:
    """Why a block cannot be trained, or None."""
    if type(block).__module__ != "lava.lib.dl.slayer.block.cuba":
        return f"it is of {type(block).__module__}; expected blocks of lava.lib.dl.slayer.block.cuba"
    kind = type(block).__name__
    if kind not in ("Input", "Dense", "Conv", "Pool", "Flatten", "Average", "Recurrent", "Affine"):
        return "OTTT cannot train this block; Input, Dense, Conv, Pool, Flatten, Average, Recurrent and Affine it can"
    if kind == "Average" and not last:
        return "an Average block must be the last one"
    if kind == "Affine" and (not last or block.dynamics is not False):
        return "an Affine block must be the last one and have dynamics=False"
    if getattr(block, "count_log", False):
        return "count_log=True changes what it returns; set it to False"
    if getattr(block, "delay", None) is not None:
        return "learned axonal delays have no trace; make it with delay=False, or bring the .net of its export_hdf5"
    if getattr(block, "mask", None) is not None:
        return "a pruning mask (pre_hook, mask) is not applied here"
    if kind == "Input" and (block.weight is not None or block.bias is not None):
        return "its weight and bias are not learnt; make it without them"
    if kind == "Recurrent" and block.bias is not None:
        return "the bias of a Recurrent block is not learnt; make it without it"
    return None if getattr(block, "neuron", None) is None else _objection_to_neuron(block.neuron, kind)


def _objection_to_neuron(neuron: nn.Module, kind: str) -> str | None:
    if neuron.norm is not None:
        return "a norm between current and voltage has no trace; use norm=None"
    if neuron.drop is not None:
        return "SLAYER draws its dropout anew at every step here; use dropout=None"
    if not neuron.shared_param and kind not in ("Dense", "Recurrent"):
        return "on a CPU SLAYER has decays per channel of Dense and Recurrent alone; use shared_param=True"
    if neuron.graded_spike:
        return "graded spikes have no surrogate here; use graded_spike=False"
    return None

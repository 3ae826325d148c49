"""The plain NumPy simulator: slow, obvious, and the oracle for everything fast.

It executes a :class:`~ottt_loihi.sim.network.ChipNetwork` in logical time (``sim/network.py``), a batch of samples at
once, one step after the other, with the functions of ``sim/arithmetic.py`` and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.network import INPUT, ChipNetwork, Connection, Conv, Dense, Diagonal

from ottt_loihi.errors import UsageError

Variable = Literal["u", "v", "s"]


@dataclass(frozen=True)
class Result:
    """What a run gives back.

    scores: int64 ``(batch, classes)``, the network's readout · states: for every recorded variable ``"u"``, ``"v"``
    (int32) or ``"s"`` (bool) one array ``(num_steps, batch, *layer.shape)`` per layer · spike_counts: int64
    ``(layers,)``, all spikes of the batch.
    """

    scores: np.ndarray
    states: dict[str, list[np.ndarray]]
    spike_counts: np.ndarray

    @property
    def predictions(self) -> np.ndarray:
        """int64 ``(batch,)``: the class with the highest score (the first of equals)."""
        return self.scores.argmax(axis=1)


def run(chip: ChipNetwork, x: np.ndarray, record: tuple[Variable, ...] = ()) -> Result:
    """Run a batch of samples, each from the network's initial state.

    Parameters
    ----------
    chip
        the integer network
    x
        messages, integers or bool, ``(batch, num_steps, *input_shape)``; 0 or 1 unless the input connection is graded
    record
        any of ``"u"``, ``"v"``, ``"s"``: the states to keep, of all layers and steps

    Raises
    ------
    UsageError
        for a wrong shape, dtype, message range or variable name
    """
    x = check_input(chip, x)
    if unknown := set(record) - {"u", "v", "s"}:
        raise UsageError(f"record: expected any of 'u', 'v', 's', got {sorted(unknown)}")
    state = NetworkState(chip, len(x))
    history: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in chip.layers] for name in record}
    scores = np.zeros((len(x), chip.layers[-1].size), np.int64)
    spike_counts = np.zeros(len(chip.layers), np.int64)
    for t in range(chip.num_steps):
        state.step(x[:, t])
        for name in record:
            for kept, now in zip(history[name], getattr(state, name), strict=True):
                kept.append(now)
        spike_counts += [int(s.sum()) for s in state.s]
        scores = _read_out(chip.readout, scores, state)
    states = {
        name: [
            np.stack(kept).reshape(chip.num_steps, len(x), *layer.shape) for kept, layer in zip(per_layer, chip.layers)
        ]
        for name, per_layer in history.items()
    }
    return Result(scores, states, spike_counts)


class NetworkState:
    """u, v (int32) and s (bool) of every layer, ``(batch, neurons)``, and the messages still on their way."""

    def __init__(self, chip: ChipNetwork, batch: int) -> None:
        self.chip = chip
        self.u = [np.tile(layer.u_init.reshape(1, -1), (batch, 1)) for layer in chip.layers]
        self.v = [np.zeros((batch, layer.size), np.int32) for layer in chip.layers]
        self.s = [np.zeros((batch, layer.size), bool) for layer in chip.layers]
        longest = max(chip.logical_delay(c) for c in chip.connections)
        # past[d][pre]: what `pre` sent d steps ago; index 0 is filled while the step runs, layer after layer
        self.past = [
            {index: np.zeros((batch, chip.size(index)), np.int32) for index in range(INPUT, len(chip.layers))}
            for _ in range(longest + 1)
        ]

    def step(self, messages: np.ndarray) -> None:
        """Advance all layers by one logical step. messages: ``(batch, input_size)``."""
        self.past = [{INPUT: messages}, *self.past[:-1]]
        for index, layer in enumerate(self.chip.layers):
            a = np.zeros(self.u[index].shape, np.int32)
            with np.errstate(over="ignore"):
                for c in self.chip.inputs_of(index):
                    a = a + connection_output(c, self.past[self.chip.logical_delay(c)][c.pre])
            self.u[index] = arithmetic.current_step(self.u[index], a, layer.du)
            bias = arithmetic.effective_bias(layer.bias_mant.reshape(-1), layer.bias_exp)
            v = arithmetic.voltage_step(self.v[index], self.u[index], layer.dv, bias)
            self.s[index] = arithmetic.spikes(v, layer.vth)
            self.v[index] = np.where(self.s[index], 0, v).astype(np.int32)
            self.past[0][index] = self.s[index].astype(np.int32)


def connection_output(c: Connection, messages: np.ndarray) -> np.ndarray:
    """``a = (W·x) << weight_exp``, int32 ``(batch, post)``, for messages ``(batch, pre)``."""
    x = messages.astype(np.int64)
    if c.num_message_bits == 0:
        x = (x != 0).astype(np.int64)
    if isinstance(c, Conv):
        return arithmetic.wrap24(cross_correlation(c, x))
    if isinstance(c, Dense):
        accumulated = x @ c.weight.T.astype(np.int64)
    elif isinstance(c, Diagonal):
        accumulated = x * c.weight
    else:
        accumulated = np.zeros((len(x), c.shape[0]), np.int64)
        np.add.at(accumulated, (slice(None), c.rows), x[:, c.columns] * c.weight)
    return arithmetic.synaptic_input(accumulated, c.weight_exp)


def cross_correlation(c: Conv, x: np.ndarray) -> np.ndarray:
    """The sum in :class:`Conv`, int64 ``(batch, O·Ho·Wo)``, for messages int64 ``(batch, C·H·W)``."""
    frames = x.reshape(len(x), c.groups, -1, *c.input_shape[1:])
    padded = np.pad(frames, ((0, 0), (0, 0), (0, 0), (c.padding[0],) * 2, (c.padding[1],) * 2))
    out, height, width = c.output_shape
    weight = c.weight.astype(np.int64).reshape(c.groups, out // c.groups, *c.weight.shape[1:])
    total = np.zeros((len(x), c.groups, out // c.groups, height, width), np.int64)
    for i, j in np.ndindex(*c.weight.shape[2:]):
        y = slice(i * c.dilation[0], i * c.dilation[0] + (height - 1) * c.stride[0] + 1, c.stride[0])
        x_ = slice(j * c.dilation[1], j * c.dilation[1] + (width - 1) * c.stride[1] + 1, c.stride[1])
        total += np.einsum("gok,bgkyx->bgoyx", weight[..., i, j], padded[..., y, x_])
    return total.reshape(len(x), -1)


def check_input(chip: ChipNetwork, x: np.ndarray) -> np.ndarray:
    """Validate messages ``(batch, num_steps, *input_shape)``; returns int32 ``(batch, num_steps, input_size)``."""
    x = np.asarray(x)
    expected = (chip.num_steps, *chip.input_shape)
    if x.ndim != 1 + len(expected) or x.shape[1:] != expected:
        raise UsageError(f"input: expected shape (batch, {', '.join(map(str, expected))}), got {x.shape}")
    if x.dtype.kind not in "iub":
        raise UsageError(f"input: expected integer messages, got dtype {x.dtype}; encode the data as spikes first")
    bits = max((c.num_message_bits for c in chip.connections if c.pre == INPUT), default=0)
    low, high = (0, 1) if bits == 0 else (-(2**bits), 2**bits - 1)
    if x.size and (x.min() < low or x.max() > high):
        raise UsageError(f"input: expected messages in [{low}, {high}], got [{x.min()}, {x.max()}]")
    return x.reshape(len(x), chip.num_steps, chip.input_size).astype(np.int32)


def _read_out(kind: str, scores: np.ndarray, state: NetworkState) -> np.ndarray:
    if kind == "last_v":
        return state.v[-1].astype(np.int64)
    return scores + (state.v[-1] if kind == "sum_v" else state.s[-1])

"""The plain NumPy simulator: slow, obvious, and the oracle for everything fast.

It executes a :class:`~ottt_loihi.sim.network.ChipNetwork` in logical time (``sim/network.py``), a batch of samples at
once, one step after the other, with the functions of ``sim/arithmetic.py`` and nothing else.

An image that stays the same for all time steps needs its first layer's current only once. The host computes it, in the
same integers as the chip would, and the chip gets it as messages through weights of one, −4096 … 4095: what the 13 bits
of a bias hold, as in the input layer of lava-dl's netx. ``ChipNetwork.host`` is that part, a network of one step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim import checks as sim_checks
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Connection, Conv, Dense, Diagonal

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

Variable = Literal["u", "v", "s"]
OVERFLOWS = ("int32", "conv", "u", "v")
LEAST = -(2**23)  # no v is lower: the scores of ``max_v`` before the first step
MESSAGE_MIN, MESSAGE_MAX = -4096, 4095  # of the host: 13 bits


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes
    ----------
    scores
        int64 ``(batch, classes)``, the network's readout
    states
        for every recorded variable ``"u"``, ``"v"`` (int32) or ``"s"`` (bool) one array ``(num_steps, batch,
        *layer.shape)`` per layer, None for a layer that was not recorded
    spike_counts
        int64 ``(layers,)``, all spikes of the batch
    overflows
        int64 ``(layers,)`` each, neurons × steps × samples in which ``"int32"`` a sum left 32 bits, ``"conv"`` a
        convolution's output left 24 bits, ``"u"`` the current left 24 bits (all three wrap around), ``"v"`` the
        membrane was clipped; empty where they are not counted
    strategies
        how the fast simulator computed each connection.
    """

    scores: np.ndarray
    states: dict[str, list[Any]]
    spike_counts: np.ndarray
    overflows: dict[str, np.ndarray] = field(default_factory=dict)
    strategies: tuple[Strategy, ...] = ()

    @property
    def predictions(self) -> np.ndarray:
        """Return the class with the highest score (the first of equal ones), int64 ``(batch,)``."""
        return self.scores.argmax(axis=1)


@dataclass(frozen=True)
class Strategy:
    """How the fast simulator computes a connection, and why."""

    connection: str
    strategy: str
    why: str


def run(chip: ChipNetwork, x: np.ndarray, record: tuple[Variable, ...] = ()) -> Result:
    """Run a batch of samples, each from the network's initial state: :func:`ottt_loihi.sim.run` for one array, with
    ``record`` any of ``"u"``, ``"v"``, ``"s"``, of all layers.
    """
    x = check_input(checks.instance(chip, "chip", ChipNetwork), x, run)
    record = sim_checks.variables(record)
    state = NetworkState(chip, len(x))
    history: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in chip.layers] for name in record}
    scores = np.full((len(x), chip.layers[-1].size), LEAST if chip.readout == "max_v" else 0, np.int64)
    spike_counts = np.zeros(len(chip.layers), np.int64)
    for t in range(chip.num_steps):
        state.step(x[:, t])
        for name in record:
            for kept, now in zip(history[name], getattr(state, name), strict=True):
                kept.append(now)
        spike_counts += [int(s.sum()) for s in state.s]
        scores = read_out(chip.readout, scores, state.v[-1], state.s[-1])
    return Result(scores, _stack(chip, history), spike_counts, state.overflows)


class NetworkState:
    """u, v (int32) and s (bool) of every layer, ``(batch, neurons)``, and the messages that have not arrived yet."""

    def __init__(self, chip: ChipNetwork, batch: int) -> None:
        self.chip = chip
        self.u = [np.tile(layer.u_init.reshape(1, -1), (batch, 1)) for layer in chip.layers]
        self.v = [np.zeros((batch, layer.size), np.int32) for layer in chip.layers]
        self.s = [np.zeros((batch, layer.size), bool) for layer in chip.layers]
        self.overflows = {name: np.zeros(len(chip.layers), np.int64) for name in OVERFLOWS}
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
            inputs = [(c, self.past[self.chip.logical_delay(c)][c.pre]) for c in self.chip.inputs_of(index)]
            self.u[index], self.v[index], self.s[index], overflows = layer_step(
                layer, inputs, self.u[index], self.v[index]
            )
            for name, count in overflows.items():
                self.overflows[name][index] += count
            self.past[0][index] = self.s[index].astype(np.int32)


def layer_step(
    layer: LIF, inputs: list[tuple[Connection, np.ndarray]], u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, int]]:
    """One step of a layer whose connections receive messages ``(batch, pre)``: new u, v and s, and what overflowed."""
    a = np.zeros(u.shape, np.int32)
    exact = np.zeros(u.shape, np.int64)
    wrapped = 0
    for c, messages in inputs:
        total = accumulated(c, messages)
        outputs = sent(c, total)
        wrapped += int((outputs != total).sum()) if isinstance(c, Conv) else 0
        exact += outputs if isinstance(c, Conv) else arithmetic.shift(total, c.weight_exp)
        with np.errstate(over="ignore"):
            a = a + outputs
    d = arithmetic.unwrapped_current(u, a, layer.du)
    left_int32 = arithmetic.decayed(u, arithmetic.DECAY_UNITY - (layer.du + 1)) + (exact << arithmetic.STATE_SHIFT) != d
    u = arithmetic.current_step(u, a, layer.du)
    sums = arithmetic.unclipped_voltage(v, u, layer.dv, layer.effective_bias)
    v = arithmetic.voltage_step(v, u, layer.dv, layer.effective_bias)
    counts = {"int32": int(left_int32.sum()), "conv": wrapped, "u": int((u != d).sum()), "v": int((v != sums).sum())}
    s = arithmetic.spikes(v, layer.thresholds)
    return u, np.where(s, 0, v).astype(np.int32), s, counts


def connection_output(c: Connection, messages: np.ndarray) -> np.ndarray:
    """``a = (W·x) << weight_exp``, int32 ``(batch, post)``, for messages ``(batch, pre)``."""
    return sent(c, accumulated(c, messages))


def sent(c: Connection, total: np.ndarray) -> np.ndarray:
    """Return a, int32, of ``W·x``."""
    return arithmetic.wrap24(total) if isinstance(c, Conv) else arithmetic.synaptic_input(total, c.weight_exp)


def accumulated(c: Connection, messages: np.ndarray) -> np.ndarray:
    """``W·x``, int64."""
    x = messages.astype(np.int64)
    if c.num_message_bits == 0:
        x = (x != 0).astype(np.int64)
    if isinstance(c, Conv):
        return cross_correlation(c, x)
    if isinstance(c, Dense):
        return x @ c.weight.T.astype(np.int64)
    if isinstance(c, Diagonal):
        return x * c.weight
    total = np.zeros((len(x), c.shape[0]), np.int64)
    np.add.at(total, (slice(None), c.rows), x[:, c.columns] * c.weight)
    return total


def cross_correlation(c: Conv, x: np.ndarray) -> np.ndarray:
    """The sum in :class:`Conv`, int64 ``(batch, O·Ho·Wo)``, for messages int64 ``(batch, C·H·W)``."""
    images = x.reshape(len(x), c.groups, -1, *c.input_shape[1:])
    padded = np.pad(images, ((0, 0), (0, 0), (0, 0), (c.padding[0],) * 2, (c.padding[1],) * 2))
    out, height, width = c.output_shape
    weight = c.weight.astype(np.int64).reshape(c.groups, out // c.groups, *c.weight.shape[1:])
    total = np.zeros((len(x), c.groups, out // c.groups, height, width), np.int64)
    for i, j in np.ndindex(*c.weight.shape[2:]):
        y = slice(i * c.dilation[0], i * c.dilation[0] + (height - 1) * c.stride[0] + 1, c.stride[0])
        x_ = slice(j * c.dilation[1], j * c.dilation[1] + (width - 1) * c.stride[1] + 1, c.stride[1])
        total += np.einsum("gok,bgkyx->bgoyx", weight[..., i, j], padded[..., y, x_])
    return total.reshape(len(x), -1)


def host_messages(chip: ChipNetwork, x: np.ndarray, run: Callable[..., Result] | None = None) -> np.ndarray:
    """Return the messages of the host to the chip: int16 ``(n, num_steps, *input_shape)``, the same at every step.

    Every ``run`` applies it to its input.

    Parameters
    ----------
    chip
        the network; one without a host's part gets x back
    x
        messages for the host's network, integers ``(n, num_steps, *host.input_shape)`` that do not change in time
    run
        what computes the host's network; default: :func:`ottt_loihi.sim.run`

    Raises
    ------
    UsageError
        for an input that changes, or of another shape, and for a current outside −4096 … 4095
    """
    if chip.host is None:
        return x
    if run is None:
        from ottt_loihi.sim.inference.simulator import run
    x = check_shape(chip, x, chip.host.input_shape)
    if (x != x[:, :1]).any():
        raise UsageError("input: the host computes the first layer once, for an input that stays the same in time")
    result = run(chip.host, x[:, :1], record=("v",))
    current = result.states["v"][-1][0] >> arithmetic.STATE_SHIFT
    low, high = (int(current.min()), int(current.max())) if current.size else (0, 0)
    if low < MESSAGE_MIN or high > MESSAGE_MAX or result.spike_counts.any():
        raise UsageError(
            f"input: the host's current reaches {low:,} … {high:,}, a message holds {MESSAGE_MIN} … {MESSAGE_MAX}; "
            "scale the input down, or export with --input graded"
        )
    messages = current.reshape(len(x), 1, *chip.input_shape).astype(np.int16)
    return np.repeat(messages, chip.num_steps, axis=1)


def check_input(chip: ChipNetwork, x: np.ndarray, run: Callable[..., Result] | None = None) -> np.ndarray:
    """Validate messages ``(batch, num_steps, *input_shape)``, or the host's input, which ``run`` takes to messages.

    Returns int32 ``(batch, num_steps, input_size)``.
    """
    x = check_shape(chip, host_messages(chip, x, run))
    check_range(chip, x)
    return x.reshape(len(x), chip.num_steps, chip.input_size).astype(np.int32)


def check_shape(chip: ChipNetwork, x: np.ndarray, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Refuse messages of the wrong shape or dtype; shape: of a step, default the network's."""
    x = np.asarray(x)
    expected = (chip.num_steps, *(shape or chip.input_shape))
    if x.ndim != 1 + len(expected) or x.shape[1:] != expected:
        raise UsageError(f"input: expected shape (batch, {', '.join(map(str, expected))}), got {x.shape}")
    if x.dtype.kind not in "iub":
        raise UsageError(f"input: expected integer messages, got dtype {x.dtype}; encode the data as spikes first")
    return x


def check_range(chip: ChipNetwork, x: np.ndarray) -> tuple[int, int]:
    """Refuse messages out of range; returns the smallest and the largest, (0, 1) for bool."""
    bits = chip.message_bits
    low, high = (0, 1) if bits == 0 else (-(2**bits), 2**bits - 1)
    found = (int(x.min()), int(x.max())) if x.size and x.dtype != np.bool_ else (0, 1)
    if found[0] < low or found[1] > high:
        raise UsageError(f"input: expected messages in [{low}, {high}], got [{found[0]}, {found[1]}]")
    return found


def read_out(kind: str, scores: np.ndarray, v: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Return the scores after a step, int64 ``(batch, classes)``; ``scores``: those before it, at first :data:`LEAST`
    for ``"max_v"`` and 0 for all others."""
    if kind == "last_v":
        return v.astype(np.int64)
    return np.maximum(scores, v) if kind == "max_v" else scores + (v if kind == "sum_v" else s)


def _stack(chip: ChipNetwork, history: dict[str, list[list[np.ndarray]]]) -> dict[str, list[np.ndarray]]:
    return {
        name: [np.stack(kept).reshape(len(kept), -1, *layer.shape) for kept, layer in zip(per_layer, chip.layers)]
        for name, per_layer in history.items()
    }

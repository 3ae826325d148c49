"""Reading lava-dl's ``.net``: the ChipNetwork whose spikes are those of netx on Lava, whoever trained it.

The file is HDF5, ``layer/<i>/…`` (lava-dl 0.6, ``lava/lib/dl/netx/hdf5.py``). It does not hold the number of time
steps, where a sample ends, how classes are read. Where netx would change a weight, so does this, and says so.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ottt_loihi.converters.netx import weights as netx_weights
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Connection, Conv, Dense, Diagonal

from ottt_loihi import checks, safe_hdf5
from ottt_loihi.errors import ChipError, FileError, UsageError

NETX_BIAS_EXP = 6
NEURONS = ("CUBA", "LOIHI")
REFUSED = ("pool", "unpool", "convT", "average", "concat", "dense_comp")
MAX_LAYERS = 1000
INPUT_BITS = 13  # of what the host drives an input layer with: a bias mantissa


@dataclass
class Imported:
    """The network, and sentences about values that netx changes or that the file does not contain."""

    chip: ChipNetwork
    notes: list[str] = field(default_factory=list)


@dataclass
class _State:
    """The parts read so far; ``shape`` is that of the layer before, None where the file does not say."""

    shape: tuple[int, ...] | None
    layers: list[LIF] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    input_shape: tuple[int, ...] | None = None
    transform: dict[str, float] | None = None

    @property
    def pre(self) -> int:
        return len(self.layers) - 1 if self.layers else INPUT


def read(
    path: str | os.PathLike[str],
    num_steps: int,
    input_shape: tuple[int, ...] | None = None,
    readout: str | None = None,
) -> Imported:
    """Read a ``.net`` file.

    Parameters
    ----------
    path
        the file
    num_steps
        T, which the file does not hold
    input_shape
        (channels, height, width), where the first layer is a convolution and the file names no input shape
    readout
        as in :class:`ChipNetwork`; default: Σ_t of spikes, or the last membrane of an integrator

    Raises
    ------
    FileError
        for a file that is damaged, or not of this format
    ChipError
        for what netx cannot load, or the simulators have no counterpart of, by layer
    """
    checks.path(path, "file to read")
    checks.integer(num_steps, "num_steps")
    state = _State(None if input_shape is None else checks.sizes(input_shape, "input_shape"))
    refusal: ChipError | None = None
    with safe_hdf5.open_hdf5(path) as file:
        try:
            _read_layers(safe_hdf5.group(file, "layer"), state)
        except ChipError as error:  # a sound file, of a network that cannot be had
            refusal = error
    if refusal is not None:
        raise ChipError(f"{path}: {refusal}")
    if not state.layers or state.input_shape is None:
        raise FileError(f"{path}: holds no layer of neurons")
    integrates = state.layers[-1].du == -1 and state.layers[-1].dv == 4096
    provenance: dict[str, Any] = {"source": Path(path).name, "notes": state.notes}
    chip = ChipNetwork(
        state.input_shape,
        tuple(state.layers),
        tuple(state.connections),
        num_steps,
        readout or ("last_v" if integrates else "spike_count"),
        provenance,
        input_transform=state.transform and (state.transform["weight"], state.transform["bias"]),
    )
    return Imported(chip, state.notes)


def from_slayer(
    net: Any, num_steps: int, input_shape: tuple[int, ...] | None = None, readout: str | None = None
) -> Imported:
    """The ChipNetwork of a SLAYER network in memory: one of ours, a module with lava-dl's ``blocks``, or the blocks.

    Blocks must have been run once, because SLAYER finds its shapes then. Other arguments, result and errors as for
    :func:`read`; UsageError for what has no blocks.
    """
    from ottt_loihi.nn.slayer_blocks import blocks_of, is_slayer

    if is_slayer(net):
        input_shape, net = input_shape or net.input_shape, blocks_of(net)
    blocks = list(getattr(net, "blocks", net if isinstance(net, Iterable) else ()))
    if not blocks or not all(hasattr(block, "export_hdf5") for block in blocks):
        raise UsageError(f"expected a module whose .blocks are blocks of lava-dl's SLAYER, got {type(net).__name__}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slayer.net"
        with h5py.File(path, "w") as file:
            for index, block in enumerate(blocks):
                block.export_hdf5(file.create_group(f"layer/{index}"))
        return read(path, num_steps, input_shape, readout)


def _read_layers(layers: h5py.Group, state: _State) -> None:
    if not 0 < len(layers) <= MAX_LAYERS:
        raise FileError(f"layer: expected 1 … {MAX_LAYERS} layers, found {len(layers)}")
    for index in range(len(layers)):
        _read_layer(safe_hdf5.group(layers, str(index)), f"layer/{index}", state)


def _read_layer(group: h5py.Group, where: str, state: _State) -> None:
    kind = safe_hdf5.text(group, "type")
    if kind in REFUSED:
        raise ChipError(
            f"{where}: netx itself cannot load a layer of type {kind!r}; fold a pooling into the convolution after it "
            "(ottt-export does so for networks trained here), or replace it by a convolution with a stride"
        )
    if kind == "flatten":
        state.shape = None if state.shape is None else (math.prod(state.shape),)
    elif kind == "input":
        _read_input(group, where, state)
    elif kind == "conv":
        _read_conv(group, where, state)
    elif kind in ("dense", "dense_rec"):
        _read_dense(group, where, state, recurrent=kind == "dense_rec")
    else:
        raise ChipError(f"{where}/type: {kind!r} is unknown; known are input, flatten, dense, dense_rec and conv")


def _read_input(group: h5py.Group, where: str, state: _State) -> None:
    """Read an input layer: a shape alone, or neurons whose bias the host sets; ours get messages by weights of 1."""
    if state.layers:
        raise ChipError(f"{where}: an input layer must be the first one")
    state.shape = _sizes(group, "shape", (1, 3))
    state.input_shape = state.shape
    if "neuron" not in group:
        return
    lif = _neurons(group, where, state.shape, None, state)
    if lif.du != 4095:
        raise ChipError(f"{where}/neuron/iDecay: an input layer is exact only with 4096, found {lif.du + 1}")
    state.transform = {name: _number(group, name, default) for name, default in (("weight", 64), ("bias", 0))}
    state.notes.append(
        f"{where}: the host drives it with messages of weight·x + bias = {state.transform['weight']:g}·x + "
        f"{state.transform['bias']:g}"
    )
    state.connections.append(Diagonal(INPUT, 0, np.ones(lif.size, np.int32), num_message_bits=INPUT_BITS))
    state.layers.append(lif)


def _read_conv(group: h5py.Group, where: str, state: _State) -> None:
    if state.shape is None or len(state.shape) != 3:
        raise ChipError(f"{where}: the file does not tell the input's shape; give it as channels, height, width")
    if "delay" in group:
        raise ChipError(f"{where}/delay: netx ignores a convolution's delays, and Lava's Conv has none")
    weight = _integers(group, "weight", where)
    if weight.ndim == 5 and weight.shape[4] == 1:
        weight = weight[..., 0]
    if weight.ndim != 4:
        raise FileError(f"{where}/weight: expected (out, in, height, width), found {weight.shape}")
    if np.abs(weight).max() > 256:
        raise ChipError(f"{where}/weight: {np.abs(weight).max()} does not fit into 8 bits")
    _begin(state, state.shape)
    conv = Conv(
        state.pre,
        len(state.layers),
        weight,
        state.shape,
        **{name: _pair(group, name) for name in ("stride", "padding", "dilation")},
        groups=int(_number(group, "groups", 1)),
    )
    declared = _sizes(group, "shape", (3,))
    if declared != conv.output_shape:
        raise FileError(f"{where}/shape: {declared}, but the convolution gives {conv.output_shape}")
    bias = _integers(group, "bias", where) if "bias" in group else None
    if bias is not None and bias.shape == (declared[0],):
        bias = np.broadcast_to(bias[:, None, None], declared)
    elif bias is not None and bias.shape == declared[::-1]:  # one for each neuron, in netx's order
        bias = bias.transpose()
    state.layers.append(_neurons(group, where, declared, bias, state))
    state.connections.append(conv)
    state.shape = declared


def _read_dense(group: h5py.Group, where: str, state: _State, recurrent: bool) -> None:
    size = math.prod(_sizes(group, "shape", (1, 3)))
    weight = _matrix(group, "weight", where, size)
    parts = [weight, _matrix(group, "weight_rec", where, size)] if recurrent else [weight]
    found, exponent = _as_netx(parts, where, state)
    _begin(state, (weight.shape[1],))
    expected = math.prod(state.shape or (weight.shape[1],))
    if weight.shape[1] != expected:
        raise FileError(f"{where}/weight: {weight.shape[1]} inputs, but the layer before has {expected} neurons")
    bias = _integers(group, "bias", where) if "bias" in group else None
    index = len(state.layers)
    pre = state.pre
    state.layers.append(_neurons(group, where, (size,), bias, state))
    delays = _integers(group, "delay", where) if "delay" in group else np.zeros((), int)
    state.connections += _delayed(pre, index, found[0], exponent, delays, where)
    if recurrent:
        if "delay" in group and delays.any():
            raise ChipError(f"{where}/delay: netx does not load delays of a recurrent layer")
        state.connections.append(_dense(index, index, found[1], exponent))
    state.shape = (size,)


def _begin(state: _State, shape: tuple[int, ...]) -> None:
    """Set the shape of the input to that of the first layer with weights, if it is not known yet."""
    if state.input_shape is None:
        state.input_shape = shape if state.shape is None else state.shape
    if state.shape is None:
        state.shape = shape


def _as_netx(parts: list[np.ndarray], where: str, state: _State) -> tuple[list[np.ndarray], int]:
    """Return the weights with which netx on Lava computes, and their exponent ≤ 0; count the changed ones."""
    try:
        found, exponent = netx_weights.loaded(*parts)
    except ChipError as error:
        raise ChipError(f"{where}/weight: {error}") from None
    total = sum(part.size for part in parts)
    if changed := sum(int((part.astype(np.int64) << -exponent != new).sum()) for part, new in zip(parts, found)):
        state.notes.append(f"{where}: netx changes {changed} of {total} weights, which do not fit into 8 bits")
    if odd := sum(int((new % 2 != 0).sum()) for new in found if _is_too_fine(new)):
        state.notes.append(f"{where}: {odd} of {total} weights are odd and of 9 bits, which no chip has: rounded down")
        found = [new >> 1 << 1 if _is_too_fine(new) else new for new in found]
    if not any((new % (1 << -exponent)).any() for new in found):
        return [new >> -exponent for new in found], 0
    return found, exponent


def _is_too_fine(weight: np.ndarray) -> bool:
    """Return whether weights need 9 bits: odd ones of both signs, some of them large."""
    return arithmetic.sign_mode(weight) == "mixed" and bool((arithmetic.truncate_weight(weight) != weight).any())


def _dense(pre: int, post: int, weight: np.ndarray, exponent: int, delay: int = 0) -> Dense:
    """Return a connection; odd weights of both signs become even ones, 2·w, with an exponent less by 1."""
    halved = arithmetic.sign_mode(weight) == "mixed" and (weight % 2).any()
    return Dense(pre, post, weight * (2 if halved else 1), weight_exp=exponent - int(halved), delay=delay)


def _delayed(pre: int, post: int, weight: np.ndarray, exponent: int, delays: np.ndarray, where: str) -> list[Dense]:
    """Return a connection for each delay; axonal delays are of the outputs, or if the length says so, of the inputs."""
    if delays.size and (delays.min() < 0 or delays.max() > 62):
        raise ChipError(f"{where}/delay: expected 0 … 62, found {delays.min()} … {delays.max()}; netx would clamp them")
    if delays.ndim == 1 and len(delays) == weight.shape[0]:
        delays = delays[:, None]
    if delays.ndim == 1 and len(delays) != weight.shape[1]:
        raise FileError(f"{where}/delay: {len(delays)} delays fit neither {weight.shape[0]} outputs nor inputs")
    each = np.broadcast_to(delays, weight.shape)
    found = [(int(d), np.where(each == d, weight, 0)) for d in np.unique(each)]
    if exponent and len(found) > 1:
        raise ChipError(f"{where}/weight: netx rounds sums over several delays, for which there is no counterpart")
    return [_dense(pre, post, part, exponent, d) for d, part in found if part.any() or len(found) == 1]


def _neurons(group: h5py.Group, where: str, shape: tuple[int, ...], bias: np.ndarray | None, state: _State) -> LIF:
    name = f"{where.replace('/', ' ')}"
    if bias is not None and bias.shape != shape:
        raise FileError(f"{where}/bias: expected {shape}, found {bias.shape}")
    common = {"bias_mant": 0 if bias is None else bias, "bias_exp": NETX_BIAS_EXP, "name": name}
    if "neuron" not in group:  # netx: an integrator, v += 64·Σ for ever
        state.notes.append(f"{where}: has no neurons; netx integrates its input and never fires")
        return LIF(shape, -1, 4096, arithmetic.VTH_MAX, **common)
    neuron = safe_hdf5.group(group, "neuron")
    kind = safe_hdf5.text(neuron, "type")
    if kind not in NEURONS:
        raise ChipError(f"{where}/neuron/type: {kind!r} has no counterpart here; {' and '.join(NEURONS)} neurons have")
    if _number(neuron, "gradedSpike", 0):
        raise ChipError(f"{where}/neuron/gradedSpike: graded spikes of neurons have no counterpart here")
    if (delay := _number(neuron, "refDelay", 1)) != 1:
        state.notes.append(f"{where}/neuron/refDelay: {delay:g}, which netx ignores")
    du, dv, vth = (_number(neuron, n, None) for n in ("iDecay", "vDecay", "vThMant"))
    return LIF(shape, int(du) - 1, int(dv), int(vth), **common)


def _matrix(group: h5py.Group, name: str, where: str, size: int) -> np.ndarray:
    weight = _integers(group, name, where)
    if weight.ndim == 1 and size and weight.size % size == 0:
        weight = weight.reshape(size, -1)
    if weight.ndim != 2 or weight.shape[0] != size or not weight.size:
        raise FileError(f"{where}/{name}: expected ({size}, inputs), found {weight.shape}")
    return weight


def _integers(group: h5py.Group, name: str, where: str) -> np.ndarray:
    """Return whole numbers, which SLAYER may have written with any dtype."""
    array = safe_hdf5.numbers(group, name)
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.round(array)).all()):
        raise FileError(f"{where}/{name}: expected whole numbers")
    if array.size and np.abs(array.astype(np.float64)).max() > 2**31 - 1:
        raise FileError(f"{where}/{name}: numbers of more than 32 bits")
    return array.astype(np.int64)


def _number(group: h5py.Group, name: str, default: float | None) -> float:
    if name not in group and default is not None:
        return default
    array = safe_hdf5.numbers(group, name)
    if array.size != 1:
        raise ChipError(f"{group.name}/{name}: one number for all neurons was expected, found {array.shape}")
    value = float(array.reshape(-1)[0])
    if not math.isfinite(value) or value != round(value):
        raise FileError(f"{group.name}/{name}: expected a whole number, found {value}")
    return value


def _sizes(group: h5py.Group, name: str, lengths: tuple[int, ...]) -> tuple[int, ...]:
    array = safe_hdf5.integers(group, name).reshape(-1)
    if len(array) not in range(lengths[0], lengths[-1] + 1) or array.min() < 1 or math.prod(array.tolist()) > 2**28:
        raise FileError(f"{group.name}/{name}: expected a shape, found {array.tolist()[:8]}")
    return tuple(int(n) for n in array)


def _pair(group: h5py.Group, name: str) -> tuple[int, int]:
    array = safe_hdf5.integers(group, name).reshape(-1)
    if len(array) not in (1, 2):
        raise FileError(f"{group.name}/{name}: expected one number or two, found {len(array)}")
    return int(array[0]), int(array[-1])

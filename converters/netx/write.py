"""lava-dl's ``.net`` format: writing a ChipNetwork so that ``netx`` loads it, and running it there as a check.

``.net`` is HDF5 with datasets only, ``layer/<i>/…`` (lava-dl 0.6, ``lava/lib/dl/netx/hdf5.py``). netx sets
du = iDecay − 1, dv = vDecay, vth = vThMant and the bias exponent to 6. A reset by subtraction becomes the recurrent
weight −R of a ``dense_rec`` layer; a convolution has no such place. netx's frames are (width, height, channels).
``netx_reader.py`` reads the format.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ottt_loihi.converters.lava import graph as lava
from ottt_loihi.converters.lava.runtime import LavaRun, require_lava
from ottt_loihi.converters.netx import read as netx_reader
from ottt_loihi.converters.netx import weights as netx_weights
from ottt_loihi.sim.inference.reference import Result, check_input
from ottt_loihi.sim.network import INPUT, ChipNetwork, Connection, Conv, Dense, Diagonal, Sparse

from ottt_loihi import checks
from ottt_loihi.errors import BackendUnavailableError, ChipError, FileError
from ottt_loihi.safe_hdf5 import new_hdf5

NETX_BIAS_EXP = 6
TEXT = h5py.string_dtype(encoding="ascii")


def write(chip: ChipNetwork, path: str | os.PathLike[str]) -> None:
    """Write ``chip`` as a ``.net`` file, whole or not at all.

    Raises :class:`ChipError` naming what netx cannot load, and :class:`FileError` if the folder cannot be written.
    """
    checks.instance(chip, "chip", ChipNetwork)
    layers = [_layer_connections(chip, index) for index in range(len(chip.layers))]
    for connections in layers:
        _require_loaded([c for c in connections if c is not None and not isinstance(c, Conv)])
    with new_hdf5(path) as file:
        entries = _Entries(file)
        if isinstance(layers[0][0], Conv):
            _write_entry(entries.add("input"), {"shape": np.array(layers[0][0].input_shape)})
        for index, (feed_forward, recurrent) in enumerate(layers):
            if index and isinstance(feed_forward, Dense) and isinstance(layers[index - 1][0], Conv):
                _write_entry(entries.add("flatten"), {"shape": np.array([chip.size(index - 1)])})
            _write_layer(entries, chip, index, feed_forward, recurrent)


@dataclass
class _Entries:
    """The numbered entries of a file."""

    file: h5py.File
    count: int = 0

    def add(self, kind: str) -> h5py.Group:
        group = self.file.create_group(f"layer/{self.count}")
        group.create_dataset("type", data=kind, dtype=TEXT)
        self.count += 1
        return group


def run(chip: ChipNetwork, path: str | os.PathLike[str], x: np.ndarray, record: tuple[str, ...] = ()) -> Result:
    """Load ``path`` through lava-dl's own netx and run a batch on it in the Lava runtime.

    ``chip`` tells input shape, initial states and readout, which ``.net`` does not hold; arguments and result are those
    of :func:`ottt_loihi.sim.inference.reference.run`.

    Raises
    ------
    FileError, ChipError
        for a file that is missing, damaged or not of this format, before netx opens it
    """
    if not Path(path).exists():
        raise FileError(f"{path}: no such file; ottt-export writes it where netx can load the network, or says why not")
    netx_reader.read(path, chip.num_steps, chip.input_shape)
    netx = _netx()
    from lava.proc.io.sink import RingBuffer as Sink

    messages = check_input(chip, x)
    with contextlib.redirect_stdout(io.StringIO()):  # netx prints its layer table
        net = netx.hdf5.Network(net_config=str(Path(path)))
    source = lava.build_source(messages, lava.steps_per_sample(chip))
    first = next(c for c in chip.inputs_of(0) if c.pre == INPUT)
    spikes = source.s_out
    if isinstance(first, Conv):
        spikes = spikes.reshape(first.input_shape).transpose((2, 1, 0))
    spikes.connect(net.inp)
    neurons = tuple(layer.neuron for layer in net.layers)
    buffers = [s.a_buf if hasattr(s, "a_buf") else s.a_buff for layer in net.layers for s in _synapses(layer)]
    sinks = [Sink(shape=n.s_out.shape, buffer=lava.run_length(chip, len(messages))) for n in neurons]
    for neuron, sink in zip(neurons, sinks):
        neuron.s_out.connect(sink.a_in)
    recorder = lava.Recorder(chip, len(messages), record)
    with LavaRun(source) as runtime:
        lava.drive(chip, runtime, neurons, buffers, len(messages), recorder)
        for index, sink in enumerate(sinks):
            recorder.add_spikes(index, lava.flat(runtime.get(sink.data), time_axis=True))
    return recorder.result()


def _netx() -> Any:
    require_lava()
    try:
        # importing lava-dl prints about toolboxes and GPUs that are not used here
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            from lava.lib.dl import netx
    except ImportError as error:
        raise BackendUnavailableError(f"lava-dl does not import ({error}): pip install 'ottt-loihi[lava]'") from error
    return netx


def _synapses(layer: Any) -> list[Any]:
    return [getattr(layer, name) for name in ("synapse", "synapse_rec") if hasattr(layer, name)]


def _layer_connections(chip: ChipNetwork, index: int) -> tuple[Dense | Conv, Connection | None]:
    """Return the feed-forward and the recurrent connection of a layer; refuse others, which netx cannot express."""
    layer, name = chip.layers[index], chip.layers[index].name
    if isinstance(layer.vth, np.ndarray):
        raise ChipError(
            f"{name}.vth: .net holds one threshold a layer, found {layer.vth.min()} … {layer.vth.max()}; use model.h5, "
            "or export with --thresholds layer"
        )
    previous = index - 1 if index else INPUT
    feed_forward = [c for c in chip.inputs_of(index) if isinstance(c, (Dense, Conv)) and c.pre == previous]
    recurrent = [c for c in chip.inputs_of(index) if c.pre == index and not isinstance(c, Conv)]
    if len(feed_forward) != 1 or len(recurrent) > 1 or len(chip.inputs_of(index)) != 1 + len(recurrent):
        raise ChipError(
            f"{name}: .net holds one dense or convolutional input and at most one recurrent connection a layer; "
            "use model.h5"
        )
    if recurrent and isinstance(feed_forward[0], Conv):
        raise ChipError(
            f"{name}: .net holds no recurrent connection of a convolution, as reset='subtract' needs; "
            "train with reset='zero', or use model.h5"
        )
    for c in (*feed_forward, *recurrent):
        if c.delay or c.weight_exp or c.num_message_bits or c.weight_format != "inference8":
            raise ChipError(f"{c.label}: .net holds no delay, weight exponent, graded input or plastic weights here")
    if layer.bias_mant.any() and layer.bias_exp != NETX_BIAS_EXP:
        raise ChipError(f"{name}.bias_exp: netx assumes {NETX_BIAS_EXP}, found {layer.bias_exp}; use model.h5")
    return feed_forward[0], recurrent[0] if recurrent else None


def _require_loaded(connections: Sequence[Connection]) -> None:
    """Refuse weights of a dense layer that netx, or Lava behind it, would change."""
    if not connections:
        return
    matrices = [_matrix(c).astype(np.int64) for c in connections]
    try:
        found, exponent = netx_weights.loaded(*matrices)
    except ChipError as error:
        raise ChipError(f"{connections[0].label}: {error}; use model.h5") from None
    for c, matrix, new in zip(connections, matrices, found):
        bad = np.argwhere(matrix << -exponent != new)
        if len(bad):
            place = tuple(bad[0])
            raise ChipError(
                f"{c.label}: netx would compute with {new[place] * 2.0**exponent:g} in place of the weight "
                f"{matrix[place]}; use model.h5, or export with --scale free"
            )


def _write_layer(
    entries: _Entries, chip: ChipNetwork, index: int, feed_forward: Dense | Conv, recurrent: Connection | None
) -> None:
    layer = chip.layers[index]
    if isinstance(feed_forward, Conv):
        group = entries.add("conv")
        _write_entry(group, _convolution(feed_forward))
    else:
        group = entries.add("dense" if recurrent is None else "dense_rec")
        _write_entry(
            group,
            {"shape": np.array([layer.size]), "inFeatures": chip.size(feed_forward.pre), "outFeatures": layer.size},
        )
    group.create_dataset("weight", data=feed_forward.weight)
    if recurrent is not None:
        group.create_dataset("weight_rec", data=_matrix(recurrent))
    if layer.bias_mant.any():
        # neuron-wise biases of a convolution are read in netx's order, (width, height, channels)
        bias = layer.bias_mant.transpose() if isinstance(feed_forward, Conv) else layer.bias_mant.reshape(-1)
        group.create_dataset("bias", data=_per_channel(bias) if isinstance(feed_forward, Conv) else bias)
    neuron = group.create_group("neuron")
    neuron.create_dataset("type", data="CUBA", dtype=TEXT)
    _write_entry(
        neuron,
        {"iDecay": layer.du + 1, "vDecay": layer.dv, "vThMant": layer.vth, "refDelay": 1, "gradedSpike": False},
    )


def _per_channel(bias: np.ndarray) -> np.ndarray:
    """Return one bias for each channel if all positions share it, as SLAYER writes it."""
    return bias[0, 0] if (bias == bias[0, 0]).all() else bias


def _matrix(c: Connection) -> np.ndarray:
    if isinstance(c, Diagonal):
        return np.diag(c.weight)
    return c.matrix() if isinstance(c, Sparse) else c.weight


def _convolution(c: Conv) -> dict[str, Any]:
    out, _, *kernel = c.weight.shape
    return {
        "shape": np.array(c.output_shape),
        "inChannels": c.input_shape[0],
        "outChannels": out,
        "kernelSize": np.array(kernel),
        "stride": np.array(c.stride),
        "padding": np.array(c.padding),
        "dilation": np.array(c.dilation),
        "groups": c.groups,
    }


def _write_entry(group: h5py.Group, values: dict[str, Any]) -> None:
    for name, value in values.items():
        group.create_dataset(name, data=value)

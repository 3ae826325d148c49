"""lava-dl's ``.net`` format: writing a ChipNetwork so that ``netx`` loads it, and running it there as a check.

``.net`` is HDF5 with datasets only, ``layer/<i>/…`` (lava-dl 0.6, ``lava/lib/dl/netx/hdf5.py``). netx sets
du = iDecay − 1, dv = vDecay, vth = vThMant and the bias exponent to 6. A reset by subtraction becomes the recurrent
weight −R of a ``dense_rec`` layer.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ottt_loihi.converters import lava
from ottt_loihi.converters.lava_runtime import LavaRun, require_lava
from ottt_loihi.sim.network import INPUT, ChipNetwork, Connection, Dense, Diagonal
from ottt_loihi.sim.reference import Result, check_input
from ottt_loihi.sim.safe_hdf5 import new_hdf5

from ottt_loihi.errors import BackendUnavailableError, ChipError

NETX_BIAS_EXP = 6


def write(chip: ChipNetwork, path: str | os.PathLike[str]) -> None:
    """Write ``chip`` as a ``.net`` file, whole or not at all.

    Raises :class:`ChipError` naming what netx cannot load, and :class:`FileError` if the folder cannot be written.
    """
    layers = [_layer_connections(chip, index) for index in range(len(chip.layers))]
    with new_hdf5(path) as file:
        for index, (feed_forward, recurrent) in enumerate(layers):
            _write_layer(file.create_group(f"layer/{index}"), chip, index, feed_forward, recurrent)


def run(chip: ChipNetwork, path: str | os.PathLike[str], x: np.ndarray, record: tuple[str, ...] = ()) -> Result:
    """Load ``path`` through lava-dl's own netx and run a batch on it in the Lava runtime.

    ``chip`` tells input shape, initial states and readout, which ``.net`` does not hold; arguments and result are those
    of :func:`ottt_loihi.sim.reference.run`.
    """
    netx = _netx()
    from lava.proc.io.sink import RingBuffer as Sink

    messages = check_input(chip, x)
    with contextlib.redirect_stdout(io.StringIO()):  # netx prints its layer table
        net = netx.hdf5.Network(net_config=str(Path(path)))
    source = lava.build_source(messages, lava.steps_per_sample(chip))
    source.s_out.connect(net.inp)
    neurons = tuple(layer.neuron for layer in net.layers)
    buffers = [s.a_buff for layer in net.layers for s in _synapses(layer)]
    sinks = [Sink(shape=n.s_out.shape, buffer=lava.run_length(chip, len(messages))) for n in neurons]
    for neuron, sink in zip(neurons, sinks):
        neuron.s_out.connect(sink.a_in)
    recorder = lava.Recorder(chip, len(messages), record)
    with LavaRun(source) as runtime:
        lava.drive(chip, runtime, neurons, buffers, len(messages), recorder)
        for index, sink in enumerate(sinks):
            recorder.add_spikes(index, runtime.get(sink.data))
    return recorder.result()


def _netx() -> Any:
    require_lava()
    try:
        # importing lava-dl talks of toolboxes and GPUs that nobody here needs
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            from lava.lib.dl import netx
    except ImportError as error:
        raise BackendUnavailableError(f"lava-dl does not import ({error}): pip install 'ottt-loihi[lava]'") from error
    return netx


def _synapses(layer: Any) -> list[Any]:
    return [getattr(layer, name) for name in ("synapse", "synapse_rec") if hasattr(layer, name)]


def _layer_connections(chip: ChipNetwork, index: int) -> tuple[Dense, Connection | None]:
    """(feed-forward, recurrent) connection of a layer; anything else netx has no place for."""
    layer, name = chip.layers[index], chip.layers[index].name
    previous = index - 1 if index else INPUT
    feed_forward = [c for c in chip.inputs_of(index) if isinstance(c, Dense) and c.pre == previous]
    recurrent = [c for c in chip.inputs_of(index) if c.pre == index]
    if len(feed_forward) != 1 or len(recurrent) > 1 or len(chip.inputs_of(index)) != 1 + len(recurrent):
        raise ChipError(
            f"{name}: .net holds one dense input and at most one recurrent connection a layer; use model.h5"
        )
    for c in (*feed_forward, *recurrent):
        if c.delay or c.weight_exp or c.num_message_bits or c.weight_format != "inference8":
            raise ChipError(f"{c.label}: .net holds no delay, weight exponent, graded input or plastic weights here")
    if layer.bias_mant.any() and layer.bias_exp != NETX_BIAS_EXP:
        raise ChipError(f"{name}.bias_exp: netx assumes {NETX_BIAS_EXP}, found {layer.bias_exp}; use model.h5")
    return feed_forward[0], recurrent[0] if recurrent else None


def _write_layer(
    group: h5py.Group, chip: ChipNetwork, index: int, feed_forward: Dense, recurrent: Connection | None
) -> None:
    layer = chip.layers[index]
    text = h5py.string_dtype(encoding="ascii")
    group.create_dataset("type", data="dense_rec" if recurrent is not None else "dense", dtype=text)
    group.create_dataset("shape", data=np.array([layer.size]))
    group.create_dataset("inFeatures", data=chip.size(feed_forward.pre))
    group.create_dataset("outFeatures", data=layer.size)
    group.create_dataset("weight", data=feed_forward.weight)
    if recurrent is not None:
        weight = np.diag(recurrent.weight) if isinstance(recurrent, Diagonal) else recurrent.weight
        group.create_dataset("weight_rec", data=weight)
    if layer.bias_mant.any():
        group.create_dataset("bias", data=layer.bias_mant.reshape(-1))
    neuron = group.create_group("neuron")
    neuron.create_dataset("type", data="CUBA", dtype=text)
    for name, value in (
        ("iDecay", layer.du + 1),
        ("vDecay", layer.dv),
        ("vThMant", layer.vth),
        ("refDelay", 1),
        ("gradedSpike", False),
    ):
        neuron.create_dataset(name, data=value)

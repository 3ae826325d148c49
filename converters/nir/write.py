"""NIR, the exchange format of the spiking frameworks (Pedersen et al., 2024): writing a ChipNetwork as an NIR graph.

A time step is ``dt`` seconds and one unit of NIR is one weight unit of the chip, v / 64. Stepped by Euler with dt,
NIR's equations are the chip's, up to the truncation of the decays::

    τ·dv/dt = v_leak − v + r·I   v ← v·(1 − dt/τ) + (dt/τ)·(v_leak + r·I)    τ = dt·4096/dv,  r = τ/dt
    τₛ·dI/dt = −I + w_in·S       I ← I·(1 − dt/τₛ) + (dt/τₛ)·w_in·S          τₛ = dt·4096/(du + 1),  w_in = τₛ/dt

=========================================  =====================================================================
on the chip                                in NIR
=========================================  =====================================================================
du = 4095; dv = 0                          LIF; IF
another du                                 CubaLIF
a readout that never fires                 LI, CubaLI
Dense, Sparse                              Linear, or Affine where the bias is, behind a Flatten where it is needed
Conv; Diagonal                             Conv2d; Scale
bias                                       of Affine and Conv2d; v_leak of CubaLIF, where it does not decay either
a delay beyond the one of a cycle          Delay
=========================================  =====================================================================

What NIR has no place for (exponents, bits, initial states, the order of the layers) stands in the nodes' metadata, so
that ``nir_reader.py`` makes the equal ChipNetwork of it.
"""

from __future__ import annotations

import io
import json
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.sim import arithmetic, usage
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Connection, Conv, Dense, Diagonal, Sparse

from ottt_loihi import checks
from ottt_loihi.errors import ChipError, UsageError
from ottt_loihi.files import atomic_write

if TYPE_CHECKING:
    import nir

VERSION = 3  # of our metadata; the lowest that can say what is there: 2 has thresholds of neurons, 3 what it is for
MAX_MATRIX = 1 << 26  # elements of a Sparse connection written as a matrix: a quarter of a gigabyte


def write(chip: ChipNetwork, path: str | os.PathLike[str], dt: float = 1e-3, force: bool = False) -> None:
    """Write ``chip`` as an NIR file, whole or not at all.

    Parameters
    ----------
    chip
        the network
    path
        the file
    dt
        seconds of one time step
    force
        write a reset by subtraction as a recurrent inhibition, exact under Euler's rule with dt only; most programs
        delay recurrence differently and would run another network

    Raises
    ------
    ChipError
        naming what NIR cannot express; FileError if the folder cannot be written
    """
    import nir

    image = io.BytesIO()
    nir.write(image, graph(chip, dt, force))
    with atomic_write(path) as temporary:
        temporary.write_bytes(image.getbuffer())


def graph(chip: ChipNetwork, dt: float = 1e-3, force: bool = False) -> nir.NIRGraph:
    """The NIR graph of ``chip``; arguments and errors as for :func:`write`."""
    import nir

    dt = checks.number(dt, "dt", 0, above=True)
    if "metadata" not in nir.Linear.__dataclass_fields__:
        raise UsageError("nir: the one that is here has no place for metadata; writing needs nir 1.0.5 or later")
    if chip.host is not None:
        raise ChipError("NIR has no place for what the host computes; export with --input graded")
    building = _Graph(checks.instance(chip, "chip", ChipNetwork), dt, checks.flag(force, "force"))
    building.nodes["input"] = nir.Input(input_type=np.array(chip.input_shape))
    for index in range(len(chip.layers)):
        building.add_layer(index)
    for order, connection in enumerate(chip.connections):
        building.add_connection(order, connection)
    last = len(chip.layers) - 1
    building.nodes["output"] = nir.Output(output_type=np.array(building.shapes[last]))
    building.edges.append((_name(last), "output"))
    use = usage.to_bytes(chip)
    thresholds = any(isinstance(layer.vth, np.ndarray) for layer in chip.layers)
    metadata = {
        "ottt_loihi": VERSION if use is not None else 2 if thresholds else 1,
        "dt": float(dt),
        "num_steps": chip.num_steps,
        "readout": chip.readout,
        "provenance": json.dumps(dict(chip.provenance)),
    }
    if use is not None:
        metadata["use"] = use.astype(np.int64)
    # nir 1.0 takes every convolution for an ungrouped one with a square kernel
    convolutions = [c for c in chip.connections if isinstance(c, Conv)]
    plain = all(c.groups == 1 and c.weight.shape[2] == c.weight.shape[3] for c in convolutions)
    return nir.NIRGraph(building.nodes, building.edges, metadata, type_check=plain)


def _name(index: int) -> str:
    return "input" if index == INPUT else f"layer_{index}"


@dataclass
class _Graph:
    """A graph being built; ``shapes`` of what each layer sends: flat where no convolution feeds the layer."""

    chip: ChipNetwork
    dt: float
    force: bool
    nodes: dict[str, Any] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    holders: dict[int, Connection] = field(default_factory=dict)  # layer → the connection that holds its bias

    def __post_init__(self) -> None:
        self.shapes[INPUT] = self.chip.input_shape
        for index, layer in enumerate(self.chip.layers):
            framed = any(isinstance(c, Conv) for c in self.chip.inputs_of(index))
            self.shapes[index] = layer.shape if framed else (layer.size,)

    def add_layer(self, index: int) -> None:
        layer, shape = self.chip.layers[index], self.shapes[index]
        if not self.force and any(_subtracts(c, layer) for c in self.chip.inputs_of(index) if c.pre == index):
            raise ChipError(
                f"{layer.name}: NIR has no reset by subtraction; train with reset='zero', or force the recurrent "
                "inhibition that it is on the chip, which other programs may time differently"
            )
        bias = _current(layer.bias_mant, layer.bias_exp)
        holder = self._holder(index, bias) if layer.du == 4095 and bias.any() else None
        if holder is not None:
            self.holders[index] = holder
        metadata = {"order": index, "name": layer.name, "shape": np.array(layer.shape), "bias_exp": layer.bias_exp}
        if layer.u_init.any():
            metadata["u_init"] = layer.u_init
        silent = index == len(self.chip.layers) - 1 and self.chip.readout != "spike_count"
        fires = not (silent and (layer.thresholds == arithmetic.VTH_MAX).all())
        leak = bias.reshape(shape) if holder is None else np.zeros(shape)
        self.nodes[_name(index)] = _neurons(layer, shape, self.dt, leak, fires, metadata)

    def _holder(self, index: int, bias: np.ndarray) -> Connection | None:
        """Return a connection that can hold the bias: a matrix, or a convolution if channels have one bias each."""
        per_channel = bias.ndim == 3 and (bias == bias[:, :1, :1]).all()
        kinds = (Dense, Sparse, Conv) if per_channel else (Dense, Sparse)
        return next((c for c in self.chip.inputs_of(index) if isinstance(c, kinds)), None)

    def add_connection(self, order: int, c: Connection) -> None:
        name, metadata = f"connection_{order}", _settings(order, c)
        sent, expected = self.shapes[c.pre], self.shapes[c.post]
        layer = self.chip.layers[c.post]
        bias = _current(layer.bias_mant, layer.bias_exp) if self.holders.get(c.post) is c else None
        takes, gives = (c.input_shape, c.output_shape) if isinstance(c, Conv) else ((c.shape[1],), (c.shape[0],))
        if isinstance(c, Diagonal) and sent == expected:
            takes = gives = sent
        if gives != expected or (takes != sent and takes != (math.prod(sent),)):
            raise ChipError(f"{c.label}: NIR cannot bring {sent} as {takes} to a layer of {expected}")
        self.nodes[name] = _connection(c, sent, bias, metadata)
        self.edges.append((name, _name(c.post)))
        self._connect(c, name, takes)

    def _connect(self, c: Connection, name: str, takes: tuple[int, ...]) -> None:
        """Add the edges from the presynaptic layer, with a Delay and a Flatten if they are needed."""
        import nir

        source, shape = _name(c.pre), self.shapes[c.pre]
        wait = self.chip.logical_delay(c) - (c.pre >= c.post)  # NIR's cycles take a step of themselves
        if wait > 0:
            self.nodes[f"delay_{name}"] = nir.Delay(delay=np.full(shape, wait * self.dt))
            self.edges.append((source, f"delay_{name}"))
            source = f"delay_{name}"
        if takes != shape:
            self.nodes[f"flatten_{name}"] = nir.Flatten(np.array(shape), start_dim=0, end_dim=-1)
            self.edges.append((source, f"flatten_{name}"))
            source = f"flatten_{name}"
        self.edges.append((source, name))


def _subtracts(c: Connection, layer: LIF) -> bool:
    return isinstance(c, Diagonal) and layer.dv >= 4095 and bool((c.weight <= 0).all())


def _current(mantissa: np.ndarray, exponent: int) -> np.ndarray:
    """Return a bias in weight units, float64."""
    return arithmetic.effective_bias(mantissa, exponent) / float(1 << arithmetic.STATE_SHIFT)


def _neurons(
    layer: LIF, shape: tuple[int, ...], dt: float, leak: np.ndarray, fires: bool, metadata: dict[str, Any]
) -> Any:
    """Return NIR's neurons; ``leak``: the bias that no connection holds, float64 ``shape``."""
    import nir

    def full(value: float) -> np.ndarray:
        return np.full(shape, value, np.float64)

    common: dict[str, Any] = {"metadata": metadata}
    if fires:
        common |= {"v_threshold": layer.thresholds.reshape(shape).astype(np.float64)}
        common |= {"v_reset": full(0)} if "v_reset" in nir.LIF.__dataclass_fields__ else {}  # not before nir 1.0.6
    if layer.dv == 0:
        if layer.du != 4095 or leak.any() or not fires:
            raise ChipError(f"{layer.name}: NIR has a membrane that never decays (dv = 0) only without du and v_leak")
        return nir.IF(r=full(1 / dt), **common)
    gain = arithmetic.DECAY_UNITY / layer.dv
    common |= {"r": full(gain), "v_leak": leak * gain}
    if layer.du == 4095:
        kind = nir.LIF if fires else nir.LI
        return kind(tau=full(dt * gain), **common)
    if layer.du == -1:
        raise ChipError(f"{layer.name}: NIR has no current that never decays (du = -1); export with --input graded")
    slow = arithmetic.DECAY_UNITY / (layer.du + 1)
    kind = nir.CubaLIF if fires else nir.CubaLI
    return kind(tau_mem=full(dt * gain), tau_syn=full(dt * slow), w_in=full(slow), **common)


def _settings(order: int, c: Connection) -> dict[str, Any]:
    """Return the settings that NIR has no place for."""
    found: dict[str, Any] = {"order": order, "kind": type(c).__name__, "weight_format": c.weight_format}
    found |= {key: getattr(c, key) for key in ("weight_exp", "num_weight_bits", "num_message_bits")}
    if isinstance(c, Sparse):
        found |= {"rows": c.rows, "columns": c.columns}
    return found


def _connection(c: Connection, sent: tuple[int, ...], bias: np.ndarray | None, metadata: dict[str, Any]) -> Any:
    import nir

    if isinstance(c, Sparse) and math.prod(c.size) > MAX_MATRIX:
        raise ChipError(f"{c.label}: NIR has no sparse weights, and a matrix of {c.size} is too large to write out")
    weight = (c.matrix() if isinstance(c, Sparse) else c.weight) * np.float32(2.0**c.weight_exp)
    if isinstance(c, Conv):
        return nir.Conv2d(
            input_shape=np.array(c.input_shape[1:]),
            weight=weight,
            stride=np.array(c.stride),
            padding=np.array(c.padding),
            dilation=np.array(c.dilation),
            groups=c.groups,
            bias=np.zeros(len(weight), np.float32) if bias is None else bias[:, 0, 0].astype(np.float32),
            metadata=metadata,
        )
    if isinstance(c, Diagonal):
        return nir.Scale(scale=weight.reshape(sent), metadata=metadata)
    if bias is None:
        return nir.Linear(weight=weight, metadata=metadata)
    return nir.Affine(weight=weight, bias=bias.reshape(-1).astype(np.float32), metadata=metadata)

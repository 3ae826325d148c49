"""Reading NIR: our own files back into the equal ChipNetwork, other files into a float network that can be quantised.

``nir.py`` has the equations. Files of other programs hold neither the time step nor the number of time steps.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ottt_loihi.converters.nir import equations
from ottt_loihi.converters.nir import graph as nir_graph
from ottt_loihi.converters.nir.foreign import Import
from ottt_loihi.converters.nir.graph import FIRING, NEURONS, Graph, Node, convolution, floats, steps, uniform, whole
from ottt_loihi.converters.nir.write import VERSION
from ottt_loihi.converters.quantize.float_network import FloatNetwork
from ottt_loihi.sim import arithmetic, usage
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Connection, Conv, Dense, Diagonal, Sparse

from ottt_loihi import checks, safe_hdf5
from ottt_loihi.errors import ChipError, FileError, UsageError

READOUTS = ("spikes", "sum", "last", "max")
KINDS = {"Linear": (Dense, Sparse), "Affine": (Dense, Sparse), "Conv2d": (Conv,), "Scale": (Diagonal,)}


def read(
    path: str | os.PathLike[str],
    num_steps: int | None = None,
    dt: float | None = None,
    *,
    writer: str | None = None,
    reset: str | None = None,
    readout: str | None = None,
    notes: list[str] | None = None,
    check: bool = False,
) -> ChipNetwork | FloatNetwork:
    """Read an NIR file.

    Parameters
    ----------
    path
        the file
    num_steps, dt
        T, and the seconds of one time step; our own files know both, and ``writer`` the second
    writer
        the program that wrote it, of :data:`~ottt_loihi.converters.nir.dialects.DIALECTS`; None: guessed where no dt is
        given, else NIR's own equations
    reset
        ``"subtract"`` or ``"zero"``, where the program meant another one; ``"3=zero"`` for one layer
    readout
        what the scores are: ``"spikes"``, those of a last layer that fires, counted; of one that never fires, or of
        weights without neurons behind: ``"sum"`` over time (the default), ``"last"`` step, or ``"max"`` over time
    notes
        a list to which is added what a user has to know
    check
        run NIR's equations beside the network that is read, and note that their spikes are equal

    Returns
    -------
    ChipNetwork
        of a file that :func:`ottt_loihi.converters.nir.write.write` wrote, equal to the one written
    FloatNetwork
        of any other, for :func:`ottt_loihi.converters.quantize.quantize.quantize`

    Raises
    ------
    FileError
        for a file that is damaged, or not of this format
    ChipError
        for what has no counterpart on the chip, by node
    VerificationError
        where the network and the file's equations have other spikes
    UsageError
        if T or dt is needed
    """
    if readout is not None:
        checks.one_of(readout, "--readout", READOUTS)
    if num_steps is not None:
        checks.integer(num_steps, "--time-steps", None)
    if dt is not None:
        checks.number(dt, "--dt")
    refusal: ChipError | UsageError | None = None
    with safe_hdf5.open_hdf5(path) as file:
        try:
            graph = nir_graph.load(file)
            metadata = _metadata(graph.group)
            if metadata is not None and "ottt_loihi" in metadata:
                ours = _Ours(graph, metadata)
                ours.refuse(
                    {"--time-steps": num_steps, "--dt": dt, "--from": writer, "--reset": reset, "--readout": readout}
                )
                return ours.network()
            reading = Import(graph, num_steps, dt, writer, reset, readout)
            try:
                found = reading.network()
                if check:
                    reading.notes.append(equations.agreement(reading, found))
                return found
            finally:
                if notes is not None:
                    notes += reading.notes
        except (ChipError, UsageError) as error:  # a sound file, of a network that cannot be had
            refusal = error
    assert refusal is not None
    raise type(refusal)(f"{Path(path)}: {refusal}")


def _metadata(group: Any) -> Any:
    return safe_hdf5.group(group, "metadata") if "metadata" in group else None


def _order(node: Node) -> int:
    """Return a node's place in the order that our metadata give."""
    metadata = _metadata(node.group)
    if metadata is None:
        raise FileError(f"{node.name}: has lost its metadata; a program that drops them must drop the graph's, too")
    return whole(metadata, "order")


def _integral(array: np.ndarray, where: str) -> np.ndarray:
    """Return integers of numbers that are whole except for the rounding of float64."""
    rounded = np.round(array)
    if np.abs(array - rounded).max(initial=0) > 1e-6 or np.abs(rounded).max(initial=0) >= 2**31:
        raise FileError(f"{where}: changed since it was written: no whole number of the chip's units")
    return rounded.astype(np.int64)


def _fitted(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | int:
    """Return one int where all values are equal, else an array of the layer's shape."""
    flat = values.reshape(-1)
    return int(flat[0]) if (flat == flat[0]).all() else flat.reshape(shape)


class _Ours:
    """The ChipNetwork that was written."""

    def __init__(self, graph: Graph, metadata: Any) -> None:
        self.version = version = whole(metadata, "ottt_loihi")
        if not 1 <= version <= VERSION:
            raise FileError(f"metadata version {version}, this program reads up to {VERSION}; update ottt-loihi")
        self.graph, self.metadata = graph, metadata
        self.dt = float(floats(metadata, "dt").flat[0])
        of_kind = [[n for n in graph.nodes.values() if n.kind in kinds] for kinds in (NEURONS, KINDS)]
        self.neurons, self.connections = (sorted(nodes, key=_order) for nodes in of_kind)
        self.index = {node.name: index for index, node in enumerate(self.neurons)} | {graph.only("Input").name: INPUT}

    def refuse(self, given: Mapping[str, Any]) -> None:
        """Refuse an option that only a foreign file needs, if its value differs from the one in this file."""
        own = {"--time-steps": whole(self.metadata, "num_steps"), "--dt": self.dt}
        for option, value in given.items():
            if value is not None and value != own.get(option):
                says = f", {own[option]:g}" if option in own else ""
                raise UsageError(f"{option}: the file is our own and says it{says}; leave it out")

    def network(self) -> ChipNetwork:
        try:
            provenance = json.loads(safe_hdf5.text(self.metadata, "provenance"))
        except json.JSONDecodeError as error:
            raise FileError(f"provenance: not JSON ({error})") from None
        if not isinstance(provenance, dict):
            raise FileError("provenance: expected a JSON object")
        connections = [self._connection(node) for node in self.connections]
        shape = safe_hdf5.integers(self.graph.only("Input").group, "shape").reshape(-1).tolist()
        try:
            use = usage.from_provenance(provenance)
            if self.version >= 3:
                use = usage.from_bytes(safe_hdf5.integers(self.metadata, "use"))
            return ChipNetwork(
                tuple(shape),
                tuple(self._layer(node) for node in self.neurons),
                tuple(connections),
                whole(self.metadata, "num_steps"),
                safe_hdf5.text(self.metadata, "readout"),
                provenance,
                **use,
            )
        except ChipError as error:
            raise FileError(f"holds no valid network: {error}") from error

    def _layer(self, node: Node) -> LIF:
        metadata, group = _metadata(node.group), node.group
        exponent, unit = whole(metadata, "bias_exp"), float(1 << arithmetic.STATE_SHIFT)
        if not 0 <= exponent <= 7:
            raise FileError(f"{node.name}/bias_exp: {exponent}")
        shape = tuple(safe_hdf5.integers(metadata, "shape").reshape(-1).tolist())
        du, dv, bias = 4095, 0, np.zeros(1)
        if node.kind != "IF":
            tau = uniform(floats(group, "tau_mem" if node.kind.startswith("Cuba") else "tau"), f"{node.name}/tau")
            dv = self._decay(tau, f"{node.name}/tau")
            bias = floats(group, "v_leak") * dv / arithmetic.DECAY_UNITY
        if node.kind.startswith("Cuba"):
            slow = uniform(floats(group, "tau_syn"), f"{node.name}/tau_syn")
            du = self._decay(slow, f"{node.name}/tau_syn") - 1
        for name in node.before:
            if "bias" in (connection := self.graph.nodes[name]).group:
                bias = self._bias(connection) + bias
        fires = node.kind in FIRING
        vth = floats(group, "v_threshold") if fires else np.array(float(arithmetic.VTH_MAX))
        mantissa = _integral(bias * unit / 2**exponent, f"{node.name}'s bias")
        return LIF(
            shape,
            du,
            dv,
            _fitted(_integral(vth, f"{node.name}/v_threshold"), shape),
            _fitted(mantissa, shape),
            exponent,
            safe_hdf5.integers(metadata, "u_init") if "u_init" in metadata else 0,
            safe_hdf5.text(metadata, "name"),
        )

    def _decay(self, tau: float, where: str) -> int:
        """Return the chip's decay of a time constant in seconds, dt·4096/τ."""
        if not tau > 0:
            raise FileError(f"{where}: expected seconds > 0, found {tau}")
        return int(_integral(np.array(self.dt * arithmetic.DECAY_UNITY / tau), where))

    def _bias(self, node: Node) -> np.ndarray:
        """Return the bias in weight units, of the shape of the neurons; of a convolution one value for each channel."""
        bias = floats(node.group, "bias")
        if node.kind != "Conv2d":
            return bias
        return np.broadcast_to(bias[:, None, None], convolution(node, bias.shape[0]).output_shape)

    def _connection(self, node: Node) -> Connection:
        metadata = _metadata(node.group)
        kind = {k.__name__: k for k in KINDS[node.kind]}.get(safe_hdf5.text(metadata, "kind"))
        if kind is None or len(node.behind) != 1 or len(node.before) != 1:
            raise FileError(f"{node.name}: no connection as it was written")
        source, wait = self.graph.nodes[node.before[0]], 0
        while source.kind in ("Flatten", "Delay"):
            wait += steps(source, self.dt) if source.kind == "Delay" else 0
            source = self.graph.nodes[source.before[0]] if len(source.before) == 1 else node
        pre, post = self.index.get(source.name), self.index.get(node.behind[0])
        if pre is None or post is None:
            raise FileError(f"{node.name}: leads from no layer to a layer")
        exponent = whole(metadata, "weight_exp")
        raw = floats(node.group, "scale" if node.kind == "Scale" else "weight")
        weight = _integral(raw * 2.0 ** -min(max(exponent, -8), 7), f"{node.name}'s weights")
        options = {key: whole(metadata, key) for key in ("num_weight_bits", "num_message_bits")}
        if kind is Conv:
            return replace(convolution(node, len(weight)), pre=pre, post=post, weight=weight, **options)
        delay = wait + (pre >= post) - 1 + post - pre
        options |= {"weight_exp": exponent, "delay": delay, "weight_format": safe_hdf5.text(metadata, "weight_format")}
        if kind is Sparse:
            rows, columns = (safe_hdf5.integers(metadata, key) for key in ("rows", "columns"))
            if rows.shape != columns.shape or rows.ndim != 1 or weight.ndim != 2:
                raise FileError(f"{node.name}: rows and columns do not fit")
            inside = (rows >= 0) & (rows < weight.shape[0]) & (columns >= 0) & (columns < weight.shape[1])
            if not inside.all():
                raise FileError(f"{node.name}: a synapse outside the matrix")
            return Sparse(pre, post, weight.shape, rows, columns, weight[rows, columns], **options)
        return kind(pre, post, weight.reshape(-1) if kind is Diagonal else weight, **options)

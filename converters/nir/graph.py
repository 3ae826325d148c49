"""Reading an NIR file, with nothing trusted: nodes, edges, and subgraphs made flat.

The file is HDF5, written by ``nir``: ``/version``, and ``/node``, a graph: a text ``type``, ``edges`` (pairs of names)
and a group ``nodes``, where every node has its ``type`` and one dataset for each parameter; ``metadata`` may be there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from ottt_loihi.sim.network import INPUT, Conv

from ottt_loihi import safe_hdf5
from ottt_loihi.errors import ChipError, FileError

MAX_NODES = 10_000
MAX_DEPTH = 8
MAX_STEPS = 62  # of a delay
NEURONS = ("LIF", "IF", "LI", "I", "CubaLIF", "CubaLI")
FIRING = ("LIF", "IF", "CubaLIF")
THROUGH = ("Input", "Output", "NIRGraph")  # of a subgraph: names of places, nothing is computed there


@dataclass
class Node:
    """A node: its NIR type, where its parameters lie, and the names of the nodes before and behind."""

    name: str
    kind: str
    group: h5py.Group
    before: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)


@dataclass
class Graph:
    """Nodes by name; those of a subgraph ``sub`` are named ``sub/…``. ``group`` is the whole graph's, with metadata."""

    group: h5py.Group
    nodes: dict[str, Node]

    def only(self, kind: str) -> Node:
        """The one node of a kind, the graph's ``Input`` or ``Output``."""
        found = [node for node in self.nodes.values() if node.kind == kind]
        if len(found) != 1:
            raise ChipError(f"expected one {kind} node, found {len(found)}")
        return found[0]


def load(file: h5py.File) -> Graph:
    """The graph of an open file.

    Raises :class:`FileError` for a damaged or foreign file, :class:`ChipError` for a sound one that is no such graph.
    """
    root = safe_hdf5.group(file, "node")
    if "type" not in root:  # a writer's last entry
        members = safe_hdf5.group(root, "nodes")
        broken = next((name for name in members if "type" not in safe_hdf5.group(members, name)), "the graph")
        raise FileError(f"{broken}: has no type, so the program that wrote the file failed there; write it again")
    if safe_hdf5.text(root, "type") != "NIRGraph":
        raise ChipError("expected a graph (NIRGraph), found a single node")
    graph = Graph(root, {})
    _add(graph.nodes, root, "", 0)
    for name in [name for name, node in graph.nodes.items() if "/" in name and node.kind in THROUGH]:
        _bypass(graph.nodes, name)
    return graph


def _add(nodes: dict[str, Node], group: h5py.Group, prefix: str, depth: int) -> None:
    members = safe_hdf5.group(group, "nodes")
    if len(nodes) + len(members) > MAX_NODES or depth > MAX_DEPTH:
        raise FileError(f"more than {MAX_NODES} nodes, or subgraphs {MAX_DEPTH} deep")
    entries, exits = {}, {}  # of this graph's subgraphs
    for name in members:
        part = safe_hdf5.group(members, name)
        kind = safe_hdf5.text(part, "type")
        if kind != "NIRGraph":
            nodes[prefix + name] = Node(prefix + name, kind, part)
            continue
        inner = f"{prefix}{name}/"
        _add(nodes, part, inner, depth + 1)
        for places, wanted in ((entries, "Input"), (exits, "Output")):
            own = [n for n, node in nodes.items() if node.kind == wanted and n.rpartition("/")[0] + "/" == inner]
            if len(own) != 1:
                raise ChipError(f"{prefix}{name}: expected one {wanted} node in a subgraph, found {len(own)}")
            places[name] = own[0]
    names = safe_hdf5.texts(group, "edges")
    if len(names) % 2:
        raise FileError(f"{prefix}edges: expected pairs of names, found {len(names)} names")
    for a, b in dict.fromkeys(zip(names[::2], names[1::2])):
        source, target = exits.get(a, prefix + a), entries.get(b, prefix + b)
        if source not in nodes or target not in nodes:
            unknown = prefix + (a if source not in nodes else b)
            raise FileError(f"edge {prefix + a!r} → {prefix + b!r}: there is no node {unknown!r}")
        nodes[source].behind.append(target)
        nodes[target].before.append(source)


def _bypass(nodes: dict[str, Node], name: str) -> None:
    """Remove a node that computes nothing."""
    node = nodes.pop(name)
    for before in node.before:
        nodes[before].behind = [b for b in nodes[before].behind if b != name] + node.behind
    for behind in node.behind:
        nodes[behind].before = [b for b in nodes[behind].before if b != name] + node.before


def whole(group: Any, name: str) -> int:
    value = safe_hdf5.integers(group, name)
    if value.size != 1:
        raise FileError(f"{group.name}/{name}: expected one number")
    return int(value.reshape(-1)[0])


def floats(group: Any, name: str) -> np.ndarray:
    array = safe_hdf5.numbers(group, name).astype(np.float64)
    if not array.size or not np.isfinite(array).all():
        raise FileError(f"{group.name}/{name}: expected finite numbers")
    return array


def scales(node: Node, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the factors of a Scale as an array of the layer's ``shape``; axes of one element may be missing.

    Raises
    ------
    ChipError
        where they do not fit the layer
    """
    if values.ndim > 1 and tuple(n for n in values.shape if n > 1) == tuple(n for n in shape if n > 1):
        return values.reshape(shape)  # (channels, length) behind a Conv1d, which has height 1 here
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        raise ChipError(f"{node.name}/scale: {values.shape} do not fit a layer of {shape}") from None


def uniform(array: np.ndarray, where: str) -> float:
    if not (array == array.flat[0]).all():
        raise ChipError(f"{where}: neurons of one layer share this on the chip; found {array.min()} … {array.max()}")
    return float(array.flat[0])


def steps(node: Node, dt: float) -> int:
    """Time steps of a Delay."""
    wait = uniform(floats(node.group, "delay"), f"{node.name}/delay") / dt
    if abs(wait - round(wait)) > 1e-6 * max(1, wait) or not 0 <= wait <= MAX_STEPS:
        raise ChipError(f"{node.name}/delay: expected 0 … {MAX_STEPS} whole steps of {dt} s, found {wait:g}")
    return round(wait)


def pair(node: Node, name: str) -> tuple[int, int]:
    values = safe_hdf5.integers(node.group, name).reshape(-1)
    if values.size not in (1, 2):
        raise FileError(f"{node.name}/{name}: expected one number or two, found {values.size}")
    return int(values[0]), int(values[-1])


def convolution(node: Node, out: int, input_shape: tuple[int, ...] | None = None) -> Conv:
    """The geometry of a Conv2d node, with weights of zero."""
    weight = node.group["weight"].shape if "weight" in node.group else ()
    if len(weight) != 4 or math.prod(weight) > safe_hdf5.MAX_ELEMENTS or weight[0] != out:
        raise FileError(f"{node.name}/weight: expected (out, in, height, width), found {weight}")
    groups = whole(node.group, "groups")
    if input_shape is None:
        frame = pair(node, "input_shape")
        input_shape = (weight[1] * groups, *frame)
    stride, dilation = pair(node, "stride"), pair(node, "dilation")
    return Conv(
        INPUT, 0, np.zeros(weight, int), input_shape, stride, _padding(node, weight, stride, dilation), dilation, groups
    )


def _padding(
    node: Node, weight: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    if h5py.check_string_dtype(node.group["padding"].dtype) is None:
        return pair(node, "padding")
    word = safe_hdf5.text(node.group, "padding")
    spans = [d * (k - 1) for d, k in zip(dilation, weight[2:])]
    if word == "valid":
        return 0, 0
    if word != "same" or stride != (1, 1) or any(span % 2 for span in spans):
        raise ChipError(f"{node.name}/padding: {word!r} with stride {stride} and kernel {weight[2:]} is not symmetric")
    return spans[0] // 2, spans[1] // 2

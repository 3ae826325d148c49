"""The graph of a module: its nodes, and what can be read from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

MOVES = {"__getitem__", "transpose", "permute", "movedim", "swapaxes", "unbind"}  # views that may move numbers
VIEWS = {  # functions that give the same numbers another shape
    *("flatten", "unflatten", "view", "reshape", "squeeze", "unsqueeze", "contiguous", "clone", "detach", "data"),
    *("to", "type", "float", "double", "half", *MOVES),
}
SPLITS = {"unbind", "split", "chunk"}  # functions with several results
SUMS = ("add", "__add__", "__radd__", "__iadd__", "add_")


@dataclass(eq=False)
class Node:
    """A tensor and what made it.

    Attributes
    ----------
    kind
        ``"input"``, ``"spikes"``, ``"membrane"``, the name of a torch function, or ``"step"`` and ``"steps"``: one or
        some steps, taken out of a sequence
    path
        of the module it happened in, as ``state_dict`` names it
    inputs
        the nodes it was made of
    shape
        of one sample at one step
    step
        number of the step, 1-based, of neurons and of ``"step"``
    call
        function, arguments and keywords; nodes stand for tensors
    """

    kind: str
    path: str
    inputs: tuple[Node, ...] = ()
    shape: tuple[int, ...] = ()
    step: int = 0
    call: tuple[Any, tuple[Any, ...], Mapping[str, Any]] | None = None


def one_of_several(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that returns the result number ``place`` of one of ``SPLITS``."""
    return lambda *args, place, **kwargs: func(*args, **kwargs)[place]


def sources(node: Node) -> list[Node]:
    """Return the layers, or the input, that a node is made of."""
    found, waiting, known = [], [node], set()
    while waiting:
        node = waiting.pop()
        if id(node) in known:
            continue
        known.add(id(node))
        waiting += node.inputs
        if not node.inputs:
            found.append(node)
    return found


def constants(end: Node | None) -> list[torch.Tensor]:
    """Return the tensors, weights above all, that stand between a node and the layers it is made of."""
    found: list[torch.Tensor] = []
    waiting, known = [] if end is None else [end], set()
    while waiting:
        node = waiting.pop()
        if id(node) not in known and node.call is not None:
            mapped(lambda v: found.append(v) if isinstance(v, torch.Tensor) else None, [*node.call[1:]])
            waiting += node.inputs
        known.add(id(node))
    return found


def shared(ends: Mapping[str, Node | None], weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Return which weights several layers share, one line for each group of layers.

    ends: path → what arrives there; weights: by name
    """
    users: dict[int, list[str]] = {}  # where a weight lies, also where it is transposed → paths
    for path, end in ends.items():
        for place in {tensor.untyped_storage().data_ptr() for tensor in constants(end)}:
            users.setdefault(place, []).append(path)
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, weight in weights.items():
        groups.setdefault(tuple(users.get(weight.untyped_storage().data_ptr(), ())), []).append(name)
    return [
        f"{', '.join(names)}: shared by {' and '.join(paths)}; here each has a copy, and the copies learn separately"
        for paths, names in groups.items()
        if len(paths) > 1
    ]


def at_step(node: Node, number: int) -> Node | None:
    """Return what was computed of a whole sequence as it is at one of its steps, 0-based; None: not of single steps."""
    if node.kind == "stack":
        return node.inputs[number] if number < len(node.inputs) else None
    if node.kind == "input":
        return replace(node, step=number + 1)
    return _made_of(node, lambda inner: at_step(inner, number))


def whole(nodes: Sequence[Node]) -> Node | None:
    """Return what was computed of a whole sequence, found in what was computed of each step; None: it was not."""
    found = [_of_whole(node, number) for number, node in enumerate(nodes, 1)]
    return found[0] if found and None not in found and alike(found) else None


def _of_whole(node: Node, number: int) -> Node | None:
    if node.kind == "step":
        return node.inputs[0] if node.step == number else None
    if node.kind == "input":
        return replace(node, step=0) if node.step == number else None
    return _made_of(node, lambda inner: _of_whole(inner, number))


def _made_of(node: Node, change: Callable[[Node], Node | None]) -> Node | None:
    """Return a node with other inputs; None if it has none, or one of them cannot be changed."""
    inner = {id(n): change(n) for n in node.inputs}
    if not inner or None in inner.values():
        return None
    func, args, named = node.call
    call = (func, *mapped(lambda value: inner[id(value)] if isinstance(value, Node) else value, (args, named)))
    return replace(node, inputs=tuple(inner[id(n)] for n in node.inputs), call=call)


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Return arguments with the results of ``function`` for them, also within tuples, lists and dicts."""
    if isinstance(value, dict):
        return {key: mapped(function, each) for key, each in value.items()}
    return type(value)(mapped(function, each) for each in value) if type(value) in (tuple, list) else function(value)


def places(node: Node) -> list[tuple[Node, Node]] | None:
    """Return the parts of a concatenation, each behind an operation that adds zeros; None along another axis."""
    _, args, kwargs = node.call
    parts = args[0] if args else kwargs.get("tensors", ())
    axis = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    shape = node.shape
    if not all(isinstance(part, Node) and len(part.shape) == len(shape) for part in parts) or not shape:
        return None
    axes = [
        i
        for i in range(len(shape))
        if sum(part.shape[i] for part in parts) == shape[i] and axis in (i + 1, i - len(shape))
    ]
    if len(axes) != 1:
        return None
    found, start, behind = [], 0, len(shape) - 1 - axes[0]
    for part in parts:
        size = part.shape[axes[0]]
        padding = (0, 0) * behind + (start, shape[axes[0]] - start - size)
        place = Node("pad", node.path, (part,), shape, call=(nn.functional.pad, (part, padding), {}))
        found.append((place, part))
        start += size
    return found


def added(node: Node) -> list[Node]:
    """Return the terms of an explicit sum, in order; a node that adds a constant or scales a term is a term itself."""
    found, waiting = [], [node]
    while waiting:  # a loop over many steps makes a sum too deep for recursion
        node = waiting.pop()
        if node.kind in SUMS and node.inputs and _adds_alone(node):
            waiting += reversed(node.inputs)
        else:
            found.append(node)
    return found


def _adds_alone(node: Node) -> bool:
    """Return whether a sum has no factor, and no constant other than zeros, from which many loops begin."""
    _, args, named = node.call
    constants = [value for value in (*args, *named.values()) if not isinstance(value, Node)]
    return "alpha" not in named and not any(bool(torch.as_tensor(value).any()) for value in constants)


def alike(nodes: Sequence[Node]) -> bool:
    """Return whether nodes are the same operations on the same layers, at whatever steps."""
    first, *others = nodes
    return all(_equal(first, other) for other in others)


def _equal(a: object, b: object) -> bool:
    """Return whether two arguments are equal: numbers by value, nodes by their operations and layers."""
    if isinstance(a, Node) and isinstance(b, Node):
        if (a.kind, a.path, a.shape, len(a.inputs)) != (b.kind, b.path, b.shape, len(b.inputs)):
            return False
        return not a.inputs or _equal((a.call[1], a.call[2]), (b.call[1], b.call[2]))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a is b or torch.equal(a, b)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b

"""``from_module``: a module of another framework becomes our trainable :class:`~ottt_loihi.nn.network.Network`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from ottt_loihi.converters.frameworks.linear import ADDITIONS, Chain, Operation, connect, filled, max_pooling, refusal
from ottt_loihi.converters.frameworks.neurons import Neurons, Unmapped
from ottt_loihi.converters.frameworks.parts import add_bias, equals, neuron_of, operation_of, tensor
from ottt_loihi.converters.frameworks.trace import Node, Traced, copied, trace, weights_dtype
from torch import nn

from ottt_loihi import checks
from ottt_loihi.errors import ChipError, UsageError
from ottt_loihi.nn.blocks import Block, Branch
from ottt_loihi.nn.connections import Conv2d, Linear, Readout
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIF

READOUTS = ("spikes", "sum", "last", "max")
REDUCTIONS = {"stack", "cat", "concat", "sum", "mean", "unsqueeze", "squeeze", "max", "amax", "__getitem__"}


@dataclass
class Imported:
    """A network that was read.

    Attributes
    ----------
    network
        ours
    paths
        of the modules whose spikes its blocks have; of a block that stands for an operation, ``"… (max pooling)"``
    form, inner_steps
        how the module takes its input (``trace.py``)
    readout
        what the scores are sums of
    notes
        what differs from the module, one line each
    """

    network: Network
    paths: list[str]
    form: str
    inner_steps: int
    readout: str
    notes: list[str] = field(default_factory=list)


def from_module(
    net: nn.Module,
    input_shape: Sequence[int],
    num_steps: int | None = None,
    *,
    readout: str | None = None,
    approximate: bool = False,
) -> Network:
    """Return the network of ours that computes what a module of another framework computes, spike for spike.

    The module is read in evaluation mode and stays as it is. It is run on zeros to see what it does, so its ``forward``
    may be anything: a ``Sequential``, one step, a loop over time. ``check.compare`` runs both and compares them.

    Parameters
    ----------
    net
        of snnTorch, SpikingJelly, Norse, sinabs or the OTTT authors' code, with its weights
    input_shape
        of one sample at one step
    num_steps
        T; needed unless ``forward`` counts the steps itself
    readout
        what the scores are: ``"spikes"``, the last layer's spikes counted; ``"sum"``, its currents or the outputs of a
        last layer without neurons, summed over time; ``"last"``, the last membrane of neurons without leak. Default:
        what the module's last layer is
    approximate
        take the nearest thing for what has no exact counterpart; ``network.provenance["imported"]["notes"]`` names it

    Raises
    ------
    ChipError
        for a module with parts that have no counterpart: all of them, by path, with the nearest thing that works
    UsageError
        for a module that does not run on such inputs, or has no neurons
    """
    return read(net, input_shape, num_steps, readout=readout, approximate=approximate).network


def read(
    net: nn.Module,
    input_shape: Sequence[int],
    num_steps: int | None = None,
    *,
    readout: str | None = None,
    approximate: bool = False,
    dtype: torch.dtype | None = None,
) -> Imported:
    """Return the network and how it was read; arguments as :func:`from_module`, ``dtype``: of its weights."""
    if not isinstance(net, nn.Module):
        raise UsageError(f"from_module: expected a torch.nn.Module, got {type(net).__name__}")
    shape = checks.sizes(input_shape, "input_shape", 1)
    if readout is not None:
        checks.one_of(readout, "readout", READOUTS)
    twin = copied(net, dtype)
    seen = trace(twin, shape)
    if seen.form == "constant" and num_steps not in (None, seen.inner_steps):
        raise UsageError(f"num_steps: forward runs {seen.inner_steps} steps by itself, got {num_steps}")
    num_steps = seen.inner_steps if seen.form == "constant" else num_steps
    if num_steps is None:
        raise UsageError("num_steps: the module does not say how many time steps a sample has; give a number")
    reading = _Reading(seen, shape, weights_dtype(twin), approximate)
    network = reading.network(checks.integer(num_steps, "num_steps"), readout)
    frameworks = sorted({framework.name for _, framework in seen.neurons.values()})
    network.provenance["imported"] = {
        "framework": ", ".join(frameworks),
        "module": f"{type(net).__module__}.{type(net).__qualname__}",
        "readout": reading.readout,
        "notes": reading.notes,
    }
    return Imported(network.eval(), reading.paths, seen.form, seen.inner_steps, reading.readout, reading.notes)


@dataclass(frozen=True)
class _Term:
    """The input of a layer from one source: ``delay`` steps, and the operations in between."""

    source: Node
    operations: tuple[Operation, ...] = ()


class _Reading:
    """A network on its way."""

    def __init__(self, seen: Traced, input_shape: tuple[int, ...], dtype: torch.dtype, approximate: bool) -> None:
        self.seen, self.dtype, self.approximate = seen, dtype, approximate
        self.input_shape = input_shape
        self.blocks: list[Block] = []
        self.paths: list[str] = []
        self.shapes: list[tuple[int, ...]] = []  # of our blocks
        self.index: dict[str, int] = {}  # path of a neuron, or number of a max pooling's node → block
        self.steps: dict[str, int] = {}
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.readout = ""

    def network(self, num_steps: int, readout: str | None) -> Network:
        read: dict[str, Neurons | None] = {}
        for path, (module, framework) in self.seen.neurons.items():
            read[path] = self._neurons(path, module, framework)
        output = self._output(list(read))
        order = [path for path, neurons in read.items() if path != output.path or neurons is None or neurons.fires]
        for path in order:
            self._block(path, read[path], order)
        layer = self._readout(output, read, readout)
        if self.problems:
            listed = "; ".join(dict.fromkeys(self.problems))
            raise ChipError(f"{len(set(self.problems))} parts have no counterpart here: {listed}")
        assert layer is not None
        return Network(self.blocks, layer, input_shape=self.input_shape, time_steps=num_steps)

    def _neurons(self, path: str, module: nn.Module, framework: Any) -> Neurons | None:
        kind = type(module).__name__
        if kind in framework.refused:
            self.problems.append(f"{path} ({kind}): {framework.refused[kind]}")
            return None
        try:
            return framework.neurons[kind](module)
        except Unmapped as reason:
            self.problems.append(f"{path} ({kind}): {reason}")
            return None

    # what arrives somewhere

    def _terms(self, node: Node | None, path: str) -> list[_Term]:
        """Every way from a layer, or the input, to here; what has no counterpart is noted."""
        if node is None:
            self.problems.append(f"{path}: nothing arrives there from the input")
            return []
        if node.kind in ("input", "spikes"):
            return [_Term(node)]
        if node.kind == "max_pool2d" and (pooled := self._max_pooling(node)) is not None:
            return [_Term(pooled)]
        inputs = node.inputs
        if node.kind in ADDITIONS and len(inputs) == 2:
            sign = "sub" in node.kind
            parts = [self._terms(n, path) for n in inputs]
            if sign:
                self.problems.append(f"{node.path} ({node.kind}): a difference of two layers; the nearest is their sum")
            return [*parts[0], *parts[1]]
        if node.kind in ("cat", "concat", "concatenate") and (parts := self._places(node)) is not None:
            each = [(place, term) for place, n in parts for term in self._terms(n, path)]
            return [_Term(term.source, (*term.operations, place)) for place, term in each]
        if (reason := refusal(node)) is not None or len(inputs) != 1:
            reason = reason or "it takes several layers; the nearest is their sum"
            self.problems.append(f"{node.path or path} ({node.kind}): {reason}")
            return [t for n in inputs[:1] for t in self._terms(n, path)] if node.kind != "membrane" else []
        terms = self._terms(inputs[0], path)
        return [_Term(t.source, (*t.operations, Operation(node, i == 0))) for i, t in enumerate(terms)]

    def _places(self, node: Node) -> list[tuple[Operation, Node]] | None:
        """Return the parts of a concatenation, each with an operation that adds zeros; None along another axis."""
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
            found.append((Operation(place), part))
            start += size
        return found

    def _max_pooling(self, node: Node) -> Node | None:
        """The largest of spikes is 1 where any of them is: a layer of neurons without memory; None for currents."""
        inner = node.inputs[0]
        if inner.kind != "spikes":
            return None
        key = f"{node.path or inner.path} (max pooling)"
        if key not in self.index:
            try:
                kernel, stride, padding = max_pooling(node)
            except Unmapped as reason:
                self.problems.append(f"{key}: {reason}")
                return Node("spikes", key, shape=node.shape, step=inner.step)
            source = self.index.get(inner.path)
            if source is None or source != len(self.blocks) - 1 or self.shapes[source] != tuple(inner.shape):
                self.problems.append(f"{key}: it does not follow the layer before it; the nearest is AvgPool2d")
                return Node("spikes", key, shape=node.shape, step=inner.step)
            channels = inner.shape[0]
            connection = Conv2d(channels, channels, kernel, stride=stride, padding=padding, groups=channels)
            filled(connection, torch.ones_like(connection.weight), None, self.dtype)
            self._append(key, Block(connection, LIF(0.0, 0.5, "zero")), node.shape)
        return Node("spikes", key, shape=node.shape, step=inner.step)

    def _append(self, key: str, block: Block, shape: tuple[int, ...]) -> None:
        self.index[key] = len(self.blocks)
        self.blocks.append(block)
        self.paths.append(key)
        self.shapes.append(tuple(shape))

    # blocks

    def _block(self, path: str, neurons: Neurons | None, order: list[str]) -> None:
        terms = self._terms(self.seen.arriving[path], path)
        if neurons is None or not terms or self.problems:
            return
        try:
            self._build(path, neurons, terms, order)
        except Unmapped as reason:
            self.problems.append(f"{path}: {reason}")

    def _build(self, path: str, neurons: Neurons, terms: list[_Term], order: list[str]) -> None:
        if neurons.entrance is not None:
            node = operation_of(neurons.entrance, (neurons.entrance.weight.shape[0],))
            terms = [_Term(t.source, (*t.operations, Operation(node, i == 0))) for i, t in enumerate(terms)]
        target = self._shape_of(terms[0])
        size = math.prod(target)
        gain = tensor(neurons.gain)
        main, others = self._main(terms, path, order)
        connection = self._connection(main, gain, path)
        shape = connection.output_shape(self._before(main))
        if math.prod(shape) != size:
            raise Unmapped(f"{size} neurons, but {math.prod(shape)} currents arrive")
        add_bias(connection, neurons.bias, shape, self.dtype, path)
        branches = []
        for term, delay in others:
            source = self._source(term, path, order)
            branch = self._connection(term, gain, path, wanted=shape)
            branches.append(Branch(branch, source, delay))
        if neurons.recurrent is not None:
            branches.append(
                Branch(self._recurrent(neurons.recurrent, gain, target, shape, connection), len(self.blocks), 1)
            )
        neuron = neuron_of(neurons, target, shape)
        self._append(path, Block(connection, neuron.to(self.dtype), branches=branches), shape)

    def _shape_of(self, term: _Term) -> tuple[int, ...]:
        return term.operations[-1].node.shape if term.operations else tuple(term.source.shape)

    def _delay(self, term: _Term, path: str) -> int:
        if term.source.kind == "input":
            return 0
        return self.seen.steps.get(path, max(self.seen.steps.values())) - term.source.step

    def _main(self, terms: list[_Term], path: str, order: list[str]) -> tuple[_Term, list[tuple[_Term, int]]]:
        """The term from the block before, and the others with their delays."""
        before = len(self.blocks) - 1
        delays = [self._delay(term, path) for term in terms]

        def from_before(term: _Term, delay: int) -> bool:
            if delay:
                return False
            return term.source.kind == "input" if before < 0 else self.index.get(term.source.path) == before

        found = [i for i, (term, delay) in enumerate(zip(terms, delays)) if from_before(term, delay)]
        if not found:
            name = "the input" if before < 0 else self.paths[before]
            raise Unmapped(
                f"nothing arrives from {name}, the layer before; the nearest is layers in a row with shortcuts"
            )
        main = terms[found[0]]
        others = [(term, delay) for i, (term, delay) in enumerate(zip(terms, delays)) if i != found[0]]
        return main, others

    def _source(self, term: _Term, path: str, order: list[str]) -> int:
        """The block that a branch comes from; a later one has the place that it will have."""
        if term.source.kind == "input":
            raise Unmapped("the input arrives beside the layer before; the nearest is a first layer of neurons for it")
        if term.source.path in self.index:
            return self.index[term.source.path]
        if self.index.keys() - set(order):
            raise Unmapped("feedback from a later layer beside max pooling; the nearest is AvgPool2d")
        return order.index(term.source.path)

    def _before(self, term: _Term) -> tuple[int, ...]:
        """Our shape of a term's source."""
        if term.source.kind == "input":
            return self.input_shape
        known = self.index.get(term.source.path)
        return tuple(term.source.shape) if known is None else self.shapes[known]

    def _connection(self, term: _Term, gain: torch.Tensor, path: str, wanted: tuple[int, ...] | None = None) -> Any:
        chain = Chain(term.operations, tuple(term.source.shape))
        connection = connect(chain, self._before(term), gain, self.dtype, path)
        if wanted is not None and connection.output_shape(self._before(term)) != wanted:
            raise Unmapped(f"a branch brings {connection.output_shape(self._before(term))} to {wanted} neurons")
        return connection

    def _recurrent(
        self, recurrent: Any, gain: torch.Tensor, target: tuple[int, ...], shape: tuple[int, ...], main: Any
    ) -> Any:
        """The connection of a layer to itself."""
        if isinstance(recurrent, nn.Module):
            node = operation_of(recurrent, target)
            return connect(Chain((Operation(node),), target), shape, gain, self.dtype, "recurrent")
        weights = torch.broadcast_to(tensor(recurrent) * gain, target)
        if len(target) == 3 and bool((weights == weights[:, :1, :1]).all()):
            connection: Any = Conv2d(target[0], target[0], 1, groups=target[0])
            return filled(connection, weights[:, :1, :1].reshape(-1, 1, 1, 1), None, self.dtype)
        size = math.prod(target)
        return filled(Linear(size, size), torch.diag(weights.reshape(-1)), None, self.dtype)

    # the output

    def _output(self, paths: list[str]) -> Node:
        """The module's output, without what gathers it over time; the last layer's where it is not known."""
        node = self.seen.output
        while node is not None and node.kind in REDUCTIONS and node.inputs:
            node = node.inputs[-1]
        return Node("spikes", paths[-1]) if node is None else node

    def _readout(self, output: Node, read: dict[str, Neurons | None], wanted: str | None) -> nn.Module | None:
        try:
            if output.kind not in ("spikes", "membrane"):
                return self._linear_readout(self._terms(output, "output"), wanted, tensor(1.0))
            neurons = read[output.path]
            if neurons is None or self.problems:
                return None
            return (
                self._spike_readout(output.path, wanted) if neurons.fires else self._leaky(output.path, neurons, wanted)
            )
        except Unmapped as reason:
            self.problems.append(f"{output.path or 'output'}: {reason}")
            return None

    def _spike_readout(self, answer: str, wanted: str | None) -> nn.Module:
        if self.index.get(answer) != len(self.blocks) - 1:
            raise Unmapped(
                "the output is not the last layer's; the nearest is a module that returns the last layer's spikes"
            )
        if wanted not in (None, "spikes"):
            raise Unmapped(
                f"readout={wanted!r}: the scores would be membranes of neurons that fire; the nearest is "
                "readout='spikes', or a last layer without neurons"
            )
        self.readout = "spikes"
        size = math.prod(self.shapes[-1])
        return filled(Readout(size, size), torch.eye(size), None, self.dtype)

    def _linear_readout(self, terms: list[_Term], wanted: str | None, gain: torch.Tensor) -> nn.Module | None:
        if wanted not in (None, "sum"):
            raise Unmapped(
                f"readout={wanted!r}: the last layer has no neurons, and its outputs are summed over time; the nearest "
                "is readout='sum'"
            )
        if self.problems or not terms:
            return None
        self.readout = "sum"
        return self._into_readout(terms, gain)

    def _into_readout(self, terms: list[_Term], gain: torch.Tensor) -> nn.Module:
        main, others = self._main(terms, "", list(self.index))
        if others:
            raise Unmapped("several layers feed the output; the nearest is the last one alone")
        connection = self._connection(main, gain, "output")
        if not isinstance(connection, Linear):
            raise Unmapped("the output is an image; the nearest is one number for each class")
        settings = {"bias": connection.bias is not None, "pool": connection.pool}
        layer = Readout(connection.in_features, connection.out_features, **settings)
        return filled(layer, connection.weight, connection.bias, self.dtype)

    def _leaky(self, answer: str, neurons: Neurons, wanted: str | None) -> nn.Module | None:
        """A readout whose output is a membrane: exact where it never leaks, else the sum of its currents if allowed."""
        terms = self._terms(self.seen.arriving[answer], answer)
        exact = wanted in (None, "last") and equals(neurons.beta, 1.0) and equals(neurons.alpha, 0.0)
        if not exact and not (self.approximate and wanted in (None, "sum")):
            raise Unmapped(
                "a readout that is a leaking membrane has no counterpart, because scores are sums over time; the "
                "nearest is the sum of its currents (approximate=True or --approximate, with readout 'sum')"
            )
        if not exact:
            self.notes.append(f"{answer}: its membrane is replaced by the sum of its currents over time")
        self.readout = "last" if exact else "sum"
        return self._into_readout(terms, tensor(neurons.gain)) if terms and not self.problems else None

"""From the graph of a module to our blocks: every way that spikes take becomes a connection."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ottt_loihi.converters.frameworks.groups import feedback, gathered, neurons_of, repeated
from ottt_loihi.converters.frameworks.linear import (
    ADDITIONS,
    MAXIMA,
    Chain,
    Operation,
    any_of,
    connect,
    filled,
    refusal,
)
from ottt_loihi.converters.frameworks.neurons import Group, Neurons, Unmapped, several_spikes
from ottt_loihi.converters.frameworks.parts import add_bias, first_step, neuron_of, operation_of, tensor
from ottt_loihi.converters.frameworks.trace import Node, Traced
from torch import nn

from ottt_loihi.nn.blocks import Block, Branch
from ottt_loihi.nn.connections import Conv2d, Linear
from ottt_loihi.nn.neurons import LIF


@dataclass(frozen=True)
class Term:
    """The input of a layer from one source.

    Attributes
    ----------
    source
        spikes of a layer, or the network's input
    operations
        those between the source and the layer, in order
    """

    source: Node
    operations: tuple[Operation, ...] = ()


def _negative(term: Term) -> Term:
    shape = term.operations[-1].node.shape if term.operations else term.source.shape
    node = Node("neg", "", (term.source,), tuple(shape), call=(torch.neg, (term.source,), {}))
    return Term(term.source, (*term.operations, Operation(node)))


def _times(node: Node, shape: tuple[int, ...], factor: float | torch.Tensor) -> Operation:
    return Operation(Node("mul", node.path, (node,), shape, call=(torch.mul, (node, factor), {})))


def _most(connection: Any) -> float:
    """Return the largest current that spikes can bring through a connection, its bias included."""
    bias = 0.0 if connection.bias is None else float(connection.bias.abs().max())
    return float(connection.weight.abs().flatten(1).sum(1).max()) + bias


class Reading:
    """Our blocks, made one after the other of a traced module; ``problems`` has what no block of ours computes."""

    def __init__(
        self,
        seen: Traced,
        input_shape: tuple[int, ...],
        dtype: torch.dtype,
        approximate: bool,
        spikes_per_step: int | None = None,
    ) -> None:
        self.seen, self.dtype, self.approximate, self.spikes_per_step = seen, dtype, approximate, spikes_per_step
        self.groups: dict[str, Group] = {}
        self.amplitudes: dict[str, float] = {}  # of layers whose spikes do not count 1
        self.losing: set[str] = set()  # layers whose neurons lose an input after a spike
        self.membranes = ""  # path of a layer that fires, and whose block sends membranes in place of its spikes
        self.limited = False  # whether spikes_per_step was needed
        self.input_shape = input_shape
        self.blocks: list[Block] = []
        self.paths: list[str] = []
        self.shapes: list[tuple[int, ...]] = []  # of our blocks
        self.index: dict[str, int] = {}  # path of a neuron, or "… (max pooling)" → block
        self.problems: list[str] = []
        self.notes: list[str] = []

    def read_neurons(self) -> dict[str, Neurons | None]:
        """Return every layer of neurons by path; None: it has no counterpart, which is noted."""
        return {path: self._neurons(path, *each) for path, each in self.seen.neurons.items()}

    def _neurons(self, path: str, module: nn.Module, framework: Any) -> Neurons | None:
        kind = type(module).__name__
        if kind in framework.refused:
            self.problems.append(f"{path} ({kind}): {framework.refused[kind]}")
            return None
        try:
            neurons = self._counting(framework.neurons[kind](module))
        except Unmapped as reason:
            self.problems.append(f"{path} ({kind}): {reason}")
            return None
        said, cure = (self.notes, "") if self.approximate else (self.problems, ", or approximate it (--approximate)")
        said += [f"{path} ({kind}): {reason}{cure}" for reason in neurons.inexact]
        if neurons.group is not None:
            self.groups[path] = neurons.group
        if neurons.amplitude != 1:
            self.amplitudes[path] = neurons.amplitude
        if neurons.loses:
            self.losing.add(path)
        return neurons

    def _counting(self, neurons: Neurons) -> Neurons:
        """Return neurons with the user's limit of spikes in a step, where they have none of their own."""
        if not neurons.unbounded:
            return neurons
        self.limited = True
        if self.spikes_per_step is None:
            raise Unmapped(
                "spike_fn=MultiSpike sends any number of spikes in a step; say how many at most "
                "(spikes_per_step=4 or --spikes-per-step 4), and as many neurons stand for one"
            )
        taken = float(neurons.beta * neurons.threshold)
        return replace(neurons, group=several_spikes(self.spikes_per_step, taken))

    @property
    def sends(self) -> dict[str, tuple[float, ...]]:
        """path → what a spike of each of our neurons counts, where it is not 1 or several stand for one."""
        counts = {path: group.sends for path, group in self.groups.items()}
        times = {path: np.multiply(counts.get(path, (1.0,)), each) for path, each in self.amplitudes.items()}
        return counts | {path: tuple(each.tolist()) for path, each in times.items()}

    @staticmethod
    def gets_spikes_of(answer: str, path: str) -> str:
        """Return why a layer cannot get spikes of one whose membranes are the scores."""
        return (
            f"{path}: it gets spikes of {answer}, whose membranes before the reset are the scores; the nearest is "
            "reset_delay=False, or readout='spikes'"
        )

    # what arrives somewhere

    def terms(self, node: Node | None, path: str) -> list[Term]:
        """Return every way from a layer, or the input, to here; what has no counterpart is noted."""
        if node is None:
            self.problems.append(f"{path}: nothing arrives there from the input")
            return []
        if node.kind in ("input", "spikes"):
            self.problems += [self.gets_spikes_of(node.path, path)] if node.path == self.membranes != "" else []
            return [self._from(node, path)]
        if node.kind in MAXIMA and (pooled := self._max_pooling(node)) is not None:
            return [self._from(pooled, path)]
        inputs = node.inputs
        if node.kind in ADDITIONS and len(inputs) == 2:
            first, second = (self.terms(n, path) for n in inputs)
            if node.call is not None and node.call[2].get("alpha", 1) != 1:
                self.problems.append(f"{node.path} ({node.kind}): alpha other than 1; multiply one of the two instead")
            if "sub" not in node.kind:
                return [*first, *second]
            minus, kept = (first, second) if "rsub" in node.kind else (second, first)
            return [*kept, *(_negative(term) for term in minus)]
        if node.kind in ("cat", "concat", "concatenate") and (parts := self._places(node)) is not None:
            each = [(place, term) for place, n in parts for term in self.terms(n, path)]
            return [Term(term.source, (*term.operations, place)) for place, term in each]
        of_spikes = len(inputs) == 1 and inputs[0].kind == "spikes" and self.amplitudes.get(inputs[0].path, 1.0) > 0
        if node.kind in ("relu", "relu_") and of_spikes:
            return self.terms(inputs[0], path)  # of 0 and 1, it changes nothing
        if path == "output" and node.kind in ("mean", "stack") and len(inputs) in (1, self.seen.length):
            return self.terms(inputs[-1], path)  # a linear layer of the mean over time is the mean of its outputs
        if node.kind in ("step", "steps"):
            self.problems.append(
                f"{node.path or path}: an index takes {'one step' if node.kind == 'step' else 'some steps'} of a "
                "sequence; the nearest is to run the layers behind it on all of them"
            )
            return []
        if (reason := refusal(node)) is not None or len(inputs) != 1:
            reason = reason or "it takes several layers; the nearest is their sum"
            self.problems.append(f"{node.path or path} ({node.kind}): {reason}")
            return [t for n in inputs[:1] for t in self.terms(n, path)] if node.kind != "membrane" else []
        terms = self.terms(inputs[0], path)
        return [Term(t.source, (*t.operations, Operation(node, i == 0))) for i, t in enumerate(terms)]

    def _from(self, node: Node, path: str) -> Term:
        """Return a layer's spikes as a term, times what one counts; of several neurons for one, the sum of theirs."""
        term = self._summed(node, path)
        if (amplitude := self.amplitudes.get(node.path)) is None:
            return term
        return Term(node, (*term.operations, _times(node, node.shape, amplitude)))

    def _summed(self, node: Node, path: str) -> Term:
        if (group := self.groups.get(node.path)) is None:
            return Term(node)
        if node.path not in self.index and self.problems:  # there are no blocks behind a problem
            return Term(node)
        if node.path not in self.index:
            self.problems.append(
                f"{path}: feedback from {node.path}, where several neurons stand for one; none is exact"
            )
            return Term(node)
        return Term(node, (Operation(gathered(group, node, self.shapes[self.index[node.path]])),))

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
        inner: Node | None = node.inputs[0]
        if inner is not None and inner.kind in MAXIMA:
            inner = self._max_pooling(inner)
        amplitude = 1.0 if inner is None else self.amplitudes.get(inner.path, 1.0)
        if inner is None or inner.kind != "spikes" or inner.path in self.groups or amplitude < 0:
            return None
        key = f"{node.path or inner.path} (max pooling)"
        if key not in self.index:
            source = self.index.get(inner.path)
            if source is None and self.problems:  # there are no blocks behind a problem
                return Node("spikes", key, shape=node.shape, step=inner.step)
            if source is None or source != len(self.blocks) - 1:
                self.problems.append(f"{key}: it does not follow the layer before it; the nearest is AvgPool2d")
                return Node("spikes", key, shape=node.shape, step=inner.step)
            try:
                connection = any_of(replace(node, inputs=(inner,)), inner.shape, self.shapes[source], self.dtype)
            except Unmapped as reason:
                self.problems.append(f"{key}: {reason}")
                return Node("spikes", key, shape=node.shape, step=inner.step)
            shape = connection.output_shape(self.shapes[source])
            self._append(key, Block(connection, LIF(0.0, 0.5, "zero")), shape)
            if amplitude != 1:
                self.amplitudes[key] = amplitude
        return Node("spikes", key, shape=node.shape, step=inner.step)

    def _append(self, key: str, block: Block, shape: tuple[int, ...]) -> None:
        self.index[key] = len(self.blocks)
        self.blocks.append(block)
        self.paths.append(key)
        self.shapes.append(tuple(shape))

    # blocks

    def add_block(self, path: str, neurons: Neurons | None, order: list[str]) -> None:
        """Append the block of a layer of neurons, or note why the layer has no block.

        order: paths of all layers that become blocks
        """
        terms = self.terms(self.seen.arriving[path], path)
        if neurons is None or not terms or self.problems:
            return
        try:
            self.build(path, neurons, terms, order)
        except Unmapped as reason:
            self.problems.append(f"{path}: {reason}")

    def build(self, path: str, neurons: Neurons, terms: list[Term], order: list[str]) -> None:
        """Append the block of neurons that receives ``terms``. Raises Unmapped if no neuron of ours computes it."""
        if neurons.entrance is not None:
            node = operation_of(neurons.entrance, (neurons.entrance.weight.shape[0],))
            terms = [Term(t.source, (*t.operations, Operation(node, i == 0))) for i, t in enumerate(terms)]
        target = self._shape_of(terms[0])
        size = math.prod(target)
        gain = tensor(neurons.gain)
        main, others = self.main(terms, path, order)
        connection = self.connection(main, gain, path)
        shape = connection.output_shape(self._before(main))
        if math.prod(shape) != size:
            raise Unmapped(f"{size} neurons, but {math.prod(shape)} currents arrive")
        add_bias(connection, neurons.bias, shape, self.dtype, path)
        branches = []
        for term, delay in others:
            source = self._source(term, path, order)
            branch = self.connection(term, gain, path, wanted=shape)
            branches.append(Branch(branch, source, delay))
        own = len(self.blocks)
        if neurons.late_bias:
            neurons = replace(neurons, v_init=neurons.v_init - first_step(neurons, target))
        if neurons.recurrent is not None:
            branches.append(Branch(self._recurrent(neurons, gain, target, shape), own, 1))
        if (group := neurons.group) is None:
            neuron = neuron_of(neurons, target, shape)
        else:
            count = len(group.sends)
            connection, ours = repeated(connection, count), (shape[0] * count, *shape[1:])
            branches = [Branch(repeated(b.connection, count), b.source, b.delay) for b in branches]
            branches += [Branch(c, own, delay) for delay, c in feedback(group, ours, self.dtype)]
            neuron, shape = neurons_of(neurons, group, ours), ours
        self._append(path, Block(connection, neuron.to(self.dtype), branches=branches), shape)
        if neurons.loses:
            self._lose(path, neurons, gain, target)
        if neurons.sends == "after":
            self._follow(path, neurons, terms, order)

    def _lose(self, path: str, neurons: Neurons, gain: torch.Tensor, target: tuple[int, ...]) -> None:
        """Make neurons lose the input of the step after a spike: append the helping neurons that have the true spikes.

        A spike brings W to its own neuron, more than all currents can take from it: it fires again and is reset. The
        helping neurons have no memory; they send on what the neurons fire, but not in the step after they did so
        themselves, and take back what the second spikes bring.
        """
        own, block = self.index[path], self.blocks[-1]
        kept = np.broadcast_to(neurons.alpha, target)
        if np.max(kept) >= 1:
            raise Unmapped("a synaptic current without decay beside a reset that loses an input; the nearest is Leaky")
        most = sum(_most(each) for each in (block.connection, *(branch.connection for branch in block.branches)))
        wide = 1.05 * (float(np.max(neurons.threshold)) + most / (1 - float(np.max(kept))))

        def back(factor: float | np.ndarray) -> Any:
            return self._each(torch.broadcast_to(tensor(factor), target), target).requires_grad_(False)

        more = [(own, wide, 1), (own + 1, -wide, 2)]
        if np.any(kept):
            more += [(own, -wide * kept, 2), (own + 1, wide * kept, 3)]
        block.branches.extend(Branch(back(factor), source, delay) for source, factor, delay in more)
        if neurons.recurrent is not None:
            taken = self._recurrent(neurons, -gain, target, self.shapes[own])
            taken.bias = None
            block.branches.append(Branch(taken, own + 1, 2))
        self.paths[own] = f"{path} (with second spikes)"
        self.index[self.paths[own]] = own
        true = Block(back(2.0), LIF(0.0, 1.0, "zero").to(self.dtype), branches=[Branch(back(-2.0), own + 1, 1)])
        self._append(path, true, self.shapes[own])
        self.notes.append(f"{path}: its reset loses the input of the next step; as many helping neurons do that")
        self.losing.discard(path)

    def _follow(self, path: str, neurons: Neurons, terms: list[Term], order: list[str]) -> None:
        """Append, behind a last layer that fires, a copy that does not: it has the layer's membranes after each reset.

        Its currents are the same, and a spike takes the threshold from it in the same step.
        """
        if any(term.source.kind == "input" for term in terms):
            raise Unmapped(
                "its membranes after the reset, without a layer of neurons before it; the nearest is readout='spikes'"
            )
        own, target, gain = self.index[path], self._shape_of(terms[0]), tensor(neurons.gain)
        spikes = Node("spikes", path, shape=target, step=self.seen.steps[path])
        taken = self._summed(spikes, path)
        taken = Term(spikes, (*taken.operations, _times(spikes, target, -tensor(neurons.threshold) / gain)))
        silent = replace(neurons, reset="none", group=None, recurrent=None, sends="membranes")
        self.build(path, silent, [taken, *terms], order)
        if neurons.recurrent is not None:
            again = self._recurrent(neurons, gain, target, self.shapes[-1])
            self.blocks[-1].branches.append(Branch(again, own, 1))
        self.paths[own] = f"{path} (spikes)"
        self.groups.pop(path, None)
        self.amplitudes.pop(path, None)

    def _shape_of(self, term: Term) -> tuple[int, ...]:
        return term.operations[-1].node.shape if term.operations else tuple(term.source.shape)

    def _delay(self, term: Term, path: str) -> int:
        now, then = self.seen.steps.get(path, max(self.seen.steps.values())), term.source.step
        if term.source.kind != "input":
            return now - then
        if then not in (0, now):
            raise Unmapped(
                f"at step {now} it gets the input of step {then}; the nearest is a loop that gives each step its own "
                "input, forward in time"
            )
        return 0

    def main(self, terms: list[Term], path: str, order: list[str]) -> tuple[Term, list[tuple[Term, int]]]:
        """Return the term from the block before, and the others with their delays."""
        before = len(self.blocks) - 1
        delays = [self._delay(term, path) for term in terms]

        def from_before(term: Term, delay: int) -> bool:
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

    def _source(self, term: Term, path: str, order: list[str]) -> int:
        """The block that a branch comes from; a later one has the place that it will have."""
        if term.source.kind == "input":
            raise Unmapped("the input arrives beside the layer before; the nearest is a first layer of neurons for it")
        if term.source.path in self.index:
            return self.index[term.source.path]
        if term.source.path in self.losing:
            raise Unmapped(
                f"feedback from {term.source.path}, whose reset loses the input of the next step; the nearest is "
                "reset_mechanism='subtract', or reset_delay=False"
            )
        if term.source.path == path:
            return len(self.blocks)
        if self.index.keys() - set(order):
            raise Unmapped("feedback from a later layer beside max pooling; the nearest is AvgPool2d")
        return order.index(term.source.path)

    def _before(self, term: Term) -> tuple[int, ...]:
        """Our shape of a term's source."""
        if term.source.kind == "input":
            return self.input_shape
        known = self.index.get(term.source.path)
        return tuple(term.source.shape) if known is None else self.shapes[known]

    def connection(self, term: Term, gain: torch.Tensor, path: str, wanted: tuple[int, ...] | None = None) -> Any:
        """Return the connection of one way, times the gain of the neurons behind it; ``wanted``: their shape."""
        before = self._before(term)
        shape = before if term.source.path in self.groups else tuple(term.source.shape)
        connection = connect(Chain(term.operations, shape), before, gain, self.dtype, path)
        if wanted is not None and connection.output_shape(before) != wanted:
            raise Unmapped(f"a branch brings {connection.output_shape(before)} to {wanted} neurons")
        return connection

    def _recurrent(self, neurons: Neurons, gain: torch.Tensor, target: tuple[int, ...], shape: tuple[int, ...]) -> Any:
        """The connection of a layer to itself, from all of its neurons to one of each group."""
        operations, ours = (), target
        if neurons.group is not None:
            ours = shape = (shape[0] * len(neurons.group.sends), *shape[1:])
            operations = (Operation(gathered(neurons.group, Node("spikes", "", shape=target), shape)),)
        if neurons.amplitude != 1:
            operations = (*operations, _times(Node("spikes", "", shape=target), target, neurons.amplitude))
        if isinstance(neurons.recurrent, nn.Module):
            operations = (*operations, Operation(operation_of(neurons.recurrent, target)))
            return connect(Chain(operations, ours), shape, gain, self.dtype, "recurrent")
        weights = torch.broadcast_to(tensor(neurons.recurrent) * gain * neurons.amplitude, target)
        if neurons.group is not None:
            raise Unmapped(
                "one recurrent weight for each neuron beside several spikes in a step; the nearest is a Linear"
            )
        return self._each(weights, target)

    def _each(self, weights: torch.Tensor, target: tuple[int, ...]) -> Any:
        """Return the connection of every neuron to itself; weights: of the layer's shape."""
        if len(target) == 3 and bool((weights == weights[:, :1, :1]).all()):
            connection: Any = Conv2d(target[0], target[0], 1, groups=target[0])
            return filled(connection, weights[:, :1, :1].reshape(-1, 1, 1, 1), None, self.dtype)
        size = math.prod(target)
        return filled(Linear(size, size), torch.diag(weights.reshape(-1)), None, self.dtype)

"""From the graph of a module to our blocks: every way that spikes take becomes a connection."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ottt_loihi.converters.frameworks.groups import feedback, gathered, neurons_of, repeated
from ottt_loihi.converters.frameworks.linear import (
    ADDITIONS,
    MAXIMA,
    Operation,
    Term,
    any_of,
    connect,
    refusal,
)
from ottt_loihi.converters.frameworks.neurons import Group, Neurons, Unmapped, several_spikes
from ottt_loihi.converters.frameworks.nodes import Node, places
from ottt_loihi.converters.frameworks.parts import (
    add_bias,
    each,
    first_step,
    largest_current,
    neuron_of,
    operation_of,
    tensor,
)
from ottt_loihi.converters.frameworks.trace import Traced
from torch import nn

from ottt_loihi.nn.blocks import Block, Branch
from ottt_loihi.nn.neurons import LIF


def _passed(terms: list[Term], node: Node) -> list[Term]:
    """Return the terms behind an operation on their sum, whose bias is added once."""
    return [term.then(Operation(node, index == 0)) for index, term in enumerate(terms)]


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
        self.order: list[str] = []  # paths of all layers that become blocks
        self.index: dict[str, int] = {}  # path of a neuron, or "… (max pooling)" → block
        self.pools: dict[tuple[str, ...], str] = {}  # max pooling, by where it is and its arguments → key in index
        self.problems: list[str] = []
        self.notes: list[str] = []

    def read_neurons(self) -> dict[str, Neurons | None]:
        """Return every layer of neurons by path; None: it has no counterpart, which is noted."""
        return {path: self._neurons(path, *each) for path, each in self.seen.neurons.items()}

    def _neurons(self, path: str, module: nn.Module, framework: Any) -> Neurons | None:
        kind = framework.kind(module)
        if kind in framework.refused:
            self.problems.append(f"{path} ({kind}): {framework.refused[kind]}")
            return None
        try:
            neurons = self._counting(framework.read(module))
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
            return [*kept, *(term.times(-1.0) for term in minus)]
        if node.kind in ("cat", "concat", "concatenate") and (parts := places(node)) is not None:
            return [term.then(Operation(place)) for place, n in parts for term in self.terms(n, path)]
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
        return _passed(self.terms(inputs[0], path), node)

    def _from(self, node: Node, path: str) -> Term:
        """Return a layer's spikes as a term, times what one counts; of several neurons for one, the sum of theirs."""
        term = self._summed(node, path)
        return term.times(self.amplitudes[node.path]) if node.path in self.amplitudes else term

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
        return gathered(group, node, self.shapes[self.index[node.path]])

    def _max_pooling(self, node: Node) -> Node | None:
        """Return the spikes of a max pooling; None for one of currents.

        The largest of 0 and 1 is 1 where any of them is 1: a layer of neurons without memory.
        """
        inner: Node | None = node.inputs[0]
        if inner is not None and inner.kind in MAXIMA:
            inner = self._max_pooling(inner)
        amplitude = 1.0 if inner is None else self.amplitudes.get(inner.path, 1.0)
        if inner is None or inner.kind != "spikes" or inner.path in self.groups or amplitude < 0:
            return None
        pool = (node.kind, node.path, inner.path, str(node.call[1][1:]), str(node.call[2]))
        if pool not in self.pools:  # a functional one has the path of the module that calls it
            key = f"{node.path or inner.path} (max pooling)"
            again = key in self.pools.values()
            self.pools[pool] = f"{inner.path} (max pooling {len(self.pools) + 1})" if again else key
        key = self.pools[pool]
        if key not in self.index and (inner.path in self.index or not self.problems):  # no blocks behind a problem
            try:
                self._append_pooling(key, node, inner)
                self.amplitudes |= {key: amplitude} if amplitude != 1 else {}
            except Unmapped as reason:
                self.problems.append(f"{key}: {reason}")
        return Node("spikes", key, shape=node.shape, step=inner.step)

    def _append_pooling(self, key: str, node: Node, inner: Node) -> None:
        source = self.index.get(inner.path)
        if source is None or source != len(self.blocks) - 1:
            raise Unmapped("it does not follow the layer before it; the nearest is AvgPool2d")
        connection = any_of(replace(node, inputs=(inner,)), inner.shape, self.shapes[source], self.dtype)
        self._append(key, Block(connection, LIF(0.0, 0.5, "zero")), connection.output_shape(self.shapes[source]))

    def _append(self, key: str, block: Block, shape: tuple[int, ...]) -> None:
        self.index[key] = len(self.blocks)
        self.blocks.append(block)
        self.paths.append(key)
        self.shapes.append(tuple(shape))

    # blocks

    def add_block(self, path: str, neurons: Neurons | None) -> None:
        """Append the block of a layer of neurons, or note why the layer has no block."""
        terms = self.terms(self.seen.arriving[path], path)
        if neurons is None or not terms or self.problems:
            return
        try:
            self.build(path, neurons, terms)
        except Unmapped as reason:
            self.problems.append(f"{path}: {reason}")

    def build(self, path: str, neurons: Neurons, terms: list[Term]) -> None:
        """Append the block of neurons that receives ``terms``. Raises Unmapped if no neuron of ours computes it."""
        if neurons.entrance is not None:
            node = operation_of(neurons.entrance, (neurons.entrance.weight.shape[0],))
            terms = _passed(terms, node)
        target = terms[0].shape
        size = math.prod(target)
        gain = tensor(neurons.gain)
        main, others = self.main(terms, path)
        connection = self.connection(main, gain, path)
        shape = connection.output_shape(self._before(main))
        if math.prod(shape) != size:
            raise Unmapped(f"{size} neurons, but {math.prod(shape)} currents arrive")
        add_bias(connection, neurons.bias, shape, self.dtype, path)
        branches = [Branch(self.connection(t, gain, path, shape), self._source(t, path), delay) for t, delay in others]
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
            self._follow(path, neurons, terms)

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
        most = sum(largest_current(c) for c in (block.connection, *(branch.connection for branch in block.branches)))
        wide = 1.05 * (float(np.max(neurons.threshold)) + most / (1 - float(np.max(kept))))

        def back(factor: float | np.ndarray) -> Any:
            return each(torch.broadcast_to(tensor(factor), target), target, self.dtype).requires_grad_(False)

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

    def _follow(self, path: str, neurons: Neurons, terms: list[Term]) -> None:
        """Append a copy of the last layer that never fires, and whose membranes are the layer's after each reset.

        Its currents are the same, and a spike takes the threshold from it in the same step.
        """
        if any(term.source.kind == "input" for term in terms):
            raise Unmapped(
                "its membranes after the reset, without a layer of neurons before it; the nearest is readout='spikes'"
            )
        own, target, gain = self.index[path], terms[0].shape, tensor(neurons.gain)
        spikes = Node("spikes", path, shape=target, step=self.seen.steps[path])
        taken = self._summed(spikes, path).times(-tensor(neurons.threshold) / gain)
        silent = replace(neurons, reset="none", group=None, recurrent=None, sends="membranes")
        self.build(path, silent, [taken, *terms])
        if neurons.recurrent is not None:
            again = self._recurrent(neurons, gain, target, self.shapes[-1])
            self.blocks[-1].branches.append(Branch(again, own, 1))
        self.paths[own] = f"{path} (spikes)"
        self.groups.pop(path, None)
        self.amplitudes.pop(path, None)

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

    def main(self, terms: list[Term], path: str) -> tuple[Term, list[tuple[Term, int]]]:
        """Return the term from the block before, and the others with their delays."""
        before = len(self.blocks) - 1
        each = [(term, self._delay(term, path)) for term in terms]
        for place, (term, delay) in enumerate(each):
            here = term.source.kind == "input" if before < 0 else self.index.get(term.source.path) == before
            if here and not delay:
                return term, each[:place] + each[place + 1 :]
        name = "the input" if before < 0 else self.paths[before]
        raise Unmapped(f"nothing arrives from {name}, the layer before; the nearest is layers in a row with shortcuts")

    def _source(self, term: Term, path: str) -> int:
        """Return the number of the block that a branch comes from, also of a block that is not made yet."""
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
        if self.index.keys() - set(self.order):
            raise Unmapped("feedback from a later layer beside max pooling; the nearest is AvgPool2d")
        return self.order.index(term.source.path)

    def _before(self, term: Term) -> tuple[int, ...]:
        """Return the shape of a term's source in our network."""
        if term.source.kind == "input":
            return self.input_shape
        known = self.index.get(term.source.path)
        return tuple(term.source.shape) if known is None else self.shapes[known]

    def connection(self, term: Term, gain: torch.Tensor, path: str, wanted: tuple[int, ...] | None = None) -> Any:
        """Return the connection of one way, times the gain of the neurons behind it; ``wanted``: their shape."""
        before = self._before(term)
        connection = connect(term, before, gain, self.dtype, path)
        if wanted is not None and connection.output_shape(before) != wanted:
            raise Unmapped(f"a branch brings {connection.output_shape(before)} to {wanted} neurons")
        return connection

    def _recurrent(self, neurons: Neurons, gain: torch.Tensor, target: tuple[int, ...], shape: tuple[int, ...]) -> Any:
        """Return the connection of a layer to itself, from all of its neurons to one of each group."""
        source = Node("spikes", "", shape=target)
        if neurons.group is not None:
            shape = (shape[0] * len(neurons.group.sends), *shape[1:])
        term = Term(source) if neurons.group is None else gathered(neurons.group, source, shape)
        if neurons.amplitude != 1:
            term = term.times(neurons.amplitude)
        if isinstance(neurons.recurrent, nn.Module):
            term = term.then(Operation(operation_of(neurons.recurrent, target)))
            return connect(term, shape, gain, self.dtype, "recurrent")
        weights = torch.broadcast_to(tensor(neurons.recurrent) * gain * neurons.amplitude, target)
        if neurons.group is not None:
            raise Unmapped(
                "one recurrent weight for each neuron beside several spikes in a step; the nearest is a Linear"
            )
        return each(weights, target, self.dtype)

"""The first difference between two views of a network, and the changes by quantisation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from ottt_loihi.sim.inference.reference import Result
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi.errors import VerificationError


@dataclass(frozen=True)
class Divergence:
    """The first place where two runs differ, in the order of time, layers, variables."""

    step: int
    layer: int
    layer_name: str
    variable: str
    sample: int
    neuron: int
    values: tuple[int, int]

    def __str__(self) -> str:
        return (
            f"sample {self.sample}, step {self.step}, layer {self.layer} ({self.layer_name}), neuron {self.neuron}: "
            f"{self.variable} = {self.values[0]} against {self.values[1]}"
        )


@dataclass(frozen=True)
class Comparison:
    """compared and different: numbers of integers; first: None if all are equal."""

    compared: int
    different: int
    first: Divergence | None

    def raise_if_different(self, what: str) -> None:
        """Raise :class:`VerificationError` naming the first divergence."""
        if self.first is not None:
            raise VerificationError(
                f"{what}: {self.different} of {self.compared} states differ, first at {self.first}; please report this"
            )


def compare(chip: ChipNetwork, a: Result, b: Result) -> Comparison:
    """Compare every state both results recorded, and their scores."""
    compared, different, first = a.scores.size, int((a.scores != b.scores).sum()), None
    for name in [n for n in ("u", "v", "s") if n in a.states and n in b.states]:
        for layer, (left, right) in enumerate(zip(a.states[name], b.states[name])):
            if left is None or right is None:  # a layer that one of them did not record
                continue
            compared += left.size
            unequal = left != right
            if not unequal.any():
                continue
            different += int(unequal.sum())
            step, sample, *neuron = (int(i) for i in np.argwhere(unequal)[0])
            flat = int(np.ravel_multi_index(neuron, chip.layers[layer].shape))
            place = (step, sample, *neuron)
            found = Divergence(
                step + 1, layer, chip.layers[layer].name, name, sample, flat, (int(left[place]), int(right[place]))
            )
            if first is None or (found.step, found.layer) < (first.step, first.layer):
                first = found
    if first is None and different:  # equal states, other scores: only when no state was recorded
        sample, neuron = (int(i) for i in np.argwhere(a.scores != b.scores)[0])
        last = len(chip.layers) - 1
        values = (int(a.scores[sample, neuron]), int(b.scores[sample, neuron]))
        first = Divergence(chip.num_steps, last, chip.layers[last].name, "score", sample, neuron, values)
    return Comparison(compared, different, first)


@dataclass(frozen=True)
class Agreement:
    """Float network against chip, over ``samples`` samples.

    Attributes
    ----------
    predictions
        share with the same prediction
    accuracy_float, accuracy_chip
        shares right
    confusion
        int ``(classes, classes)``, float prediction by chip prediction
    classes_float, classes_chip
        int ``(classes, classes)``, label by prediction
    spike_rates_float, spike_rates_chip
        spikes per neuron and step of each hidden layer
    spikes_equal
        share of equal spikes of each hidden layer
    silent, always
        neurons of each hidden layer that never fire on the chip, or at every step of all samples
    dead
        layers that fire in float and never on the chip
    ties
        float membranes exactly on the threshold (the chip fires above it only)
    overflows
        of the simulator, by kind
    spikes, input_spikes
        of all samples, on the chip, the readout's included
    first
        the first spike that differs
    """

    samples: int
    predictions: float
    accuracy_float: float
    accuracy_chip: float
    confusion: tuple[tuple[int, ...], ...]
    classes_float: tuple[tuple[int, ...], ...]
    classes_chip: tuple[tuple[int, ...], ...]
    spike_rates_float: tuple[float, ...]
    spike_rates_chip: tuple[float, ...]
    spikes_equal: tuple[float, ...]
    silent: tuple[int, ...]
    always: tuple[int, ...]
    dead: tuple[str, ...]
    ties: int
    overflows: dict[str, int]
    spikes: tuple[int, ...]
    input_spikes: int
    first: Divergence | None


class Tally:
    """Collects an :class:`Agreement` batch by batch, so that no more than a batch's states are kept."""

    def __init__(self, chip: ChipNetwork) -> None:
        self.chip, self.samples, self.first = chip, 0, None
        hidden = [layer.shape for layer in chip.layers[:-1]]
        classes = chip.layers[-1].size
        self.confusion = np.zeros((classes, classes), np.int64)
        self.by_label = np.zeros((2, classes, classes), np.int64)
        self.equal = [0] * len(hidden)
        self.spikes = {kind: [np.zeros(shape, np.int64) for shape in hidden] for kind in ("float", "chip")}
        self.overflows: dict[str, int] = {}
        self.counts, self.input_spikes = np.zeros(len(chip.layers), np.int64), 0

    def add(
        self,
        float_spikes: list[np.ndarray],
        float_scores: np.ndarray,
        result: Result,
        labels: np.ndarray,
        messages: np.ndarray | None = None,
    ) -> None:
        """Add a batch.

        Parameters
        ----------
        float_spikes
            one bool ``(num_steps, batch, *shape)`` per hidden layer
        result
            recorded ``"s"``
        messages
            what the chip was sent.
        """
        self.counts += result.spike_counts
        self.input_spikes += 0 if messages is None else int(np.count_nonzero(messages))
        predicted = float_scores.argmax(axis=1)
        np.add.at(self.confusion, (predicted, result.predictions), 1)
        for matrix, predictions in zip(self.by_label, (predicted, result.predictions)):
            np.add.at(matrix, (labels, predictions), 1)
        chip_spikes = [s.reshape(f.shape) for f, s in zip(float_spikes, result.states["s"])]
        for index, (f, s) in enumerate(zip(float_spikes, chip_spikes)):
            self.equal[index] += int((f == s).sum())
            shape = self.chip.layers[index].shape
            self.spikes["float"][index] += f.sum(axis=(0, 1)).reshape(shape)
            self.spikes["chip"][index] += s.sum(axis=(0, 1)).reshape(shape)
        if self.first is None:
            empty = np.zeros((0, 0))
            a, b = (Result(empty, {"s": s}, result.spike_counts) for s in (float_spikes, chip_spikes))
            self.first = _later(compare(self.chip, a, b).first, self.samples)
        for name, counts in result.overflows.items():
            self.overflows[name] = self.overflows.get(name, 0) + int(counts.sum())
        self.samples += len(labels)

    def agreement(self, ties: int = 0) -> Agreement:
        """Return the result; ``ties`` as in :class:`Agreement`."""
        steps = self.samples * self.chip.num_steps
        on_chip, in_float = self.spikes["chip"], self.spikes["float"]
        return Agreement(
            samples=self.samples,
            predictions=float(np.trace(self.confusion) / self.samples),
            accuracy_float=float(np.trace(self.by_label[0]) / self.samples),
            accuracy_chip=float(np.trace(self.by_label[1]) / self.samples),
            confusion=_numbers(self.confusion),
            classes_float=_numbers(self.by_label[0]),
            classes_chip=_numbers(self.by_label[1]),
            spike_rates_float=tuple(float(n.mean() / steps) for n in in_float),
            spike_rates_chip=tuple(float(n.mean() / steps) for n in on_chip),
            spikes_equal=tuple(equal / (steps * n.size) for equal, n in zip(self.equal, on_chip)),
            silent=tuple(int((n == 0).sum()) for n in on_chip),
            always=tuple(int((n == steps).sum()) for n in on_chip),
            dead=tuple(
                layer.name for layer, f, c in zip(self.chip.layers, in_float, on_chip) if f.any() and not c.any()
            ),
            ties=ties,
            overflows=self.overflows,
            spikes=tuple(int(n) for n in self.counts),
            input_spikes=self.input_spikes,
            first=self.first,
        )


def _numbers(matrix: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(n) for n in row) for row in matrix)


def _later(found: Divergence | None, samples: int) -> Divergence | None:
    """Return the place with the sample counted from the first one of the first batch."""
    return None if found is None else replace(found, sample=found.sample + samples)

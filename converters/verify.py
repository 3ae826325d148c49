"""Where do two views of a network first disagree, and what did quantisation change?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ottt_loihi.sim.network import ChipNetwork
from ottt_loihi.sim.reference import Result

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

    predictions: share with the same prediction · accuracy_float, accuracy_chip: shares right, None without labels ·
    spike_rates_float, spike_rates_chip: spikes per neuron and step of each hidden layer · spikes_equal: share of equal
    spikes of each hidden layer · ties: float membranes exactly on the threshold (the chip fires above it only) · first:
    the first spike that differs
    """

    samples: int
    predictions: float
    accuracy_float: float | None
    accuracy_chip: float | None
    spike_rates_float: tuple[float, ...]
    spike_rates_chip: tuple[float, ...]
    spikes_equal: tuple[float, ...]
    ties: int
    first: Divergence | None


def agreement(
    chip: ChipNetwork,
    float_scores: np.ndarray,
    float_spikes: list[np.ndarray],
    result: Result,
    labels: np.ndarray | None = None,
    ties: int = 0,
) -> Agreement:
    """Compare the float network's run with the chip's.

    float_scores ``(batch, classes)``; float_spikes: one bool ``(num_steps, batch, neurons)`` per hidden layer; result:
    a run of the chip that recorded ``"s"``; labels int ``(batch,)``.
    """
    chip_spikes = [s.reshape(f.shape) for s, f in zip(result.states["s"], float_spikes)]
    spikes_only = Result(result.scores, {"s": chip_spikes}, result.spike_counts)
    float_predictions = float_scores.argmax(axis=1)
    as_result = Result(result.scores, {"s": [f.astype(bool) for f in float_spikes]}, result.spike_counts)
    return Agreement(
        samples=len(float_scores),
        predictions=float((float_predictions == result.predictions).mean()),
        accuracy_float=None if labels is None else float((float_predictions == labels).mean()),
        accuracy_chip=None if labels is None else float((result.predictions == labels).mean()),
        spike_rates_float=tuple(float(f.mean()) for f in float_spikes),
        spike_rates_chip=tuple(float(s.mean()) for s in chip_spikes),
        spikes_equal=tuple(float((f == s).mean()) for f, s in zip(float_spikes, chip_spikes)),
        ties=ties,
        first=compare(chip, as_result, spikes_only).first,
    )

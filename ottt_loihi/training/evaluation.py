"""Evaluation on a data set: accuracy, spike rates, synaptic operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.data.description import Step
from ottt_loihi.errors import TrainingError
from ottt_loihi.metrics import measure, warnings
from ottt_loihi.nn.inputs import Input, frames
from ottt_loihi.nn.network import Network, evaluating, gathered
from ottt_loihi.training.checkpoint import not_finite, tensors_of
from ottt_loihi.training.distributed import ALONE, Group
from ottt_loihi.training.samples import Samples
from ottt_loihi.training.sources import open_samples

TEST_ENCODING_SEED = 0  # test images are always the same spikes, whatever a network was trained with


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a network on a test set.

    Attributes
    ----------
    accuracy
        0 … 1
    predictions
        int64 ``(n,)``, of the samples that this process has seen
    spike_rates
        per block, spikes per neuron and time step
    rates_over_time
        ``(blocks, T)``, the same at each step (the paper's figure 4)
    synaptic_operations
        per sample, additions of a weight that a spike causes, the input's spikes included where it has any
    labels
        int64 ``(n,)``, of the same samples
    """

    accuracy: float
    predictions: np.ndarray
    spike_rates: list[float]
    rates_over_time: np.ndarray
    synaptic_operations: float
    labels: np.ndarray

    def warnings(self, class_names: Sequence[str] = ()) -> list[str]:
        """Return one sentence where only one class is predicted, and one for hidden layers that never fire."""
        if not len(self.predictions):
            return []
        classes = int(max(self.predictions.max(), self.labels.max())) + 1
        measured = measure(self.predictions, self.labels, max(classes, len(class_names)), class_names)
        return warnings(measured, self.spike_rates)


def evaluate(
    net: Network,
    x: Any,
    y: Any = None,
    batch_size: int = 512,
    *,
    encoding: str | Step | None = None,
    time_steps: int | None = None,
) -> Evaluation:
    """Return accuracy and activity on a test set.

    Parameters
    ----------
    x, y
        arrays ``(n, *input_shape)`` or ``(n, T, *input_shape)`` and labels ``(n,)``; or without y a pair of them, a
        Dataset, a DataLoader or an iterable of batches (x, y)
    batch_size
        number of samples at once; a DataLoader and an iterable have their own
    encoding
        how samples become spikes (:mod:`ottt_loihi.data.codings`), with ``seed=TEST_ENCODING_SEED``. Default: the
        encoding of the training (``net.data``); if it is unknown, data with a time axis as they are, and images as
        rate-coded spikes
    time_steps
        T of encoded images, default that of the network. Of data with a time axis, the first T frames are used

    Raises
    ------
    UsageError
        for data that do not fit the network, or an encoding that does not fit the data
    TrainingError
        for weights that are NaN or infinite
    """
    checks.integer(batch_size, "batch_size")
    checks.instance(net, "evaluate: net", Network)
    if found := not_finite(tensors_of(net)):
        raise TrainingError(f"evaluate: {found}; train it again with a smaller learning rate")
    if encoding is None and net.data is not None:
        encoding = net.data.coding
    return evaluate_samples(net, open_samples(x, y, net, "data", encoding), batch_size, time_steps)


@torch.no_grad()
def evaluate_samples(
    net: Network, samples: Samples, batch_size: int = 512, time_steps: int | None = None, group: Group = ALONE
) -> Evaluation:
    """Return :func:`evaluate` of opened samples; each process of ``group`` takes its share of each batch.

    Each process returns the numbers of the whole set, and the predictions of its own samples.
    """
    most, steps = samples.num_steps if samples.time_axis else None, samples.num_steps
    steps = steps if time_steps is None else checks.integer(time_steps, "time_steps", 1, most)
    predictions, labels, operations = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0.0
    activity: np.ndarray = np.zeros((len(net.blocks), steps))
    fan_out = net.fan_out()
    with evaluating(net):
        for batch in samples.in_order(batch_size, group):
            inputs = samples.encoded(batch, steps, TEST_ENCODING_SEED)
            scores, rates = _scores_and_rates(net, net.check_input(inputs))
            predictions.append(scores.argmax(1).cpu().numpy())
            labels.append(batch.y)
            activity = activity + rates * len(batch.y)
            if samples.coding.name != "constant":
                operations += float((inputs != 0).double().sum()) * fan_out[0]
    predicted, known = np.concatenate(predictions), np.concatenate(labels)
    counts = int((predicted == known).sum()), len(known), operations
    correct, seen, operations, *rates = group.sum(*counts, *activity.reshape(-1))
    activity = np.array(rates).reshape(activity.shape) / seen
    sizes = [int(np.prod(block.shape)) for block in net.blocks]
    per_sample = operations / seen + sum(n * f * r.sum() for n, f, r in zip(sizes, fan_out[1:], activity))
    return Evaluation(float(correct / seen), predicted, activity.mean(1).tolist(), activity, float(per_sample), known)


def _scores_and_rates(net: Network, x: Input) -> tuple[Tensor, np.ndarray]:
    """Return the scores, and the share of each block's neurons that fire at each step, ``(blocks, T)``."""
    scores, state = None, None
    rates = net.readout.weight.new_zeros((x.shape[1], len(net.blocks)), dtype=torch.float64)
    for t, frame in enumerate(frames(x)):
        o, state = net.step(frame, state)
        scores = gathered(net, scores, o)
        for index, block in enumerate(state.blocks):
            rates[t, index] = (block.s != 0).double().mean()
    return scores, rates.t().cpu().numpy()  # one copy to the host, not one a step

"""What a network does on a data set: accuracy, spike rates, synaptic operations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ottt_loihi.data.description import Step
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.inputs import Input, frames
from ottt_loihi.nn.network import Network, evaluating
from ottt_loihi.training.encoding import encode, fit_encoding

TEST_ENCODING_SEED = 0  # test images are always the same spikes, whatever a network was trained with


@dataclass(frozen=True)
class Evaluation:
    """How a network does on a test set.

    accuracy: 0 … 1 · predictions: int64 ``(n,)`` · spike_rates: per block, spikes per neuron and time step ·
    rates_over_time: ``(blocks, T)``, the same at each step (the paper's figure 4) · synaptic_operations: per sample,
    additions of a weight that a spike causes, the input's spikes included where it has any
    """

    accuracy: float
    predictions: np.ndarray
    spike_rates: list[float]
    rates_over_time: np.ndarray
    synaptic_operations: float


def evaluate(
    net: Network,
    x: np.ndarray,
    y: np.ndarray,
    batch_size: int = 512,
    *,
    encoding: str | Step | None = None,
    time_steps: int | None = None,
) -> Evaluation:
    """Accuracy and activity on a test set.

    x: images ``(n, *input_shape)``, rate coded with ``seed=TEST_ENCODING_SEED`` or constant in time, or frames
    ``(n, T, *input_shape)`` · y: integers ``(n,)`` · time_steps: T of encoded images, default the network's; of frames,
    the first so many

    Raises
    ------
    UsageError
        for data that do not fit the network
    """
    x = np.asarray(x)
    coding, time_axis = fit_encoding(encoding, x.shape, net.input_shape)
    labels = net.check_labels(y, len(x)).cpu().numpy()
    steps = net.time_steps if time_steps is None else time_steps
    if steps < 1 or (time_steps is not None and time_axis and steps > x.shape[1]):
        raise UsageError(f"time_steps: expected 1 … {x.shape[1] if time_axis else '∞'}, got {steps}")
    x = x[:, :steps] if time_steps is not None and time_axis else x
    with evaluating(net):
        return _evaluate(net, x, labels, batch_size, coding, steps, time_axis)


@torch.no_grad()
def _evaluate(
    net: Network,
    x: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    coding: Step,
    steps: int,
    time_axis: bool,
) -> Evaluation:
    predictions, operations = [], 0.0
    activity: np.ndarray = np.zeros((len(net.blocks), 1))
    fan_out = net.fan_out()
    for first in range(0, len(x), batch_size):
        indices = np.arange(first, min(first + batch_size, len(x)))
        inputs = encode(x[indices], coding, steps, TEST_ENCODING_SEED, indices, time_axis)
        scores, rates = _scores_and_rates(net, net.check_input(inputs))
        predictions.append(scores.argmax(1).cpu().numpy())
        activity = activity + rates * len(indices)
        if coding.name != "constant":
            operations += float((inputs != 0).double().sum()) * fan_out[0]
    activity = activity / len(x)
    sizes = [int(np.prod(block.shape)) for block in net.blocks]
    per_sample = operations / len(x) + sum(n * f * r.sum() for n, f, r in zip(sizes, fan_out[1:], activity))
    predicted = np.concatenate(predictions)
    return Evaluation(
        float((predicted == labels).mean()), predicted, activity.mean(1).tolist(), activity, float(per_sample)
    )


def _scores_and_rates(net: Network, x: Input) -> tuple[Tensor, np.ndarray]:
    """Σ_t o[t], and the share of each block's neurons that fire at each step, ``(blocks, T)``."""
    scores, state = net.readout.weight.new_zeros(len(x), net.num_classes), None
    rates = scores.new_zeros((x.shape[1], len(net.blocks)), dtype=torch.float64)
    for t, frame in enumerate(frames(x)):
        o, state = net.step(frame, state)
        scores += o
        for index, block in enumerate(state.blocks):
            rates[t, index] = (block.s != 0).double().mean()
    return scores, rates.t().cpu().numpy()  # one copy to the host, not one a step

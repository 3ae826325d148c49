"""The order of actions of one sample, as data: a list of operations (operation, layer, time step).

A rule and a schedule give the list; one loop executes it, in NumPy (``reference.py``, the oracle) and compiled
(``kernels.py``). An option that is not chosen is not in the list. A new option is one operation here, one function in
``reference.py`` and one in ``kernels.py``.

Phased, the operations of one time step follow one another, and one learning epoch ends with it. Pipelined, one step of
Lava is one learning epoch, in which every layer works on another time step (``onchip/network/schedule.py``): layer l on
step − l − 1, and on the error of step − K + 1 (layer by layer: + l). What a connection receives in a step arrives in
the next, with the weights from before that step's learning.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ottt_loihi.sim.learning.network import LearningNetwork

Action = tuple["Op", int, int]


class Op(IntEnum):
    """An operation on a layer, or on a connection and the neurons behind it, in one time step."""

    START = 0  # forget the spikes, y1 and errors of the step before
    READ = 1  # the input's spikes of the time step
    RECEIVE = 2  # the sum that the connection makes of the spikes of its sources
    FIRE = 3  # u, v and spikes of hidden neurons
    ANSWER = 4  # v of the readout, and its scores
    COMPARE = 5  # the readout's error: its y1, and the error that it sends
    THIRD = 6  # the error that feedback brings to a hidden layer
    SEND = 7  # y1 of a hidden layer, and the error that it sends on
    MOVE_BIASES = 8  # biases by y1
    FOLLOW_NOISE = 9  # OPZO's feedback by the noise of the neurons and the readout's error
    DECAY_TRACE = 10  # the presynaptic traces at the end of the learning epoch; of current-based neurons both
    PROJECT = 11  # what the traces have outside HLOP's fixed rows, from which the weights learn
    UPDATE = 12  # weights by trace and y1; S-TLLR: by spikes and y2 as well; current-based neurons: by both traces
    UPDATE_TWIN = 13  # Kolen–Pollack: the feedback from this layer, by the same
    FOLLOW_TRACES = 14  # HLOP's other rows by the traces
    FORGET_TRACES = 15  # the presynaptic traces are 0
    NEXT_EPOCH = 16  # the learning epoch ends
    SEND_AFTER = 17  # S-TLLR: y2 of a hidden layer, of h of the step before; then h of this step
    RECEIVE_LOCAL = 18  # TESS: the sum that a hidden layer's class neurons make of its spikes
    COMPARE_LOCAL = 19  # their error
    THIRD_LOCAL = 20  # the error that they bring to their layer


def latency(hidden: int, layerwise: bool) -> int:
    """Return K, the Lava steps from a time step's input spikes to its last message, for so many hidden layers."""
    if not hidden:
        return 2
    return 2 * hidden + 2 if layerwise else hidden + 3


def program(network: LearningNetwork) -> np.ndarray:
    """Return the actions of one sample in their order, int64 ``(actions, 3)``: operation, layer, time step."""
    actions = _pipelined(network) if network.rule.schedule == "pipelined" else _phased(network)
    before = [] if network.rule.silent_epochs else [(Op.FORGET_TRACES, layer, 0) for layer in _plastic(network)]
    return np.array([*before, *actions, *_silent(network)], np.int64)


def _phased(network: LearningNetwork) -> Iterator[Action]:
    last = len(network.layers) - 1
    for t in range(network.num_steps):
        yield Op.READ, 0, t
        for layer in range(last):
            yield Op.RECEIVE, layer, t
            yield Op.FIRE, layer, t
        yield Op.RECEIVE, last, t
        yield from _answer(network, t)
        for layer in reversed(range(last)):
            if network.travels == "local":
                yield Op.RECEIVE_LOCAL, layer, t
                yield Op.COMPARE_LOCAL, layer, t
            yield Op.THIRD_LOCAL if network.travels == "local" else Op.THIRD, layer, t
            yield from _send(network, layer, t)
        yield from _learn(network, t)


def _pipelined(network: LearningNetwork) -> Iterator[Action]:
    last, steps, latency = len(network.layers) - 1, network.num_steps, network.latency
    for step in range(network.epochs_per_sample):
        yield Op.START, 0, step
        if step < steps:
            yield Op.READ, 0, step
        for layer in range(last):
            fired, answered = step - layer - 1, step - latency + 1 + layer * (network.travels == "layerwise")
            if network.travels == "local":
                answered = fired - 2
                if 0 <= fired - 1 < steps:
                    yield Op.COMPARE_LOCAL, layer, fired - 1
            if 0 <= fired < steps:
                yield Op.FIRE, layer, fired
            if 0 <= answered < steps:
                yield from _send(network, layer, answered)
        if 0 <= step - last - 1 < steps:
            yield from _answer(network, step - last - 1)
        for layer in range(last + 1):
            yield Op.RECEIVE, layer, step
        for layer in range(last):
            if network.travels == "local":
                yield Op.RECEIVE_LOCAL, layer, step
            yield Op.THIRD_LOCAL if network.travels == "local" else Op.THIRD, layer, step
        yield from _learn(network, step)


def _silent(network: LearningNetwork) -> Iterator[Action]:
    """Learning epochs without spikes after a sample, in which the traces decay."""
    for _ in range(network.rule.silent_epochs):
        yield Op.START, 0, network.num_steps
        for layer in _plastic(network):
            yield Op.DECAY_TRACE, layer, network.num_steps
        yield Op.NEXT_EPOCH, 0, network.num_steps


def _plastic(network: LearningNetwork) -> list[int]:
    return [layer for layer, part in enumerate(network.layers) if part.plastic]


def _answer(network: LearningNetwork, t: int) -> Iterator[Action]:
    """The readout's step and error."""
    last = len(network.layers) - 1
    yield Op.ANSWER, last, t
    yield Op.COMPARE, last, t
    if network.layers[last].bias is not None:
        yield Op.MOVE_BIASES, last, t


def _send(network: LearningNetwork, layer: int, t: int) -> Iterator[Action]:
    """Return the operations of a hidden layer on the error that has reached it."""
    part = network.layers[layer]
    yield Op.SEND, layer, t
    if part.after is not None:
        yield Op.SEND_AFTER, layer, t
    if part.bias is not None:
        yield Op.MOVE_BIASES, layer, t
    for op in () if part.feedback is None else part.feedback.operations:
        yield op, layer, t


def _learn(network: LearningNetwork, t: int) -> Iterator[Action]:
    """The end of a learning epoch."""
    for layer, part in enumerate(network.layers):
        if not part.plastic:
            continue
        below = network.layers[layer - 1].feedback if layer else None
        yield Op.DECAY_TRACE, layer, t
        if part.subspace is not None and part.subspace.fixed > 0:
            yield Op.PROJECT, layer, t
        yield Op.UPDATE, layer, t
        if below is not None and below.twin:
            yield Op.UPDATE_TWIN, layer, t
        if part.subspace is not None and part.subspace.fixed < len(part.subspace.rows):
            yield Op.FOLLOW_TRACES, layer, t
    yield Op.NEXT_EPOCH, 0, t

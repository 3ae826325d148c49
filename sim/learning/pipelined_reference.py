"""The pipelined schedule in plain NumPy: the oracle of ``sim/learning/pipelined_kernels.py``, step by step as Lava's
processes.

In step σ = 0 … T + K − 2 of a sample (``onchip/network/schedule.py``) layer l works on time step σ − l − 1, and the
error that reaches a hidden layer is of time step σ − K + 1 (layerwise: + l); what is outside 0 … T − 1 is not done.
Every connection hands over in step σ what it computed in step σ − 1, with the weights from before that step's learning.
"""

from __future__ import annotations

import numpy as np
from ottt_loihi.sim.learning import integers, losses
from ottt_loihi.sim.learning.learner import LearningNetwork
from ottt_loihi.sim.learning.reference import Layer, results


def run(
    network: LearningNetwork, layers: list[Layer], x: np.ndarray, labels: np.ndarray, gate: np.ndarray
) -> dict[str, np.ndarray]:
    """Learn from samples; the arguments are those of ``learning_reference.learn``, layers fresh."""
    *hidden, readout = layers
    frames, epoch, feedback = network.num_steps, 0, network.layers[0].feedback
    layerwise = feedback is None or feedback.kind == "kolen-pollack"
    back = [network.latency - 1 - layerwise * index for index in range(len(hidden))]
    scores, correct = np.zeros(network.classes, np.int64), 0
    for sample, label in enumerate(labels):
        for layer in layers:
            layer.begin_sample()
        scores[:] = 0
        halved = integers.halvings(sample * frames, network.halve_every * frames)
        currents = [np.zeros_like(layer.u) for layer in layers]
        thirds = [np.zeros(len(layer.u), np.int64) for layer in hidden]
        for step in range(network.epochs_per_sample):
            sent = [x[sample, step].astype(bool) if step < frames else np.zeros(x.shape[2], bool)]
            for index, layer in enumerate(layers):
                layer.y1 = layer.reward = layer.error = np.zeros_like(layer.v)
                layer.surrogate = np.full(len(layer.v), layer.readout)
                working = 0 <= step - index - 1 < frames
                s = layer.update(currents[index]) if working else np.zeros_like(layer.s)
                sent.append(s)
                if layer is readout and working:
                    scores += layer.v
                    if gate[sample] and losses.to_be_learnt(network.options.learn_when, scores, label):
                        layer.compare(label, network.unit, halved)
                        layer.learn_bias(step - index - 1)
                elif layer is not readout and 0 <= step - back[index] < frames:
                    layer.feed_back(thirds[index], halved)
                    layer.learn_bias(step - back[index])
            currents = [layer.receive(s) for layer, s in zip(layers, sent)]
            thirds = [layer.third_factor(above, readout) for layer, above in zip(hidden, layers[1:])]
            for layer in layers:
                layer.learn(epoch)
            for layer, above in zip(hidden, layers[1:]):
                layer.learn_twin(above, epoch)
            epoch += 1
        correct += int(scores.argmax() == label)
    return results(layers, scores, correct)

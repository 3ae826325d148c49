"""Learning in plain NumPy: slow, obvious, the oracle of ``sim/learning_kernels.py`` where Lava is not there.

The equations of ``onchip/processes/{neuron,readout,dense}.py`` and of Lava's learning engine (its
``LearningConnectionModelBitApproximate``), with the functions of ``sim/arithmetic.py`` and
``sim/learning_integers.py``.
"""

from __future__ import annotations

import numpy as np
from ottt_loihi.sim import arithmetic, subspace
from ottt_loihi.sim import learning_integers as integers
from ottt_loihi.sim.learning import LearningLayer, LearningNetwork, lava_trace_random, lava_weight_random


def learn(
    network: LearningNetwork, x: np.ndarray, labels: np.ndarray, gate: np.ndarray | bool = True
) -> dict[str, np.ndarray]:
    """Learn from samples; x: spikes 0 or 1 ``(n, T, inputs)``. Returns the same as ``Learner.variables()``."""
    steps, gate = network.num_steps, np.broadcast_to(gate, len(x))
    layers = [_Layer(part, network, len(x) * steps) for part in network.layers]
    *hidden, readout = layers
    scores, correct = np.zeros(network.classes, np.int64), 0
    for sample, (frames, label) in enumerate(zip(x, labels)):
        for layer in layers:
            layer.begin_sample()
        scores[:] = 0
        for t in range(steps):
            frame = sample * steps + t
            halved = integers.halvings(frame, network.halve_every * steps)
            s = frames[t].astype(bool)
            for layer in layers:
                s = layer.update(s)
            scores += readout.v
            readout.y1, readout.error = np.zeros_like(readout.v), np.zeros_like(readout.v)
            if gate[sample]:
                readout.compare(label, network.unit, halved)
            for layer, above in zip(hidden[::-1], layers[:0:-1]):
                layer.feed_back(above, readout, halved)
                layer.follow_noise(readout, frame)
            for layer in layers:
                layer.learn(frame)
            for layer, above in zip(hidden, layers[1:]):
                layer.learn_twin(above, frame)
        correct += int(scores.argmax() == label)
    found = {"readout[0].scores": scores, "readout[0].correct": np.array([correct])}
    for index, layer in enumerate(layers):
        found |= layer.variables(index, "readout[0]" if layer is readout else f"neuron[{index}]")
    return found


class _Layer:
    """A connection and the neurons behind it."""

    def __init__(self, part: LearningLayer, network: LearningNetwork, frames: int) -> None:
        self.part, self.network, self.readout = part, network, part is network.layers[-1]
        self.w = part.connection.weight.astype(np.int64)
        self.x1 = np.zeros(self.w.shape[1], np.int64)
        self.rng = integers.xorshift32_seeds(part.seed, part.layer.size)
        self.saturated = {"y1": 0, "error": 0}
        self.feedback = None if part.feedback is None else part.feedback.matrix.astype(np.int64)
        self.rows = None if part.subspace is None else part.subspace.rows
        self.noise, self.feedback_saturated = np.zeros(part.layer.size, np.int8), 0
        self.bias = arithmetic.effective_bias(part.layer.bias_mant.reshape(-1), part.layer.bias_exp)
        self.trace_random = lava_trace_random(part.trace_seed, network.epoch, 0, frames)
        self.weight_random = lava_weight_random(0, frames)
        tau = integers.trace_time_constant(part.decay, network.epoch)
        self.keep = np.exp(-1 / np.array([tau, integers.FOREVER]))[0]
        self.begin_sample()

    def begin_sample(self) -> None:
        self.u = self.part.layer.u_init.reshape(-1).astype(np.int32)
        self.v, self.error = np.zeros_like(self.u), np.zeros_like(self.u)
        self.s = np.zeros(len(self.u), bool)
        self.x1[:] = 0

    def update(self, pre: np.ndarray) -> np.ndarray:
        """u, v, s of one step (``sim.network.LIF``)."""
        part, self.pre = self.part, pre
        a = arithmetic.synaptic_input(self.w[:, pre].sum(axis=1), part.connection.weight_exp)
        if part.inhibition is not None:
            loop = part.inhibition
            a = a + arithmetic.synaptic_input(loop.weight * self.s.astype(np.int64), loop.weight_exp)
        self.u = arithmetic.current_step(np.zeros_like(self.u) if self.readout else self.u, a, part.layer.du)
        self.membrane = arithmetic.voltage_step(self.v, self.u, part.layer.dv, self.bias)
        compared = self.membrane
        if part.feedback is not None and part.feedback.noise:
            self.rng = integers.xorshift32(self.rng)
            self.noise = integers.noise_signs(self.rng)
            compared = compared + ((part.feedback.noise * self.noise.astype(np.int32)) << arithmetic.STATE_SHIFT)
        self.s = arithmetic.spikes(compared, part.layer.vth)
        self.v = np.where(self.s, 0, self.membrane).astype(np.int32)
        return self.s

    def compare(self, label: int, unit: int, halved: int) -> None:
        """``e = v − unit·[class = label]``: y1 and the error that is sent back."""
        e = self.v.astype(np.int64)
        e[label] -= unit << arithmetic.STATE_SHIFT
        self._send(-e, e, halved)

    def feed_back(self, above: _Layer, readout: _Layer, halved: int) -> None:
        """``g = third factor · [ |m − vth| < half_width ]``: y1 = −η·g and the error that is sent on."""
        if self.part.feedback is None:
            third = above.w.T @ above.error
        elif self.part.feedback.kind == "kolen-pollack":
            third = self.feedback.T @ above.error
        else:
            third = self.feedback @ readout.error
        vth, width = (x << arithmetic.STATE_SHIFT for x in (self.part.layer.vth, self.part.half_width))
        g = third.astype(np.int64) * (np.abs(self.membrane - vth) < width)
        self._send(-g, g, halved)

    def _send(self, y1: np.ndarray, error: np.ndarray, halved: int) -> None:
        mantissa, shift = self.part.y1
        self.y1 = self._rounded("y1", y1, mantissa, min(integers.MAX_SHIFT, shift + halved))
        if self.part.error is not None:
            self.error = self._rounded("error", error, *self.part.error)

    def _rounded(self, name: str, x: np.ndarray, mantissa: int, shift: int) -> np.ndarray:
        self.rng = integers.xorshift32(self.rng)
        scaled = integers.scale_stochastically(x, mantissa, shift, self.rng)
        rounded, outside = integers.saturate(scaled, integers.MESSAGE_MAX)
        self.saturated[name] += outside
        return rounded

    def learn(self, frame: int) -> None:
        """Decay the trace through the phases of the epoch; ``w += x1·y1 / 2^10``, rounded at random, clipped."""
        if not self.part.plastic:
            return
        if not self.part.decay:
            self.x1[:] = 0
        for phase in range(1, self.network.epoch + 1):
            exact = self.keep * self.x1
            floor = np.floor(exact)
            self.x1 = (floor + (self.trace_random[frame] < exact - floor)).astype(np.int64)
            if phase == self.part.pre_phase:
                self.x1 = np.minimum(self.x1 + self.part.impulse * self.pre, integers.TRACE_MAX)
        self.learnt_from = self.x1
        lateral = self.part.subspace
        if lateral is not None:
            self.learnt_from = subspace.projected(self.rows, lateral.fixed, self.x1)
            random = integers.synapse_hash(lateral.seed, frame, self.rows.shape)
            self.rows = subspace.moved(self.rows, lateral.fixed, lateral.shift, self.x1, random)
        self.w = self._learnt(self.w, frame, self.part.weight_seed)

    def _learnt(self, w: np.ndarray, frame: int, seed: int) -> np.ndarray:
        random: np.ndarray | int = self.weight_random[frame]
        if self.network.rounding == "per-synapse":
            random = 127 - integers.synapse_draws(seed, frame, w.shape).astype(np.int64)
        change = (self.learnt_from * self.y1.astype(np.int64)[:, np.newaxis]) >> integers.ENGINE_SHIFT
        return np.clip(((w << integers.FRACTION_BITS) + change + random) >> integers.FRACTION_BITS, -256, 255)

    def learn_twin(self, above: _Layer, frame: int) -> None:
        """Kolen–Pollack: the feedback learns as the connection to the layer above does."""
        feedback = self.part.feedback
        if feedback is not None and feedback.kind == "kolen-pollack" and above.part.plastic:
            self.feedback = above._learnt(self.feedback, frame, feedback.seed)

    def follow_noise(self, readout: _Layer, frame: int) -> None:
        """OPZO: ``M += (gain·z·eᵀ − M) / 2^averaging`` (``learning_integers.momentum_step``)."""
        feedback = self.part.feedback
        if feedback is None or feedback.kind != "opzo" or not readout.error.any():
            return
        random = integers.synapse_hash(feedback.seed, frame, self.feedback.shape)
        product = np.outer(self.noise.astype(np.int64), readout.error)
        moved = integers.momentum_step(self.feedback, product, *feedback.gain, feedback.averaging, random)
        self.feedback, outside = integers.saturate(moved, integers.MOMENTUM_MAX)
        self.feedback_saturated += outside

    def variables(self, index: int, process: str) -> dict[str, np.ndarray]:
        found = {f"plastic[{index}].{name}": value for name, value in (("weights", self.w), ("x1", self.x1))}
        found[f"plastic[{index}].y1"] = self.y1
        if self.rows is not None:
            found[f"plastic[{index}].rows"] = self.rows
        found |= {f"{process}.{name}": getattr(self, name) for name in ("v", "y1", "rng")}
        found |= {f"{process}.{name}_saturated": np.array([count]) for name, count in self.saturated.items()}
        if not self.readout:
            found |= {f"{process}.{name}": getattr(self, name) for name in "us"}
        if self.part.feedback is not None:
            found[f"feedback[{index}].weights"] = self.feedback
            found[f"feedback[{index}].noise"] = self.noise
            found[f"feedback[{index}].saturated"] = np.array([self.feedback_saturated])
        return found

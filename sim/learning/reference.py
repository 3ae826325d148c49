"""Learning in plain NumPy: slow, obvious, the oracle of ``sim/learning/kernels.py`` where Lava is not there.

The equations of ``onchip/lava/processes/{neuron,readout,dense}.py`` and of Lava's learning engine (its
``LearningConnectionModelBitApproximate``), with the functions of ``sim/arithmetic.py`` and
``sim/learning/integers.py``.
"""

from __future__ import annotations

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning import encodings, integers, losses, subspace
from ottt_loihi.sim.learning.learner import LearningLayer, LearningNetwork, lava_trace_random, lava_weight_random
from ottt_loihi.sim.network import Sparse


def learn(
    network: LearningNetwork, x: np.ndarray, labels: np.ndarray, gate: np.ndarray | bool = True
) -> dict[str, np.ndarray]:
    """Learn from samples; x: spikes 0 or 1 ``(n, T, inputs)``. Returns the same as ``Learner.variables()``."""
    steps, gate = network.num_steps, np.broadcast_to(gate, len(x))
    layers = [Layer(part, network, len(x) * network.epochs_per_sample) for part in network.layers]
    *hidden, readout = layers
    if network.options.schedule == "pipelined":
        from ottt_loihi.sim.learning.pipelined_reference import run

        return run(network, layers, x, labels, gate)
    scores, correct = np.zeros(network.classes, np.int64), 0
    for sample, (frames, label) in enumerate(zip(x, labels)):
        for layer in layers:
            layer.begin_sample()
        scores[:] = 0
        for t in range(steps):
            frame = sample * network.epochs_per_sample + t
            halved = integers.halvings(sample * steps + t, network.halve_every * steps)
            s = frames[t].astype(bool)
            for layer in layers:
                s = layer.update(layer.receive(s))
            scores += readout.v
            readout.y1 = readout.reward = readout.error = np.zeros_like(readout.v)
            if gate[sample] and losses.to_be_learnt(network.options.learn_when, scores, label):
                readout.compare(label, network.unit, halved)
                readout.learn_bias(t)
            for layer, above in zip(hidden[::-1], layers[:0:-1]):
                layer.feed_back(layer.third_factor(above, readout), halved)
                layer.learn_bias(t)
                layer.follow_noise(readout, frame)
            for layer in layers:
                layer.learn(frame)
            for layer, above in zip(hidden, layers[1:]):
                layer.learn_twin(above, frame)
        for frame in range(sample * network.epochs_per_sample + steps, (sample + 1) * network.epochs_per_sample):
            for layer in layers:
                layer.rest(frame)
        correct += int(scores.argmax() == label)
    return results(layers, scores, correct)


def results(layers: list[Layer], scores: np.ndarray, correct: int) -> dict[str, np.ndarray]:
    """The variables of all layers."""
    found = {"readout[0].scores": scores, "readout[0].correct": np.array([correct])}
    for index, layer in enumerate(layers):
        found |= layer.variables(index, "readout[0]" if layer.readout else f"neuron[{index}]")
    return found


class Layer:
    """A connection and the neurons behind it."""

    def __init__(self, part: LearningLayer, network: LearningNetwork, frames: int) -> None:
        self.part, self.network, self.readout = part, network, part is network.layers[-1]
        self.w = part.connection.matrix().astype(np.int64)
        self.synapses = part.connection.mask() if isinstance(part.connection, Sparse) else True
        self.x1 = np.zeros(self.w.shape[1], np.int64)
        self.rng = integers.xorshift32_seeds(part.seed, part.layer.size)
        self.saturated = {"y1": 0, "error": 0}
        self.feedback = None if part.feedback is None else part.feedback.matrix.astype(np.int64)
        self.rows = None if part.subspace is None else part.subspace.rows
        self.noise, self.feedback_saturated = np.zeros(part.layer.size, np.int8), 0
        self.bias = arithmetic.effective_bias(part.layer.bias_mant.reshape(-1), part.layer.bias_exp)
        self.u_init = part.layer.u_init.reshape(-1).astype(np.int32)
        self.trace_random = lava_trace_random(part.trace_seed, network.epoch, 0, frames)
        self.weight_random = lava_weight_random(0, frames)
        tau = integers.trace_time_constant(part.decay, network.epoch)
        self.keep = np.exp(-1 / np.array([tau, integers.FOREVER]))[0]
        self.begin_sample()

    def begin_sample(self) -> None:
        self.u = self.u_init.copy()
        self.v, self.error = np.zeros_like(self.u), np.zeros_like(self.u)
        self.surrogate = np.full(len(self.u), self.readout)
        self.s = np.zeros(len(self.u), bool)
        if not self.network.options.silent_epochs:
            self.x1[:] = 0

    def receive(self, pre: np.ndarray) -> np.ndarray:
        """What the connection makes of presynaptic spikes."""
        self.pre = pre
        return arithmetic.synaptic_input(self.w[:, pre].sum(axis=1), self.part.connection.weight_exp)

    def update(self, a: np.ndarray) -> np.ndarray:
        """u, v, s of one step (``sim.network.LIF``)."""
        part = self.part
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
        """The loss's error e (``learning_losses``): y1 and the error that is sent back."""
        e = losses.integer_error(self.network.options.loss, self.v, label, unit << arithmetic.STATE_SHIFT)
        self._send(e, e, halved)

    def third_factor(self, above: Layer, readout: Layer) -> np.ndarray:
        """The error that feedback brings."""
        if self.part.feedback is None:
            return above.w.T @ above.error
        if self.part.feedback.kind == "kolen-pollack":
            return self.feedback.T @ above.error
        return self.feedback @ readout.error

    def feed_back(self, third: np.ndarray, halved: int) -> None:
        """``g = third factor · [ |m − vth| < half_width ]``: y1 = −η·g and the error that is sent on."""
        vth, width = (x << arithmetic.STATE_SHIFT for x in (self.part.layer.vth, self.part.half_width))
        self.surrogate = np.abs(self.membrane - vth) < width
        third = third.astype(np.int64)
        self._send(third, third * self.surrogate, halved)

    def _send(self, delta: np.ndarray, g: np.ndarray, halved: int) -> None:
        """y1 of ``g = f(u)·delta``, the error sent on; ``factored``: f(u) and reward stay apart till the synapse."""
        mantissa, shift = self.part.y1
        encoding = self.network.options.encoding
        rounded_too = delta if encoding == "factored" else g
        shift = min(integers.MAX_SHIFT, shift + halved)
        self.reward = self._rounded("y1", -rounded_too, mantissa, shift, encodings.largest(encoding))
        self.y1 = self.reward * self.surrogate
        if self.part.error is not None:
            self.error = self._rounded("error", g, *self.part.error)

    def messages(self) -> dict[str, np.ndarray]:
        """By port, as the connection receives them."""
        return encodings.messages(self.network.options.encoding, self.y1, self.surrogate, self.reward)

    def _rounded(
        self, name: str, x: np.ndarray, mantissa: int, shift: int, largest: int = integers.MESSAGE_MAX
    ) -> np.ndarray:
        self.rng = integers.xorshift32(self.rng)
        scaled = integers.scale_stochastically(x, mantissa, shift, self.rng)
        rounded, outside = integers.saturate(scaled, largest)
        self.saturated[name] += outside
        return rounded

    def learn_bias(self, t: int) -> None:
        """``Δb = y1·Λ_t`` (``learning_bias``)."""
        if self.part.bias is None:
            return
        self.rng = integers.xorshift32(self.rng)
        change = self.part.bias.change(self.bias, self.y1, t, self.rng)
        self.bias = self.bias + change
        if self.part.bias.in_u:
            self.u, self.u_init = self.u - change, self.u_init - change

    def learn(self, frame: int) -> None:
        """Decay the trace through the phases of the epoch; ``w += x1·y1 / 2^10``, rounded at random, clipped."""
        if not self.part.plastic:
            return
        if not self.part.decay:
            self.x1[:] = 0
        for phase in range(1, self.network.epoch + 1):
            self._decay_trace(frame)
            if phase == self.part.pre_phase:
                self.x1 = np.minimum(self.x1 + self.part.impulse * self.pre, integers.TRACE_MAX)
        self.learnt_from = self.x1
        lateral = self.part.subspace
        if lateral is not None:
            self.learnt_from = subspace.projected(self.rows, lateral.fixed, self.x1)
            random = integers.synapse_hash(lateral.seed, frame, self.rows.shape)
            self.rows = subspace.moved(self.rows, lateral.fixed, lateral.shift, self.x1, random)
        self.w = self._learnt(self.w, frame, self.part.weight_seed)

    def rest(self, frame: int) -> None:
        """A learning epoch without spikes: the trace decays, and nothing is sent or learnt."""
        self.y1, self.reward, self.error = np.zeros_like(self.y1), np.zeros_like(self.y1), np.zeros_like(self.error)
        self.surrogate = np.full(len(self.u), self.readout)
        if not self.part.plastic:
            return
        if not self.part.decay:
            self.x1[:] = 0
        for _ in range(self.network.epoch):
            self._decay_trace(frame)

    def _decay_trace(self, frame: int) -> None:
        exact = self.keep * self.x1
        floor = np.floor(exact)
        self.x1 = (floor + (self.trace_random[frame] < exact - floor)).astype(np.int64)

    def _learnt(self, w: np.ndarray, frame: int, seed: int) -> np.ndarray:
        random: np.ndarray | int = self.weight_random[frame]
        if self.network.rounding == "per-synapse":
            random = 127 - integers.synapse_draws(seed, frame, w.shape).astype(np.int64)
        half = 0 if self.part.subspace is None else subspace.half(self.part.subspace.fixed)
        change = encodings.engine_change(self.network.options.encoding, self.learnt_from, self.messages(), half)
        w = np.clip(((w << integers.FRACTION_BITS) + change + random) >> integers.FRACTION_BITS, -256, 255)
        w = np.where(self.synapses, w, 0)
        options = self.network.options
        if integers.decays_after(frame, options.decay_every * self.network.epochs_per_sample):
            w = integers.decay_step(w, options.decay_shift, integers.decay_draws(seed, frame, w.shape))
        return w

    def learn_twin(self, above: Layer, frame: int) -> None:
        """Kolen–Pollack: the feedback learns as the connection to the layer above does."""
        feedback = self.part.feedback
        if feedback is not None and feedback.kind == "kolen-pollack" and above.part.plastic:
            self.feedback = above._learnt(self.feedback, frame, feedback.seed)

    def follow_noise(self, readout: Layer, frame: int) -> None:
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
        found |= {f"plastic[{index}].{port}": value for port, value in self.messages().items()}
        if self.rows is not None:
            found[f"plastic[{index}].rows"] = self.rows
        names = ("v", "y1", "rng") if self.part.bias is None else ("v", "y1", "rng", "bias")
        found |= {f"{process}.{name}": getattr(self, name) for name in names}
        found |= {f"{process}.{name}_saturated": np.array([count]) for name, count in self.saturated.items()}
        if not self.readout:
            names = ("u", "s") if self.part.bias is None else ("u", "s", "u_init")
            found |= {f"{process}.{name}": getattr(self, name) for name in names}
        if self.part.feedback is not None:
            found[f"feedback[{index}].weights"] = self.feedback
            found[f"feedback[{index}].noise"] = self.noise
            found[f"feedback[{index}].saturated"] = np.array([self.feedback_saturated])
        return found

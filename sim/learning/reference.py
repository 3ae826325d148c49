"""Learning in plain NumPy: slow, obvious, the oracle of ``sim/learning/kernels.py`` where Lava is not there.

One loop over the list of actions (``program.py``), a function for each operation, with the equations of
``onchip/lava/processes/{neuron,readout,plastic}.py`` and of Lava's learning engine (its
``LearningConnectionModelBitApproximate``) and the functions of ``sim/arithmetic.py`` and ``sim/learning/integers.py``.
"""

from __future__ import annotations

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning import eligibility, encodings, integers, local, losses, subspace, trial
from ottt_loihi.sim.learning.learner import lava_trace_random, lava_weight_random
from ottt_loihi.sim.learning.network import LearningLayer, LearningNetwork
from ottt_loihi.sim.learning.program import Op, program
from ottt_loihi.sim.learning.rule import SHARES
from ottt_loihi.sim.network import Sparse


def learn(
    network: LearningNetwork, x: np.ndarray, labels: np.ndarray, gate: np.ndarray | bool = True
) -> dict[str, np.ndarray]:
    """Learn from samples; x: spikes 0 or 1 ``(n, T, inputs)``. Return the same as ``Learner.variables()``."""
    run = Run(network, len(x))
    actions, gate = program(network), np.broadcast_to(gate, len(x))
    for sample, (spikes, label) in enumerate(zip(x, labels)):
        run.begin_sample(sample, spikes.astype(bool), int(label), bool(gate[sample]))
        for op, layer, t in actions:
            OPERATIONS[op](run, layer, t)
        run.trial[0] = run.scores.argmax()
        run.correct += int(run.trial[0] == label)
    return run.variables()


class Run:
    """The layers, and the spikes, currents and errors that have not arrived yet."""

    def __init__(self, network: LearningNetwork, samples: int) -> None:
        self.network = network
        self.layers = [Layer(part, network, samples * network.epochs_per_sample) for part in network.layers]
        self.scores, self.correct, self.epoch = np.zeros(network.classes, np.int64), 0, 0
        self.trial = trial.fresh_trial(network.rule.usual_mistakes)

    def begin_sample(self, sample: int, spikes: np.ndarray, label: int, gate: bool) -> None:
        """Every state as it is before a sample."""
        self.spikes, self.label, self.gate = spikes, label, gate
        rule = self.network.rule
        self.halved, self.slower = integers.halvings(sample, rule.halve_every), 0
        if rule.learn_when == "mistaken" and gate:
            self.trial = trial.judged(self.trial, label)
            self.gate = bool(self.trial[0] != label)
            self.slower = trial.halvings(self.trial[1], rule.usual_mistakes)
        self.scores[:] = 0
        for layer in self.layers:
            layer.begin_sample()
        self.sent = [np.zeros(len(layer.x1), bool) for layer in self.layers]
        self.currents = [np.zeros_like(layer.u) for layer in self.layers]
        self.thirds = [np.zeros(len(layer.u), np.int64) for layer in self.layers]

    def variables(self) -> dict[str, np.ndarray]:
        """The variables of all layers."""
        found = {"readout[0].scores": self.scores, "readout[0].correct": np.array([self.correct])}
        if self.network.rule.learn_when == "mistaken":
            found["readout[0].trial"] = self.trial
        for index, layer in enumerate(self.layers):
            found |= layer.variables(index, "readout[0]" if layer.readout else f"neuron[{index}]")
        return found


def start(run: Run, index: int, t: int) -> None:
    """Forget the spikes, y1 and errors of the step before."""
    run.sent = [np.zeros_like(s) for s in run.sent]
    for layer in run.layers:
        layer.y1 = layer.y2 = layer.reward = layer.error = np.zeros_like(layer.v)
        layer.surrogate = np.full(len(layer.v), layer.readout)
        layer.local_error = np.zeros(run.network.classes, np.int32)


def read(run: Run, index: int, t: int) -> None:
    """The input's spikes of a time step."""
    run.sent[0] = run.spikes[t]


def receive(run: Run, index: int, t: int) -> None:
    """The sum that a connection makes of the spikes of its sources."""
    run.currents[index] = run.layers[index].receive(run.sent[index])


def fire(run: Run, index: int, t: int) -> None:
    """u, v and spikes of hidden neurons."""
    run.sent[index + 1] = run.layers[index].update(run.currents[index])


def answer(run: Run, index: int, t: int) -> None:
    """v of the readout, and its scores."""
    run.layers[index].update(run.currents[index])
    run.scores += run.layers[index].v


def compare(run: Run, index: int, t: int) -> None:
    """The readout's error: its y1, and the error that it sends."""
    readout = run.layers[index]
    readout.y1 = readout.reward = readout.error = np.zeros_like(readout.v)
    if run.gate:
        readout.compare(run.label, run.network.logit_scale, run.halved, run.slower)


def third(run: Run, index: int, t: int) -> None:
    """The error that feedback brings to a hidden layer."""
    run.thirds[index] = run.layers[index].third_factor(run.layers[index + 1], run.layers[-1])


def send(run: Run, index: int, t: int) -> None:
    """y1 of a hidden layer, and the error that it sends on."""
    run.layers[index].feed_back(run.thirds[index], run.halved)


def move_biases(run: Run, index: int, t: int) -> None:
    """Biases by y1; the readout's only where it learns."""
    if run.gate or not run.layers[index].readout:
        run.layers[index].learn_bias(t)


def follow_noise(run: Run, index: int, t: int) -> None:
    """OPZO's feedback."""
    run.layers[index].follow_noise(run.layers[-1], run.epoch)


def decay_trace(run: Run, index: int, t: int) -> None:
    """The presynaptic traces at the end of a learning epoch."""
    run.layers[index].decay_trace(run.sent[index], run.epoch)


def project(run: Run, index: int, t: int) -> None:
    """Learn from the part of the traces outside HLOP's fixed rows."""
    layer = run.layers[index]
    layer.learnt_from = subspace.projected(layer.rows, layer.part.subspace.fixed, layer.x1)


def update(run: Run, index: int, t: int) -> None:
    """The weights of a connection."""
    layer = run.layers[index]
    layer.w = layer.learnt(layer.w, run.epoch, layer.part.weight_seed)


def update_twin(run: Run, index: int, t: int) -> None:
    """Kolen–Pollack: the feedback learns as the connection to the layer above does."""
    below = run.layers[index - 1]
    below.feedback = run.layers[index].learnt(below.feedback, run.epoch, below.part.feedback.seed)


def restore(run: Run, index: int, t: int) -> None:
    """The traces themselves."""
    run.layers[index].learnt_from = run.layers[index].x1


def follow_traces(run: Run, index: int, t: int) -> None:
    """HLOP's other rows."""
    layer, lateral = run.layers[index], run.layers[index].part.subspace
    random = integers.synapse_hash(lateral.seed, run.epoch, layer.rows.shape)
    layer.rows = subspace.moved(layer.rows, lateral.fixed, lateral.shift, layer.x1, random)


def next_epoch(run: Run, index: int, t: int) -> None:
    """The learning epoch ends."""
    run.epoch += 1


def forget_traces(run: Run, index: int, t: int) -> None:
    """The presynaptic traces are 0."""
    run.layers[index].x1[:] = 0
    run.layers[index].x2[:] = 0


def decay_slow(run: Run, index: int, t: int) -> None:
    """The slower traces at the end of a learning epoch."""
    layer = run.layers[index]
    layer.x2 = layer.decayed(layer.x2, run.sent[index], run.epoch, layer.keep_slow, layer.part.slow.impulse)


def send_after(run: Run, index: int, t: int) -> None:
    """S-TLLR: y2, and h of this step."""
    run.layers[index].look_back(run.thirds[index], run.halved)


def update_after(run: Run, index: int, t: int) -> None:
    """The weights of a connection, by both terms of S-TLLR's eligibility."""
    layer = run.layers[index]
    layer.w = layer.learnt(layer.w, run.epoch, layer.part.weight_seed, run.sent[index])


def twin_after(run: Run, index: int, t: int) -> None:
    """Kolen–Pollack's feedback by both terms."""
    below, layer = run.layers[index - 1], run.layers[index]
    below.feedback = layer.learnt(below.feedback, run.epoch, below.part.feedback.seed, run.sent[index])


def receive_local(run: Run, index: int, t: int) -> None:
    """TESS: twice B·s of a hidden layer."""
    run.layers[index].z = run.layers[index].feedback.T @ run.sent[index + 1].astype(np.int64)


def compare_local(run: Run, index: int, t: int) -> None:
    """The error of its class neurons."""
    layer = run.layers[index]
    found = local.errors(layer.z, run.label, *layer.part.feedback.gain)
    layer.local_error = found if run.gate else np.zeros_like(found)


def third_local(run: Run, index: int, t: int) -> None:
    """The error that class neurons bring to their layer."""
    run.thirds[index] = run.layers[index].feedback @ run.layers[index].local_error


OPERATIONS = {op: globals()[op.name.lower()] for op in Op}


class Layer:
    """A connection and the neurons behind it."""

    def __init__(self, part: LearningLayer, network: LearningNetwork, epochs: int) -> None:
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
        self.trace_random = lava_trace_random(part.trace_seed, network.epoch, 0, epochs)
        self.weight_random = lava_weight_random(0, epochs)
        tau = integers.trace_time_constant(part.decay, network.epoch)
        self.keep = np.exp(-1 / np.array([tau, integers.FOREVER]))[0]
        self.x2, self.keep_slow = np.zeros_like(self.x1), 0.0
        if part.slow is not None:
            tau = integers.trace_time_constant(part.slow.decay, network.epoch)
            self.keep_slow = np.exp(-1 / np.array([tau, integers.FOREVER]))[0]
        self.begin_sample()

    def begin_sample(self) -> None:
        self.u = self.u_init.copy()
        self.v, self.error = np.zeros_like(self.u), np.zeros_like(self.u)
        self.h, self.y2 = np.zeros_like(self.u), np.zeros_like(self.u)
        self.z, self.local_error = (np.zeros(self.network.classes, np.int64) for _ in range(2))
        self.surrogate = np.full(len(self.u), self.readout)
        self.s = np.zeros(len(self.u), bool)

    def receive(self, pre: np.ndarray) -> np.ndarray:
        """Return the current that presynaptic spikes cause."""
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

    def compare(self, label: int, logit_scale: int, halved: int, slower: int) -> None:
        """The loss's error e (``losses``): y1 and the error that is sent back, halved ``slower`` times."""
        e = losses.integer_error(self.network.rule.loss, self.v, label, logit_scale << arithmetic.STATE_SHIFT)
        self._send(e, e, halved + slower, slower)

    def third_factor(self, above: Layer, readout: Layer) -> np.ndarray:
        """The error that feedback brings."""
        if self.part.feedback is None:
            return above.w.T @ above.error
        return self.feedback.T @ above.error if self.part.feedback.layerwise else self.feedback @ readout.error

    def feed_back(self, third: np.ndarray, halved: int) -> None:
        """``g = third factor · [ |m − vth| < half_width ]``: y1 = −η·g and the error that is sent on."""
        vth, width = (x << arithmetic.STATE_SHIFT for x in (self.part.layer.vth, self.part.half_width))
        self.surrogate = np.abs(self.membrane - vth) < width
        third = third.astype(np.int64)
        self._send(third, third * self.surrogate, halved)

    def _send(self, delta: np.ndarray, g: np.ndarray, halved: int, slower: int = 0) -> None:
        """y1 of ``g = f(u)·delta``, the error sent on; ``factored``: f(u) and reward stay apart till the synapse."""
        mantissa, shift = self.part.y1
        encoding = self.network.rule.encoding
        rounded_too = delta if encoding == "factored" else g
        shift = min(integers.MAX_SHIFT, shift + halved)
        self.reward = self._rounded("y1", -rounded_too, mantissa, shift)
        self.y1 = self.reward * self.surrogate
        if self.part.error is not None:
            mantissa, shift = self.part.error
            self.error = self._rounded("error", g, mantissa, min(integers.MAX_SHIFT, shift + slower))

    def messages(self) -> dict[str, np.ndarray]:
        """Return the messages by port, as the connection receives them."""
        sent = encodings.messages(self.network.rule.encoding, self.y1, self.surrogate, self.reward)
        return sent if self.part.after is None else sent | {"y2": self.y2}

    def _rounded(self, name: str, x: np.ndarray, mantissa: int, shift: int) -> np.ndarray:
        self.rng = integers.xorshift32(self.rng)
        scaled = integers.scale_stochastically(x, mantissa, shift, self.rng)
        rounded, outside = integers.saturate(scaled, integers.MESSAGE_MAX)
        self.saturated[name] += outside
        return rounded

    def look_back(self, third: np.ndarray, halved: int) -> None:
        """y2 of h[t − 1], then h[t] (``eligibility``)."""
        part, self.y2 = self.part.after, eligibility.message(self.h)
        if self.network.rule.encoding == "signed":
            mantissa, shift = part.y2
            product = -part.sign * third.astype(np.int64) * self.y2
            self.y2 = self._rounded("y1", product, mantissa, min(integers.MAX_SHIFT, shift + halved))
        self.h = eligibility.moved(self.h, self.surrogate, part.keep, part.impulse)

    def learn_bias(self, t: int) -> None:
        """``Δb = y1·Λ_t`` (``bias``)."""
        self.rng = integers.xorshift32(self.rng)
        change = self.part.bias.change(self.bias, self.y1, t, self.rng)
        self.bias = self.bias + change
        if self.part.bias.in_u:
            self.u, self.u_init = self.u - change, self.u_init - change

    def decay_trace(self, pre: np.ndarray, epoch: int) -> None:
        """Decay the trace through the phases of the epoch, with the impulse of the presynaptic spikes in theirs."""
        if not self.part.decay:
            self.x1[:] = 0
        self.x1 = self.learnt_from = self.decayed(self.x1, pre, epoch, self.keep, self.part.impulse)

    def decayed(self, x: np.ndarray, pre: np.ndarray, epoch: int, keep: float, impulse: int) -> np.ndarray:
        """Return traces after an epoch."""
        for phase in range(1, self.network.epoch + 1):
            exact = keep * x
            floor = np.floor(exact)
            x = (floor + (self.trace_random[epoch] < exact - floor)).astype(np.int64)
            if phase == self.part.pre_phase:
                x = np.minimum(x + impulse * pre, integers.TRACE_MAX)
        return x

    def learnt(self, w: np.ndarray, epoch: int, seed: int, spikes: np.ndarray | None = None) -> np.ndarray:
        """``w += x1·y1 / 2^10``, rounded at random, clipped; 0 where no synapse is. spikes: x0, of S-TLLR."""
        random: np.ndarray | int = self.weight_random[epoch]
        if share := SHARES[self.network.rule.rounding]:
            random = 127 - integers.synapse_draws(seed, epoch, w.shape, share).astype(np.int64)
        half = 0 if self.part.subspace is None else subspace.half(self.part.subspace.fixed)
        change = encodings.engine_change(self.network.rule.encoding, self.learnt_from, self.messages(), half)
        total = (w << integers.FRACTION_BITS) + change
        if self.part.slow is not None:
            sent = encodings.messages(self.network.rule.encoding, -self.y1, self.surrogate, -self.reward)
            slow = encodings.engine_change(self.network.rule.encoding, self.x2, self.messages())
            total = np.clip((w << integers.FRACTION_BITS) + slow, *eligibility.ACCUMULATOR)
            fast = encodings.engine_change(self.network.rule.encoding, self.learnt_from, sent)
            total = np.clip(total + fast, *eligibility.ACCUMULATOR)
        elif spikes is not None:
            second = eligibility.second_product(self.network.rule.encoding, self.y2, self.reward, self.part.after)
            total = eligibility.accumulated(w, change, second, spikes)
        w = np.clip((total + random) >> integers.FRACTION_BITS, -256, 255)
        return np.where(self.synapses, w, 0)

    def follow_noise(self, readout: Layer, epoch: int) -> None:
        """OPZO: ``M += (gain·z·eᵀ − M) / 2^averaging`` (``integers.momentum_step``)."""
        feedback = self.part.feedback
        if not readout.error.any():
            return
        random = integers.synapse_hash(feedback.seed, epoch, self.feedback.shape)
        product = np.outer(self.noise.astype(np.int64), readout.error)
        moved = integers.momentum_step(self.feedback, product, *feedback.gain, feedback.averaging, random)
        self.feedback, outside = integers.saturate(moved, integers.MOMENTUM_MAX)
        self.feedback_saturated += outside

    def variables(self, index: int, process: str) -> dict[str, np.ndarray]:
        found = {f"plastic[{index}].{name}": value for name, value in (("weights", self.w), ("x1", self.x1))}
        found |= {f"plastic[{index}].{port}": value for port, value in self.messages().items()}
        if self.rows is not None:
            found[f"plastic[{index}].rows"] = self.rows
        if self.part.slow is not None:
            found[f"plastic[{index}].x2"] = self.x2
        names = ("v", "y1", "rng") if self.part.bias is None else ("v", "y1", "rng", "bias")
        found |= {f"{process}.{name}": getattr(self, name) for name in names}
        found |= {f"{process}.{name}_saturated": np.array([count]) for name, count in self.saturated.items()}
        if not self.readout:
            names = ("u", "s") if self.part.bias is None else ("u", "s", "u_init")
            names += () if self.part.after is None else ("h",)
            found |= {f"{process}.{name}": getattr(self, name) for name in names}
        if self.part.feedback is not None:
            found[f"feedback[{index}].weights"] = self.feedback
            found[f"feedback[{index}].noise"] = self.noise
            found[f"feedback[{index}].saturated"] = np.array([self.feedback_saturated])
        return found

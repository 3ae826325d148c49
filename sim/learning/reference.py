"""Learning in plain NumPy: slow, obvious, the oracle of ``sim/learning/kernels.py`` where Lava is not there.

One loop over the list of actions, a function for each operation (described where ``program.Op`` lists it), with the
equations of
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
        """Set every state to its value before a sample."""
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
            found |= layer.variables(index)
        return found


def start(run: Run, index: int, t: int) -> None:
    run.sent = [np.zeros_like(s) for s in run.sent]
    for layer in run.layers:
        layer.y1 = layer.y2 = layer.reward = layer.error = np.zeros_like(layer.v)
        layer.surrogate = np.full(len(layer.v), layer.readout)
        layer.local_error = np.zeros(run.network.classes, np.int32)


def read(run: Run, index: int, t: int) -> None:
    run.sent[0] = run.spikes[t]


def receive(run: Run, index: int, t: int) -> None:
    layer = run.layers[index]
    total = layer.w[:, run.sent[index]].sum(axis=1)
    run.currents[index] = arithmetic.synaptic_input(total, layer.part.connection.weight_exp)


def fire(run: Run, index: int, t: int) -> None:
    layer, a = run.layers[index], run.currents[index]
    loop, feedback, noise = layer.part.inhibition, layer.part.feedback, 0
    if loop is not None:
        a = a + arithmetic.synaptic_input(loop.weight * layer.s.astype(np.int64), loop.weight_exp)
    if feedback is not None and feedback.noise:
        layer.rng = integers.xorshift32(layer.rng)
        layer.noise = integers.noise_signs(layer.rng)
        noise = (feedback.noise * layer.noise.astype(np.int32)) << arithmetic.STATE_SHIFT
    layer.advance(a, noise)
    run.sent[index + 1] = layer.s


def answer(run: Run, index: int, t: int) -> None:
    run.layers[index].advance(run.currents[index])
    run.scores += run.layers[index].v


def compare(run: Run, index: int, t: int) -> None:
    readout, network = run.layers[index], run.network
    readout.y1 = readout.reward = readout.error = np.zeros_like(readout.v)
    if run.gate:
        target = network.logit_scale << arithmetic.STATE_SHIFT
        e = losses.integer_error(network.rule.loss, readout.v, run.label, target)
        readout.send(e, e, run.halved + run.slower, run.slower)


def third(run: Run, index: int, t: int) -> None:
    layer, above = run.layers[index], run.layers[index + 1]
    if layer.part.feedback is None:
        run.thirds[index] = above.w.T @ above.error
    elif layer.part.feedback.layerwise:
        run.thirds[index] = layer.feedback.T @ above.error
    else:
        run.thirds[index] = layer.feedback @ run.layers[-1].error


def send(run: Run, index: int, t: int) -> None:
    """y1 of a hidden layer, and the error that it sends on: ``g = third factor · [ |m − vth| < half_width ]``."""
    layer, delta = run.layers[index], run.thirds[index].astype(np.int64)
    vth, width = (x << arithmetic.STATE_SHIFT for x in (layer.part.layer.vth, layer.part.half_width))
    layer.surrogate = np.abs(layer.membrane - vth) < width
    layer.send(delta, delta * layer.surrogate, run.halved)


def move_biases(run: Run, index: int, t: int) -> None:
    """Biases by y1 (``bias``); the readout's only where it learns."""
    layer = run.layers[index]
    if layer.readout and not run.gate:
        return
    layer.rng = integers.xorshift32(layer.rng)
    change = layer.part.bias.change(layer.bias, layer.y1, t, layer.rng)
    layer.bias = layer.bias + change
    if layer.part.bias.in_u:
        layer.u, layer.u_init = layer.u - change, layer.u_init - change


def follow_noise(run: Run, index: int, t: int) -> None:
    """OPZO's feedback: ``M += (gain·z·eᵀ − M) / 2^averaging`` (``integers.momentum_step``)."""
    layer, error, part = run.layers[index], run.layers[-1].error, run.layers[index].part.feedback
    if error.any():
        random = integers.synapse_hash(part.seed, run.epoch, layer.feedback.shape)
        product = np.outer(layer.noise.astype(np.int64), error)
        moved = integers.momentum_step(layer.feedback, product, *part.gain, part.averaging, random)
        layer.feedback, outside = integers.saturate(moved, integers.MOMENTUM_MAX)
        layer.saturated["feedback"] += outside


def decay_trace(run: Run, index: int, t: int) -> None:
    layer = run.layers[index]
    before = layer.x1 if layer.part.decay else np.zeros_like(layer.x1)
    layer.x1 = layer.decayed(before, run.sent[index], run.epoch, layer.part.decay, layer.part.impulse)
    layer.learnt_from = layer.x1
    if layer.part.slow is not None:
        layer.x2 = layer.decayed(layer.x2, run.sent[index], run.epoch, *layer.part.slow)


def project(run: Run, index: int, t: int) -> None:
    """Learn from the part of the traces outside HLOP's fixed rows."""
    layer = run.layers[index]
    layer.learnt_from = subspace.projected(layer.rows, layer.part.subspace.fixed, layer.x1)


def update(run: Run, index: int, t: int) -> None:
    layer = run.layers[index]
    layer.w = layer.learnt(layer.w, run.epoch, layer.part.weight_seed, run.sent[index])


def update_twin(run: Run, index: int, t: int) -> None:
    """Kolen–Pollack: the feedback learns as the connection to the layer above does."""
    below, layer = run.layers[index - 1], run.layers[index]
    below.feedback = layer.learnt(below.feedback, run.epoch, below.part.feedback.seed, run.sent[index])


def follow_traces(run: Run, index: int, t: int) -> None:
    layer, lateral = run.layers[index], run.layers[index].part.subspace
    random = integers.synapse_hash(lateral.seed, run.epoch, layer.rows.shape)
    layer.rows = subspace.moved(layer.rows, lateral.fixed, lateral.shift, layer.x1, random)


def next_epoch(run: Run, index: int, t: int) -> None:
    run.epoch += 1


def forget_traces(run: Run, index: int, t: int) -> None:
    run.layers[index].x1[:] = 0
    run.layers[index].x2[:] = 0


def send_after(run: Run, index: int, t: int) -> None:
    """S-TLLR: y2 of h[t − 1], then h[t] (``eligibility``)."""
    layer, part = run.layers[index], run.layers[index].part.after
    layer.y2 = eligibility.message(layer.h)
    if run.network.rule.encoding == "signed":
        product = -part.sign * run.thirds[index].astype(np.int64) * layer.y2
        layer.y2 = layer.rounded("y1", product, part.y2, run.halved)
    layer.h = eligibility.moved(layer.h, layer.surrogate, part.keep, part.impulse)


def receive_local(run: Run, index: int, t: int) -> None:
    run.layers[index].z = run.layers[index].feedback.T @ run.sent[index + 1].astype(np.int64)


def compare_local(run: Run, index: int, t: int) -> None:
    layer = run.layers[index]
    found = local.errors(layer.z, run.label, *layer.part.feedback.gain)
    layer.local_error = found if run.gate else np.zeros_like(found)


def third_local(run: Run, index: int, t: int) -> None:
    run.thirds[index] = run.layers[index].feedback @ run.layers[index].local_error


OPERATIONS = {op: globals()[op.name.lower()] for op in Op}


class Layer:
    """The state of a connection and of the neurons behind it."""

    def __init__(self, part: LearningLayer, network: LearningNetwork, epochs: int) -> None:
        self.part, self.network, self.readout = part, network, part is network.layers[-1]
        self.w = part.connection.matrix().astype(np.int64)
        self.synapses = part.connection.mask() if isinstance(part.connection, Sparse) else True
        self.x1, self.x2 = (np.zeros(self.w.shape[1], np.int64) for _ in range(2))
        self.rng = integers.xorshift32_seeds(part.seed, part.layer.size)
        self.saturated = {"y1": 0, "error": 0, "feedback": 0}
        self.feedback = None if part.feedback is None else part.feedback.matrix.astype(np.int64)
        self.rows = None if part.subspace is None else part.subspace.rows
        self.noise = np.zeros(part.layer.size, np.int8)
        self.bias = part.layer.effective_bias
        self.u_init = part.layer.u_init.reshape(-1).astype(np.int32)
        self.trace_random = lava_trace_random(part.trace_seed, network.epoch, 0, epochs)
        self.weight_random = lava_weight_random(0, epochs)
        self.begin_sample()

    def begin_sample(self) -> None:
        self.u = self.u_init.copy()
        self.v, self.error, self.h, self.y2 = (np.zeros_like(self.u) for _ in range(4))
        self.z, self.local_error = (np.zeros(self.network.classes, np.int64) for _ in range(2))
        self.surrogate = np.full(len(self.u), self.readout)
        self.s = np.zeros(len(self.u), bool)

    def advance(self, a: np.ndarray, noise: np.ndarray | int = 0) -> None:
        """Set u, v, s of one step (``sim.network.LIF``). Noise is added to v for the comparison with the threshold."""
        lif = self.part.layer
        self.u = arithmetic.current_step(self.u, a, lif.du)
        self.membrane = arithmetic.voltage_step(self.v, self.u, lif.dv, self.bias)
        self.s = arithmetic.spikes(self.membrane + noise, lif.vth)
        self.v = np.where(self.s, 0, self.membrane).astype(np.int32)

    def send(self, delta: np.ndarray, g: np.ndarray, halved: int, slower: int = 0) -> None:
        """Set y1 of ``g = f(u)·delta``, and the error sent on. ``factored``: the synapse multiplies both factors."""
        rounded_too = delta if self.network.rule.encoding == "factored" else g
        self.reward = self.rounded("y1", -rounded_too, self.part.y1, halved)
        self.y1 = self.reward * self.surrogate
        if self.part.error is not None:
            self.error = self.rounded("error", g, self.part.error, slower)

    def rounded(self, name: str, x: np.ndarray, scale: tuple[int, int], halved: int) -> np.ndarray:
        """Return a message, int32: x by a scale that is halved so often, rounded at random and clipped."""
        found, outside, self.rng = integers.message(x, scale, halved, self.rng)
        self.saturated[name] += outside
        return found

    def messages(self, sign: int = 1) -> dict[str, np.ndarray]:
        """Return the messages by port, as the connection receives them; sign −1: of the opposite error."""
        sent = encodings.messages(self.network.rule.encoding, sign * self.y1, self.surrogate, sign * self.reward)
        return sent if self.part.after is None else sent | {"y2": self.y2}

    def decayed(self, x: np.ndarray, pre: np.ndarray, epoch: int, decay: float, impulse: int) -> np.ndarray:
        """Return traces after an epoch: they decay in each of its phases; presynaptic spikes add to them in theirs."""
        keep = integers.kept_per_step(decay, self.network.epoch)
        for phase in range(1, self.network.epoch + 1):
            exact = keep * x
            floor = np.floor(exact)
            x = (floor + (self.trace_random[epoch] < exact - floor)).astype(np.int64)
            if phase == self.part.pre_phase:
                x = np.minimum(x + impulse * pre, integers.TRACE_MAX)
        return x

    def learnt(self, w: np.ndarray, epoch: int, seed: int, spikes: np.ndarray) -> np.ndarray:
        """Return ``w + x1·y1 / 2^10`` (or with a second product), rounded at random, clipped; 0 without a synapse."""
        encoding, part = self.network.rule.encoding, self.part
        random: np.ndarray | int = self.weight_random[epoch]
        if share := SHARES[self.network.rule.rounding]:
            random = 127 - integers.synapse_draws(seed, epoch, w.shape, share).astype(np.int64)
        half = integers.HALF if part.subspace is not None and part.subspace.fixed else 0
        trace = self.learnt_from if part.slow is None else self.x2
        first = encodings.engine_change(encoding, trace, self.messages(), half)
        total = (w << integers.FRACTION_BITS) + first
        if part.slow is not None:
            fast = encodings.engine_change(encoding, self.x1, self.messages(-1))
            total = np.clip(np.clip(total, *eligibility.ACCUMULATOR) + fast, *eligibility.ACCUMULATOR)
        elif part.after is not None:
            second = eligibility.second_product(encoding, self.y2, self.reward, part.after)
            total = eligibility.accumulated(w, first, second, spikes)
        w = np.clip((total + random) >> integers.FRACTION_BITS, -256, 255)
        return np.where(self.synapses, w, 0)

    def variables(self, index: int) -> dict[str, np.ndarray]:
        """Return the variables of the processes, named as in ``Learner.variables``."""
        learns_bias, hidden = self.part.bias is not None, not self.readout
        connection = {"weights": self.w, "x1": self.x1, **self.messages()}
        connection |= {} if self.rows is None else {"rows": self.rows}
        connection |= {} if self.part.slow is None else {"x2": self.x2}
        names = ["v", "y1", "rng", *(["bias"] if learns_bias else [])]
        if hidden:
            names += ["u", "s", *(["u_init"] if learns_bias else []), *(["h"] if self.part.after else [])]
        neurons = {name: getattr(self, name) for name in names}
        neurons |= {f"{name}_saturated": np.array([self.saturated[name]]) for name in ("y1", "error")}
        found = {f"plastic[{index}]": connection, f"neuron[{index}]" if hidden else "readout[0]": neurons}
        if self.part.feedback is not None:
            count = np.array([self.saturated["feedback"]])
            found[f"feedback[{index}]"] = {"weights": self.feedback, "noise": self.noise, "saturated": count}
        return {f"{process}.{name}": value for process, those in found.items() for name, value in those.items()}

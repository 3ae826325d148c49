"""Hidden neurons, what they have in common with the readout, and the neurons of a frozen backbone."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from ottt_loihi.onchip.lava import model_of
from ottt_loihi.onchip.network.schedule import Clock, Turn
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning import eligibility, encodings, integers
from ottt_loihi.sim.learning.network import LearningLayer
from ottt_loihi.sim.learning.rule import Rule
from ottt_loihi.sim.network import LIF


class Sender:
    """The Process of neurons whose error becomes y1 and messages; mixed in before Lava's class.

    Parameters
    ----------
    part
        the layer: neurons, scales of y1 and of the error message, learning of biases, seed of the stochastic rounding;
        in floating point scales are numbers (``onchip/lava/float_graph.py``)
    rule
        encoding of y1, and when rates are halved
    update
        when the neurons act
    parameters
        those of a subclass's models
    """

    _runtime = None  # Lava's __del__ looks for it, even when __init__ refused its arguments

    def __init__(self, *, part: LearningLayer, rule: Rule, update: Turn, name: str, **parameters: Any) -> None:
        super().__init__(part=part, rule=rule, update=update, name=name, **parameters)
        shape = (part.layer.size,)
        self.a_in = InPort(shape=shape)
        self.s_out_y1 = OutPort(shape=shape)
        self.s_out_y2 = OutPort(shape=shape)
        self.s_out_y3 = OutPort(shape=shape)
        self.error_out = OutPort(shape=shape)

        self.v = Var(shape=shape, init=0)
        self.y1 = Var(shape=shape, init=0)
        self.reward = Var(shape=shape, init=0)
        self.error = Var(shape=shape, init=0)
        self.bias = Var(shape=shape, init=part.layer.effective_bias)
        self.rng = Var(shape=shape, init=integers.xorshift32_seeds(part.seed, part.layer.size))
        self.y1_saturated = Var(shape=(1,), init=0)
        self.error_saturated = Var(shape=(1,), init=0)


class SenderModel(Clock):
    """The ProcessModel in any arithmetic. A subclass has ``message_of_reward`` (of δ: −η·δ) and ``message_of_error``.

    Attributes
    ----------
    STATE
        units of the state in a unit of the threshold
    ONE
        y1 of a surrogate of 1 (``encodings.messages``)
    """

    PARAMETERS: tuple[str, ...] = ("part", "rule", "update")
    BITS: ClassVar = {24: "a_in v bias", 7: "s_out_y1 s_out_y2 s_out_y3 y1 reward", 8: "error_out error"}
    rng: np.ndarray = LavaPyType(np.ndarray, np.uint32)
    y1_saturated: np.ndarray = LavaPyType(np.ndarray, np.int64)
    error_saturated: np.ndarray = LavaPyType(np.ndarray, np.int64)
    STATE: int
    ONE: int
    second: np.ndarray | None = None  # S-TLLR's y2, of neurons that have h

    def begins_epoch(self) -> bool:
        """Whether a learning epoch begins in this step; the messages of the one before are cleared then."""
        begins = (self.time_step - 1) % self._update.epoch == 0
        if begins:
            self.y1, self.reward = np.zeros_like(self.y1), np.zeros_like(self.reward)
            self.error = np.zeros_like(self.error)
        return begins

    def send(self, surrogate: np.ndarray, error: bool) -> None:
        """Send y1 in its encoding, and the error if this is its step."""
        sent = encodings.messages(self._rule.encoding, self.y1, surrogate, self.reward, self.ONE)
        if self.second is not None:
            sent["y2"] = self.second
        for port, message in sent.items():
            getattr(self, "s_out_" + port).send(message)
        self.error_out.send(self.error if error else np.zeros_like(self.error))


class SenderModelFloat(SenderModel):
    STATE = ONE = 1

    def message_of_reward(self, delta: np.ndarray, halvings: int) -> np.ndarray:
        return -delta * self._part.y1 * 0.5**halvings

    def message_of_error(self, error: np.ndarray, halvings: int = 0) -> np.ndarray:
        return error * self._part.error * 0.5**halvings

    def bias_change(self, t: int) -> np.ndarray:
        """Return by how much the biases change in time step t."""
        return self._part.bias.gains[t] * self.y1


class SenderModelFixed(SenderModel):
    STATE = 1 << arithmetic.STATE_SHIFT
    ONE = encodings.SURROGATE

    def rounded(self, x: np.ndarray, scale: tuple[int, int], halvings: int, counter: np.ndarray) -> np.ndarray:
        """Return ``integers.message``; counter counts the values beyond."""
        found, outside, self.rng = integers.message(x, scale, halvings, self.rng)
        counter += outside
        return found

    def message_of_reward(self, delta: np.ndarray, halvings: int) -> np.ndarray:
        return self.rounded(-delta, self._part.y1, halvings, self.y1_saturated)

    def message_of_error(self, error: np.ndarray, halvings: int = 0) -> np.ndarray:
        return self.rounded(error, self._part.error, halvings, self.error_saturated)

    def bias_change(self, t: int) -> np.ndarray:
        """Return by how much the biases change in time step t."""
        self.rng = integers.xorshift32(self.rng)
        return self._part.bias.change(self.bias, self.y1, t, self.rng)


class OTTTNeuron(Sender, AbstractProcess):
    """A layer of LIF neurons with surrogate × error, acting once per learning epoch of K Lava steps.

    ::

        in turn ``update``:      a = a_in + (inhibition·s[t−1] << weight_exp)
                                 u, v, s as sim.network.LIF; v before its reset is kept as m
                                 with noise: s = (m + noise·z > vth), z = ±1 at random; z is sent on noise_out
        in turn ``feedback``:    g  = a_third_factor_in · [ |m − vth| < half_width ]
                                 y1 = saturate( −g·y1_scale )      error_out = saturate( g·error_scale )
        until the epoch ends:    y1 is sent, zero before
        first time step:         u = u_init, v = 0, s = 0

    The rectangle has height 1 (Rectangle in ``ottt_loihi/nn/surrogates.py``: half_width = Vth). ``inhibition`` −λ·vth
    is the reset by subtraction, one step later, of a membrane that lives in u (``sim/network.py``). Noise is OPZO's,
    on the comparison alone. S-TLLR's h and its message are those of ``sim/learning/eligibility.py``. The scales, per
    unit of the third factor, are ``part.y1``, with η in it, and ``part.error``, for layerwise feedback.

    Parameters
    ----------
    part, rule, update, name
        as in :class:`Sender`
    feedback
        when the error reaches the neuron (``onchip/network/schedule.py``)
    mean
        λ or None; OTPE, floating point: the error goes down as ḡ·δ in place of f·δ, ḡ the mean of f with the weights
        λ^(t−τ)

    Notes
    -----
    Vars: u, v, s; membrane: m; y1, reward (y1 before the surrogate), error; h; rng: uint32 xorshift states;
    y1_saturated, error_saturated: counts.
    The fixed-point model computes in integers only: the state is 64 times the units of vth, the rectangle is a
    comparison, the scales are a 12-bit mantissa and a shift with stochastic rounding (``sim/learning/integers.py``).
    """

    def __init__(self, *, part: LearningLayer, feedback: Turn, mean: float | None = None, **common: Any) -> None:
        super().__init__(part=part, feedback=feedback, mean=mean, **common)
        shape, u_init = (part.layer.size,), part.layer.u_init.reshape(-1)
        self.a_third_factor_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.noise_out = OutPort(shape=shape)

        self.u = Var(shape=shape, init=u_init)
        self.s = Var(shape=shape, init=0)
        self.membrane = Var(shape=shape, init=0)
        self.u_init = Var(shape=shape, init=u_init)
        self.h = Var(shape=shape, init=0)


class OTTTNeuronBehaviour:
    """Call the arithmetic of a model in the Lava steps in which the neuron acts; mixed in before the sender's."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, bool)
    noise_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int8)
    s: np.ndarray = LavaPyType(np.ndarray, bool)
    PARAMETERS = (*SenderModel.PARAMETERS, "feedback", "mean")
    BITS: ClassVar = {24: "a_third_factor_in u membrane u_init h"}

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self._silence: np.ndarray | None = None
        self._surrogate: np.ndarray | None = None
        self._noise = 0 if self._part.feedback is None else self._part.feedback.noise

    def run_spk(self) -> None:
        updated, learnt = self._update.time_step_at(self.time_step), self._feedback.time_step_at(self.time_step)
        a, third_factor = self.a_in.recv(), self.a_third_factor_in.recv()
        if self.begins_epoch():
            self._silence = self._surrogate = np.zeros_like(self.s)
            if self._part.after is not None:
                self.second = np.zeros_like(self.y1)
        spikes, noise = self._silence, np.zeros(self.s.shape, np.int8)
        if updated is not None:
            if updated[1] == 0:
                self.u, self.v, self.s = self.u_init.copy(), np.zeros_like(self.v), np.zeros_like(self.s)
                self.h = np.zeros_like(self.h)
            if self._noise:
                self.rng = integers.xorshift32(self.rng)
                noise = integers.noise_signs(self.rng)
            self.update(a, self._noise * noise.astype(self.membrane.dtype))
            spikes = self.s
        if learnt is not None:
            sample, t = learnt
            halvings = integers.halvings(sample, self._rule.halve_every)
            self.learn(third_factor, halvings)
            if self._part.after is not None:
                self.look_back(third_factor, halvings)
            if self._mean is not None:
                self.send_down_the_mean(third_factor, t)
            if self._part.bias is not None:
                self._learn_bias(t)
        self.s_out.send(spikes)
        self.noise_out.send(noise)
        self.send(self._surrogate, learnt is not None)

    def learn(self, third_factor: np.ndarray, halvings: int) -> None:
        distance = np.abs(self.membrane - self._part.layer.vth * self.STATE)
        self._surrogate = distance < self._part.half_width * self.STATE
        g = third_factor * self._surrogate
        delta = third_factor if self._rule.encoding == "factored" else g  # there f(u) travels on its own
        self.reward = self.message_of_reward(delta, halvings)
        self.y1 = self.reward * self._surrogate
        if self._part.error:
            self.error = self.message_of_error(g)

    def _learn_bias(self, t: int) -> None:
        """Subtract from u what the bias on v gains, where u is the membrane."""
        change = self.bias_change(t)
        self.bias = self.bias + change
        if self._part.bias.in_u:
            self.u, self.u_init = self.u - change, self.u_init - change


@model_of(OTTTNeuron, "floating_pt")
class OTTTNeuronModelFloat(OTTTNeuronBehaviour, SenderModelFloat, PyLoihiProcessModel):
    """u, v, vth in the same units; y1 is not rounded."""

    def update(self, a: np.ndarray, noise: np.ndarray) -> None:
        unity, lif, loop = arithmetic.DECAY_UNITY, self._part.layer, self._part.inhibition
        if loop is not None:
            a = a + loop.weight * self.s
        self.u = self.u * ((unity - 1 - lif.du) / unity) + a
        self.membrane = self.v * ((unity - lif.dv) / unity) + self.u + self.bias
        self.s = self.membrane + noise > lif.vth
        self.v = np.where(self.s, 0.0, self.membrane)

    def look_back(self, third_factor: np.ndarray, halvings: int) -> None:
        alpha, decay = self._part.after.alpha, self._part.after.decay
        self.second = abs(alpha) * self.h
        if self._rule.encoding == "signed":
            self.second = self.message_of_reward(third_factor * alpha * self.h, halvings)
        self.h = decay * self.h + self._surrogate

    def send_down_the_mean(self, third_factor: np.ndarray, t: int) -> None:
        decay, self.h = self._mean, self._mean * self.h + self._surrogate
        if self._part.error:
            self.error = self.message_of_error(third_factor * self.h * (1 - decay) / (1 - decay ** (t + 1)))


@model_of(OTTTNeuron, "fixed_pt")
class OTTTNeuronModelFixed(OTTTNeuronBehaviour, SenderModelFixed, PyLoihiProcessModel):
    """Bit for bit ``sim.reference`` forward; learning in integers."""

    def update(self, a: np.ndarray, noise: np.ndarray) -> None:
        lif, loop = self._part.layer, self._part.inhibition
        if loop is not None:
            a = a + arithmetic.synaptic_input(loop.weight * self.s.astype(np.int64), loop.weight_exp)
        self.u = arithmetic.current_step(self.u, a.astype(np.int32), lif.du)
        self.membrane = arithmetic.voltage_step(self.v, self.u, lif.dv, self.bias)
        self.s = arithmetic.spikes(self.membrane + (noise << arithmetic.STATE_SHIFT), lif.vth)
        self.v = np.where(self.s, 0, self.membrane).astype(np.int32)

    def look_back(self, third_factor: np.ndarray, halvings: int) -> None:
        part, self.second = self._part.after, eligibility.message(self.h)
        if self._rule.encoding == "signed":
            product = -part.sign * third_factor.astype(np.int64) * self.second
            self.second = self.rounded(product, part.y2, halvings, self.y1_saturated)
        self.h = eligibility.moved(self.h, self._surrogate, part.keep, part.impulse)


class FrozenNeuron(AbstractProcess):
    """``sim.network.LIF`` in the phases of a learning epoch of K Lava steps; Lava's own would leak in every step.

    ::

        every Lava step:         a += a_in
        in its turn:             u, v, s as sim.network.LIF from a; s is sent; a = 0
        first step of a sample:  u = u_init, v = 0, a = 0, before a_in is added

    Spikes that arrive after its turn, from the layer itself, are for the next time step. Fixed point only.
    """

    _runtime = None  # Lava's __del__ looks for it, even when __init__ refused its arguments

    def __init__(self, lif: LIF, turn: Turn, name: str) -> None:
        super().__init__(lif=lif, turn=turn, name=name)
        shape = (lif.size,)
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.a = Var(shape=shape, init=0)
        self.u = Var(shape=shape, init=lif.u_init.reshape(-1))
        self.v = Var(shape=shape, init=0)
        self.s = Var(shape=shape, init=0)


@model_of(FrozenNeuron, "fixed_pt")
class FrozenNeuronModelFixed(Clock, PyLoihiProcessModel):
    PARAMETERS = ("lif", "turn")
    BITS: ClassVar = {24: "a_in a u v"}
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, bool)
    s: np.ndarray = LavaPyType(np.ndarray, bool)

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self._bias, self._vth = self._lif.effective_bias, self._lif.thresholds

    def run_spk(self) -> None:
        arriving, lif = self.a_in.recv().astype(np.int32), self._lif
        if (self.time_step - 1) % self._turn.period == 0:
            self.a, self.u, self.v = np.zeros_like(self.a), lif.u_init.reshape(-1).copy(), np.zeros_like(self.v)
        self.a = self.a + arriving
        if self._turn.time_step_at(self.time_step) is None:
            self.s_out.send(np.zeros_like(self.s))
            return
        self.u = arithmetic.current_step(self.u, self.a, lif.du)
        membrane = arithmetic.voltage_step(self.v, self.u, lif.dv, self._bias)
        self.s = arithmetic.spikes(membrane, self._vth)
        self.v, self.a = np.where(self.s, 0, membrane).astype(np.int32), np.zeros_like(self.a)
        self.s_out.send(self.s)

"""The hidden neuron of OTTT: an integrate-and-fire neuron that turns an error into y1 = −η·f(u)·δ."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from ottt_loihi.onchip.lava.sender import COMMON, Sender, SenderModelFixed, SenderModelFloat
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning import eligibility, integers


class OTTTNeuron(Sender, AbstractProcess):
    """A layer of LIF neurons with surrogate × error, acting once per learning epoch of K Lava steps.

    ::

        in turn ``update``:      a = a_in + (self_weight·s[t−1] << self_weight_exp)
                                 u, v, s as sim.network.LIF; v before its reset is kept as m
                                 with noise: s = (m + noise·z > vth), z = ±1 at random; z is sent on noise_out
        in turn ``feedback``:    g  = a_third_factor_in · [ |m − vth| < half_width ]
                                 y1 = saturate( −g·y1_scale )      error_out = saturate( g·error_scale )
        until the epoch ends:    y1 is sent, zero before
        first time step:         u = u_init, v = 0, s = 0

    The rectangle has height 1 (Rectangle in ``ottt_loihi/nn/surrogates.py``: half_width = Vth). ``self_weight =
    −λ·vth`` is the reset by subtraction, one step later, of a membrane that lives in u (``sim/network.py``).

    ==================  ===========================  ==================================================================
    parameter           range                        meaning
    ==================  ===========================  ==================================================================
    du, dv, vth         as in sim.network.LIF        floats are allowed in the floating-point model
    u_init              (n,)                         initial u, in units of the state
    self_weight, _exp   (n,), −8 … 7                 self-inhibition; 0: none
    half_width          in units of vth              of the surrogate
    feedback            a Turn                       when the error reaches the neuron (``onchip/network/schedule.py``)
    noise               ≥ 0, in units of vth         amplitude α of OPZO's noise on the comparison alone; 0: none
    after               an After, or None            S-TLLR: h and its message (``sim/learning/eligibility.py``)
    mean                λ, or None                   OTPE, floating point: the error goes down as ḡ·δ in place of f·δ,
                                                     ḡ the mean of f with the weights λ^(t−τ)
    ==================  ===========================  ==================================================================

    The other parameters are those of :class:`~ottt_loihi.onchip.lava.sender.Sender`. ``y1_scale`` is y1 per unit of the
    third factor, η is in it; ``error_scale`` is for layerwise feedback.

    Vars: u, v, s; membrane: m; y1, reward (y1 before the surrogate), error; h; rng: uint32 xorshift states;
    y1_saturated, error_saturated: counts.
    The fixed-point model computes in integers only: the state is 64 times the units of vth, the rectangle is a
    comparison, the scales are a 12-bit mantissa and a shift with stochastic rounding (``sim/learning/integers.py``).
    """

    def __init__(self, *, u_init: np.ndarray, self_weight: np.ndarray | float, **parameters: Any) -> None:
        super().__init__(**parameters)
        shape = parameters["shape"]
        self.a_third_factor_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.noise_out = OutPort(shape=shape)

        self.u = Var(shape=shape, init=u_init)
        self.s = Var(shape=shape, init=0)
        self.membrane = Var(shape=shape, init=0)
        self.u_init = Var(shape=shape, init=u_init)
        self.self_weight = Var(shape=shape, init=self_weight)
        self.h = Var(shape=shape, init=0)


class OTTTNeuronBehaviour:
    """Call the arithmetic of a model in the Lava steps in which the neuron acts; mixed in before the sender's."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, bool)
    noise_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int8)
    s: np.ndarray = LavaPyType(np.ndarray, bool)
    PARAMETERS = (*COMMON, "du", "dv", "half_width", "feedback", "self_weight_exp", "noise", "after", "mean")

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self._silence: np.ndarray | None = None
        self._surrogate: np.ndarray | None = None

    def run_spk(self) -> None:
        updated, learnt = self._update.time_step_at(self.time_step), self._feedback.time_step_at(self.time_step)
        a, third_factor = self.a_in.recv(), self.a_third_factor_in.recv()
        if self.begins_epoch():
            self._silence = self._surrogate = np.zeros_like(self.s)
            if self._after is not None:
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
            self.learn(third_factor, self.halvings(sample, t))
            if self._after is not None:
                self.look_back(third_factor, self.halvings(sample, t))
            if self._mean is not None:
                self.send_down_the_mean(third_factor, t)
            if self._bias_learning is not None:
                self._learn_bias(t)
        self.s_out.send(spikes)
        self.noise_out.send(noise)
        self.send(self._surrogate, learnt is not None)

    def _learn_bias(self, t: int) -> None:
        """Subtract from u what the bias on v gains, where u is the membrane."""
        change = self.bias_change(t)
        self.bias = self.bias + change
        if self._bias_learning.in_u:
            self.u, self.u_init = self.u - change, self.u_init - change


@implements(proc=OTTTNeuron, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class OTTTNeuronModelFloat(OTTTNeuronBehaviour, SenderModelFloat, PyLoihiProcessModel):
    """u, v, vth in the same units; y1 is not rounded."""

    a_third_factor_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)
    u: np.ndarray = LavaPyType(np.ndarray, float)
    membrane: np.ndarray = LavaPyType(np.ndarray, float)
    u_init: np.ndarray = LavaPyType(np.ndarray, float)
    self_weight: np.ndarray = LavaPyType(np.ndarray, float)
    h: np.ndarray = LavaPyType(np.ndarray, float)

    def update(self, a: np.ndarray, noise: np.ndarray) -> None:
        unity = arithmetic.DECAY_UNITY
        a = a + self.self_weight * self.s * 2.0**self._self_weight_exp
        self.u = self.u * ((unity - 1 - self._du) / unity) + a
        self.membrane = self.v * ((unity - self._dv) / unity) + self.u + self.bias
        self.s = self.membrane + noise > self._vth
        self.v = np.where(self.s, 0.0, self.membrane)

    def learn(self, third_factor: np.ndarray, halvings: int) -> None:
        self._surrogate = np.abs(self.membrane - self._vth) < self._half_width
        g = third_factor * self._surrogate
        self.reward = -third_factor * self._y1_scale[0] * 0.5**halvings
        self.y1 = self.reward * self._surrogate
        if self._error_scale:
            self.error = g * self._error_scale[0]

    def look_back(self, third_factor: np.ndarray, halvings: int) -> None:
        alpha, decay = self._after
        self.second = abs(alpha) * self.h
        if self._encoding == "signed":
            self.second = -third_factor * alpha * self.h * self._y1_scale[0] * 0.5**halvings
        self.h = decay * self.h + self._surrogate

    def send_down_the_mean(self, third_factor: np.ndarray, t: int) -> None:
        decay, self.h = self._mean, self._mean * self.h + self._surrogate
        if self._error_scale:
            self.error = third_factor * self.h * (1 - decay) / (1 - decay ** (t + 1)) * self._error_scale[0]


@implements(proc=OTTTNeuron, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class OTTTNeuronModelFixed(OTTTNeuronBehaviour, SenderModelFixed, PyLoihiProcessModel):
    """Bit for bit ``sim.reference`` forward; learning in integers."""

    a_third_factor_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    u: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    membrane: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    u_init: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    self_weight: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=9)
    h: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)

    def update(self, a: np.ndarray, noise: np.ndarray) -> None:
        a = a + arithmetic.synaptic_input(self.self_weight * self.s.astype(np.int64), self._self_weight_exp)
        self.u = arithmetic.current_step(self.u, a.astype(np.int32), self._du)
        self.membrane = arithmetic.voltage_step(self.v, self.u, self._dv, self.bias)
        self.s = arithmetic.spikes(self.membrane + (noise << arithmetic.STATE_SHIFT), self._vth)
        self.v = np.where(self.s, 0, self.membrane).astype(np.int32)

    def learn(self, third_factor: np.ndarray, halvings: int) -> None:
        distance = np.abs(self.membrane - (self._vth << arithmetic.STATE_SHIFT))
        self._surrogate = distance < (self._half_width << arithmetic.STATE_SHIFT)
        g = third_factor * self._surrogate
        delta = third_factor if self._encoding == "factored" else g  # there f(u) travels on its own
        self.reward = self.rounded_reward(delta, halvings)
        self.y1 = self.reward * self._surrogate
        if self._error_scale:
            self.error = self.rounded_error(g)

    def look_back(self, third_factor: np.ndarray, halvings: int) -> None:
        part, self.second = self._after, eligibility.message(self.h)
        if self._encoding == "signed":
            product = -part.sign * third_factor.astype(np.int64) * self.second
            self.second = self.rounded(product, part.y2, halvings, self.y1_saturated)
        self.h = eligibility.moved(self.h, self._surrogate, part.keep, part.impulse)

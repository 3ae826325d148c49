"""Neurons of a frozen backbone: LIF that act once in a learning epoch."""

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
from ottt_loihi.onchip.network.schedule import Clock
from ottt_loihi.sim import arithmetic


class FrozenNeuron(AbstractProcess):
    """``sim.network.LIF`` in the phases of a learning epoch of K Lava steps; Lava's own would leak in every step.

    ::

        every Lava step:         a += a_in
        in its turn:             u, v, s as sim.network.LIF from a; s is sent; a = 0
        first step of a sample:  u = u_init, v = 0, a = 0, before a_in is added

    Spikes that arrive after its turn, from the layer itself, are for the next time step. Fixed point only.

    Attributes
    ----------
    shape
        (n,)
    du, dv, vth
        as in sim.network.LIF
    bias, u_init
        (n,), effective bias on v and initial u, in units of the state
    turn
        when it acts
    """

    _runtime = None  # Lava's __del__ looks for it, even when __init__ refused its arguments

    def __init__(self, *, shape: tuple[int], bias: np.ndarray, u_init: np.ndarray, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.a = Var(shape=shape, init=0)
        self.u = Var(shape=shape, init=u_init)
        self.v = Var(shape=shape, init=0)
        self.s = Var(shape=shape, init=0)
        self.bias = Var(shape=shape, init=bias)
        self.u_init = Var(shape=shape, init=u_init)


@implements(proc=FrozenNeuron, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class FrozenNeuronModelFixed(Clock, PyLoihiProcessModel):
    PARAMETERS = ("du", "dv", "vth", "turn")
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, bool)
    a: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    u: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    v: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    s: np.ndarray = LavaPyType(np.ndarray, bool)
    bias: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    u_init: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)

    def run_spk(self) -> None:
        arriving = self.a_in.recv().astype(np.int32)
        if (self.time_step - 1) % self._turn.period == 0:
            self.a, self.u, self.v = np.zeros_like(self.a), self.u_init.copy(), np.zeros_like(self.v)
        self.a = self.a + arriving
        if self._turn.time_step_at(self.time_step) is None:
            self.s_out.send(np.zeros_like(self.s))
            return
        self.u = arithmetic.current_step(self.u, self.a, self._du)
        membrane = arithmetic.voltage_step(self.v, self.u, self._dv, self.bias)
        self.s = arithmetic.spikes(membrane, self._vth)
        self.v, self.a = np.where(self.s, 0, membrane).astype(np.int32), np.zeros_like(self.a)
        self.s_out.send(self.s)

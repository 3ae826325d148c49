"""A source that raises, dies, stalls, spins or cannot be built, and a sink that waits for it."""

import os
import time

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


class Misbehaving(AbstractProcess):
    """Sends the step number; does ``deed`` at step ``at``."""

    def __init__(self, deed: str, at: int, name: str = "culprit") -> None:
        super().__init__(name=name, deed=deed, at=at)
        self.out = OutPort(shape=(1,))


class Waiting(AbstractProcess):
    """Sums what it receives."""

    def __init__(self) -> None:
        super().__init__(name="waiting")
        self.inp = InPort(shape=(1,))
        self.total = Var(shape=(1,), init=0)


@implements(proc=Misbehaving, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class MisbehavingModel(PyLoihiProcessModel):
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params):
        super().__init__(proc_params)
        if proc_params["deed"] == "break":
            raise ValueError("cannot be built")

    def run_spk(self) -> None:
        if self.time_step == self.proc_params["at"]:
            deed = self.proc_params["deed"]
            if deed == "raise":
                raise ValueError("a deliberate mistake")
            if deed == "die":
                os._exit(3)
            if deed == "stall":
                time.sleep(1000)
            while deed == "spin":
                pass
        value = self.time_step + (0.7 if self.proc_params["deed"] == "fraction" else 0)
        self.out.send(np.array([value]))


@implements(proc=Waiting, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class WaitingModel(PyLoihiProcessModel):
    inp: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    total: np.ndarray = LavaPyType(np.ndarray, np.int32)

    def run_spk(self) -> None:
        self.total += self.inp.recv()

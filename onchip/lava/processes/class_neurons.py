"""The class neurons of a hidden layer: TESS's error is made where the layer is."""

from __future__ import annotations

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
from ottt_loihi.onchip.network.schedule import Clock, Turn
from ottt_loihi.sim.learning import local


class ClassNeurons(AbstractProcess):
    """A neuron for each class: ``e = clip(½ + slope·B·s, 0, 1) − y``, sent in the step after the layer's spikes.

    Parameters
    ----------
    classes
        neurons, ≥ 2
    size
        neurons of the layer, ≥ 1
    kappa
        κ > 0, or None: N/4 (``sim/learning/local.py``)
    turn
        when they act

    Notes
    -----
    Ports: a_in receives B·s, in fixed point twice that; label_in (2) class and gate; error_out sends e, 64 for 1 in
    fixed point, and 0 in all other steps and with a closed gate. Var: error, the last one.
    """

    _runtime = None  # Lava's __del__ looks for it, even when __init__ refused its arguments

    def __init__(self, classes: int, size: int, kappa: float | None, turn: Turn, name: str) -> None:
        super().__init__(name=name, kappa=kappa, size=size, scale=local.scale(kappa, size), turn=turn)
        self.a_in = InPort(shape=(classes,))
        self.label_in = InPort(shape=(2,))
        self.error_out = OutPort(shape=(classes,))
        self.error = Var(shape=(classes,), init=0)


class ClassNeuronsBehaviour(Clock):
    """Call the arithmetic of a model in the Lava steps in which the neurons act; mixed in before Lava's class."""

    label_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    PARAMETERS = ("turn", "kappa", "size", "scale")

    def run_spk(self) -> None:
        z, (label, gate) = self.a_in.recv(), self.label_in.recv()
        self.error = np.zeros_like(self.error)
        if gate and self._turn.time_step_at(self.time_step) is not None:
            self.error = self.compared(z, label)
        self.error_out.send(self.error)


@implements(proc=ClassNeurons, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class ClassNeuronsModelFloat(ClassNeuronsBehaviour, PyLoihiProcessModel):
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)
    error_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    error: np.ndarray = LavaPyType(np.ndarray, float)

    def compared(self, z: np.ndarray, label: int) -> np.ndarray:
        return local.float_errors(z, label, self._kappa, self._size)


@implements(proc=ClassNeurons, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class ClassNeuronsModelFixed(ClassNeuronsBehaviour, PyLoihiProcessModel):
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    error_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=8)
    error: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=8)

    def compared(self, z: np.ndarray, label: int) -> np.ndarray:
        return local.errors(z, label, *self._scale)

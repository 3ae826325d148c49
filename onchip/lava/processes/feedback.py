"""Processes of feedback: OPZO's matrix, a connection that learns from noise, and TESS's class neurons of a layer."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from ottt_loihi.onchip.lava import model_of
from ottt_loihi.onchip.network.schedule import Clock, Turn
from ottt_loihi.sim.learning import integers, local
from ottt_loihi.sim.learning.network import Feedback


class MomentumFeedback(AbstractProcess):
    """A connection from the readout's error back to hidden neurons; its weights M learn what noise does to the error.

    ::

        a_out[next step] = M·e                                          (with the M from before the update)
        M += ( gain·z·eᵀ − M ) / 2^averaging                            whenever an error arrives

    z = ±1 is the noise that each hidden neuron added to its threshold comparison in this learning epoch, e the error.
    With gain = 1/α, α the noise's amplitude, M becomes the mean of z·eᵀ/α, an estimate of ∂o/∂u: the label in
    e = o − y is independent of z, and subtracting it leaves less variance than o alone has. Local: a synapse sees the
    message of its pre neuron and the noise of its post neuron. Without an error nothing is learnt.

    Fixed point: M integers −255 … 255, an update rounded stochastically, one number per synapse
    (``integers.synapse_hash``). Lava's ``LearningDense`` cannot do this: its traces ignore the sign of a
    graded pre spike. So this is a ProcessModel of our own.

    Parameters
    ----------
    feedback
        M at the start, ``(neurons, classes)``; gain > 0, M's units per unit of the error message, over α: (mantissa,
        shift), or in floating point a number; averaging 1 … 24, momentum 1 − 2^−averaging; seed of the rounding
    epoch
        K, Lava steps per learning epoch; counts the random numbers

    Notes
    -----
    Ports: error_in (classes), noise_in (neurons), a_out (neurons). Vars: weights, noise, a_buff; saturated, a count.

    Source: OPZO (Xiao et al. 2024).
    """

    _runtime = None  # Lava's __del__ looks for it, even when __init__ refused its arguments

    def __init__(self, feedback: Feedback, epoch: int, name: str = "feedback") -> None:
        integers.check_averaging(feedback.averaging, name)
        super().__init__(name=name, feedback=feedback, epoch=epoch)
        weights, (neurons, classes) = feedback.matrix, feedback.matrix.shape
        self.error_in = InPort(shape=(classes,))
        self.noise_in = InPort(shape=(neurons,))
        self.a_out = OutPort(shape=(neurons,))
        self.weights = Var(shape=weights.shape, init=weights)
        self.noise = Var(shape=(neurons,), init=0)
        self.a_buff = Var(shape=(neurons,), init=0)
        self.saturated = Var(shape=(1,), init=0)


class AbstractMomentumFeedbackModel(Clock, PyLoihiProcessModel):
    """Call the arithmetic of a subclass in the Lava steps in which M acts and learns."""

    noise_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int8)
    noise: np.ndarray = LavaPyType(np.ndarray, np.int8)
    saturated: np.ndarray = LavaPyType(np.ndarray, np.int64)

    PARAMETERS = ("feedback", "epoch")
    BITS: ClassVar = {8: "error_in", 24: "a_out a_buff", 9: "weights"}

    def run_spk(self) -> None:
        self.a_out.send(self.a_buff)  # before anything is received, as Lava's connections do
        noise, error = self.noise_in.recv(), self.error_in.recv()
        if noise.any():
            self.noise = noise
        self.a_buff = np.zeros_like(self.a_buff)
        if error.any():
            self.a_buff = self.weights @ error
            self.learn(error)


@model_of(MomentumFeedback, "floating_pt")
class MomentumFeedbackModelFloat(AbstractMomentumFeedbackModel):
    def learn(self, error: np.ndarray) -> None:
        wanted = self._feedback.gain * np.outer(self.noise, error)
        self.weights = self.weights + (wanted - self.weights) / 2**self._feedback.averaging


@model_of(MomentumFeedback, "fixed_pt")
class MomentumFeedbackModelFixed(AbstractMomentumFeedbackModel):
    def learn(self, error: np.ndarray) -> None:
        feedback, learning_epoch = self._feedback, (self.time_step - 1) // self._epoch
        random = integers.synapse_hash(feedback.seed, learning_epoch, self.weights.shape)
        product = np.outer(self.noise.astype(np.int64), error)
        moved = integers.momentum_step(self.weights, product, *feedback.gain, feedback.averaging, random)
        self.weights, outside = integers.saturate(moved, integers.MOMENTUM_MAX)
        self.saturated += outside


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
    BITS: ClassVar = {24: "a_in", 8: "error_out error"}

    def run_spk(self) -> None:
        z, (label, gate) = self.a_in.recv(), self.label_in.recv()
        self.error = np.zeros_like(self.error)
        if gate and self._turn.time_step_at(self.time_step) is not None:
            self.error = self.compared(z, label)
        self.error_out.send(self.error)


@model_of(ClassNeurons, "floating_pt")
class ClassNeuronsModelFloat(ClassNeuronsBehaviour, PyLoihiProcessModel):
    def compared(self, z: np.ndarray, label: int) -> np.ndarray:
        return local.float_errors(z, label, self._kappa, self._size)


@model_of(ClassNeurons, "fixed_pt")
class ClassNeuronsModelFixed(ClassNeuronsBehaviour, PyLoihiProcessModel):
    def compared(self, z: np.ndarray, label: int) -> np.ndarray:
        return local.errors(z, label, *self._scale)

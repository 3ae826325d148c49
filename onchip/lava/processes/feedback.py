"""Feedback that is learnt from noise: OPZO's momentum matrix as a separate connection."""

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
from ottt_loihi.onchip.network.schedule import Clock
from ottt_loihi.sim.learning import integers


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

    ============  =========================  ==========================================================================
    parameter     range                      meaning
    ============  =========================  ==========================================================================
    weights       ``(neurons, classes)``     M at the start
    gain          > 0, or a pair             M's units per unit of the error message, over α; or (mantissa, shift)
    averaging     1 … 24                     momentum 1 − 2^−averaging
    epoch         K                          Lava steps per learning epoch; counts the random numbers
    seed          ≥ 0                        of the rounding
    ============  =========================  ==========================================================================

    Ports: error_in (classes), noise_in (neurons), a_out (neurons). Vars: weights, noise, a_buff; saturated, a count.

    Source: OPZO (Xiao et al. 2024).
    """

    _runtime = None  # Lava's __del__ looks for it, even when __init__ refused its arguments

    def __init__(
        self,
        weights: np.ndarray,
        gain: float | tuple[int, int],
        averaging: int,
        epoch: int,
        seed: int = 0,
        name: str = "feedback",
    ) -> None:
        integers.check_averaging(averaging, name)
        neurons, classes = weights.shape
        scale = integers.scale(gain, f"{name}.gain")
        super().__init__(name=name, gain=scale, averaging=averaging, epoch=epoch, seed=seed)
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

    PARAMETERS = ("gain", "averaging", "epoch", "seed")

    def run_spk(self) -> None:
        self.a_out.send(self.a_buff)  # before anything is received, as Lava's connections do
        noise, error = self.noise_in.recv(), self.error_in.recv()
        if noise.any():
            self.noise = noise
        self.a_buff = np.zeros_like(self.a_buff)
        if error.any():
            self.a_buff = self.weights @ error
            self.learn(error)


@implements(proc=MomentumFeedback, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class MomentumFeedbackModelFloat(AbstractMomentumFeedbackModel):
    error_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    weights: np.ndarray = LavaPyType(np.ndarray, float)
    a_buff: np.ndarray = LavaPyType(np.ndarray, float)

    def learn(self, error: np.ndarray) -> None:
        self.weights = self.weights + (self._gain[0] * np.outer(self.noise, error) - self.weights) / 2**self._averaging


@implements(proc=MomentumFeedback, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class MomentumFeedbackModelFixed(AbstractMomentumFeedbackModel):
    error_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=8)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    weights: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=9)
    a_buff: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)

    def learn(self, error: np.ndarray) -> None:
        learning_epoch = (self.time_step - 1) // self._epoch
        random = integers.synapse_hash(self._seed, learning_epoch, self.weights.shape)
        product = np.outer(self.noise.astype(np.int64), error)
        moved = integers.momentum_step(self.weights, product, *self._gain[1:], self._averaging, random)
        self.weights, outside = integers.saturate(moved, integers.MOMENTUM_MAX)
        self.saturated += outside

"""The common part of hidden neurons and readout: an error becomes y1 and messages. Mixed in before Lava's classes.

It is no part of ``onchip/lava/processes``, where Lava takes every file for one with a Process.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.variable import Var
from ottt_loihi.onchip.network.schedule import Clock, Turn
from ottt_loihi.sim.learning import encodings, integers

# names of the parameters that both keep
COMMON = ("vth", "y1_scale", "error_scale", "halve_every", "update", "bias_learning", "encoding")


class Sender:
    """The Process.

    Parameters
    ----------
    shape
        (n,)
    y1_scale, error_scale
        of y1 and of the error message: a number, or (mantissa, shift); error_scale None: no error is sent
    update
        when the neurons act
    bias
        effective biases, in units of the state
    seed
        of the stochastic rounding
    parameters
        of the models: vth, the threshold mantissa; halve_every, time steps after which y1_scale is halved, again and
        again, 0: never; bias_learning, None: biases do not learn; encoding of y1; and those of a subclass
    """

    _runtime = None  # Lava's __del__ looks for it, even when __init__ refused its arguments

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        y1_scale: float | tuple[int, int],
        update: Turn,
        error_scale: float | tuple[int, int] | None,
        bias: np.ndarray | float,
        seed: int,
        name: str = "readout",
        **parameters: Any,
    ) -> None:
        super().__init__(
            name=name,
            y1_scale=integers.scale(y1_scale, f"{name}.y1_scale"),
            error_scale=error_scale and integers.scale(error_scale, f"{name}.error_scale"),
            update=update,
            **parameters,
        )
        self.a_in = InPort(shape=shape)
        self.s_out_y1 = OutPort(shape=shape)
        self.s_out_y2 = OutPort(shape=shape)
        self.s_out_y3 = OutPort(shape=shape)
        self.error_out = OutPort(shape=shape)

        self.v = Var(shape=shape, init=0)
        self.y1 = Var(shape=shape, init=0)
        self.reward = Var(shape=shape, init=0)
        self.error = Var(shape=shape, init=0)
        self.bias = Var(shape=shape, init=bias)
        self.rng = Var(shape=shape, init=integers.xorshift32_seeds(seed, shape[0]))
        self.y1_saturated = Var(shape=(1,), init=0)
        self.error_saturated = Var(shape=(1,), init=0)


class SenderModel(Clock):
    """The ProcessModel in any arithmetic.

    Attributes
    ----------
    ONE
        y1 of a surrogate of 1 (``encodings.messages``)
    """

    rng: np.ndarray = LavaPyType(np.ndarray, np.uint32)
    y1_saturated: np.ndarray = LavaPyType(np.ndarray, np.int64)
    error_saturated: np.ndarray = LavaPyType(np.ndarray, np.int64)
    ONE: int
    second: np.ndarray | None = None  # S-TLLR's y2, of neurons that have h

    def begins_epoch(self) -> bool:
        """Whether a learning epoch begins in this step; the messages of the one before are cleared then."""
        begins = (self.time_step - 1) % self._update.epoch == 0
        if begins:
            self.y1, self.reward = np.zeros_like(self.y1), np.zeros_like(self.reward)
            self.error = np.zeros_like(self.error)
        return begins

    def halvings(self, sample: int, t: int) -> int:
        """Return how often the learning rate has been halved by time step t of a sample."""
        return integers.halvings(sample * self._update.num_steps + t, self._halve_every)

    def send(self, surrogate: np.ndarray, error: bool) -> None:
        """Send y1 in its encoding, and the error if this is its step."""
        sent = encodings.messages(self._encoding, self.y1, surrogate, self.reward, self.ONE)
        if self.second is not None:
            sent["y2"] = self.second
        for port, message in sent.items():
            getattr(self, "s_out_" + port).send(message)
        self.error_out.send(self.error if error else np.zeros_like(self.error))


class SenderModelFloat(SenderModel):
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)
    s_out_y1: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    s_out_y2: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    s_out_y3: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    error_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    ONE = 1
    v: np.ndarray = LavaPyType(np.ndarray, float)
    y1: np.ndarray = LavaPyType(np.ndarray, float)
    reward: np.ndarray = LavaPyType(np.ndarray, float)
    error: np.ndarray = LavaPyType(np.ndarray, float)
    bias: np.ndarray = LavaPyType(np.ndarray, float)

    def bias_change(self, t: int) -> np.ndarray:
        """Return by how much the biases change in time step t."""
        return self._bias_learning.gains[t] * self.y1


class SenderModelFixed(SenderModel):
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    s_out_y1: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=7)
    s_out_y2: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=7)
    s_out_y3: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=7)
    error_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=8)
    ONE = encodings.SURROGATE
    v: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    y1: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=7)
    reward: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=7)
    error: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=8)
    bias: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)

    def rounded(self, x: np.ndarray, scale: tuple[int, int], halvings: int, counter: np.ndarray) -> np.ndarray:
        """Return ``integers.message``; counter counts the values beyond."""
        found, outside, self.rng = integers.message(x, scale, halvings, self.rng)
        counter += outside
        return found

    def rounded_reward(self, delta: np.ndarray, halvings: int) -> np.ndarray:
        """Return the message −η·δ."""
        return self.rounded(-delta, self._y1_scale[1:], halvings, self.y1_saturated)

    def rounded_error(self, error: np.ndarray, halvings: int = 0) -> np.ndarray:
        """Return the message of an error."""
        return self.rounded(error, self._error_scale[1:], halvings, self.error_saturated)

    def bias_change(self, t: int) -> np.ndarray:
        """Return by how much the biases change in time step t."""
        self.rng = integers.xorshift32(self.rng)
        return self._bias_learning.change(self.bias, self.y1, t, self.rng)

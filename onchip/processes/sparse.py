"""The sparse plastic connection of OTTT: single synapses that learn by Lava's engine, with ``OTTTDense``'s extras."""

from __future__ import annotations

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.learning.learning_rule import LoihiLearningRule
from lava.magma.core.model.py.connection import LearningConnectionModelBitApproximate, LearningConnectionModelFloat
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.sparse.models import AbstractPySparseModelBitAcc, AbstractPySparseModelFloat
from lava.proc.sparse.process import LearningSparse
from ottt_loihi.onchip.processes.dense import ROUNDINGS, OTTTDenseBehaviour, skip_random
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim import learning_integers as integers
from scipy.sparse import csr_matrix

from ottt_loihi.errors import UsageError


class OTTTSparse(LearningSparse):
    """:class:`~ottt_loihi.onchip.processes.dense.OTTTDense` in which only some synapses exist; only they learn.

    It differs from Lava's ``LearningSparse`` as ``OTTTDense`` does from ``LearningDense``, and in this:

    * a synapse whose weight is or becomes 0 stays a synapse: Lava's drops those of weight 0 and 1 at the first step.

    weights: the synapses that ``weights`` stores ``(post, pre)``, 0 among them; integers −256 … 255 in fixed point. The
    random numbers of a synapse are those it would have in a dense connection.
    """

    _runtime = None  # Lava's __del__ looks for it, even when __init__ refused its arguments

    def __init__(
        self,
        weights: csr_matrix,
        learning_rule: LoihiLearningRule,
        reset_interval: int,
        weight_exp: int = 0,
        name: str = "plastic",
        rounding: str = "lava",
        seed: int = 0,
        decay_every: int = 0,
        decay_shift: int = 8,
    ) -> None:
        if rounding not in ROUNDINGS:
            raise UsageError(f"{name}.rounding: expected one of {', '.join(ROUNDINGS)}, got {rounding!r}")
        super().__init__(
            weights=weights,
            learning_rule=learning_rule,
            reset_interval=reset_interval,
            weight_exp=weight_exp,
            name=name,
            rounding=rounding,
            seed=seed,
            decay_every=decay_every,
            decay_shift=decay_shift,
        )
        self.error_in = InPort(shape=(weights.shape[0],))
        self.error_out = OutPort(shape=(weights.shape[1],))
        self.error_buff = Var(shape=(weights.shape[1],), init=0)


def places(weights: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each stored weight, in the order of ``weights.data``."""
    return np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr)), weights.indices


def with_data(weights: csr_matrix, data: np.ndarray) -> csr_matrix:
    """The same synapses with other weights."""
    return csr_matrix((data, weights.indices, weights.indptr), weights.shape)


@implements(proc=OTTTSparse, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class OTTTSparseModelFloat(OTTTDenseBehaviour, LearningConnectionModelFloat, AbstractPySparseModelFloat):
    error_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)
    error_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    error_buff: np.ndarray = LavaPyType(np.ndarray, float)
    tag_1: csr_matrix = LavaPyType(csr_matrix, float)
    tag_2: csr_matrix = LavaPyType(csr_matrix, float)

    def activation(self, s_in: np.ndarray) -> np.ndarray:
        return self.weights @ s_in

    def decayed(self, frame: int, shift: int) -> csr_matrix:
        return with_data(self.weights, self.weights.data * (1 - 2.0**-shift))


@implements(proc=OTTTSparse, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class OTTTSparseModelFixed(OTTTDenseBehaviour, LearningConnectionModelBitApproximate, AbstractPySparseModelBitAcc):
    error_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=8)
    error_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    error_buff: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    tag_1: csr_matrix = LavaPyType(csr_matrix, int, precision=8)
    tag_2: csr_matrix = LavaPyType(csr_matrix, int, precision=6)

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self._independent, self._seed = proc_params["rounding"] == "per-synapse", proc_params["seed"]
        skip_random(self)

    def _stochastic_round_synaptic_variable(self, name, values, random):
        if self._independent:
            draws = integers.synapse_draws(self._seed, self.frame(), values.shape)
            random = draws[places(values)] / 2**integers.FRACTION_BITS
        return super()._stochastic_round_synaptic_variable(name, values, random)

    def decayed(self, frame: int, shift: int) -> csr_matrix:
        random = integers.decay_draws(self._seed, frame, self.weights.shape)[places(self.weights)]
        moved = integers.decay_step(self.weights.data, shift, random)
        return with_data(self.weights, moved.astype(self.weights.dtype))

    def activation(self, s_in: np.ndarray) -> np.ndarray:
        return arithmetic.synaptic_input(self.weights @ s_in.astype(np.int64), self.proc_params["weight_exp"])

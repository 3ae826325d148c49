"""The sparse plastic connection of OTTT: single synapses that learn by Lava's engine, with ``OTTTDense``'s extras."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.connection import LearningConnectionModelBitApproximate, LearningConnectionModelFloat
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.sparse.models import AbstractPySparseModelBitAcc, AbstractPySparseModelFloat
from lava.proc.sparse.process import LearningSparse
from ottt_loihi.onchip.lava.connection import Plastic, PlasticModelFixed, PlasticModelFloat
from scipy.sparse import csr_matrix


class OTTTSparse(Plastic, LearningSparse):
    """:class:`~ottt_loihi.onchip.lava.processes.dense.OTTTDense` in which only some synapses exist; only they learn.

    It differs from Lava's ``LearningSparse`` as ``OTTTDense`` does from ``LearningDense``, and in this:

    * a synapse whose weight is or becomes 0 stays a synapse: Lava's drops those of weight 0 and 1 at the first step.

    weights: the synapses that ``weights`` stores ``(post, pre)``, 0 among them; integers −256 … 255 in fixed point. The
    random numbers of a synapse are those it would have in a dense connection.
    """


def places(weights: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each stored weight, in the order of ``weights.data``."""
    return np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr)), weights.indices


def with_data(weights: csr_matrix, data: np.ndarray) -> csr_matrix:
    """The same synapses with other weights."""
    return csr_matrix((data, weights.indices, weights.indptr), weights.shape)


class SparseSynapses:
    """The differences of a plastic model whose synapses are not a whole matrix; mixed in before it."""

    def summed(self, s_in: np.ndarray) -> np.ndarray:
        return self.weights @ s_in.astype(np.int64)

    def at_synapses(self, matrix: np.ndarray) -> np.ndarray:
        return matrix[places(self.weights)]

    def changed(self, change: Callable[[np.ndarray], np.ndarray]) -> csr_matrix:
        return with_data(self.weights, change(self.weights.data))


@implements(proc=OTTTSparse, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class OTTTSparseModelFloat(SparseSynapses, PlasticModelFloat, LearningConnectionModelFloat, AbstractPySparseModelFloat):
    tag_1: csr_matrix = LavaPyType(csr_matrix, float)
    tag_2: csr_matrix = LavaPyType(csr_matrix, float)


@implements(proc=OTTTSparse, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class OTTTSparseModelFixed(
    SparseSynapses, PlasticModelFixed, LearningConnectionModelBitApproximate, AbstractPySparseModelBitAcc
):
    tag_1: csr_matrix = LavaPyType(csr_matrix, int, precision=8)
    tag_2: csr_matrix = LavaPyType(csr_matrix, int, precision=6)

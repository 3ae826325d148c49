"""The plastic connections of OTTT, dense, sparse and with HLOP: Lava's learning engine, with a reset of traces."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.learning.learning_rule_applier import AbstractLearningRuleApplier
from lava.magma.core.model.py.connection import LearningConnectionModelBitApproximate, LearningConnectionModelFloat
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.dense.models import AbstractPyDenseModelBitAcc, AbstractPyDenseModelFloat
from lava.proc.dense.process import LearningDense
from lava.proc.sparse.models import AbstractPySparseModelBitAcc, AbstractPySparseModelFloat
from lava.proc.sparse.process import LearningSparse
from ottt_loihi.onchip.lava.connection import Plastic, PlasticModelFixed, PlasticModelFloat
from ottt_loihi.sim.learning import integers
from ottt_loihi.sim.learning import subspace as lateral
from ottt_loihi.sim.learning.encodings import PORTS, engine_change
from ottt_loihi.sim.learning.subspace import Subspace
from scipy.sparse import csr_matrix


class OTTTDense(Plastic, LearningDense):
    """``a_out[t+1] = (W·s_in[t]) << weight_exp``, W learning by Lava's engine at the end of each epoch.

    Differences from Lava's ``LearningDense``:

    * x1 is set to 0 before every ``reset_interval``-th step, counted from the first: the trace of one sample never
      reaches the next (``reset_interval`` = K·T; K for a trace that is the epoch's spike alone);
    * weights are not truncated to even numbers at the first step: a resumed run goes on from the very same weights;
    * a ``Var.set()`` does not turn x1_tau into an integer;
    * ``error_out[t+1] = Wᵀ·error_in[t]`` gives the transposed weights as they are, for symmetric feedback.

    weights: integers −256 … 255 ``(post, pre)`` in fixed point.

    rounding (fixed point): how an updated weight becomes an integer again. ``"lava"``: as Lava's engine does it, one
    random number per learning epoch for all synapses, so that their errors add up. ``"per-synapse"``: an independent
    number for each synapse, as the chip does it, of ``sim.learning.integers.synapse_draws(seed, …)``, counting epochs
    from 0; everything else is Lava's engine.
    """


@implements(proc=OTTTDense, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class OTTTDenseModelFloat(PlasticModelFloat, LearningConnectionModelFloat, AbstractPyDenseModelFloat):
    pass


@implements(proc=OTTTDense, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class OTTTDenseModelFixed(PlasticModelFixed, LearningConnectionModelBitApproximate, AbstractPyDenseModelBitAcc):
    pass


class OTTTSparse(Plastic, LearningSparse):
    """:class:`OTTTDense` in which only some synapses exist; only they learn.

    It differs from Lava's ``LearningSparse`` as ``OTTTDense`` does from ``LearningDense``, and in this:

    * a synapse whose weight is or becomes 0 stays a synapse: Lava's drops those of weight 0 and 1 at the first step.

    weights: the synapses that ``weights`` stores ``(post, pre)``, 0 among them; integers −256 … 255 in fixed point. The
    random numbers of a synapse are those it would have in a dense connection.
    """


def places(weights: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column of each stored weight, in the order of ``weights.data``."""
    return np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr)), weights.indices


def with_data(weights: csr_matrix, data: np.ndarray) -> csr_matrix:
    """Return the same synapses with other weights."""
    return csr_matrix((data, weights.indices, weights.indptr), weights.shape)


class SparseSynapses:
    """The differences of a plastic model whose synapses are not a whole matrix; mixed in before it."""

    def summed(self, s_in: np.ndarray) -> np.ndarray:
        return self.weights @ s_in.astype(np.int64)

    def at_synapses(self, matrix: np.ndarray) -> np.ndarray:
        return matrix[places(self.weights)]


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


class ProjectedDense(OTTTDense):
    """:class:`OTTTDense` whose rule is ``dw = x'·y1``, ``x' = x1 − H_oldᵀ·H_old·x1``.

    With fixed rows products are rounded to nearest, where the engine floors them; so the rule has to be an encoding's
    own (``encodings.engine_change``), not one in Lava's language.

    The rows of H after the first ``subspace.fixed`` learn at the end of every epoch, after the weights and from the
    same traces (``sim/learning/subspace.py`` has the equations). Fixed point only.

    Lava's learning engine can do none of this: its traces are 0 … 127, and x' has a sign; a ``LearningDense`` ignores
    the sign of a graded pre spike, and y·(x − x̂)ᵀ is a product of two signed numbers. So H is a Var of this process. On
    a chip, lateral neurons would take two more steps of an epoch: traces to y, y back to the synapses.

    Vars: rows, int16 ``(k, inputs)``; the others are OTTTDense's.
    """

    def __init__(self, *of_dense: Any, subspace: Subspace) -> None:
        super().__init__(*of_dense)
        self.proc_params["subspace"] = (subspace.fixed, subspace.shift, subspace.seed)
        self.rows = Var(shape=subspace.rows.shape, init=subspace.rows)


class RoundingApplier(AbstractLearningRuleApplier):
    """In place of Lava's, which floors each product: the encoding's rule with products rounded to nearest."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding

    def apply(self, init_accumulator: np.ndarray, **applier_args: Any) -> np.ndarray:
        sent = {port: applier_args[f"{port}_u"][:, 0] for port in PORTS[self._encoding]}
        return init_accumulator + engine_change(self._encoding, applier_args["x1_u"], sent, integers.HALF)


@implements(proc=ProjectedDense, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class ProjectedDenseModelFixed(PlasticModelFixed, LearningConnectionModelBitApproximate, AbstractPyDenseModelBitAcc):
    rows: np.ndarray = LavaPyType(np.ndarray, np.int16)

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self._fixed, self._shift, self._lateral_seed = proc_params["subspace"]

    def _create_learning_rule_applier(self, product_series):
        fixed, encoding = self.proc_params["subspace"][0], self._learning_rule.encoding
        return RoundingApplier(encoding) if fixed else super()._create_learning_rule_applier(product_series)

    def run_lrn(self) -> None:
        super().run_lrn()
        random = integers.synapse_hash(self._lateral_seed, self.learning_epoch(), self.rows.shape)
        self.rows = lateral.moved(self.rows, self._fixed, self._shift, self.x1, random)

    def _extract_applier_evaluated_traces(self, x_traces_history, y_traces_history):
        traces = super()._extract_applier_evaluated_traces(x_traces_history, y_traces_history)
        traces["x1_u"] = lateral.projected(self.rows, self._fixed, traces["x1_u"][0])[np.newaxis, :]
        return traces

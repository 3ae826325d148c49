"""The plastic connections of OTTT, dense, sparse and with HLOP: Lava's learning engine, with a reset of traces."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from lava.magma.core.learning import string_symbols
from lava.magma.core.learning.learning_rule import LoihiLearningRule
from lava.magma.core.learning.learning_rule_applier import AbstractLearningRuleApplier
from lava.magma.core.model.py.connection import LearningConnectionModelBitApproximate, LearningConnectionModelFloat
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.variable import Var
from lava.proc.dense.models import AbstractPyDenseModelBitAcc, AbstractPyDenseModelFloat
from lava.proc.dense.process import LearningDense
from lava.proc.sparse.models import AbstractPySparseModelBitAcc, AbstractPySparseModelFloat
from lava.proc.sparse.process import LearningSparse
from ottt_loihi.onchip.lava import model_of
from ottt_loihi.onchip.network.schedule import Clock
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning import integers
from ottt_loihi.sim.learning import subspace as lateral
from ottt_loihi.sim.learning.encodings import PORTS, engine_change
from ottt_loihi.sim.learning.rule import ROUNDINGS, SHARES
from ottt_loihi.sim.learning.subspace import Subspace
from scipy.sparse import csr_matrix

from ottt_loihi import checks


class Plastic:
    """The Process: parameters and ports beyond those of Lava's ``LearningDense`` and ``LearningSparse``."""

    _runtime = None  # Lava's __del__ looks for it, even when __init__ refused its arguments

    def __init__(
        self,
        weights: Any,
        learning_rule: LoihiLearningRule,
        reset_interval: int,
        weight_exp: int = 0,
        name: str = "plastic",
        rounding: str = "lava",
        seed: int = 0,
    ) -> None:
        checks.one_of(rounding, f"{name}.rounding", ROUNDINGS)
        own = {"reset_interval": reset_interval, "rounding": rounding, "seed": seed}
        super().__init__(weights=weights, learning_rule=learning_rule, weight_exp=weight_exp, name=name, **own)
        self.error_in = InPort(shape=(weights.shape[0],))
        self.error_out = OutPort(shape=(weights.shape[1],))
        self.error_buff = Var(shape=(weights.shape[1],), init=0)


class PlasticModel(Clock):
    """The ProcessModel in any arithmetic. Weights are a matrix here; :class:`SparseSynapses` overrides that."""

    BITS: ClassVar = {8: "error_in", 24: "error_out error_buff"}

    def run_spk(self) -> None:
        if (self.time_step - 1) % self.proc_params["reset_interval"] == 0:
            self.x1, self.x2 = np.zeros_like(self.x1), np.zeros_like(self.x2)
            if self._learning_rule.dt is not None:
                self.tag_1 = np.zeros_like(self.tag_1)
        self.a_out.send(self.a_buff)  # before anything is received, as Lava does: cycles do not deadlock
        self.error_out.send(self.error_buff)
        s_in = self.s_in.recv().astype(bool)
        self.a_buff = self.activation(s_in)
        error = self.error_in.recv()
        if error.any() or self.error_buff.any():
            self.error_buff = self.weights.T @ error
        self.recv_traces(s_in)

    def learning_epoch(self) -> int:
        """Return the learning epoch that ends in this step, from 0."""
        return self.time_step // self._learning_rule.t_epoch - 1

    def activation(self, s_in: np.ndarray) -> np.ndarray:
        """Return W·s, in fixed point shifted."""
        return self.summed(s_in)

    def summed(self, s_in: np.ndarray) -> np.ndarray:
        return self.weights[:, s_in].sum(axis=1)

    def at_synapses(self, matrix: np.ndarray) -> np.ndarray:
        """Return the elements of a matrix where synapses are."""
        return matrix

    def on_var_update(self) -> None:
        """Do nothing. Lava would rebuild the rule with time constants rounded to integers; ours never changes."""

    def _process_post_spikes(self, s_in_bap: np.ndarray) -> None:
        """Record nothing where nothing fired, which is always: our neurons send no bap."""
        if s_in_bap.any():
            super()._process_post_spikes(s_in_bap)

    def _extract_applier_evaluated_traces(self, x_traces_history, y_traces_history):
        """Return the traces at the epoch's end alone, when the rule asks for no others: the same values, less work."""
        active = self._learning_rule.active_traces_per_dependency
        if not set(active) <= {string_symbols.U, string_symbols.X0} or {"x1", "x2"} & set(active.get("x0", ())):
            return super()._extract_applier_evaluated_traces(x_traces_history, y_traces_history)
        y = {f"y{k + 1}": y_traces_history[-1, k][:, np.newaxis] for k in range(3)}  # ours do not decay in an epoch
        return {
            "x1_u": x_traces_history[-1, 0][np.newaxis, :],
            "x2_u": x_traces_history[-1, 1][np.newaxis, :],
            **{f"{name}_{when}": value for when in ("u", "x0") for name, value in y.items()},
        }


class PlasticModelFixed(PlasticModel):
    """Our additions to Lava's model: shifted sum, rounding per synapse, random numbers that start with the clock."""

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self._share, self._seed = SHARES[proc_params["rounding"]], proc_params["seed"]
        # Lava's generators, drawn from as sim.learning says: twice in a step, once in an epoch
        self._x_random._rng_trace_decay.bit_generator.advance(2 * self.time_step)
        self._conn_var_random._rng.bit_generator.advance(self.time_step // self._learning_rule.t_epoch)

    def activation(self, s_in: np.ndarray) -> np.ndarray:
        return arithmetic.synaptic_input(self.summed(s_in), self.proc_params["weight_exp"])

    def _stochastic_round_synaptic_variable(self, name, values, random):
        if self._share:
            draws = integers.synapse_draws(self._seed, self.learning_epoch(), values.shape, self._share)
            random = self.at_synapses(draws) / 2**integers.FRACTION_BITS
        return super()._stochastic_round_synaptic_variable(name, values, random)


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


@model_of(OTTTDense, "floating_pt")
class OTTTDenseModelFloat(PlasticModel, LearningConnectionModelFloat, AbstractPyDenseModelFloat):
    pass


@model_of(OTTTDense, "fixed_pt")
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


def with_matrix(weights: csr_matrix, matrix: np.ndarray) -> csr_matrix:
    """Return the same synapses with the weights that they have in ``matrix``."""
    return csr_matrix((matrix[places(weights)], weights.indices, weights.indptr), weights.shape)


class SparseSynapses:
    """The differences of a plastic model whose synapses are not a whole matrix; mixed in before it."""

    def summed(self, s_in: np.ndarray) -> np.ndarray:
        return self.weights @ s_in.astype(np.int64)

    def at_synapses(self, matrix: np.ndarray) -> np.ndarray:
        return matrix[places(self.weights)]


@model_of(OTTTSparse, "floating_pt")
class OTTTSparseModelFloat(SparseSynapses, PlasticModel, LearningConnectionModelFloat, AbstractPySparseModelFloat):
    tag_1: csr_matrix = LavaPyType(csr_matrix, float)
    tag_2: csr_matrix = LavaPyType(csr_matrix, float)


@model_of(OTTTSparse, "fixed_pt")
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


@model_of(ProjectedDense, "fixed_pt")
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

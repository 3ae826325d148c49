"""The plastic connection with HLOP's lateral neurons: it learns from what its subspace leaves of the traces."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.learning.learning_rule import LoihiLearningRule
from lava.magma.core.learning.learning_rule_applier import AbstractLearningRuleApplier
from lava.magma.core.model.py.connection import LearningConnectionModelBitApproximate
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.dense.models import AbstractPyDenseModelBitAcc
from ottt_loihi.onchip.lava.connection import PlasticModelFixed
from ottt_loihi.onchip.lava.processes.dense import OTTTDense
from ottt_loihi.sim.learning import integers
from ottt_loihi.sim.learning import subspace as lateral
from ottt_loihi.sim.learning.encodings import PORTS, engine_change
from ottt_loihi.sim.learning.subspace import Subspace


class ProjectedDense(OTTTDense):
    """:class:`~ottt_loihi.onchip.lava.processes.dense.OTTTDense` whose rule is ``dw = x'·y1``, x' = x1 −
    H_oldᵀ·H_old·x1.

    With fixed rows products are rounded to nearest, where the engine floors them; so the rule has to be an encoding's
    own (``learning_encodings.engine_change``), not one in Lava's language.

    The rows of H after the first ``subspace.fixed`` learn at the end of every epoch, after the weights and from the
    same traces (``sim/learning/subspace.py`` has the equations). Fixed point only.

    Lava's learning engine can do none of this: its traces are 0 … 127, and x' has a sign; a ``LearningDense`` ignores
    the sign of a graded pre spike, and y·(x − x̂)ᵀ is a product of two signed numbers. So H is a Var of this process. On
    a chip, lateral neurons would take two more steps of an epoch: traces to y, y back to the synapses.

    Vars: rows, int16 ``(k, inputs)``; the others are OTTTDense's.
    """

    def __init__(
        self,
        weights: np.ndarray,
        learning_rule: LoihiLearningRule,
        reset_interval: int,
        weight_exp: int,
        name: str,
        rounding: str,
        seed: int,
        subspace: Subspace,
        decay_every: int = 0,
        decay_shift: int = 8,
    ) -> None:
        settings = weight_exp, name, rounding, seed, decay_every, decay_shift
        super().__init__(weights, learning_rule, reset_interval, *settings)
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
        random = integers.synapse_hash(self._lateral_seed, self.frame(), self.rows.shape)
        self.rows = lateral.moved(self.rows, self._fixed, self._shift, self.x1, random)

    def _extract_applier_evaluated_traces(self, x_traces_history, y_traces_history):
        traces = super()._extract_applier_evaluated_traces(x_traces_history, y_traces_history)
        traces["x1_u"] = lateral.projected(self.rows, self._fixed, traces["x1_u"][0])[np.newaxis, :]
        return traces

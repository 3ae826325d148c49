"""The common part of OTTT's plastic connections, dense and sparse, in both arithmetics; mixed in before Lava's classes.

It is no part of ``onchip/lava/processes``, where Lava takes every file for one with a Process.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.learning import string_symbols
from lava.magma.core.learning.learning_rule import LoihiLearningRule
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.variable import Var
from ottt_loihi.onchip.network.schedule import Clock
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning import integers
from ottt_loihi.sim.learning.rule import ROUNDINGS, SHARES

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

    def summed(self, s_in: np.ndarray) -> np.ndarray:
        """Return W·s."""
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


class PlasticModelFloat(PlasticModel):
    error_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)
    error_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    error_buff: np.ndarray = LavaPyType(np.ndarray, float)

    def activation(self, s_in: np.ndarray) -> np.ndarray:
        return self.summed(s_in)


class PlasticModelFixed(PlasticModel):
    """Our additions to Lava's model: shifted sum, rounding per synapse, random numbers that start with the clock."""

    error_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=8)
    error_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    error_buff: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)

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

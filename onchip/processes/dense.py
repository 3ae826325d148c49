"""The plastic connection of OTTT: Lava's learning engine, with trace reset and without its surprises."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.learning import string_symbols
from lava.magma.core.learning.learning_rule import LoihiLearningRule
from lava.magma.core.model.py.connection import LearningConnectionModelBitApproximate, LearningConnectionModelFloat
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.dense.models import AbstractPyDenseModelBitAcc, AbstractPyDenseModelFloat
from lava.proc.dense.process import LearningDense
from ottt_loihi.onchip.schedule import Clock
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim import learning_integers as integers

from ottt_loihi.errors import UsageError

ROUNDINGS = ("per-synapse", "lava")


class OTTTDense(LearningDense):
    """``a_out[t+1] = (W·s_in[t]) << weight_exp``, W learning by Lava's engine at the end of each epoch.

    What differs from Lava's ``LearningDense``:

    * x1 is set to 0 before every ``reset_interval``-th step, counted from the first: the trace of one sample never
      reaches the next (``reset_interval`` = K·T; K for a trace that is the epoch's spike alone);
    * weights are not truncated to even numbers at the first step: a resumed run goes on from the very same weights;
    * a ``Var.set()`` does not turn x1_tau into an integer;
    * weights decay, ``w −= w/2^decay_shift`` after every ``decay_every``-th epoch (0: never), rounded stochastically
      with a number of its own for each synapse (``sim.learning_integers.decay_step``);
    * ``error_out[t+1] = Wᵀ·error_in[t]`` gives the transposed weights as they are, for symmetric feedback.

    weights: integers −256 … 255 ``(post, pre)`` in fixed point.

    rounding (fixed point): how an updated weight becomes an integer again. ``"lava"``: as Lava's engine does it, one
    random number per learning epoch for all synapses, so that their errors add up. ``"per-synapse"``: an independent
    number for each synapse, as the chip does it, of ``sim.learning_integers.synapse_draws(seed, …)``, counting epochs
    from 0; everything else is Lava's engine.
    """

    def __init__(
        self,
        weights: np.ndarray,
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


class OTTTDenseBehaviour(Clock):
    """What both arithmetics share. Mixed in before Lava's classes."""

    def run_spk(self) -> None:
        if (self.time_step - 1) % self.proc_params["reset_interval"] == 0:
            self.x1 = np.zeros_like(self.x1)
        self.a_out.send(self.a_buff)  # before anything is received, as Lava does: cycles do not deadlock
        self.error_out.send(self.error_buff)
        s_in = self.s_in.recv().astype(bool)
        self.a_buff = self.activation(s_in)
        error = self.error_in.recv()
        if error.any() or self.error_buff.any():
            self.error_buff = self.weights.T @ error
        self.recv_traces(s_in)

    def run_lrn(self) -> None:
        super().run_lrn()
        if integers.decays_after(self.frame(), self.proc_params["decay_every"]):
            self.weights = self.decayed(self.frame(), self.proc_params["decay_shift"])

    def frame(self) -> int:
        """The learning epoch that ends in this step, from 0."""
        return self.time_step // self._learning_rule.t_epoch - 1

    def on_var_update(self) -> None:
        """Lava would rebuild the rule here, from time constants rounded to integers; ours never changes."""

    def _process_post_spikes(self, s_in_bap: np.ndarray) -> None:
        """Nothing to record where nothing fired, which is always: our neurons send no bap."""
        if s_in_bap.any():
            super()._process_post_spikes(s_in_bap)

    def _extract_applier_evaluated_traces(self, x_traces_history, y_traces_history):
        """Only the traces at the end of the epoch, when the rule asks for no others: the same values, less work."""
        if set(self._learning_rule.active_traces_per_dependency) != {string_symbols.U}:
            return super()._extract_applier_evaluated_traces(x_traces_history, y_traces_history)
        return {
            "x1_u": x_traces_history[-1, 0][np.newaxis, :],
            "x2_u": x_traces_history[-1, 1][np.newaxis, :],
            "y1_u": y_traces_history[-1, 0][:, np.newaxis],
            "y2_u": y_traces_history[-1, 1][:, np.newaxis],
            "y3_u": y_traces_history[-1, 2][:, np.newaxis],
        }


@implements(proc=OTTTDense, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class OTTTDenseModelFloat(OTTTDenseBehaviour, LearningConnectionModelFloat, AbstractPyDenseModelFloat):
    error_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)
    error_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    error_buff: np.ndarray = LavaPyType(np.ndarray, float)

    def activation(self, s_in: np.ndarray) -> np.ndarray:
        return self.weights[:, s_in].sum(axis=1)

    def decayed(self, frame: int, shift: int) -> np.ndarray:
        return self.weights - self.weights / 2**shift


def skip_random(model: Any) -> None:
    """Bring the random numbers of Lava's engine to where the model's clock stands (``sim.learning`` says which)."""
    model._x_random._rng_trace_decay.bit_generator.advance(2 * model.time_step)
    model._conn_var_random._rng.bit_generator.advance(model.time_step // model._learning_rule.t_epoch)


class FixedActivation:
    """The fixed-point part that is not Lava's: the shifted sum, rounding per synapse. Mixed in before everything."""

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self._independent, self._seed = proc_params["rounding"] == "per-synapse", proc_params["seed"]
        skip_random(self)

    def _stochastic_round_synaptic_variable(self, name, values, random):
        if self._independent:
            random = integers.synapse_draws(self._seed, self.frame(), values.shape) / 2**integers.FRACTION_BITS
        return super()._stochastic_round_synaptic_variable(name, values, random)

    def decayed(self, frame: int, shift: int) -> np.ndarray:
        random = integers.decay_draws(self._seed, frame, self.weights.shape)
        return integers.decay_step(self.weights, shift, random).astype(self.weights.dtype)

    def activation(self, s_in: np.ndarray) -> np.ndarray:
        return arithmetic.synaptic_input(self.weights[:, s_in].sum(axis=1), self.proc_params["weight_exp"])


@implements(proc=OTTTDense, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class OTTTDenseModelFixed(
    FixedActivation, OTTTDenseBehaviour, LearningConnectionModelBitApproximate, AbstractPyDenseModelBitAcc
):
    error_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=8)
    error_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    error_buff: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)

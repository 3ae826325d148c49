"""The readout: memoryless neurons that compare their membrane with the label and send the error back."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from ottt_loihi.onchip.lava import model_of
from ottt_loihi.onchip.lava.processes.neuron import Sender, SenderModel, SenderModelFixed, SenderModelFloat
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning import integers, losses, trial
from ottt_loihi.sim.learning.network import LearningLayer
from ottt_loihi.sim.learning.rule import Rule


class OTTTReadout(Sender, AbstractProcess):
    """One memoryless neuron per class with the error of a loss, acting once per learning epoch of K Lava steps.

    ::

        in turn ``update``:      v[t] = a_in << 6 + bias          (du = 4095, dv = 4096: nothing is kept)
                                 e    = gate · (v − (logit_scale << 6)·[class = label])   or another loss's error
                                 y1   = saturate( −e·y1_scale )         error_out = saturate( e·error_scale )
        until the epoch ends:    y1 is sent, zero before
        last time step:          predictions[i] = argmax_k Σ_t v_k[t]   (the first of equals)

    The floating-point model has no ``<< 6``. With a closed gate (``label_in[1] = 0``) the error is 0: nothing is
    learnt, here and in every layer that depends on this error, and everything else goes on. While the gate is open,
    predictions are no test of anything: the readout learns between the time steps of the very sample it predicts.

    Parameters
    ----------
    part, rule, update
        as in :class:`~ottt_loihi.onchip.lava.processes.neuron.Sender`; the scales, ``part.y1`` with η in it and
        ``part.error``, are per unit of e (of the state, 64 times that of ``logit_scale``). The rule's loss says what e
        is (``sim/learning/losses.py``); its learn_when ``"mistaken"`` closes the gate for a sample if the one before,
        the same with a closed gate, was answered with the label (``sim/learning/trial.py``)
    logit_scale
        > 0, the readout that stands for a logit of 1, in units of the weights' sum
    samples
        ≥ 1, number of samples, for ``predictions``

    Notes
    -----
    Messages are 8 bit: −127 … 127. Vars: v, y1, error, rng, scores, trial; predictions: int32 (samples,), −1 before;
    correct, y1_saturated, error_saturated: counts.
    """

    def __init__(self, *, part: LearningLayer, rule: Rule, samples: int, **common: Any) -> None:
        super().__init__(part=part, rule=rule, name="readout", **common)
        shape = (part.layer.size,)
        self.label_in = InPort(shape=(2,))

        self.scores = Var(shape=shape, init=0)
        self.trial = Var(shape=(2,), init=trial.fresh_trial(rule.usual_mistakes))
        self.predictions = Var(shape=(samples,), init=-1)
        self.correct = Var(shape=(1,), init=0)


class OTTTReadoutBehaviour:
    """Call the arithmetic of a model in the Lava steps in which the readout acts; mixed in before the sender's."""

    label_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    trial: np.ndarray = LavaPyType(np.ndarray, np.int64)
    predictions: np.ndarray = LavaPyType(np.ndarray, np.int32)
    correct: np.ndarray = LavaPyType(np.ndarray, np.int64)
    PARAMETERS = (*SenderModel.PARAMETERS, "logit_scale")

    def run_spk(self) -> None:
        updated = self._update.time_step_at(self.time_step)
        a, (label, gate) = self.a_in.recv(), self.label_in.recv()
        self.begins_epoch()
        if updated is not None:
            sample, t = updated
            self.update(a)
            if t == 0:
                self._judge(label, gate)
            self._keep_score(sample, t, label)
            if gate and self._open:
                e = self.compared(label)
                halvings = integers.halvings(sample, self._rule.halve_every) + self._slower
                self.y1 = self.reward = self.message_of_reward(e, halvings)
                if self._part.error:
                    self.error = self.message_of_error(e, self._slower)
                if self._part.bias is not None:
                    self.bias = self.bias + self.bias_change(t)
        self.send(np.ones(self.y1.shape, bool), updated is not None)

    def _judge(self, label: int, gate: int) -> None:
        """Whether, and how much slower, this sample may be learnt from, by the answer before it."""
        self._open, self._slower = True, 0
        if self._rule.learn_when == "mistaken" and gate:
            self.trial = trial.judged(self.trial, label)
            self._open = bool(self.trial[0] != label)
            self._slower = trial.halvings(self.trial[1], self._rule.usual_mistakes)

    def _keep_score(self, sample: int, t: int, label: int) -> None:
        if t == 0:
            self.scores = np.zeros_like(self.scores)
        self.scores = self.scores + self.v
        if t == self._update.num_steps - 1 and sample < len(self.predictions):
            self.trial[0] = self.predictions[sample] = self.scores.argmax()
            self.correct += self.predictions[sample] == label


@model_of(OTTTReadout, "floating_pt")
class OTTTReadoutModelFloat(OTTTReadoutBehaviour, SenderModelFloat, PyLoihiProcessModel):
    scores: np.ndarray = LavaPyType(np.ndarray, float)

    def update(self, a: np.ndarray) -> None:
        self.v = a + self.bias

    def compared(self, label: int) -> np.ndarray:
        return losses.float_error(self._rule.loss, self.v, label, self._logit_scale)


@model_of(OTTTReadout, "fixed_pt")
class OTTTReadoutModelFixed(OTTTReadoutBehaviour, SenderModelFixed, PyLoihiProcessModel):
    scores: np.ndarray = LavaPyType(np.ndarray, np.int64)

    def update(self, a: np.ndarray) -> None:
        nothing = np.zeros_like(self.v)
        u = arithmetic.current_step(nothing, a.astype(np.int32), 4095)
        v = arithmetic.voltage_step(nothing, u, 4096, self.bias)
        self.v = np.where(arithmetic.spikes(v, self._part.layer.vth), 0, v).astype(np.int32)

    def compared(self, label: int) -> np.ndarray:
        return losses.integer_error(self._rule.loss, self.v, label, self._logit_scale << arithmetic.STATE_SHIFT)

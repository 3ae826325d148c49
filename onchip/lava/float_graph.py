"""The learning graph in floating point: the same processes and schedule, weights and traces without rounding.

For studying the rule apart from the integers, and for proving the schedule: its weights equal those of the plain
three-factor loop, ``ottt_loihi.rules.three_factor.ThreeFactorLoop``, to 1e-12.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ottt_loihi.converters.lava.runtime import require_lava
from ottt_loihi.onchip.lava.graph import LearningGraph, class_neurons, connect
from ottt_loihi.onchip.network.feedback import KINDS
from ottt_loihi.onchip.network.schedule import Schedule
from ottt_loihi.onchip.network.trainable import make_schedule
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning.bias import BiasLearning, lengths
from ottt_loihi.sim.learning.eligibility import ports
from ottt_loihi.sim.learning.encodings import PORTS
from ottt_loihi.sim.learning.local import signs, slope
from ottt_loihi.sim.learning.rule import DEFAULT, Rule

from ottt_loihi.errors import UsageError


def build_float_graph(
    weights: Sequence[np.ndarray],
    packed: np.ndarray,
    labels: np.ndarray,
    *,
    learning_rate: float,
    feedback: Sequence[np.ndarray] | None,
    decay: float = 0.5,
    v_threshold: float = 1.0,
    reset: str = "subtract",
    noise: float = 0.25,
    averaging: int = 13,
    rule: Rule = DEFAULT,
    current: float = 0.0,
    otpe: bool = False,
) -> LearningGraph:
    """Build the graph for ``LavaRun(graph.source, tag="floating_pt")``.

    Parameters
    ----------
    weights
        float64 ``(post, pre)`` per layer, the readout last; ``scipy.sparse.csr_matrix``: only the stored ones learn
    packed, labels
        as in :class:`~ottt_loihi.onchip.lava.processes.source.SampleSource`; T is ``packed.shape[1]``
    learning_rate
        η of ``Δw = −η·â·f(u)·δ``, δ_out = (o − y)/T, at every time step; the readout's â is the bare spike
    feedback
        matrices per hidden layer, as ``rule.feedback`` says: ``"random"``: fixed B ``(hidden, classes)``, δ_l =
        B_l·δ_out; ``"kolen-pollack"``: A ``(n_above, hidden)`` at the start; ``"opzo"``: M ``(hidden, classes)`` at the
        start; None for ``"symmetric"``, and for ``"local"``, TESS, whose m is (κ/N)·Bᵀ·2e/classes
    noise, averaging
        of OPZO (:class:`~ottt_loihi.rules.three_factor.OPZOLoop`)
    decay, v_threshold, reset
        of the hidden neurons; 0 < λ < 1; the surrogate is the rectangle ``|u − Vth| < Vth``
    rule
        how it learns
    current
        α of current-based neurons, another than ``decay``; they reset to zero; 0: none
    otpe
        OTPE: dense connections of hidden layers but the last learn from R, which lives in the tags of their synapses;
        ``decay`` 1/2, 3/4, 7/8 or 15/16

    Raises
    ------
    UsageError
        for a reset, decay or current out of range, feedback that does not fit, S-TLLR with a current, or with ``otpe``
        another choice than the phased schedule, encoding factored and feedback symmetric or random
    """
    require_lava()
    from ottt_loihi.onchip.lava.processes.source import SampleSource

    if not 0 <= current < 1 or (current and (reset != "zero" or current == decay)):
        raise UsageError(f"current: expected 0, or another decay than {decay} and reset zero; got {current}, {reset}")
    if reset not in ("subtract", "zero") or not 0 < decay < 1 or not v_threshold > 0:
        raise UsageError(
            f"expected reset subtract or zero, 0 < decay < 1, v_threshold > 0; got {reset}, {decay}, {v_threshold}"
        )
    if current and rule.of_stllr:
        raise UsageError("lambda_pre, alpha_post: current-based neurons take both traces; use rule ottt")
    _check_feedback(weights, feedback, rule.feedback)
    if otpe:
        _check_otpe(weights, rule, current)
    schedule, num_steps = make_schedule(len(weights) - 1, rule), packed.shape[1]
    build = _FloatBuilder(
        rule, schedule, num_steps, decay, v_threshold, reset == "subtract", learning_rate, current, otpe
    )
    sizes = [w.shape[0] for w in weights]
    source = SampleSource(packed, weights[0].shape[1], labels.astype(np.int32), schedule.epoch, period=build.period)
    plastic = [build.connection(layer, w, f"plastic[{layer}]") for layer, w in enumerate(weights)]
    neurons = [
        build.neuron(layer, n, noise if rule.feedback == "opzo" else 0.0, sizes[-1])
        for layer, n in enumerate(sizes[:-1])
    ]
    readout = build.readout(sizes[-1], len(labels))
    classes, local = sizes[-1], []
    if rule.feedback == "local":
        feedback = [signs(classes, n).T.astype(float) for n in sizes[:-1]]
    back = [build.back(layer, m, num_steps / noise, averaging) for layer, m in enumerate(feedback or ())]
    sent = [ports(PORTS[rule.encoding], rule.alpha_post != 0)] * len(neurons) + [PORTS[rule.encoding]]
    if rule.feedback == "local":
        local = class_neurons(classes, back, schedule, num_steps, rule.kappa)
    return connect(source, plastic, neurons, readout, back, schedule, num_steps, sent, local=local)


def _check_otpe(weights: Sequence[np.ndarray], rule: Rule, current: float) -> None:
    from scipy.sparse import issparse

    expected = {"schedule": "phased", "encoding": "factored", "learn_bias": False}
    for name, value in expected.items():
        if getattr(rule, name) != value:
            raise UsageError(f"otpe: expected {name} {value}, got {getattr(rule, name)}")
    if rule.feedback not in ("symmetric", "random") or rule.of_stllr or current or any(map(issparse, weights)):
        raise UsageError(
            "otpe: expected feedback symmetric or random, dense weights, and neither S-TLLR's settings nor a current"
        )


def _check_feedback(weights: Sequence[np.ndarray], feedback: Sequence[np.ndarray] | None, kind: str) -> None:
    if (kind in ("symmetric", "local")) != (feedback is None):
        raise UsageError(
            f"feedback: expected matrices for all kinds but symmetric and local, got {feedback} for {kind}"
        )
    twins = [w.shape for w in weights[1:]]
    expected = twins if kind == "kolen-pollack" else [(n, weights[-1].shape[0]) for _, n in twins]
    if feedback is not None and [b.shape for b in feedback] != expected:
        raise UsageError(f"feedback: expected matrices of shapes {expected}, got {[b.shape for b in feedback]}")


@dataclass(frozen=True)
class _FloatBuilder:
    """Makes the processes, with the arguments of :func:`build_float_graph`; num_steps: T."""

    rule: Rule
    schedule: Schedule
    num_steps: int
    decay: float
    vth: float
    subtract: bool
    rate: float
    current: float = 0.0
    otpe: bool = False

    def tagged(self, layer: int) -> bool:
        """Whether a layer learns from its synapses' tags: OTPE's hidden layers but the last."""
        return self.otpe and layer < self.schedule.hidden_layers - 1

    @property
    def period(self) -> int:
        """Lava steps of a sample."""
        return self.schedule.period(self.num_steps)

    def connection(self, layer: int, weight: np.ndarray, name: str) -> Any:
        from ottt_loihi.onchip.lava.processes.plastic import OTTTDense, OTTTSparse
        from ottt_loihi.onchip.lava.rule import OTTTLearningRule
        from scipy.sparse import issparse

        rule, epoch, is_readout = self.rule, self.schedule.epoch, layer == self.schedule.hidden_layers
        decay = 0.0 if is_readout else self.decay if rule.lambda_pre is None else rule.lambda_pre
        after = (1 if rule.alpha_post > 0 else -1, 0) if rule.alpha_post and not is_readout else None
        slow = None
        if self.current and not is_readout:
            decay, slow = min(self.current, self.decay), (max(self.current, self.decay), 0.0)
        own = {"encoding": rule.encoding, "after": after, "slow": slow, "tagged": self.tagged(layer)}
        of_lava = OTTTLearningRule(epoch, self.schedule.pre_phase(layer), decay, "float", **own)
        kind, weight = (
            (OTTTSparse, weight.astype(float)) if issparse(weight) else (OTTTDense, np.asarray(weight, float))
        )
        return kind(weight, of_lava, self.period if decay else epoch, name=name)

    def back(self, layer: int, matrix: np.ndarray, gain: float, averaging: int) -> Any:
        from lava.proc.dense.process import Dense
        from ottt_loihi.onchip.lava.processes.feedback import MomentumFeedback

        name = f"feedback[{layer}]"
        if self.rule.feedback == "kolen-pollack":
            return self.connection(layer + 1, matrix, name)
        if self.rule.feedback == "opzo":
            return MomentumFeedback(np.asarray(matrix, np.float64), gain, averaging, self.schedule.epoch, name=name)
        return Dense(weights=matrix, num_message_bits=8, name=name)

    def neuron(self, layer: int, size: int, noise: float, classes: int) -> Any:
        from ottt_loihi.onchip.lava.processes.neuron import OTTTNeuron

        unity, lost = arithmetic.DECAY_UNITY, arithmetic.DECAY_UNITY * (1 - self.decay)
        slow = self.decay if self.current else None
        traced = not self.rule.of_stllr
        gains = lengths(self.current or self.decay, self.num_steps, 1.0, self.subtract, traced, slow)
        return OTTTNeuron(
            shape=(size,),
            du=lost - 1 if self.subtract else unity * (1 - self.current) - 1,
            dv=unity if self.subtract else lost,
            vth=self.vth,
            half_width=self.vth,
            self_weight=-self.decay * self.vth if self.subtract else 0.0,
            y1_scale=self.rate * (8 * slope(self.rule.kappa, size) / classes if self.rule.feedback == "local" else 1.0),
            error_scale=1.0 if KINDS[self.rule.feedback].travels == "layerwise" and layer > 0 else None,
            noise=noise,
            feedback_phase=self.schedule.feedback_phase(layer),
            seed=layer,
            name=f"neuron[{layer}]",
            after=(self.rule.alpha_post, self.rule.lambda_post) if self.rule.alpha_post else None,
            mean=self.decay if self.tagged(layer) else None,
            **self._common(layer, BiasLearning(gains, 0, self.subtract)),
        )

    def readout(self, classes: int, samples: int) -> Any:
        from ottt_loihi.onchip.lava.processes.readout import OTTTReadout

        hidden = self.schedule.hidden_layers
        return OTTTReadout(
            shape=(classes,),
            logit_scale=1.0,
            y1_scale=self.rate / self.num_steps,
            error_scale=1 / self.num_steps if hidden else None,
            samples=samples,
            loss=self.rule.loss,
            learn_when=self.rule.learn_when,
            usual_mistakes=self.rule.usual_mistakes,
            **self._common(hidden, BiasLearning((1.0,) * self.num_steps)),
        )

    def _common(self, layer: int, bias: BiasLearning) -> dict[str, Any]:
        return {
            "epoch": self.schedule.epoch,
            "num_steps": self.num_steps,
            "period": self.period,
            "halve_every": self.rule.halve_every * self.num_steps,
            "update_phase": self.schedule.update_phase(layer),
            "encoding": self.rule.encoding,
            "bias_learning": bias if self.rule.learn_bias else None,
        }

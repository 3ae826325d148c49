"""The learning graph in floating point: the same processes and schedule, weights and traces without rounding.

For studying the rule apart from the integers, and for proving the schedule: its weights equal those of the plain
three-factor loop, ``ottt_loihi.rules.three_factor.ThreeFactorLoop``, to 1e-12.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from ottt_loihi.converters.lava.runtime import require_lava
from ottt_loihi.onchip.lava.graph import Builder, LearningGraph, connect
from ottt_loihi.onchip.network.feedback import KINDS
from ottt_loihi.onchip.network.scales import make_schedule
from ottt_loihi.onchip.network.schedule import SOURCE_PHASE, Schedule
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning.bias import BiasLearning, lengths
from ottt_loihi.sim.learning.currents import Slow
from ottt_loihi.sim.learning.local import signs, slope
from ottt_loihi.sim.learning.network import Feedback, LearningLayer, LearningNetwork
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
    if reset not in ("subtract", "zero") or not 0 < decay < 1 or not (v_threshold > 0 and learning_rate > 0):
        raise UsageError(
            "expected reset subtract or zero, 0 < decay < 1, v_threshold > 0 and learning_rate > 0; "
            f"got {reset}, {decay}, {v_threshold}, {learning_rate}"
        )
    if current and rule.of_stllr:
        raise UsageError("lambda_pre, alpha_post: current-based neurons take both traces; use rule ottt")
    _check_feedback(weights, feedback, rule.feedback)
    if otpe:
        _check_otpe(weights, rule, current)
    schedule, steps = make_schedule(len(weights) - 1, rule), packed.shape[1]
    if rule.feedback == "local":
        feedback = [signs(weights[-1].shape[0], w.shape[0]).T for w in weights[:-1]]
    of_opzo = (0, noise, steps / noise, averaging) if rule.feedback == "opzo" else ()
    backs = [KINDS[rule.feedback](matrix.astype(float), *of_opzo) for matrix in feedback or ()]
    layers = _layers(weights, backs, rule, schedule, steps, learning_rate, decay, v_threshold, reset, current)
    builder = Builder(LearningNetwork(layers, schedule.epoch, steps, 1, rule), schedule, "float", otpe)
    source = SampleSource(packed, weights[0].shape[1], labels.astype(np.int32), builder.turn(SOURCE_PHASE))
    return connect(builder, source, len(labels))


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


class _Synapses(NamedTuple):
    """Weights ``(post, pre)``, dense or ``scipy.sparse.csr_matrix``, or of the reset one for all neurons."""

    weight: Any
    weight_exp: int = 0

    def matrix(self) -> Any:
        return self.weight


def _layers(
    weights: Sequence[Any],
    backs: Sequence[Feedback],
    rule: Rule,
    schedule: Schedule,
    num_steps: int,
    learning_rate: float,
    decay: float,
    vth: float,
    reset: str,
    current: float,
) -> tuple[LearningLayer, ...]:
    """Return the layers as ``onchip/network/scales.py`` makes them of integers; seeds are of OPZO's noise alone.

    Neurons have no bias, and the state has the unit of vth. Of S-TLLR's α_post the synapse's second product has the
    sign alone.
    """
    unity, lost, subtract = arithmetic.DECAY_UNITY, arithmetic.DECAY_UNITY * (1 - decay), reset == "subtract"
    dynamics = (lost - 1, unity) if subtract else (unity * (1 - current) - 1, lost)
    fast, slow = decay if rule.lambda_pre is None else rule.lambda_pre, None
    if current:
        fast, slow = min(current, decay), Slow(max(current, decay), 0)
    gains = lengths(current or decay, num_steps, 1.0, subtract, not rule.of_stllr, decay if current else None)
    after = SimpleNamespace(alpha=rule.alpha_post, decay=rule.lambda_post, sign=np.sign(rule.alpha_post), shift=0)
    classes, last, layerwise = weights[-1].shape[0], len(weights) - 1, KINDS[rule.feedback].travels == "layerwise"
    found = []
    for index, weight in enumerate(weights):
        size, readout = weight.shape[0], index == last
        rest, (du, dv) = np.zeros(size), (unity - 1, unity) if readout else dynamics
        of_tess = 8 * slope(rule.kappa, size) / classes if rule.feedback == "local" else 1.0
        sends = last > 0 if readout else layerwise and index > 0
        biases = BiasLearning((1.0,) * num_steps) if readout else BiasLearning(gains, 0, subtract)
        part = LearningLayer(
            connection=_Synapses(weight.astype(float)),
            layer=SimpleNamespace(size=size, du=du, dv=dv, vth=vth, effective_bias=rest, u_init=rest),
            inhibition=_Synapses(-decay * vth) if subtract and not readout else None,
            decay=0.0 if readout else fast,
            pre_phase=schedule.pre_phase(index),
            impulse=None,
            slow=None if readout else slow,
            y1=learning_rate / num_steps if readout else learning_rate * of_tess,
            error=(1 / num_steps if readout else 1.0) if sends else None,
            feedback=backs[index] if backs and not readout else None,
            half_width=vth,
            trace_seed=1,
            weight_seed=0,
            seed=0 if readout else index,
            bias=biases if rule.learn_bias else None,
            after=after if rule.alpha_post and not readout else None,
        )
        found.append(part)
    return tuple(found)

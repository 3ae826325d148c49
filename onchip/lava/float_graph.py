"""The learning graph in floating point: the same processes and schedule, weights and traces without rounding.

For studying the rule apart from the integers, and for proving the schedule: its weights equal those of the plain
three-factor loop, ``ottt_loihi.rules.three_factor.ThreeFactorLoop``, to 1e-12.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ottt_loihi.converters.lava.runtime import require_lava
from ottt_loihi.onchip.lava.graph import LearningGraph, class_neurons, connect
from ottt_loihi.onchip.network.schedule import Schedule
from ottt_loihi.onchip.network.trainable import LAYERWISE, SIGNALS, make_schedule
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning.bias import BiasLearning, lengths
from ottt_loihi.sim.learning.eligibility import ports
from ottt_loihi.sim.learning.encodings import PORTS
from ottt_loihi.sim.learning.local import signs, slope
from ottt_loihi.sim.learning.options import DEFAULT, Options

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
    kind: str | None = None,
    noise: float = 0.25,
    averaging: int = 13,
    options: Options = DEFAULT,
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
        matrices per hidden layer, as ``kind`` says; None: the transposed weights
    kind
        ``"random"``: fixed B ``(hidden, classes)``, δ_l = B_l·δ_out; ``"kolen-pollack"``: A ``(n_above, hidden)`` at
        the start; ``"opzo"``: M ``(hidden, classes)`` at the start; ``"local"``: TESS, without matrices, whose m is
        (κ/N)·Bᵀ·2e/classes. Default: random, or symmetric without matrices
    noise, averaging
        of OPZO (:class:`~ottt_loihi.sim.learning.feedback.OPZOLoop`)
    decay, v_threshold, reset
        of the hidden neurons; 0 < λ < 1; the surrogate is the rectangle ``|u − Vth| < Vth``
    options
        of the rule

    Raises
    ------
    UsageError
        for a reset or decay out of range, or feedback that does not fit
    """
    require_lava()
    from ottt_loihi.onchip.lava.processes.source import SampleSource

    if reset not in ("subtract", "zero") or not 0 < decay < 1 or not v_threshold > 0:
        raise UsageError(f"expected reset subtract or zero, 0 < decay < 1, v_threshold > 0; got {reset}, {decay}")
    kind = kind or ("symmetric" if feedback is None else "random")
    layerwise = kind in LAYERWISE
    _check_feedback(weights, feedback, kind)
    hidden = [w.shape[0] for w in weights[:-1]]
    schedule, frames = make_schedule(len(hidden), kind, options.schedule), packed.shape[1]
    source = SampleSource(
        packed, weights[0].shape[1], labels.astype(np.int32), schedule.epoch, period=schedule.period(frames)
    )
    plastic = [_plastic(w, layer, schedule, frames, decay, "plastic", options) for layer, w in enumerate(weights)]
    amplitude = noise if kind == "opzo" else 0.0
    neurons = [
        _neuron(
            n,
            layer,
            schedule,
            frames,
            decay,
            v_threshold,
            reset,
            learning_rate * (8 * slope(options.kappa, n) / weights[-1].shape[0] if kind == "local" else 1.0),
            layerwise and layer > 0,
            amplitude,
            options,
        )
        for layer, n in enumerate(hidden)
    ]
    readout = _readout(weights[-1].shape[0], len(labels), schedule, frames, learning_rate, options)
    if kind == "local":
        classes = weights[-1].shape[0]
        feedback = [signs(classes, n).T.astype(float) for n in hidden]
    back = [
        _back(kind, m, layer, schedule, frames, decay, frames / noise, averaging, options)
        for layer, m in enumerate([] if feedback is None else feedback)
    ]
    sent = [ports(PORTS[options.encoding], options.alpha_post != 0)] * len(neurons) + [PORTS[options.encoding]]
    local = class_neurons(weights[-1].shape[0], back, schedule, frames, options.kappa) if kind == "local" else []
    return connect(source, plastic, neurons, readout, back, schedule, frames, sent, local=local)


def _check_feedback(weights: Sequence[np.ndarray], feedback: Sequence[np.ndarray] | None, kind: str) -> None:
    if kind not in SIGNALS or (kind in ("symmetric", "local")) != (feedback is None):
        raise UsageError(
            f"kind: expected one of {', '.join(SIGNALS)}, and matrices for all but symmetric and local; got {kind}"
        )
    twins = [w.shape for w in weights[1:]]
    expected = twins if kind == "kolen-pollack" else [(n, weights[-1].shape[0]) for _, n in twins]
    if feedback is not None and [b.shape for b in feedback] != expected:
        raise UsageError(f"feedback: expected matrices of shapes {expected}, got {[b.shape for b in feedback]}")


def _back(
    kind: str,
    matrix: np.ndarray,
    layer: int,
    schedule: Schedule,
    frames: int,
    decay: float,
    gain: float,
    averaging: int,
    options: Options,
) -> Any:
    from lava.proc.dense.process import Dense
    from ottt_loihi.onchip.lava.processes.feedback import MomentumFeedback

    name = f"feedback[{layer}]"
    if kind == "kolen-pollack":
        return _plastic(matrix, layer + 1, schedule, frames, decay, "feedback", options)
    if kind == "opzo":
        return MomentumFeedback(np.asarray(matrix, np.float64), gain, averaging, schedule.epoch, name=name)
    return Dense(weights=matrix, num_message_bits=8, name=name)


def _plastic(
    weight: np.ndarray, layer: int, schedule: Schedule, frames: int, decay: float, name: str, options: Options
) -> Any:
    from ottt_loihi.onchip.lava.processes.dense import OTTTDense
    from ottt_loihi.onchip.lava.processes.sparse import OTTTSparse
    from ottt_loihi.onchip.lava.rule import OTTTLearningRule
    from scipy.sparse import issparse

    is_readout = layer == schedule.hidden_layers
    decay = 0.0 if is_readout else decay if options.lambda_pre is None else options.lambda_pre
    after = (1 if options.alpha_post > 0 else -1, 0) if options.alpha_post and not is_readout else None
    rule = OTTTLearningRule(
        schedule.epoch, schedule.pre_phase(layer), decay, "float", encoding=options.encoding, after=after
    )
    period = schedule.period(frames)
    interval = period if decay else schedule.epoch
    process, weight = (OTTTSparse, weight.astype(float)) if issparse(weight) else (OTTTDense, np.asarray(weight, float))
    return process(
        weight,
        rule,
        interval,
        name=f"{name}[{layer}]",
        decay_every=options.decay_every * (period // schedule.epoch),
        decay_shift=options.decay_shift,
    )


def _neuron(
    size: int,
    layer: int,
    schedule: Schedule,
    frames: int,
    decay: float,
    vth: float,
    reset: str,
    rate: float,
    passes_error_on: bool,
    noise: float,
    options: Options,
) -> Any:
    from ottt_loihi.onchip.lava.processes.neuron import OTTTNeuron

    unity, subtract = arithmetic.DECAY_UNITY, reset == "subtract"
    return OTTTNeuron(
        shape=(size,),
        du=unity * (1 - decay) - 1 if subtract else unity - 1,
        dv=unity if subtract else unity * (1 - decay),
        vth=vth,
        half_width=vth,
        self_weight=-decay * vth if subtract else 0.0,
        y1_scale=rate,
        error_scale=1.0 if passes_error_on else None,
        noise=noise,
        encoding=options.encoding,
        bias_learning=_biases(decay, frames, subtract, options),
        after=(options.alpha_post, options.lambda_post) if options.alpha_post else None,
        seed=layer,
        epoch=schedule.epoch,
        frames=frames,
        period=schedule.period(frames),
        update_phase=schedule.update_phase(layer),
        feedback_phase=schedule.feedback_phase(layer),
        name=f"neuron[{layer}]",
    )


def _biases(decay: float, frames: int, subtract: bool, options: Options) -> BiasLearning | None:
    gains = lengths(decay, frames, 1.0, subtract, not options.of_stllr)
    return BiasLearning(gains, 0, subtract) if options.learn_bias else None


def _readout(classes: int, samples: int, schedule: Schedule, frames: int, rate: float, options: Options) -> Any:
    from ottt_loihi.onchip.lava.processes.readout import OTTTReadout

    return OTTTReadout(
        shape=(classes,),
        unit=1.0,
        y1_scale=rate / frames,
        error_scale=1 / frames if schedule.hidden_layers else None,
        samples=samples,
        epoch=schedule.epoch,
        frames=frames,
        period=schedule.period(frames),
        update_phase=schedule.update_phase(schedule.hidden_layers),
        loss=options.loss,
        learn_when=options.learn_when,
        encoding=options.encoding,
        bias_learning=BiasLearning((1.0,) * frames) if options.learn_bias else None,
    )

"""Learning rates, feedback and seeds as the integers that learn: one definition for Lava's processes and ``sim``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ottt_loihi.onchip.network.trainable import LAYERWISE, Plan, plan_subspaces
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning import eligibility, integers, local
from ottt_loihi.sim.learning.bias import BiasLearning, bias_learning
from ottt_loihi.sim.learning.eligibility import After
from ottt_loihi.sim.learning.learner import Feedback, LearningLayer, LearningNetwork
from ottt_loihi.sim.learning.options import DEFAULT, Options
from ottt_loihi.sim.learning.subspace import Subspace
from ottt_loihi.sim.network import Sparse

from ottt_loihi.errors import UsageError

ERROR_STEPS = 64  # 8-bit messages: an error of ±1 is ±64, and ±127 is the end
FEEDBACK_MAX = 254
NOISE = 4  # OPZO: its amplitude is a quarter of the threshold; less gives a noisier M, more disturbs the network
AVERAGING = 13  # OPZO: M averages over 2^13 time steps: as long as a fifth of MNIST's pass lasts at T = 6 … 8


@dataclass(frozen=True)
class Scales:
    """Of one layer. y1: per unit of the third factor (of the readout's error, in units of the state), η is in it ·
    error: of the message that it sends on, None if nobody listens · feedback: integers, ``(neurons, classes)`` of the
    direct kinds (opzo: at the start), ``(neurons above, neurons)`` of Kolen–Pollack (at the start), or None · noise,
    gain: of OPZO, in units of vth and per product of noise and error message; else 0.
    """

    y1: float
    error: float | None
    feedback: np.ndarray | None
    noise: int = 0
    gain: float = 0.0


def layer_scales(
    plan: Plan, rates: Sequence[float], feedback: str, seed: int, options: Options = DEFAULT
) -> list[Scales]:
    """Scales of every layer, the readout last.

    ``Δw = −η·â·f(u)·δ`` in units of the threshold becomes ``y1 = −η·f(u)·δ · LSB per threshold · 2^10 / I_eff``.
    """
    if feedback == "local" and options.learn_when == "wrong":
        raise UsageError(
            "learn_when: class neurons of a hidden layer do not know what the readout predicts; use always, or another "
            "feedback than local"
        )
    if options.kappa is not None and feedback != "local":
        raise UsageError(f"kappa: belongs to feedback local (TESS), and feedback {feedback} has none; leave it out")
    y1_per_delta = [rate * steps_per_y1(plan, layer, feedback, options) for layer, rate in enumerate(rates)]
    scales = []
    for layer in range(len(plan.hidden)):
        matrix, units, noise, gain = _feedback(plan, feedback, layer, seed)
        per_delta = ERROR_STEPS * units  # what arrives as third factor, per 1.0 of δ
        error = ERROR_STEPS / per_delta if feedback in LAYERWISE and layer else None
        y1 = y1_per_delta[layer] * plan.resolution(layer) / per_delta
        scales.append(Scales(y1, error, matrix, noise, gain))
    state_per_delta = plan.unit << arithmetic.STATE_SHIFT
    y1 = y1_per_delta[-1] * plan.resolution(len(plan.hidden)) / state_per_delta
    sends = plan.hidden and feedback != "local"
    return [*scales, Scales(y1, ERROR_STEPS / state_per_delta if sends else None, None)]


def _feedback(plan: Plan, feedback: str, layer: int, seed: int) -> tuple[np.ndarray | None, float, int, float]:
    """(matrix, its units per 1.0, noise, gain) of a hidden layer."""
    if feedback == "random":
        return *quantized_feedback(random_feedback(plan, seed)[layer]), 0, 0.0
    if feedback == "local":
        return local.WEIGHT * local.signs(plan.classes, plan.hidden[layer].size).T, local.units(plan.classes), 0, 0.0
    if feedback == "symmetric":
        return None, plan.resolution(layer + 1), 0, 0.0
    if feedback == "kolen-pollack":
        above = plan.dense[layer + 1]
        start = start_weights(plan, layer + 1, above.shape, seed)
        if isinstance(above, Sparse):  # the twin has the same synapses
            start *= above.mask()
        return start, plan.resolution(layer + 1), 0, 0.0
    # an LSB of M is an LSB of the readout's weights: ∂o/∂u of the top layer is its transposed weights times a rate
    units, noise = plan.resolution(len(plan.hidden)), max(1, plan.hidden[layer].vth // NOISE)
    gain = units * plan.hidden[layer].vth / noise / ERROR_STEPS
    return start_weights(plan, -1, (plan.hidden[layer].size, plan.classes), seed + layer), units, noise, gain


def start_weights(plan: Plan, layer: int, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Return the start of learnt feedback: random, uniform, with the standard deviation of the connection's weights."""
    spread = np.sqrt(3.0) * max(1.0, float(plan.dense[layer].weight.std()))
    drawn = np.random.default_rng([seed, *shape]).uniform(-spread, spread, shape)
    return np.clip(np.round(drawn), -255, 255).astype(np.int32)


def steps_per_y1(plan: Plan, layer: int, feedback: str, options: Options = DEFAULT) -> float:
    """y1 that moves a weight by one LSB per spike of trace 1."""
    phases, decay = plan.schedule(feedback, options.schedule, lag=options.input_lag), plan.trace_decay(layer, options)
    left = integers.impulse_left(decay, phases.epoch, phases.pre_phase(layer))
    return 2**integers.FIXED_SHIFT / (integers.default_impulse(decay, options.silent_epochs > 0) * left)


def random_feedback(plan: Plan, seed: int) -> list[np.ndarray]:
    """B per hidden layer, float64 ``(hidden, classes)``, uniform in ±1/√classes: the same draws as torch's rules.

    Layer after layer from ``default_rng(seed)``, as ``ottt_loihi.rules.three_factor.ThreeFactorLoop``.
    """
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, (layer.size, plan.classes)) / np.sqrt(plan.classes) for layer in plan.hidden]


def quantized_feedback(matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """(even integers up to ±254, integer units per 1.0)."""
    scale = FEEDBACK_MAX / np.abs(matrix).max()
    return (2 * np.round(matrix * scale / 2)).astype(np.int32), float(scale)


def base_seed(seed: int) -> int:
    """Seeds of all processes are this plus a small number, and fit where Lava wants them."""
    return 1000 * (seed % 2**20)


def trace_seed(seed: int, layer: int) -> int:
    return base_seed(seed) + 4 * layer  # Lava uses four generators, seeded one after the other


def weight_seed(seed: int, layer: int) -> int:
    return base_seed(seed) + layer


def feedback_seed(plan: Plan, seed: int, layer: int) -> int:
    """Of learnt feedback's rounding."""
    return base_seed(seed) + len(plan.dense) + layer


def neuron_seed(plan: Plan, seed: int, layer: int) -> int:
    return base_seed(seed) if layer == len(plan.hidden) else base_seed(seed) + layer + 1


def learning_network(
    plan: Plan,
    rates: Sequence[float],
    feedback: str = "random",
    seed: int = 0,
    halve_every: int = 0,
    rounding: str = "per-synapse",
    subspaces: Sequence[Subspace] | None = None,
    options: Options = DEFAULT,
) -> LearningNetwork:
    """Return the network of ``sim.learn``; arguments as in :func:`~ottt_loihi.onchip.lava.graph.build_graph`.

    Raises :class:`UsageError` for a rate too small or too large for the integers.
    """
    schedule = plan.schedule(feedback, options.schedule, options.silent_epochs, options.input_lag)
    lateral = plan_subspaces(plan, subspaces)
    layers = []
    for index, scales in enumerate(layer_scales(plan, rates, feedback, seed, options)):
        lif, readout = plan.chip.layers[index], index == len(plan.hidden)
        name = "readout" if readout else f"neuron[{index}]"
        bias = layer_bias(plan, index, feedback, options) if options.learn_bias else None
        layers.append(
            LearningLayer(
                connection=plan.dense[index],
                layer=lif,
                bias=bias,
                inhibition=None if readout else plan.inhibition[index],
                decay=plan.trace_decay(index, options),
                pre_phase=schedule.pre_phase(index),
                impulse=integers.default_impulse(plan.trace_decay(index, options), options.silent_epochs > 0),
                y1=integers.mantissa_and_shift(scales.y1, f"{name}.y1_scale"),
                error=scales.error and integers.mantissa_and_shift(scales.error, f"{name}.error_scale"),
                feedback=_own_feedback(plan, feedback, index, scales, seed, options),
                half_width=lif.vth,
                trace_seed=trace_seed(seed, index),
                weight_seed=weight_seed(seed, index),
                seed=neuron_seed(plan, seed, index),
                subspace=lateral[index],
                after=None if readout else layer_after(plan, index, feedback, options, scales.y1),
            )
        )
    steps = plan.chip.num_steps
    return LearningNetwork(tuple(layers), schedule.epoch, steps, plan.unit, halve_every, rounding, options)


def layer_bias(plan: Plan, layer: int, feedback: str, options: Options = DEFAULT) -> BiasLearning:
    """Return the learning of a layer's biases: as fast as a weight whose presynaptic neuron always fires."""
    step = 2.0 ** (arithmetic.STATE_SHIFT + plan.dense[layer].weight_exp)  # of a weight, in units of the state
    per_y1 = step / steps_per_y1(plan, layer, feedback, options)
    lif, steps, traced = plan.chip.layers[layer], plan.chip.num_steps, not options.of_stllr
    return bias_learning(lif, plan.trace_decay(layer), steps, per_y1, traced=traced)


def layer_after(plan: Plan, layer: int, feedback: str, options: Options, y1_scale: float) -> After | None:
    """Return the second term of a hidden layer's eligibility, or None without one."""
    if not options.alpha_post:
        return None
    effective = 2**integers.FIXED_SHIFT / steps_per_y1(plan, layer, feedback, options)
    return eligibility.after(options.alpha_post, options.lambda_post, effective, y1_scale)


def _own_feedback(plan: Plan, kind: str, layer: int, scales: Scales, seed: int, options: Options) -> Feedback | None:
    if scales.feedback is None:
        return None
    own_seed = feedback_seed(plan, seed, layer)
    if kind == "local":
        return Feedback(kind, scales.feedback, own_seed, gain=local.scale(options.kappa, plan.hidden[layer].size))
    if kind != "opzo":
        return Feedback(kind, scales.feedback, own_seed)
    gain = integers.mantissa_and_shift(scales.gain, f"feedback[{layer}].gain")
    return Feedback(kind, scales.feedback, own_seed, scales.noise, gain, AVERAGING)

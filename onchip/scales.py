"""Learning rates, feedback and seeds as the integers that learn: one definition for Lava's processes and ``sim``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ottt_loihi.onchip.plan import Plan
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim import learning_integers as integers
from ottt_loihi.sim.learning import LearningLayer, LearningNetwork

ERROR_STEPS = 64  # 8-bit messages: an error of ±1 is ±64, and ±127 is the end
FEEDBACK_MAX = 254


@dataclass(frozen=True)
class Scales:
    """Of one layer. y1: per unit of the third factor (of the readout's error, in units of the state), η is in it ·
    error: of the message that it sends on, None if nobody listens · feedback: integers ``(neurons, classes)`` or None.
    """

    y1: float
    error: float | None
    feedback: np.ndarray | None


def layer_scales(plan: Plan, rates: Sequence[float], feedback: str, seed: int) -> list[Scales]:
    """Scales of every layer, the readout last.

    ``Δw = −η·â·f(u)·δ`` in units of the threshold becomes ``y1 = −η·f(u)·δ · LSB per threshold · 2^10 / I_eff``.
    """
    y1_per_delta = [rate * steps_per_y1(plan, layer, feedback) for layer, rate in enumerate(rates)]
    matrices = [quantized_feedback(b) for b in random_feedback(plan, seed)] if feedback == "random" else []
    scales = []
    for layer in range(len(plan.hidden)):
        # what arrives as third factor, per 1.0 of δ
        per_delta = ERROR_STEPS * (matrices[layer][1] if matrices else plan.resolution(layer + 1))
        error = ERROR_STEPS / per_delta if feedback == "symmetric" and layer else None
        y1 = y1_per_delta[layer] * plan.resolution(layer) / per_delta
        scales.append(Scales(y1, error, matrices[layer][0] if matrices else None))
    state_per_delta = plan.unit << arithmetic.STATE_SHIFT
    y1 = y1_per_delta[-1] * plan.resolution(len(plan.hidden)) / state_per_delta
    return [*scales, Scales(y1, ERROR_STEPS / state_per_delta if plan.hidden else None, None)]


def steps_per_y1(plan: Plan, layer: int, feedback: str) -> float:
    """y1 that moves a weight by one LSB per spike of trace 1."""
    schedule, decay = plan.schedule(feedback), plan.trace_decay(layer)
    left = integers.impulse_left(decay, schedule.epoch, schedule.pre_phase(layer))
    return 2**integers.FIXED_SHIFT / (integers.default_impulse(decay) * left)


def random_feedback(plan: Plan, seed: int) -> list[np.ndarray]:
    """B per hidden layer, float64 ``(hidden, classes)``, uniform in ±1/√classes: the same draws as torch's rules.

    Layer after layer from ``default_rng(seed)``, as ``ottt_loihi.rules.reference.ThreeFactorLoop``.
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


def neuron_seed(plan: Plan, seed: int, layer: int) -> int:
    return base_seed(seed) if layer == len(plan.hidden) else base_seed(seed) + layer + 1


def learning_network(
    plan: Plan,
    rates: Sequence[float],
    feedback: str = "random",
    seed: int = 0,
    halve_every: int = 0,
    rounding: str = "per-synapse",
) -> LearningNetwork:
    """What ``sim.learn`` needs; the arguments are those of :func:`~ottt_loihi.onchip.graph.build_graph`.

    Raises :class:`UsageError` for a rate too small or too large for the integers.
    """
    schedule = plan.schedule(feedback)
    layers = []
    for index, scales in enumerate(layer_scales(plan, rates, feedback, seed)):
        lif, readout = plan.chip.layers[index], index == len(plan.hidden)
        name = "readout" if readout else f"neuron[{index}]"
        layers.append(
            LearningLayer(
                connection=plan.dense[index],
                layer=lif,
                inhibition=None if readout else plan.inhibition[index],
                decay=plan.trace_decay(index),
                pre_phase=schedule.pre_phase(index),
                impulse=integers.default_impulse(plan.trace_decay(index)),
                y1=integers.mantissa_and_shift(scales.y1, f"{name}.y1_scale"),
                error=scales.error and integers.mantissa_and_shift(scales.error, f"{name}.error_scale"),
                feedback=scales.feedback,
                half_width=lif.vth,
                trace_seed=trace_seed(seed, index),
                weight_seed=weight_seed(seed, index),
                seed=neuron_seed(plan, seed, index),
            )
        )
    return LearningNetwork(tuple(layers), schedule.epoch, plan.chip.num_steps, plan.unit, halve_every, rounding)

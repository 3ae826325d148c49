"""Learning rates and a rule as the integers that learn: one definition for Lava's processes and ``sim``."""

from __future__ import annotations

from collections.abc import Sequence

from ottt_loihi.onchip.network.feedback import KINDS
from ottt_loihi.onchip.network.schedule import Schedule
from ottt_loihi.onchip.network.trainable import Plan, plan_subspaces
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning import currents, eligibility, integers
from ottt_loihi.sim.learning.bias import BiasLearning, bias_learning
from ottt_loihi.sim.learning.integers import ERROR_STEPS
from ottt_loihi.sim.learning.network import LearningLayer, LearningNetwork
from ottt_loihi.sim.learning.rule import DEFAULT, Rule
from ottt_loihi.sim.learning.subspace import Subspace

from ottt_loihi.errors import UsageError


def make_schedule(hidden_layers: int, rule: Rule = DEFAULT, backbone: int = 0) -> Schedule:
    """Return the phases for a number of learning hidden layers behind ``backbone`` frozen layers.

    Raises
    ------
    UsageError
        for pipelined OPZO, and for pipelined frozen layers
    """
    pipelined = rule.schedule == "pipelined"
    if pipelined and backbone:
        raise UsageError(
            f"schedule: {backbone} frozen layers before them act in phases of a learning epoch, which a pipelined "
            "schedule has not; use schedule phased"
        )
    if pipelined and rule.feedback == "opzo":
        raise UsageError(
            "schedule: opzo learns from each time step's own noise, and in a pipelined schedule its error would meet "
            "the noise of later time steps; use schedule phased or another feedback"
        )
    return Schedule(hidden_layers, KINDS[rule.feedback].travels, backbone, pipelined, rule.silent_epochs)


def schedule_of(plan: Plan, rule: Rule = DEFAULT) -> Schedule:
    """Return the phases in which the processes of a plan act by a rule; raises as :func:`make_schedule`."""
    backbone = 0 if plan.backbone is None else len(plan.backbone.layers)
    if backbone and rule.silent_epochs:
        raise UsageError(f"silent_epochs: {backbone} frozen layers act in every epoch; use 0, or learn in all layers")
    if backbone and rule.input_lag:
        raise UsageError(f"input_lag: {backbone} frozen layers act before the ones that learn; learn in all layers")
    return make_schedule(len(plan.hidden), rule, backbone or rule.input_lag)


def learning_network(
    plan: Plan, rates: Sequence[float], rule: Rule = DEFAULT, subspaces: Sequence[Subspace] | None = None
) -> LearningNetwork:
    """Return the network of ``sim.learn``.

    Parameters
    ----------
    plan
        the network
    rates
        η per plastic connection: ``Δw = −η·â·f(u)·δ`` in units of the threshold (of a logit of 1 at the readout)
    rule
        how it learns
    subspaces
        HLOP's, one per plastic connection, or None

    Raises
    ------
    UsageError
        for a rate too small or too large for the integers (``sim/learning/integers.py``)
    """
    if len(rates) != len(plan.dense):
        raise UsageError(f"rates: expected one for each of {len(plan.dense)} plastic connections, got {len(rates)}")
    schedule, lateral = schedule_of(plan, rule), plan_subspaces(plan, subspaces)
    parts = enumerate(zip(rates, lateral))
    layers = tuple(_layer(plan, rule, schedule, index, rate, subspace) for index, (rate, subspace) in parts)
    return LearningNetwork(layers, schedule.epoch, plan.chip.num_steps, plan.logit_scale, rule.rule())


def _layer(
    plan: Plan, rule: Rule, schedule: Schedule, index: int, rate: float, subspace: Subspace | None
) -> LearningLayer:
    """One layer.

    ``Δw = −η·â·f(u)·δ`` in units of the threshold becomes ``y1 = −η·f(u)·δ · LSB per threshold · 2^10 / I_eff``.
    """
    lif, readout, decay = plan.chip.layers[index], index == len(plan.hidden), plan.trace_decay(index, rule)
    when = schedule.epoch, schedule.pre_phase(index)
    impulse, slow = _traces(plan, index, rule, when)
    if slow is not None and subspace is not None:
        raise UsageError("subspaces: HLOP projects one trace, and current-based neurons have two; learn without")
    base = 1000 * (rule.seed % 2**20)  # the seeds of all processes are a little above it, and fit Lava's 31 bits
    feedback = None
    if readout:
        per_delta: float = plan.logit_scale << arithmetic.STATE_SHIFT  # units of the state per 1.0 of δ
        sends = bool(plan.hidden) and KINDS[rule.feedback].travels != "local"
    else:
        own_seed = base + len(plan.dense) + index
        feedback, units = KINDS[rule.feedback].begin(plan, index, rule, own_seed)
        per_delta = ERROR_STEPS * units  # of the third factor per 1.0 of δ
        sends = KINDS[rule.feedback].travels == "layerwise" and index > 0
    if slow is None:
        left = impulse * integers.impulse_left(decay, *when)
    else:
        left = currents.effective((decay, impulse), slow, *when)
    steps = 2**integers.FIXED_SHIFT / left  # y1 that moves a weight by one LSB per spike of trace 1
    y1 = rate * steps * plan.resolution(index) / per_delta
    name, after = "readout" if readout else f"neuron[{index}]", None
    if rule.alpha_post and not readout:
        effective = 2**integers.FIXED_SHIFT / steps
        after = eligibility.after(rule.alpha_post, rule.lambda_post, effective, y1)
    return LearningLayer(
        connection=plan.dense[index],
        layer=lif,
        bias=_bias(plan, index, rule, steps) if rule.learn_bias else None,
        inhibition=None if readout else plan.inhibition[index],
        decay=decay,
        pre_phase=schedule.pre_phase(index),
        impulse=impulse,
        slow=slow,
        y1=integers.mantissa_and_shift(y1, f"{name}.y1_scale"),
        error=integers.mantissa_and_shift(ERROR_STEPS / per_delta, f"{name}.error_scale") if sends else None,
        feedback=feedback,
        half_width=lif.vth,
        trace_seed=base + 4 * index,  # Lava uses four generators, seeded one after the other
        weight_seed=base + index,
        seed=base if readout else base + index + 1,
        subspace=subspace,
        after=after,
    )


def _traces(plan: Plan, layer: int, rule: Rule, when: tuple[int, int]) -> tuple[int, currents.Slow | None]:
    """Return the impulse of a connection's trace, and of current-based neurons their slower trace."""
    decay, slow = plan.trace_decay(layer, rule), plan.slow_decay(layer)
    if slow is None:
        return integers.default_impulse(decay, rule.silent_epochs > 0), None
    if rule.of_stllr:
        raise UsageError(
            f"lambda_pre, alpha_post: layer {layer + 1} has current-based neurons, whose trace takes both of the "
            "engine's; use rule ottt"
        )
    first, second = currents.impulses(decay, slow, *when)
    return first, currents.Slow(slow, second)


def _bias(plan: Plan, layer: int, rule: Rule, steps_per_y1: float) -> BiasLearning:
    """Return the learning of a layer's biases: as fast as a weight whose presynaptic neuron always fires."""
    step = 2.0 ** (arithmetic.STATE_SHIFT + plan.dense[layer].weight_exp)  # of a weight, in units of the state
    per_y1 = step / steps_per_y1
    lif, decay = plan.chip.layers[layer], plan.trace_decay(layer)
    traced, slow = not rule.of_stllr, plan.slow_decay(layer)
    return bias_learning(lif, decay, plan.chip.num_steps, per_y1, traced=traced, slow=slow)

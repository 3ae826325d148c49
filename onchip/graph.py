"""The process graph that learns: built from a :class:`~ottt_loihi.onchip.plan.Plan`, not yet running.

::

    source ──s──▶ plastic[0] ──a──▶ neuron[0] ──s──▶ plastic[1] ──a──▶ … ──▶ readout ◀──label── source
                      ▲                │ y1              ▲                      │ y1, error
                      └────────────────┘                 └──────────────────────┤
                                       ▲                                        │
                                       └──────── feedback[0] (fixed, random) ◀──┘
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ottt_loihi.converters.lava_runtime import require_lava
from ottt_loihi.onchip.plan import Plan
from ottt_loihi.sim import arithmetic

ERROR_STEPS = 64  # 8-bit messages: an error of ±1 is ±64, and ±127 is the end
FEEDBACK_MAX = 254


@dataclass(frozen=True)
class LearningGraph:
    """Lava processes. feedback: Lava ``Dense`` per hidden layer, empty for symmetric feedback. epoch: K."""

    source: Any
    plastic: tuple[Any, ...]
    neurons: tuple[Any, ...]
    readout: Any
    feedback: tuple[Any, ...]
    epoch: int

    def variables(self) -> dict[str, Any]:
        """Every Var that learning depends on or counts in, by a readable name."""
        named = {}
        for kind, processes, names in (
            ("plastic", self.plastic, ("weights", "x1", "y1", "a_buff")),
            ("neuron", self.neurons, ("u", "v", "s", "y1", "rng", "y1_saturated", "error_saturated")),
            ("readout", (self.readout,), ("v", "y1", "rng", "scores", "correct", "y1_saturated", "error_saturated")),
        ):
            for index, process in enumerate(processes):
                named.update({f"{kind}[{index}].{name}": getattr(process, name) for name in names})
        return named


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


def build_graph(
    plan: Plan,
    packed: np.ndarray,
    labels: np.ndarray,
    rates: list[float],
    feedback: str = "random",
    seed: int = 0,
    learn: np.ndarray | bool = True,
    rounding: str = "lava",
) -> LearningGraph:
    """Build the fixed-point graph.

    Parameters
    ----------
    plan
        the network
    packed, labels, learn
        as in :class:`~ottt_loihi.onchip.processes.source.SampleSource`
    rates
        η per plastic connection: ``Δw = −η·â·f(u)·δ`` in units of the threshold (of a logit of 1 at the readout)
    feedback
        ``"random"`` or ``"symmetric"``
    seed
        of the feedback matrices, of stochastic rounding and of trace decay
    rounding
        of updated weights, ``"lava"`` or ``"per-synapse"`` (:class:`~ottt_loihi.onchip.processes.dense.OTTTDense`)

    Raises
    ------
    UsageError
        a rate too small or too large for the integers (``onchip/integers.py``)
    """
    require_lava()
    from ottt_loihi.onchip.processes.source import SampleSource

    schedule = plan.schedule(feedback)
    source = SampleSource(packed, plan.chip.input_size, labels.astype(np.int32), schedule.epoch, learn)
    rules = [_rule(plan, feedback, layer, seed) for layer in range(len(plan.dense))]
    plastic = [_plastic(plan, feedback, layer, rule, rounding, seed) for layer, rule in enumerate(rules)]
    steps_per_y1 = [rate * rule.y1_per_weight_step for rate, rule in zip(rates, rules)]
    readout = _readout(plan, feedback, steps_per_y1[-1], len(labels), seed)
    matrices = [quantized_feedback(b) for b in random_feedback(plan, seed)] if feedback == "random" else []
    neurons = []
    for layer in range(len(plan.hidden)):
        # what arrives as third factor, per 1.0 of δ
        per_delta = ERROR_STEPS * (matrices[layer][1] if matrices else plan.resolution(layer + 1))
        neurons.append(_neuron(plan, feedback, layer, steps_per_y1[layer], per_delta, seed))
    return connect(source, plastic, neurons, readout, [m for m, _ in matrices], schedule.epoch)


def _rule(plan: Plan, feedback: str, layer: int, seed: int) -> Any:
    from ottt_loihi.onchip.rule import OTTTLearningRule

    schedule = plan.schedule(feedback)
    return OTTTLearningRule(
        schedule.epoch, schedule.pre_phase(layer), plan.trace_decay(layer), seed=1000 * (seed % 2**20) + 4 * layer
    )


def _plastic(plan: Plan, feedback: str, layer: int, rule: Any, rounding: str, seed: int) -> Any:
    from ottt_loihi.onchip.processes.dense import OTTTDense

    c = plan.dense[layer]
    epoch = plan.schedule(feedback).epoch
    interval = epoch * plan.chip.num_steps if plan.trace_decay(layer) else epoch
    name = f"plastic[{layer}]"
    return OTTTDense(c.weight, rule, interval, c.weight_exp, name, rounding, seed=1000 * (seed % 2**20) + layer)


def _neuron(plan: Plan, feedback: str, layer: int, y1_per_delta: float, per_delta: float, seed: int) -> Any:
    from ottt_loihi.onchip.processes.neuron import OTTTNeuron

    lif, inhibition, schedule = plan.hidden[layer], plan.inhibition[layer], plan.schedule(feedback)
    return OTTTNeuron(
        shape=(lif.size,),
        du=lif.du,
        dv=lif.dv,
        vth=lif.vth,
        half_width=lif.vth,
        y1_scale=y1_per_delta * plan.resolution(layer) / per_delta,
        error_scale=ERROR_STEPS / per_delta if feedback == "symmetric" and layer else None,
        epoch=schedule.epoch,
        frames=plan.chip.num_steps,
        update_phase=schedule.update_phase(layer),
        feedback_phase=schedule.feedback_phase(layer),
        bias=arithmetic.effective_bias(lif.bias_mant.reshape(-1), lif.bias_exp),
        u_init=lif.u_init.reshape(-1),
        self_weight=0 if inhibition is None else inhibition.weight,
        self_weight_exp=0 if inhibition is None else inhibition.weight_exp,
        seed=1000 * (seed % 2**20) + layer + 1,
        name=f"neuron[{layer}]",
    )


def _readout(plan: Plan, feedback: str, y1_per_delta: float, samples: int, seed: int) -> Any:
    from ottt_loihi.onchip.processes.readout import OTTTReadout

    lif, schedule, layer = plan.chip.layers[-1], plan.schedule(feedback), len(plan.hidden)
    state_per_delta = plan.unit << arithmetic.STATE_SHIFT
    return OTTTReadout(
        shape=(lif.size,),
        unit=plan.unit,
        vth=lif.vth,
        y1_scale=y1_per_delta * plan.resolution(layer) / state_per_delta,
        error_scale=ERROR_STEPS / state_per_delta if plan.hidden else None,
        samples=samples,
        epoch=schedule.epoch,
        frames=plan.chip.num_steps,
        update_phase=schedule.update_phase(layer),
        bias=arithmetic.effective_bias(lif.bias_mant.reshape(-1), lif.bias_exp),
        seed=1000 * (seed % 2**20),
    )


def connect(
    source: Any, plastic: list[Any], neurons: list[Any], readout: Any, matrices: list[np.ndarray], epoch: int
) -> LearningGraph:
    """Wire the processes; ``matrices``: fixed feedback weights per hidden layer, or none for the transposed ones."""
    from lava.proc.dense.process import Dense

    source.label_out.connect(readout.label_in)
    layers = [*neurons, readout]
    for connection, pre, post in zip(plastic, [source, *neurons], layers):
        pre.s_out.connect(connection.s_in)
        connection.a_out.connect(post.a_in)
        post.s_out_y1.connect(connection.s_in_y1)
    feedback = [Dense(weights=m, num_message_bits=8, name=f"feedback[{i}]") for i, m in enumerate(matrices)]
    for connection, neuron in zip(feedback, neurons):
        readout.error_out.connect(connection.s_in)
        connection.a_out.connect(neuron.a_third_factor_in)
    if not matrices:
        for neuron, connection, above in zip(neurons, plastic[1:], layers[1:]):
            above.error_out.connect(connection.error_in)
            connection.error_out.connect(neuron.a_third_factor_in)
    return LearningGraph(source, tuple(plastic), tuple(neurons), readout, tuple(feedback), epoch)

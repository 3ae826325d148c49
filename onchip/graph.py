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
from ottt_loihi.onchip import scales
from ottt_loihi.onchip.plan import Plan
from ottt_loihi.sim import arithmetic


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


def build_graph(
    plan: Plan,
    packed: np.ndarray,
    labels: np.ndarray,
    rates: list[float],
    feedback: str = "random",
    seed: int = 0,
    learn: np.ndarray | bool = True,
    halve_every: int = 0,
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
    halve_every
        samples after which all rates are halved, again and again; 0: never
    rounding
        of updated weights, ``"lava"`` or ``"per-synapse"`` (:class:`~ottt_loihi.onchip.processes.dense.OTTTDense`)

    Raises
    ------
    UsageError
        a rate too small or too large for the integers (``sim/learning_integers.py``)
    """
    require_lava()
    from ottt_loihi.onchip.processes.source import SampleSource

    schedule = plan.schedule(feedback)
    source = SampleSource(packed, plan.chip.input_size, labels.astype(np.int32), schedule.epoch, learn)
    plastic = [_plastic(plan, feedback, layer, rounding, seed) for layer in range(len(plan.dense))]
    frames = halve_every * plan.chip.num_steps
    *hidden, last = scales.layer_scales(plan, rates, feedback, seed)
    neurons = [_neuron(plan, feedback, layer, of_layer, seed, frames) for layer, of_layer in enumerate(hidden)]
    readout = _readout(plan, feedback, last, len(labels), seed, frames)
    matrices = [of_layer.feedback for of_layer in hidden if of_layer.feedback is not None]
    return connect(source, plastic, neurons, readout, matrices, schedule.epoch)


def _rule(plan: Plan, feedback: str, layer: int, seed: int) -> Any:
    from ottt_loihi.onchip.rule import OTTTLearningRule

    schedule = plan.schedule(feedback)
    return OTTTLearningRule(
        schedule.epoch, schedule.pre_phase(layer), plan.trace_decay(layer), seed=scales.trace_seed(seed, layer)
    )


def _plastic(plan: Plan, feedback: str, layer: int, rounding: str, seed: int) -> Any:
    from ottt_loihi.onchip.processes.dense import OTTTDense

    c, rule = plan.dense[layer], _rule(plan, feedback, layer, seed)
    epoch = plan.schedule(feedback).epoch
    interval = epoch * plan.chip.num_steps if plan.trace_decay(layer) else epoch
    name = f"plastic[{layer}]"
    return OTTTDense(c.weight, rule, interval, c.weight_exp, name, rounding, scales.weight_seed(seed, layer))


def _neuron(plan: Plan, feedback: str, layer: int, of_layer: scales.Scales, seed: int, halve_every: int) -> Any:
    from ottt_loihi.onchip.processes.neuron import OTTTNeuron

    lif, inhibition, schedule = plan.hidden[layer], plan.inhibition[layer], plan.schedule(feedback)
    return OTTTNeuron(
        shape=(lif.size,),
        du=lif.du,
        dv=lif.dv,
        vth=lif.vth,
        half_width=lif.vth,
        y1_scale=of_layer.y1,
        error_scale=of_layer.error,
        halve_every=halve_every,
        epoch=schedule.epoch,
        frames=plan.chip.num_steps,
        update_phase=schedule.update_phase(layer),
        feedback_phase=schedule.feedback_phase(layer),
        bias=arithmetic.effective_bias(lif.bias_mant.reshape(-1), lif.bias_exp),
        u_init=lif.u_init.reshape(-1),
        self_weight=0 if inhibition is None else inhibition.weight,
        self_weight_exp=0 if inhibition is None else inhibition.weight_exp,
        seed=scales.neuron_seed(plan, seed, layer),
        name=f"neuron[{layer}]",
    )


def _readout(plan: Plan, feedback: str, of_layer: scales.Scales, samples: int, seed: int, halve_every: int) -> Any:
    from ottt_loihi.onchip.processes.readout import OTTTReadout

    lif, schedule, layer = plan.chip.layers[-1], plan.schedule(feedback), len(plan.hidden)
    return OTTTReadout(
        shape=(lif.size,),
        unit=plan.unit,
        vth=lif.vth,
        y1_scale=of_layer.y1,
        error_scale=of_layer.error,
        samples=samples,
        halve_every=halve_every,
        epoch=schedule.epoch,
        frames=plan.chip.num_steps,
        update_phase=schedule.update_phase(layer),
        bias=arithmetic.effective_bias(lif.bias_mant.reshape(-1), lif.bias_exp),
        seed=scales.neuron_seed(plan, seed, layer),
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

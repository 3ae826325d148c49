"""The Lava processes of a frozen front: stock connections, neurons that act in their phase of the epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
from ottt_loihi.converters.lava import graph as lava
from ottt_loihi.onchip.network.schedule import Schedule
from ottt_loihi.onchip.network.trainable import Plan
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.network import INPUT


def build_source(
    plan: Plan, messages: np.ndarray, labels: np.ndarray, schedule: Schedule, learn: np.ndarray | bool
) -> Any:
    """Return the process that streams the samples: spikes, packed, or graded messages ``(n, T, size)``."""
    from ottt_loihi.onchip.lava.processes.messages import MessageSource
    from ottt_loihi.onchip.lava.processes.source import SampleSource

    if plan.graded:
        return MessageSource(messages, labels.astype(np.int32), schedule.epoch, learn)
    period = schedule.period(plan.chip.num_steps)
    return SampleSource(messages, plan.whole.input_size, labels.astype(np.int32), schedule.epoch, learn, period)


def build_front(plan: Plan, source: Any, schedule: Schedule) -> tuple[Any, ...]:
    """The front's neurons, wired behind the source; empty without a front."""
    if plan.front is None:
        return ()
    neurons = tuple(_neuron(plan, index, schedule) for index in range(len(plan.front.layers)))
    for c in plan.front.connections:
        pre = source if c.pre == INPUT else neurons[c.pre]
        lava.wire(c, pre.s_out, lava.build_connection(c), neurons[c.post].a_in)
    return neurons


def _neuron(plan: Plan, index: int, schedule: Schedule) -> Any:
    from ottt_loihi.onchip.lava.processes.frozen import FrozenNeuron

    lif = plan.front.layers[index]  # type: ignore[union-attr]
    return FrozenNeuron(
        shape=(lif.size,),
        du=lif.du,
        dv=lif.dv,
        vth=lif.thresholds,
        bias=arithmetic.effective_bias(lif.bias_mant.reshape(-1), lif.bias_exp),
        u_init=lif.u_init.reshape(-1),
        epoch=schedule.epoch,
        frames=plan.chip.num_steps,
        update_phase=schedule.front_phase(index),
        name=f"front[{index}]",
    )

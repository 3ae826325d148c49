"""The schedule: which layer acts in which Lava step, phased (exact) or pipelined (faster).

One time step t of the network = one learning epoch = K Lava steps, called phases 1 … K. Every connection takes one
Lava step, and a neuron's traces y reach its incoming connection within the step. With F frozen layers, then L hidden
layers that learn::

    phase 1                  the source spikes
    phase 2 … F + 1          frozen layer f = 0 … F − 1 updates in phase f + 2
    phase F + 2 … F + L + 1  hidden layer l = 0 … L − 1 updates in phase F + l + 2
    phase F + L + 2          the readout updates, computes its error and its y1, sends the error
    feedback
      none (L = 0)           nothing has to travel:                                     K = F + 2
      direct                 the error reaches all hidden layers one step later:        K = F + L + 3
      layerwise              … the top one, which sends its own error one layer down
                             one step later, and so on to layer 0:                      K = F + 2L + 2
      local                  class neurons of layer l act in phase F + l + 3, and their
                             error is back in phase F + l + 4:                          K = F + L + 3
    end of phase K       every plastic connection applies Δw = x1·y1, all with the weights of this time step

Neurons hold y1 until the epoch ends. A pre spike of phase p meets an epoch's end K − p decays later, so that with a
decay of d = λ^(1/K) per Lava step and an impulse of d^−(K − p) the trace x1 at the end of the epoch is the network's
own ``â[t] = λ·â[t−1] + s[t]``. For one hidden layer both kinds of feedback give K = 4.

Input that lags (``Rule.input_lag``: adapters between host and chip) costs the phases that it needs, like frozen
layers. A frozen layer costs the one phase that its spikes need to get through; no error goes back into it. Its
self-connections send in phase f + 2 and arrive in phase f + 3 ≤ K, still in the same epoch: they wait there for the
next one, and the messages of a sample's last step are gone before the next sample begins.

**Pipelined**, without a backbone: the next time step starts one Lava step later, not K; every Lava step is a learning
epoch (``t_epoch = 1``), and a sample of T time steps takes T + K − 1 Lava steps in place of K·T; nothing of one sample
is left when the next begins. The phases above are those of the sample's first time step. The price: where the message
of time step t learns, its layer is already further, so that

===============================  ==============================  ==================================================
of time step t + d               readout                         hidden layer l: direct; layerwise; local
===============================  ==============================  ==================================================
d of f(u), of the surrogate      (has none)                      L + 1 − l; 2(L − l); 2
d of x1, of the trace            1 (the bare spikes of t + 1)    L + 2 − l; 2(L − l) + 1; 3
===============================  ==============================  ==================================================

and weights change between a time step's layers. Past the last time step u stays, spikes cease and traces decay: the
readout's last error meets no spikes. The trace at t + d is ``λ^d·â[t]`` and newer spikes; where the input's rate does
not change in time that is the same pattern. The integers stay exact: every weight equals Lava's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ottt_loihi.sim.learning.program import latency

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

MAX_EPOCH = 63  # the chip's time of a spike within an epoch has 6 bits
SOURCE_PHASE = 1


@dataclass(frozen=True)
class Schedule:
    """The phases."""

    hidden_layers: int  # L ≥ 0, those that learn
    feedback: str = "direct"  # or "layerwise", "local"
    backbone: int = 0  # F, frozen layers before them
    pipelined: bool = False  # time steps overlap
    silent: int = 0  # learning epochs without spikes after each sample

    def __post_init__(self) -> None:
        checks.one_of(self.feedback, "feedback", ("direct", "layerwise", "local"))
        checks.integer(self.hidden_layers, "hidden_layers", 0)
        if self.epoch > MAX_EPOCH:
            raise UsageError(
                f"{self.backbone + self.hidden_layers} layers before the readout need a learning epoch of {self.epoch} "
                f"steps, the chip has 6 bits for it ({MAX_EPOCH}); use direct feedback or fewer layers"
            )

    @property
    def latency(self) -> int:
        """Return K, the number of Lava steps from the spikes of a time step to its last message."""
        return self.backbone + latency(self.hidden_layers, self.feedback == "layerwise")

    def backbone_phase(self, layer: int) -> int:
        """The phase in which a frozen layer computes u, v and s."""
        self._check(layer, self.backbone - 1)
        return layer + 2

    @property
    def epoch(self) -> int:
        """Return the number of Lava steps between the starts of two learning epochs, and so of two time steps."""
        return 1 if self.pipelined else self.latency

    def period(self, num_steps: int) -> int:
        """Return the Lava steps of a sample of ``num_steps`` time steps."""
        return self.latency + (num_steps - 1 + self.silent) * self.epoch

    def update_phase(self, layer: int) -> int:
        """The phase in which a layer that learns computes u, v and s; the readout is layer L."""
        self._check(layer, self.hidden_layers)
        return self.backbone + layer + 2

    def pre_phase(self, layer: int) -> int:
        """Return the phase of a learning epoch in which the input spikes of a layer are sent."""
        return 1 if self.pipelined else self.update_phase(layer) - 1

    def feedback_phase(self, layer: int) -> int:
        """The phase in which the error reaches a hidden layer."""
        self._check(layer, self.hidden_layers - 1)
        if self.feedback == "direct":
            return self.latency
        if self.feedback == "local":
            return self.class_phase(layer) + 1
        return self.backbone + self.hidden_layers + 3 + (self.hidden_layers - 1 - layer)

    def class_phase(self, layer: int) -> int:
        """Return the phase in which a hidden layer's class neurons compute their error (TESS)."""
        return self.update_phase(layer) + 1

    def turn(self, phase: int, num_steps: int) -> Turn:
        """Return the Lava steps of what acts in a phase, for samples of ``num_steps`` time steps."""
        return Turn(phase, self.epoch, num_steps, self.period(num_steps))

    def _check(self, layer: int, last: int) -> None:
        if not 0 <= layer <= last:
            raise UsageError(f"layer: expected 0 … {last}, got {layer}")


@dataclass(frozen=True)
class Turn:
    """The Lava steps in which a process acts.

    First in ``phase`` (1, 2, …) of each sample, then every ``epoch`` steps, ``num_steps`` times; samples repeat every
    ``period`` steps.
    """

    phase: int
    epoch: int
    num_steps: int
    period: int

    def time_step_at(self, time_step: int) -> tuple[int, int] | None:
        """Return (sample, time step), both from 0, that it acts on in Lava's step 1, 2, …; None where it is idle."""
        sample, step = divmod(time_step - 1, self.period)
        t, rest = divmod(step - self.phase + 1, self.epoch)
        return (sample, t) if rest == 0 and 0 <= t < self.num_steps else None


class Clock:
    """Mixed into a ProcessModel before Lava's classes: its steps are counted on from ``proc_params["start"]``.

    All that depends on time in our models, turns, epochs and random numbers, follows from ``time_step``; so a graph
    that is built anew goes on as if it had run all the while (``onchip/lava/graph.py: begin_at``). Without ``start``:
    0. The parameters of the process that a model names in ``PARAMETERS`` are kept as ``_name``.
    """

    PARAMETERS: tuple[str, ...] = ()

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.time_step = proc_params.get("start", 0)
        for name in self.PARAMETERS:
            setattr(self, "_" + name, proc_params[name])

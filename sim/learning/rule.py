"""The learning rule as one record of choices, whose defaults are the plain rule."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ottt_loihi.sim.learning import eligibility
from ottt_loihi.sim.learning.encodings import ENCODINGS

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

LOSSES = ("mse", "softmax")
WHEN = ("always", "mistaken")
SCHEDULES = ("phased", "pipelined")
FEEDBACKS = ("random", "symmetric", "kolen-pollack", "opzo")  # they bring the readout's error
SIGNALS = (*FEEDBACKS, "local")  # and TESS, where each layer makes its own
SHARES = {"per-synapse": 4, "per-synapse-1": 1, "lava": 0}  # synapses that share a random number's hash; 0: an epoch's
ROUNDINGS = tuple(SHARES)
NAMES = {
    "feedback": SIGNALS,
    "rounding": ROUNDINGS,
    "loss": LOSSES,
    "learn_when": WHEN,
    "encoding": ENCODINGS,
    "schedule": SCHEDULES,
}
LIMITS = {
    "seed": (0, None),
    "halve_every": (0, None),
    "usual_mistakes": (0, 1 << 15),
    "silent_epochs": (0, 255),
    "input_lag": (0, 31),
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Choices of the learning rule; the defaults are squared error, learnt from at every time step.

    ==============  ==============================  ====================================================================
    field           range                           meaning
    ==============  ==============================  ====================================================================
    feedback        ``random``, ``symmetric``,      how the error reaches hidden layers (``onchip/network/feedback``)
                    ``kolen-pollack``, ``opzo``,
                    ``local``
    seed            ≥ 0                             of feedback and of rounding
    halve_every     samples, ≥ 0                    after so many, again and again, all rates are halved; 0: never
    rounding        ``per-synapse``, ``lava``,      of updated weights: a random number for each synapse, as the chip
                    ``per-synapse-1``               has it; one a learning epoch for all, as Lava's engine has it; or
                                                    the numbers per synapse of version 0.1, a third slower
    loss            ``mse``, ``softmax``            the readout's error (``sim/learning/losses.py``)
    learn_when      ``always``, ``mistaken``        ``mistaken``: every sample comes twice; its answer is tested, and
                                                    it is learnt from where that was wrong, as fast as mistakes are
                                                    more frequent than usual (``sim/learning/trial.py``)
    usual_mistakes  0 … 2^15                        of ``mistaken``: part of the answers that used to be wrong, in
                                                    1/2^15
    learn_bias      bool                            biases learn by y1, in their neurons (``sim/learning/bias.py``)
    schedule        ``phased``, ``pipelined``       one time step after the other, exact; or overlapping,
                                                    faster, and factors of different time steps meet
                                                    (``onchip/network/schedule.py``)
    encoding        ``factored``, ``signed``,       of surrogate and error (``sim/learning/encodings.py``); the
                    ``split``                       weights are the same
    silent_epochs   0 … 255                         0: the trace is 0 when a sample begins. More: so many learning
                                                    epochs without spikes follow a sample, and the trace decays on; for
                                                    Lava's own ``LearningDense``, which has no reset
    input_lag       0 … 31                          Lava steps that spikes and labels need to reach the network beyond
                                                    none: those of a chip's adapters, which its phases wait for
    lambda_pre      0 … 1 − 1/127, or None          S-TLLR: decay of the hidden layers' presynaptic trace; None: the
                                                    neurons' own λ, as in OTTT
    lambda_post     0 … 1 − 1/127                   S-TLLR: decay of h (``sim/learning/eligibility.py``)
    alpha_post      number                          S-TLLR: weight of what an input does after the neuron was near its
                                                    threshold; 0: OTTT's eligibility
    kappa           > 0, or None                    TESS: κ of the class neurons; None: N/4 (``sim/learning/local.py``)
    ==============  ==============================  ====================================================================

    Raises
    ------
    UsageError
        for a value out of range, and for choices that exclude each other
    """

    feedback: str = "random"
    seed: int = 0
    halve_every: int = 0
    rounding: str = "per-synapse"
    loss: str = "mse"
    learn_when: str = "always"
    usual_mistakes: int = 0
    learn_bias: bool = False
    encoding: str = "factored"
    schedule: str = "phased"
    silent_epochs: int = 0
    input_lag: int = 0
    lambda_pre: float | None = None
    lambda_post: float = 0.2
    alpha_post: float = 0.0
    kappa: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in NAMES.items():
            checks.one_of(getattr(self, name), name, allowed)
        checks.flag(self.learn_bias, "learn_bias")
        for name, (low, high) in LIMITS.items():
            object.__setattr__(self, name, checks.integer(getattr(self, name), name, low, high))
        if self.input_lag and self.schedule != "phased":
            raise UsageError("input_lag: needs the phased schedule")
        if self.silent_epochs and self.schedule != "phased":
            raise UsageError("silent_epochs: need the phased schedule")
        eligibility.check(self)
        if self.kappa is not None:
            checks.number(self.kappa, "kappa", 0, above=True)
            if self.feedback != "local":
                raise UsageError(
                    f"kappa: belongs to feedback local (TESS), and feedback {self.feedback} has none; leave it out"
                )
        if self.feedback == "local" and self.learn_when != "always":
            raise UsageError(
                "learn_when: class neurons of a hidden layer do not receive the readout's prediction; use always, or "
                "another feedback than local"
            )

    @property
    def of_stllr(self) -> bool:
        """Whether the eligibility is S-TLLR's, and not OTTT's."""
        return self.lambda_pre is not None or self.alpha_post != 0

    def rule(self) -> Rule:
        """Return the rule alone, without what a subclass adds to it."""
        return Rule(**{f.name: getattr(self, f.name) for f in fields(Rule)})

    def chosen(self) -> dict[str, Any]:
        """Return the choices that are not the default, by name."""
        return {f.name: getattr(self, f.name) for f in fields(Rule) if getattr(self, f.name) != f.default}

    def since_first(self) -> dict[str, Any]:
        """Return the choices that version 0.1 had no name for: a saved state's digest has the others beside them."""
        named = {f.name: FIRST.get(f.name, f.default) for f in fields(Rule) if f.name not in BESIDE}
        return {name: getattr(self, name) for name, first in named.items() if getattr(self, name) != first}


FIRST = {"encoding": "signed"}  # defaults when states were first saved, where they were others
BESIDE = ("feedback", "seed", "halve_every", "rounding")
DEFAULT = Rule()

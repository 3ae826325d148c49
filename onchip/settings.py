"""The settings of learning: rates, feedback, seed, rounding, and the rule's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ottt_loihi.onchip.network.trainable import SIGNALS
from ottt_loihi.sim.learning.learner import ROUNDINGS
from ottt_loihi.sim.learning.options import Options

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

RULES: dict[str, dict[str, Any]] = {  # by name, what a rule chooses; numbers are those of the rules in torch
    "ottt": {},
    "s-tllr": {"lambda_pre": 0.5, "lambda_post": 0.2, "alpha_post": 1.0},
    "tess": {"lambda_pre": 0.5, "lambda_post": 0.2, "alpha_post": 1.0, "feedback": "local", "kappa": None},
}
READOUT_RATE = 0.02  # part of its error that one time step's update takes from the readout
HIDDEN_RATE = 1.0  # the same for a hidden layer, with the error that its feedback delivers


@dataclass(frozen=True)
class Settings(Options):
    """The settings of learning; the rule's :class:`~ottt_loihi.sim.learning.options.Options` are settings as well.

    Attributes
    ----------
    readout_rate, hidden_rate
        part of a layer's error that one update takes away; default: measured good on digits
    seed
        of order, feedback and rounding
    unit
        the readout's sum for a logit of 1; default: the network's
    halve_every
        samples after which the rates are halved, again and again; 0: never, for a world that keeps changing
    rounding
        of updated weights: ``"per-synapse"`` as on the chip; ``"lava"``, one number an epoch for all; or
        ``"per-synapse-1"``, the random numbers of version 0.1
    """

    feedback: str = "random"
    readout_rate: float = READOUT_RATE
    hidden_rate: float = HIDDEN_RATE
    seed: int = 0
    unit: int | None = None
    halve_every: int = 0
    shuffle: bool = True
    rounding: str = "per-synapse"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of(self.feedback, "feedback", SIGNALS)
        checks.one_of(self.rounding, "rounding", ROUNDINGS)
        if not (0 < self.readout_rate < 2 and 0 < self.hidden_rate < 100):
            raise UsageError(
                f"rates: expected 0 < readout_rate < 2 and 0 < hidden_rate < 100, "
                f"got {self.readout_rate} and {self.hidden_rate}"
            )
        for name in ("halve_every", "seed"):
            object.__setattr__(self, name, checks.integer(getattr(self, name), name, 0))

    @classmethod
    def of_rule(cls, rule: str, **choices: Any) -> Settings:
        """Return the settings of ``ottt``, ``s-tllr`` or ``tess``; choices of None are left to the rule.

        Raises
        ------
        UsageError
            for an unknown name, and for a choice that the rule does not have
        """
        own = RULES[checks.one_of(rule, "rule", tuple(RULES))]
        if choices.get("feedback", own.get("feedback")) != own.get("feedback") and "feedback" in own:
            raise UsageError(f"feedback: rule {rule} has feedback {own['feedback']}, got {choices['feedback']}")
        given = {name: value for name, value in choices.items() if value is not None}
        foreign = [name for known in RULES.values() for name in known if name in given and name not in own]
        foreign = [name for name in foreign if name != "feedback"]
        if foreign:
            others = " or ".join(name for name, known in RULES.items() if foreign[0] in known)
            raise UsageError(f"{foreign[0]}: rule {rule} has none; choose rule {others}, or leave it out")
        return cls(**own | given)
